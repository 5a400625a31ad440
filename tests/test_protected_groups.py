"""Protections where groups have aggregators: sums behind masks, noise, and a rule above them."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import nn

import small
import tacit
from tacit import Clip, GaussianNoise, Hierarchical, SecureAggregation, Star
from tacit.explain import explain
from tacit.protection.secagg import simulate as protocol
from test_run import Stop, stop_after, vector

SIZES = (12, 20, 8, 16, 9, 10, 14, 11, 13)
GROUPS = Hierarchical(3)  # of three
DELTA = 1e-5
WIDE = nn.Sequential(nn.Linear(4, 2000), nn.Linear(2000, 2))  # d = 14,002
CENTRAL, DISTRIBUTED, LOCAL = (
    GaussianNoise(multiplier=2.0, delta=DELTA, where=where)
    for where in ("central", "distributed", "local")
)
MASKS = SecureAggregation()


def experiment(*protection: Any, **changes: Any) -> tacit.Experiment:
    fields = {
        "data": small.federation(SIZES), "rounds": 3, "protection": protection, "topology": GROUPS,
    }  # fmt: skip
    return small.experiment(**fields | changes)


def run(*protection: Any, **changes: Any) -> tacit.Result:
    return tacit.run(experiment(*protection, **changes), workers=1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": tacit.FedAvg(uniform=True)},
        {"algorithm": tacit.Scaffold()},
        {"topology": Hierarchical(2, cohort=8)},
        {"aggregation": tacit.Median()},
    ],
    ids=repr,
)
def test_masks_inside_groups_give_the_sums_of_the_groups(changes: dict[str, Any]) -> None:
    # Numbers to 16 among 5 nodes have steps of 2^-25. Without masks the inner rule of the median is
    # a median; what is compared with is the median of the groups' means, by hand below.
    masked = vector(run(MASKS, **changes))
    if "aggregation" not in changes:
        assert torch.allclose(masked, vector(run(**changes)), rtol=0, atol=5e-6)
        return
    plan = experiment(rounds=1)
    nodes = run(algorithm=tacit.Alone(), topology=None, rounds=1).vectors
    assert nodes is not None
    rows = torch.tensor(SIZES, dtype=torch.float32)
    heads = [
        (rows[at, None] * nodes[at]).sum(0) / rows[at].sum()
        for at in (slice(0, 3), slice(3, 6), slice(6, 9))
    ]
    weights = torch.stack([rows[at].sum() for at in (slice(0, 3), slice(3, 6), slice(6, 9))])
    expected = tacit.Median()(plan.start(), torch.stack(heads), weights / weights.sum()).result
    found = vector(run(MASKS, rounds=1, **changes))
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


def test_a_sum_is_opened_for_each_group_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cohorts, simulate = [], protocol.simulate

    def watched(session: Any, *arguments: Any, **more: Any) -> Any:
        cohorts.append(session.nodes)
        return simulate(session, *arguments, **more)

    monkeypatch.setattr(protocol, "simulate", watched)
    run(MASKS, rounds=1)
    assert cohorts == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]


@pytest.mark.parametrize(
    ("parts", "std"),
    [
        # Once for all 9 nodes.
        ((Clip(0.5), CENTRAL), 2 * 0.5 / 9),
        ((Clip(0.5), CENTRAL, MASKS), 2 * 0.5 / 9),
        # Every group's sum has all of the noise: three times the variance.
        ((Clip(0.5), DISTRIBUTED, MASKS), 2 * 0.5 / 9 * math.sqrt(3)),
        ((Clip(0.5), LOCAL), 2 * 0.5 / math.sqrt(9)),
        ((Clip(0.5), LOCAL, MASKS), 2 * 0.5 / math.sqrt(9)),
    ],
)
def test_the_noise_of_a_round_has_the_stated_deviation(parts: Any, std: float) -> None:
    still = {"model": WIDE, "training": tacit.SGD(lr=1e-30), "rounds": 1}  # float32 loses the steps
    plan = experiment(*parts, algorithm=tacit.FedAvg(uniform=True), **still)
    noise = (vector(tacit.run(plan, workers=1)) - plan.start()).double()
    # Outside with probability 1e-6.
    least, most = (std * math.sqrt(chi2.ppf(p, 14_002) / 14_002) for p in (5e-7, 1 - 5e-7))
    assert least <= float(noise.square().mean().sqrt()) <= most


@pytest.mark.parametrize("parts", [(Clip(0.5), CENTRAL), (Clip(0.5), DISTRIBUTED, MASKS)])
def test_epsilon_is_that_of_one_sum(parts: Any) -> None:
    plan = experiment(*parts)
    star = plan.replace(topology=Star())
    # Shares on a grid cost a little more, the finer the less.
    assert plan.guard.epsilon(3) == pytest.approx(star.guard.epsilon(3), rel=1e-3)


def test_cohorts_that_are_drawn_amplify_where_only_the_servers_know_them() -> None:
    # Drawn nodes are unknown outside, where a trusted server draws the noise.
    drawn = experiment(Clip(0.5), CENTRAL, topology=Hierarchical(2, cohort=3, sampling="poisson"))
    assert drawn.guard.epsilon(3) == drawn.replace(topology=Star(3, "poisson")).guard.epsilon(3)
    assert drawn.guard.epsilon(3) < experiment(Clip(0.5), CENTRAL).guard.epsilon(3)


def test_correlated_noise_in_groups_is_that_of_a_star() -> None:
    # A mean square of 14,002 normals has a deviation of 1.2 %, a ratio of two 1.7 %: 5 of them.
    noise, still = tacit.CorrelatedNoise(multiplier=2.0, delta=DELTA), tacit.SGD(lr=1e-30)
    squares = []
    for topology in (Hierarchical(2, 3, "cyclic"), Star(3, "cyclic")):
        plan = experiment(Clip(0.5), noise, rounds=6, topology=topology, model=WIDE, training=still)
        squares.append((vector(tacit.run(plan, workers=1)) - plan.start()).square().mean())
    assert 0.915 < float(squares[0] / squares[1]) < 1.085


def test_clipping_and_adaptive_clipping_work_in_groups() -> None:
    clipped = experiment(Clip(1e-3), rounds=1)
    assert (vector(tacit.run(clipped)) - clipped.start()).norm() <= 1e-3 * (1 + 1e-4)
    for masks in ([], [MASKS]):
        groups = run(tacit.AdaptiveClip(0.05), *masks)
        star = run(tacit.AdaptiveClip(0.05), *masks, topology=Star())
        torch.testing.assert_close(vector(groups), vector(star), rtol=0, atol=1e-4)


def test_local_noise_goes_under_masks_and_a_rule() -> None:
    # Nodes count alike in their group, where there is no noise as well.
    changes = {"aggregation": tacit.Median(), "algorithm": tacit.FedAvg(uniform=True)}
    silent = GaussianNoise(multiplier=0.0, delta=DELTA, where="local")
    plain = vector(run(MASKS, Clip(10.0), **changes))
    assert torch.allclose(vector(run(MASKS, Clip(10.0), silent, **changes)), plain, atol=1e-4)


@pytest.mark.slow
def test_a_rule_above_masks_turns_away_the_group_of_a_liar() -> None:
    # Five groups of three; one liar's numbers, up to 16, drown its group's sum.
    data, lie = small.federation((12,) * 15), tacit.attacks.Constant(nodes=("e",), value=100.0)
    changes = {"data": data, "attack": lie, "topology": Hierarchical(5), "rounds": 20}
    found = run(MASKS, aggregation=tacit.MultiKrum(1), **changes)
    lost = run(MASKS, aggregation=tacit.Mean(), **changes)
    assert found.metrics[-1]["accuracy"] >= 0.85 > lost.metrics[-1]["accuracy"]
    assert found.verdicts is not None
    assert (found.verdicts[:, 3:6] == 0).all()  # d, e and f are in one group
    assert set(found.verdicts[0].tolist()) == {0.0, 1.0}


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Any) -> None:
    plan = experiment(MASKS, Clip(0.5), aggregation=tacit.Median())
    with pytest.raises(Stop):
        tacit.run(plan, folder=tmp_path, on_round=stop_after(1), workers=1)
    found = tacit.run(plan, folder=tmp_path, resume=True, workers=1)
    assert vector(found).equal(vector(tacit.run(plan, workers=1)))


@pytest.mark.parametrize("rule", [tacit.Mean(), tacit.Median()])
@pytest.mark.parametrize("compression", [None, tacit.RandomK(0.5)])
def test_bytes_are_those_that_explain_tells(rule: Any, compression: Any) -> None:
    plan = experiment(MASKS, aggregation=rule, compression=compression)
    rows = tacit.run(plan, workers=1).metrics
    assert explain(plan).bytes == sum(row["bytes"] for row in rows)


def test_explain_says_who_sees_which_sum() -> None:
    masked = explain(experiment(MASKS)).to_text()
    assert "A group's aggregator: learns the sum of its nodes' updates, of 3 nodes" in masked
    assert "masked integers; guarantee: hidden in a sum of 3 or more" in masked
    assert "in the clear. No protection" not in masked
    shares = explain(experiment(Clip(1.0), DISTRIBUTED, MASKS)).to_text()
    assert "a group's aggregator included: the sum of each group is (epsilon" in shares
    central = explain(experiment(Clip(1.0), CENTRAL)).to_text()
    assert "The aggregators see every update, and the top server that of all" in central
    local = explain(experiment(Clip(1.0), LOCAL)).to_text()
    assert "a group's aggregator included: what a node sends is (epsilon" in local
    rule = explain(experiment(MASKS, aggregation=tacit.Median())).to_text()
    assert "It takes the sums of groups: a group with one liar counts as one" in rule


def test_liars_are_counted_by_their_groups() -> None:
    lie = tacit.attacks.SignFlip(nodes=("a", "b", "g"))
    plan = experiment(
        MASKS, data=small.federation((12,) * 15), topology=Hierarchical(5), attack=lie
    )
    assert plan.inputs == 5
    assert plan.exposure(plan.malicious) == 2
    said = explain(plan.replace(aggregation=tacit.Krum(1))).to_text()
    assert "hears up to 2 groups with liars, more than f = 1" in said


@pytest.mark.parametrize(
    ("rule", "nodes", "says", "instead"),
    [
        (tacit.Krum(1), 15, "topology=Hierarchical(groups=5), whose sums", Hierarchical(groups=5)),
        (tacit.Median(), 9, "topology=Hierarchical(groups=3), whose sums", Hierarchical(groups=3)),
        (tacit.Krum(1), 14, "use Mean() as the aggregation", None),
    ],
)
def test_a_rule_behind_masks_is_refused_with_the_groups_that_work(
    rule: Any, nodes: int, says: str, instead: Any
) -> None:
    plan = experiment(
        MASKS, data=small.federation((12,) * nodes), aggregation=rule, topology=Star()
    )
    with pytest.raises(tacit.InputError) as refusal:
        plan.check()
    assert says in str(refusal.value)
    assert ("Hierarchical" in str(refusal.value)) == (instead is not None)
    plan.replace(**{"topology": instead} if instead else {"aggregation": tacit.Mean()}).check()


@pytest.mark.parametrize("parts", [(Clip(1.0), DISTRIBUTED, MASKS), (Clip(1.0), CENTRAL)])
def test_a_rule_takes_no_noised_sums(parts: Any) -> None:
    with pytest.raises(tacit.InputError, match=r"use Mean\(\) as the aggregation"):
        experiment(*parts, aggregation=tacit.Median()).check()
    experiment(*parts).check()
