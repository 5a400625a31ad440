"""The rules for serverless learning: numbers by hand, formulas in slow loops, and bounds."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tacit
from byzfl_parts import aggregators
from tacit.aggregation.balance import Balance
from tacit.aggregation.nna import NNA
from tacit.aggregation.robust_gossip import GTSRG, ClippedGossip, CSPlusRG
from tacit.aggregation.rule import Round
from tacit.aggregation.sketch_guard import SketchGuard
from tacit.aggregation.ubar import UBAR
from tacit.aggregation.wfagg import WFAgg

AXES = torch.eye(4)
ROBUST_GOSSIP = [ClippedGossip, CSPlusRG, GTSRG]


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def equal(k: int) -> torch.Tensor:
    """The weights of a regular graph."""
    return torch.full((k,), 1 / (k + 1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def square_loss(receivers: torch.Tensor, models: torch.Tensor) -> torch.Tensor:
    """Half the squared distance to a point of each receiver's: (receiver, receiver, ...)."""
    return (models - receivers[..., None, None]).square().sum(-1) / 2


def rounds(shape: tuple[int, ...], k: int) -> Round:
    """A round with every aid, for receivers in a batch of any shape."""
    receivers = torch.arange(math.prod(shape)).view(shape)
    links = torch.arange(math.prod(shape) * k).view(*shape, k)
    return Round(1, 10, 0, receivers, links, links.numel(), loss=square_loss)


def check(got, result, accepted):
    torch.testing.assert_close(got.result, torch.as_tensor(result, dtype=torch.float32))
    torch.testing.assert_close(got.accepted, torch.as_tensor(accepted, dtype=torch.float32))


# BALANCE and SketchGuard


def test_balance_is_equations_2_and_3():
    # ||(3, 4)|| = 5, so that the radius in round 0 is 0.3 * 5 = 1.5: (3, 5) is within, (3, 6) not.
    own, received = tensor(3, 4), tensor([3, 5], [3, 6])
    check(Balance()(own, received, equal(2)), [3, 4.5], [1, 0])
    check(Balance(alpha=0.25)(own, received, equal(2)), [3, 4.75], [1, 0])
    # In round 5 of 10 it is 1.5 exp(-1/2) = 0.91 < 1, and with kappa = 0 still 1.5.
    check(Balance()(own, received, equal(2), Round(5, 10)), [3, 4], [0, 0])
    check(Balance(kappa=0)(own, received, equal(2), Round(5, 10)), [3, 4.5], [1, 0])
    # In round 1 of 10 it is 1.5 exp(-1/10) = 1.36.
    check(Balance()(own, received, equal(2), Round(1, 10)), [3, 4.5], [1, 0])


def test_sketch_guard_agrees_with_balance_on_clear_cases():
    # Squared norms of sketches with 1,000 buckets have a relative deviation of sqrt(2 / 1000) =
    # 4.5 %, norms about 2.2 %, and the ratio of two norms sqrt(2) times that. Distances are 20 %
    # inside or outside the radius 0.3 ||own||, more than 5 deviations for each of 40 vectors: a
    # false alarm in fewer than one of 10^4 seeds (and the seeds are fixed).
    own = torch.randn(20_000, generator=seeded())
    direction = torch.randn(40, 20_000, generator=seeded(1))
    direction /= direction.norm(dim=1, keepdim=True)
    factor = torch.tensor([0.8, 1.2]).repeat(20)
    received = own + 0.3 * own.norm() * factor[:, None] * direction
    expected = Balance()(own, received, equal(40))
    assert expected.accepted.tolist() == [1, 0] * 20
    got = SketchGuard()(own, received, equal(40))
    assert torch.equal(got.accepted, expected.accepted)
    torch.testing.assert_close(got.result, expected.result)


def test_squared_norms_of_sketches_are_unbiased():
    # Each estimate has a relative variance of at most 2 / buckets = 0.04, the mean of 900 a
    # deviation of at most 0.2 / 30 = 1/150. Five deviations: one false alarm in 10^6 (the seeds are
    # fixed, so that this test passes always or never).
    x = torch.linspace(-1, 2, 400)
    guard = SketchGuard(buckets=50)
    estimates = [guard.view(x, Round(index)).square().sum() for index in range(900)]
    assert float(torch.stack(estimates).mean() / x.square().sum()) == pytest.approx(1, abs=5 / 150)


def test_a_sketch_is_linear_and_shared_within_a_round():
    guard, x = SketchGuard(buckets=7), torch.randn(3, 50, generator=seeded())
    sketch = guard.view(x, Round(2, seed=4))
    assert sketch.shape == (3, 7)
    torch.testing.assert_close(
        guard.view(x[0] - 2 * x[1], Round(2, seed=4)), sketch[0] - 2 * sketch[1]
    )
    # Every coordinate lands in one bucket with its sign.
    assert sorted(guard.view(torch.eye(50), Round(2, seed=4)).abs().sum(1).tolist()) == [1] * 50
    assert not torch.equal(guard.view(x, Round(3, seed=4)), sketch)
    assert not torch.equal(guard.view(x, Round(2, seed=5)), sketch)


def test_sketches_tell_near_identical_vectors_far_from_the_origin_apart():
    # In float32 the sketch of own, with entries of 1e4 * sqrt(20), is exact to 5e-3 only.
    own = torch.full((20_000,), 1e4)
    received = own.repeat(2, 1)
    received[0, 0] += 0.01
    received[1, 0] += 0.1
    # ||own|| = 1e4 sqrt(20,000) = 1.41e6, so that a radius of 0.05 is a gamma of 3.5e-8.
    guard = SketchGuard(gamma=0.05 / (1e4 * math.sqrt(20_000)))
    assert guard(own, received, equal(2)).accepted.tolist() == [1, 0]


def test_sketch_guard_sends_sketches_and_what_is_accepted():
    # 10 links of 1,000 numbers, and 3 models of 50,000.
    assert SketchGuard().traffic(10, 3, 50_000) == 10 * 1000 + 3 * 50_000


# Gossip with a robust sum


def test_clipped_gossip_by_hand():
    # All weights are 1/4, so that b = 1/4, and the nearest 3/4 are own and the distances 1 and 2:
    # tau^2 = 4 (1/4 * 1 + 1/4 * 4) = 5. The third, at 4, is clipped to sqrt(5).
    received = tensor([1, 0], [0, 2], [0, -4])
    tau = math.sqrt(5)
    got = ClippedGossip(1)(torch.zeros(2), received, equal(3))
    check(got, [1 / 4, (2 - tau) / 4], [1, 1, tau / 4])


def test_clipped_gossip_counts_the_border_in_part():
    # Own has 0.4 and b = 0.3; the nearest 0.7 are own, the 0.2 at distance 1 and 0.1 of the 0.3 at
    # distance 2: tau^2 = (0.2 * 1 + 0.1 * 4) / 0.3 = 2.
    received, tau = tensor(1, 2, 3)[:, None] * AXES[:3], math.sqrt(2)
    got = ClippedGossip(1)(torch.zeros(4), received, tensor(0.2, 0.3, 0.1))
    check(got, [0.2, 0.3 * tau, 0.1 * tau, 0], [1, tau / 2, tau / 3])


def test_cs_plus_by_hand():
    # All weights are 1/5: of 1 - 2/5 = 3/5 own takes one and the distances 1 and 2 the others.
    received = tensor(3, 2, 4, 1)[:, None] * AXES
    got = CSPlusRG(1)(torch.zeros(4), received, equal(4))
    check(got, [2 / 5, 2 / 5, 2 / 5, 1 / 5], [2 / 3, 1, 1 / 2, 1])
    # Under a server own has nothing: of 3/5 the distances 1, 2 and 3 take one each.
    received = tensor(1, 2, 3, 4, 5)[:, None] * torch.eye(5)
    got = CSPlusRG(1)(torch.zeros(5), received, torch.full((5,), 0.2))
    check(got, [1 / 5, 2 / 5, 3 / 5, 3 / 5, 3 / 5], [1, 1, 1, 3 / 4, 3 / 5])


def test_cs_plus_keeps_own_where_the_weights_leave_nothing():
    # Own has 0.4, and 1 - 2 * 0.3 = 0.4: already the nearest is too much.
    own, received = tensor(1, 1, 1), torch.eye(3)
    check(CSPlusRG(1)(own, received, tensor(0.2, 0.3, 0.1)), [1, 1, 1], [0, 0, 0])


def test_gts_by_hand():
    # b = 0.3: all of the 0.1 at distance 3 and 0.2 of the 0.3 at distance 2 are dropped.
    received = tensor(1, 2, 3)[:, None] * AXES[:3]
    got = GTSRG(1)(torch.zeros(4), received, tensor(0.2, 0.3, 0.1))
    check(got, [0.2, 0.1 * 2, 0, 0], [1, 1 / 3, 0])


def test_gts_takes_inputs_without_weight():
    # The nearest half is the first input; a node without rows has no weight at a server.
    got = GTSRG(1)(torch.zeros(1), tensor([1], [3], [2]), tensor(0.5, 0.5, 0))
    check(got, [0.5], [1, 0, 0])


@pytest.mark.parametrize("rule", [*ROBUST_GOSSIP, NNA])
def test_without_liars_it_is_plain_gossip(rule):
    own, received = torch.randn(5, generator=seeded()), torch.randn(4, 5, generator=seeded(1))
    got = rule(0)(own, received, equal(4))
    check(got, tacit.Mean()(own, received, equal(4)).result, torch.ones(4))


@pytest.mark.parametrize("f", [1, 2, 3])
def test_gts_with_equal_weights_is_a_shorter_step_to_nna(f):
    # Both drop the f farthest of 9 with own; GTS leaves their weight to own.
    own, received = torch.randn(5, generator=seeded()), torch.randn(8, 5, generator=seeded(1))
    nna = NNA(f)(own, received, equal(8))
    check(GTSRG(f)(own, received, equal(8)), own + (9 - f) / 9 * (nna.result - own), nna.accepted)


def literal(rule, own, received, weight, f):
    """The formulas with loops over sorted (distance, weight) pairs, where own is at 0."""
    b = sum(sorted(weight)[len(weight) - f :])
    distance = [math.dist(x, own) for x in received]
    order = sorted(range(len(weight)), key=lambda j: distance[j])
    result, used, tau, spread = np.array(own), 1 - sum(weight), 0.0, 0.0
    kept = dict.fromkeys(order, 0.0)
    for j in order:
        if used + weight[j] <= 1 - 2 * b + 1e-7:
            tau = distance[j]
        kept[j] = max(0.0, min(weight[j], 1 - b - used))
        spread += kept[j] * distance[j] ** 2
        used += weight[j]
    for j in order:
        if rule is GTSRG:
            result += kept[j] * (received[j] - own)
        else:
            radius = tau if rule is CSPlusRG else math.sqrt(spread / b)
            result += weight[j] * min(1, radius / distance[j]) * (received[j] - own)
    return result


@pytest.mark.parametrize("rule", ROBUST_GOSSIP)
@pytest.mark.parametrize("seed", range(5))
def test_against_a_literal_loop_on_random_graphs(rule, seed):
    graph = tacit.Custom(nx.gnp_random_graph(12, 0.6, seed=seed)).graph(12, 0, 0)
    weight, models = graph.metropolis(), np.random.default_rng(seed).normal(size=(12, 6))
    checked = 0
    for node in range(12):
        links = slice(graph.offsets[node], graph.offsets[node + 1])
        for f in (1, 2):
            if graph.degree[node] < 2 * f + 1:
                continue
            own, received, w = models[node], models[graph.senders[links]], weight[links]
            got = rule(f)(*(torch.from_numpy(x).float() for x in (own, received, w)))
            expected = literal(rule, own, received, [float(x) for x in w], f)
            np.testing.assert_allclose(got.result, expected, rtol=1e-4, atol=1e-5)
            checked += 1
    assert checked > 15


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), f=st.integers(1, 3), size=st.floats(-3, 30))
def test_liars_of_any_size_move_clipped_results_by_no_more_than_their_weight_allows(seed, f, size):
    k = 2 * f + 1 + seed % 4
    random = seeded(seed)
    own, received = torch.randn(6, generator=random), torch.randn(k, 6, generator=random)
    weight = torch.rand(k, generator=random)
    weight /= weight.sum() * (1 + torch.rand(1, generator=random))
    received[:f] *= 10**size
    distance = (received - own).double().norm(dim=1)
    # CS+: the radius is at most an honest distance, for the honest have more than 1 - 2b. He et
    # al.: at most the root of what the honest ones' squares sum to, over b.
    b = weight.topk(f).values.sum()
    honest = {
        CSPlusRG: distance[f:].max(),
        ClippedGossip: ((weight[f:] * distance[f:] ** 2).sum() / b).sqrt(),
    }
    for rule, radius in honest.items():
        got = rule(f)(own, received, weight)
        moved = (got.result - own).norm()
        assert moved <= weight.sum() * radius * (1 + 1e-5)
        assert (weight * got.accepted * distance <= weight * radius * (1 + 1e-5)).all()


# Nearest-neighbour averaging


def test_nna_by_hand():
    # Nearest to 0 are 1 and -2; the mean of 0, 1 and -2 is -1/3, whatever the weights.
    check(NNA(1)(tensor(0), tensor([9], [1], [-2]), tensor(0.5, 0.1, 0.2)), [-1 / 3], [0, 1, 1])


@pytest.mark.parametrize("f", [0, 1, 3])
def test_nna_is_byzfls_monna(f):
    vectors = torch.randn(9, 20, generator=seeded(f))
    got = NNA(f)(vectors[0], vectors[1:], equal(8))
    torch.testing.assert_close(got.result, aggregators.MoNNA(f=f, idx=0)(vectors))


# UBAR


def test_ubar_by_hand():
    # Receiver 2 has a loss of ||x - (2, 2)||^2 / 2. Of 4 received the floor(0.75 * 4) = 3 nearest
    # to own (0, 0) are candidates: (1, 1) with a loss of 1, (1, -1) with 5 and (-1, 0.5) with
    # 5.625; own has 4. (2, 2) would be best, but is too far off.
    received = tensor([2, 2], [1, 1], [1, -1], [-1, 0.5])
    round = Round(receivers=torch.tensor(2), loss=square_loss)
    check(UBAR(rho=0.75)(torch.zeros(2), received, equal(4), round), [0.5, 0.5], [0, 1, 0, 0])
    # With all 4 as candidates the mean of (2, 2) and (1, 1), of which 1 - 0.2 is taken.
    got = UBAR(rho=1, alpha=0.2)(torch.zeros(2), received, equal(4), round)
    check(got, [1.2, 1.2], [1, 1, 0, 0])


def test_ubar_falls_back_on_the_nearest():
    # Own is at receiver 0's optimum, so that all others are worse; 2 is nearer than -3.
    round = Round(receivers=torch.tensor(0), loss=square_loss)
    check(UBAR(rho=1)(tensor(0), tensor([-3], [2]), equal(2), round), [1], [0, 1])


def test_ubar_counts_candidates_without_rounding_errors():
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert 0.29 * 100 < 29
    round = Round(receivers=torch.tensor(0), loss=lambda receivers, models: 0 * models.sum(-1))
    got = UBAR(rho=0.29)(torch.zeros(1), torch.rand(100, 1, generator=seeded()), equal(100), round)
    assert got.accepted.sum() == 29


def test_ubar_needs_a_loss():
    with pytest.raises(tacit.InputError, match="UBAR needs the loss"):
        UBAR()(torch.zeros(2), torch.ones(3, 2), equal(3))


# WFAgg

LINKS = torch.tensor([4, 2, 0, 1, 3])


def wfagg(received, memory, alpha=0.8):
    round = Round(receivers=torch.tensor(0), links=LINKS, all_links=6, memory=memory)
    return WFAgg(1, alpha=alpha)(tensor(0, 10), received, equal(5), round)


def test_wfagg_over_four_rounds_by_hand():
    last = tensor([1, 0], [2, 0], [3, 0], [3, 1], [9, 9])
    # The median is (3, 0). The 5 - 1 - 1 = 3 nearest to it are the 2nd, 3rd and 4th, at 1, 0 and 1;
    # the 3 with the smallest angle are the first three, at 0. The 2nd and the 3rd pass both:
    # 0.2 * (0, 10) + 0.8 * (2.5, 0) = (2, 2).
    memory: dict[str, torch.Tensor] = {}
    check(wfagg(last, memory), [2, 2], [0, 1, 1, 0, 0])
    # Three rounds before it: the first one moves along its axis by 1, by -2, and then by -2.1 to 1.
    # That is within (1 + 2) / 2 +- 1 / sqrt(2) (but not +- 1 / 2), and never by an angle. The 2nd
    # and the 5th stay where they are. The 3rd stays, and then moves without an angle. The 4th moves
    # along the axis by 0.5 and by -1.5, and then by 1, as far as before but by an angle.
    memory = {}
    for first, fourth in ((4.1, 4), (5.1, 4.5), (3.1, 3)):
        wfagg(tensor([first, 0], [2, 0], [6, 0], [fourth, 0], [9, 9]), memory)
    # Angle and time give the first 0.6, all three the 2nd 1, distance and angle the 3rd 0.8;
    # distance alone, the 4th, and time alone, the 5th, are not enough:
    # 0.8 * (0.6 * 1 + 2 + 0.8 * 3) / (0.6 + 1 + 0.8) = 4 / 2.4.
    check(wfagg(last, dict(memory)), [4 / 2.4, 2], [0.6, 1, 0.8, 0, 0])
    check(wfagg(last, dict(memory), alpha=0.0), [0, 10], [0.6, 1, 0.8, 0, 0])


def test_wfagg_remembers_what_each_link_carried():
    first = tensor([1, 0], [2, 0], [3, 0], [3, 1], [9, 9])
    memory: dict[str, torch.Tensor] = {}
    wfagg(first, memory)
    assert torch.equal(memory["models"][LINKS], first)
    assert memory["models"][5].isnan().all()
    assert memory["changes"].isnan().all()
    before = dict(memory)
    copies = {name: value.clone() for name, value in memory.items()}
    # The first goes from (1, 0) to (0, 1): by sqrt(2), and 1 - cos(90 degrees) = 1.
    second = first.clone()
    second[0] = tensor(0, 1)
    wfagg(second, memory)
    assert torch.equal(memory["models"][LINKS], second)
    change = memory["changes"][LINKS[0], :, -1]
    torch.testing.assert_close(change, torch.tensor([math.sqrt(2), 1], dtype=torch.float64))
    assert memory["changes"][:, :, 0].isnan().all()
    assert memory["changes"][5].isnan().all()
    # What an adversary was handed before is as it was.
    for name, value in before.items():
        torch.testing.assert_close(value, copies[name], rtol=0, atol=0, equal_nan=True)


def test_wfagg_keeps_own_where_nobody_passes_two_filters():
    # Of 3 one is kept. The median (1.1, 1) is at 42.3 degrees. (1.1, 0.9) is nearest to it, at 39.3
    # degrees; (9, 9) has the smallest angle to it, at 45 degrees.
    received = tensor([1.1, 0.9], [0.5, 1], [9, 9])
    round = Round(links=torch.arange(3), all_links=3)
    check(WFAgg(1)(tensor(5, 6), received, equal(3), round), [5, 6], [0, 0, 0])


def test_wfagg_takes_the_mean_of_the_two_middle_values_as_median():
    # Of 0, 2, 10 and 12 the median is 6, from which 2 and 10 are the nearest 4 - 1 - 1.
    received = tensor([0, 1], [10, 1], [2, 1], [12, 1])
    memory: dict[str, torch.Tensor] = {}
    round = Round(links=torch.arange(4), all_links=4, memory=memory)
    got = WFAgg(1)(tensor(0, 0), received, equal(4), round)
    # By angle (6, 1) is followed by (10, 1) and (12, 1): 9.5, 5.7 and 4.8 degrees.
    check(got, [8, 0.8], [0, 1, 0, 0])


def test_wfagg_measures_tiny_angles():
    # Off by 1e-4 in directions that cancel, 1 - cos is 1e-8 / (2 * 1.1^2), far below float32's eps.
    models = torch.full((3, 1000), 1.1)
    memory: dict[str, torch.Tensor] = {}
    for moved in (0.0, 1e-4):
        models[0] += moved * torch.tensor([1, -1]).repeat(500)
        round = Round(links=torch.arange(3), all_links=3, memory=memory)
        WFAgg(1)(torch.zeros(1000), models, equal(3), round)
    assert float(memory["changes"][0, 1, -1]) == pytest.approx(1e-8 / 2.42, rel=0.01)


def test_wfagg_needs_links():
    with pytest.raises(tacit.InputError, match="WFAgg needs the links"):
        WFAgg(0)(torch.zeros(2), torch.ones(3, 2), equal(3))


# What all of them keep

ALL = [
    Balance(gamma=1.7),
    SketchGuard(gamma=1.7, buckets=16),
    ClippedGossip(2),
    CSPlusRG(2),
    GTSRG(2),
    NNA(2),
    UBAR(rho=0.7),
    WFAgg(2),
]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)
def test_a_batch_is_its_receivers_one_by_one(rule):
    random = seeded()
    own, received = (
        torch.randn(3, 2, 6, generator=random),
        torch.randn(3, 2, 7, 6, generator=random),
    )
    weight = torch.rand(3, 2, 7, generator=random) / 7
    round = rounds((3, 2), 7)
    copies = own.clone(), received.clone(), weight.clone()
    batch = rule(own, received, weight, round)
    assert batch.result.shape == (3, 2, 6)
    assert batch.accepted.shape == (3, 2, 7)
    assert batch.result.dtype == batch.accepted.dtype == torch.float32
    assert 0 < batch.accepted.mean() < 1
    for a in range(3):
        for b in range(2):
            one = Round(
                1, 10, 0, round.receivers[a, b], round.links[a, b], round.all_links,
                loss=square_loss,
            )  # fmt: skip
            check(
                rule(own[a, b], received[a, b], weight[a, b], one),
                batch.result[a, b],
                batch.accepted[a, b],
            )
    assert all(map(torch.equal, copies, (own, received, weight)))


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)
def test_the_order_of_the_inputs_does_not_matter(rule):
    own, received = torch.randn(6, generator=seeded()), torch.randn(7, 6, generator=seeded(1))
    weight, order = torch.rand(7, generator=seeded(2)) / 7, torch.randperm(7, generator=seeded(3))
    got = rule(own, received, weight, rounds((), 7))
    check(
        rule(own, received[order], weight[order], rounds((), 7)),
        got.result,
        got.accepted[order],
    )


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("lie", [math.nan, math.inf, 1e30])
def test_lies_beyond_all_bounds_do_not_spread(rule, lie):
    own, received = torch.randn(2, 6, generator=seeded()), torch.randn(2, 7, 6, generator=seeded(1))
    received[0, :2, 3] = lie
    weight = torch.full((2, 7), 1 / 8)
    got = rule(own, received, weight, rounds((2,), 7))
    assert got.accepted[0, :2].max() < 1e-6
    others = torch.cat([own[:1], received[0, 2:]])
    assert got.result[0].norm() <= others.norm(dim=1).max() * (1 + 1e-5)
    other = Round(1, 10, 0, torch.tensor(1), torch.arange(7, 14), all_links=14, loss=square_loss)
    check(rule(own[1], received[1], weight[1], other), got.result[1], got.accepted[1])


@pytest.mark.parametrize(
    "rule", [Balance(), SketchGuard(), ClippedGossip(1), CSPlusRG(1), WFAgg(1)], ids=str
)
def test_own_is_kept_where_nothing_can_be_accepted(rule):
    own = tensor(1, 2, 3)
    got = rule(own, torch.full((3, 3), torch.nan), equal(3), rounds((), 3))
    check(got, own, [0, 0, 0])
    far = own + 1e6 * torch.eye(3)
    if isinstance(rule, Balance):
        check(rule(own, far, equal(3)), own, [0, 0, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClippedGossip(-1), r"aggregation\.f: -1 was given"),
        (lambda: CSPlusRG(0.5), r"aggregation\.f: 0\.5 was given"),
        (lambda: NNA(-2), r"aggregation\.f: -2 was given"),
        (lambda: WFAgg(1.0), r"aggregation\.f: 1\.0 was given"),
        (lambda: WFAgg(1, alpha=2), r"aggregation\.alpha: 2 was given"),
        (lambda: UBAR(rho=0), r"aggregation\.rho: 0 was given"),
        (lambda: UBAR(alpha=-1), r"aggregation\.alpha: -1 was given"),
        (lambda: SketchGuard(buckets=0), r"aggregation\.buckets: 0 was given"),
        (lambda: SketchGuard(gamma=0), r"aggregation\.gamma: 0 was given"),
        (lambda: Balance(gamma="x"), r"aggregation\.gamma: 'x' was given; allowed is a number abo"),
        (lambda: Balance(kappa=-1), r"aggregation\.kappa: -1 was given"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(tacit.InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "least"),
    [(ClippedGossip(2), 5), (CSPlusRG(2), 5), (GTSRG(2), 5), (NNA(2), 4), (WFAgg(2), 5)],
)
def test_too_few_inputs_are_refused_with_the_smallest_number_that_works(rule, least):
    k = least - 1
    with pytest.raises(tacit.InputError, match=f"needs {least} or more"):
        rule(torch.zeros(2), torch.zeros(k, 2), equal(k), rounds((), k))
    rule(torch.zeros(2), torch.ones(least, 2), equal(least), rounds((), least))


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)
def test_what_a_rule_tolerates_fits_a_sentence(rule):
    assert "7" in rule.tolerates(7)
