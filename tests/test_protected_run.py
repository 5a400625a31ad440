import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import nn

import small
import tacit
from tacit import (
    AdaptiveClip,
    Clip,
    GaussianNoise,
    HomomorphicEncryption,
    LaplaceNoise,
    NormProof,
    SecretSharing,
    SecureAggregation,
    SkellamNoise,
    VerifiableSum,
)
from tacit.aggregation.rule import Round
from tacit.engine.protect import Protector
from tacit.protection.guard import Guard, Setting
from test_guard import DELTA, gauss, gaussian_epsilon
from test_run import Stop, stop_after, vector

SIZES = (12, 20, 8, 16, 9, 10)
WIDE = nn.Sequential(nn.Linear(4, 2000), nn.Linear(2000, 2))  # d = 14,002
STILL = tacit.SGD(lr=1e-30)  # steps that float32 loses beside the model


def experiment(*protection, **changes):
    fields = {"data": small.federation(SIZES), "rounds": 3, "protection": protection}
    return small.experiment(**fields | changes)


def run(*protection, **changes):
    return tacit.run(experiment(*protection, **changes), workers=1)


def protector(*parts, k=4, d=3, seed=0, malicious=(), memory=None):
    setting = Setting(1, k, k, k, None, False, d, ((1.0, 1),))
    round = Round(seed=seed, memory={} if memory is None else memory)
    return Protector(Guard.of(parts, setting), round, bytes(32), np.array(malicious, np.int64))


def mean(part, updates):
    k = len(updates)
    return part.mean(updates, torch.full((k,), 1 / k), np.arange(k))


# what changes nothing
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"topology": tacit.Star(4)},
        {"algorithm": tacit.FedAvg(uniform=True)},
        {"algorithm": tacit.FedNova()},
        {"algorithm": tacit.Scaffold()},
        {"algorithm": tacit.FedOpt(optimizer=tacit.ServerMomentum())},
        {"algorithm": tacit.Gossip(), "topology": tacit.RandomRegular(4)},
        {"algorithm": tacit.Gossip(), "topology": tacit.Complete()},
    ],
)
def test_masks_give_the_model_of_the_unprotected_run(changes):
    # Numbers to 16 among 6 nodes have steps of 2^-24; a mean of 6 is off by less than 2^-22.
    plain, masked = run(**changes), run(SecureAggregation(), **changes)
    assert torch.allclose(vector(masked), vector(plain), rtol=0, atol=5e-6)
    assert not torch.equal(vector(masked), vector(plain))  # the rounding shows


@pytest.mark.parametrize(
    "changes", [{}, {"algorithm": tacit.FedAvg(uniform=True)}, {"algorithm": tacit.Scaffold()}]
)
@pytest.mark.parametrize(
    "parts",
    [
        (SecretSharing(),),
        (HomomorphicEncryption(),),
        (SecureAggregation(), VerifiableSum()),
        (SecretSharing(), VerifiableSum()),
        (HomomorphicEncryption(), VerifiableSum()),
    ],
)
def test_other_sums_give_the_model_of_the_unprotected_run(parts, changes):
    plain, shared = run(**changes), run(*parts, **changes)
    assert torch.allclose(vector(shared), vector(plain), rtol=0, atol=5e-6)
    assert not torch.equal(vector(shared), vector(plain))


@pytest.mark.parametrize(
    "parts",
    [
        (Clip(1e6),),
        (AdaptiveClip(1e6),),
        (Clip(1e3), SecureAggregation()),
        (Clip(1e6), gauss(multiplier=0.0)),
        (Clip(1e6), gauss(multiplier=0.0, where="local")),
        (AdaptiveClip(1e6), gauss(multiplier=0.0)),
        (Clip(1e1), gauss(multiplier=0.0, where="distributed"), SecureAggregation()),
        (Clip(1e1), gauss(multiplier=0.0, where="distributed"), SecretSharing()),
        (AdaptiveClip(1e1), SecretSharing(), NormProof()),
        (Clip(1e1), gauss(multiplier=0.0, where="local"), HomomorphicEncryption()),
        (Clip(1e1), gauss(multiplier=0.0), SecretSharing(), NormProof()),
        (Clip(1e1), gauss(multiplier=0.0, where="local"), SecureAggregation()),
    ],
)
def test_no_noise_and_a_wide_clip_give_the_model_of_the_unprotected_run(parts):
    # With noise every node counts alike.
    plain = run(algorithm=tacit.FedAvg(uniform=True))
    guarded = run(*parts, algorithm=tacit.FedAvg(uniform=True))
    atol = 1e-3 if guarded.experiment.guard.secure else 1e-6
    assert torch.allclose(vector(guarded), vector(plain), rtol=0, atol=atol)


# noise
def bounds(std, d):
    """Of the root mean square of d normals: outside with probability 1e-6."""
    return [std * math.sqrt(chi2.ppf(p, d) / d) for p in (5e-7, 1 - 5e-7)]


@pytest.mark.parametrize(
    ("parts", "std"),
    [
        ((Clip(0.5), gauss(multiplier=2.0)), 2 * 0.5 / 6),
        # Shares for as few nodes as the threshold: all six have six quarters of the variance.
        ((Clip(0.5), gauss(multiplier=2.0, where="distributed"), SecureAggregation(4)),
         2 * 0.5 / 6 * math.sqrt(6 / 4)),
        ((Clip(0.5), SkellamNoise(multiplier=2.0, delta=DELTA), SecureAggregation(6)), 2 * 0.5 / 6),
        ((Clip(0.5), gauss(multiplier=2.0, where="distributed"), SecretSharing(4)),
         2 * 0.5 / 6 * math.sqrt(6 / 4)),
        ((Clip(0.5), gauss(multiplier=2.0, where="local")), 2 * 0.5 / math.sqrt(6)),
        ((Clip(0.5), gauss(multiplier=2.0, where="local"), SecureAggregation()),
         2 * 0.5 / math.sqrt(6)),
    ],
)  # fmt: skip
def test_the_noise_of_a_round_has_the_stated_deviation(parts, std):
    base = experiment(
        *parts, model=WIDE, training=STILL, rounds=1, algorithm=tacit.FedAvg(uniform=True)
    )
    noise = vector(tacit.run(base, workers=1)) - base.start()
    assert noise.numel() == 14_002
    least, most = bounds(std, noise.numel())
    assert least <= float(noise.double().square().mean().sqrt()) <= most


def test_survivors_as_few_as_the_threshold_have_the_noise_that_is_accounted_for():
    # Three of six nodes are left.
    parts = Clip(0.5), gauss(multiplier=2.0, where="distributed"), SecureAggregation(3)
    part = protector(*parts, k=6, d=14_000)
    found = part.mean(torch.zeros(3, 14_000), torch.full((3,), 1 / 6), np.arange(3))
    least, most = bounds(2 * 0.5 / 6, 14_000)
    assert least <= float(found.double().square().mean().sqrt()) <= most
    assert part.mean(torch.zeros(2, 14_000), torch.full((2,), 1 / 6), np.arange(2)) is None


def test_local_laplace_noise_has_the_deviation_of_its_scale():
    # Variance 2 b^2, fourth moment 24 b^4: the mean square of d has deviation b^2 sqrt(20 / d);
    # beyond 6 of them a sum of so many is rarer than 1e-6.
    d, scale = 200_000, 0.5 * 2.0
    parts = Clip(0.5, order=1), LaplaceNoise(multiplier=2.0, delta=DELTA)
    found = protector(*parts, k=1, d=d).steps(torch.zeros(1, d), np.arange(1))
    square = float(found.double().square().mean())
    assert abs(square - 2 * scale**2) <= 6 * scale**2 * math.sqrt(20 / d)


@pytest.mark.parametrize("where", ["central", "local", "distributed"])
def test_noise_differs_between_nodes_and_rounds(where):
    parts = Clip(1.0), gauss(where=where), *[SecureAggregation()] * (where == "distributed")
    found = []
    for index in (0, 1):
        part = protector(*parts)
        part.round = Round(index, 2)
        steps = part.steps(torch.zeros(4, 3), np.arange(4))
        assert (where == "local") == (not torch.equal(steps[0], steps[1]))
        found.append(steps if where == "local" else mean(part, torch.zeros(4, 3)))
    assert not torch.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize(
    "parts",
    [
        (Clip(1e-3), gauss()),
        (Clip(1e-3), gauss(where="local")),
        (Clip(1e-3), gauss(where="distributed"), SecureAggregation()),
        (tacit.DPSGD(norm=1e-3, multiplier=30.0, delta=DELTA),),
    ],
)
def test_two_experiments_of_one_seed_do_not_share_their_noise(parts):
    # Else the difference of their models would have none. Independent
    # noise leaves models about sqrt(2) of their distance to the start apart.
    one = experiment(*parts, rounds=1)
    other = one.replace(evaluate_every=2)  # which changes no update
    models = [vector(tacit.run(e, workers=1)) - one.start() for e in (one, other)]
    assert (models[0] - models[1]).norm() > 0.5 * models[0].norm()


def test_an_empty_cohort_gets_the_noise_as_well():
    # Whether a round had anybody in it would tell about the one who may have been there.
    star = tacit.Star(1, "poisson")
    seed = next(s for s in range(99) if not len(star.sample(len(SIZES), s, 0)))
    base = experiment(Clip(1.0), gauss(), topology=star, seed=seed, rounds=1)
    assert not torch.equal(vector(tacit.run(base, workers=1)), base.start())


# sensitivity
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(3, 5), st.integers(1, 6)), elements=FLOATS),
    st.sampled_from([1e-3, 1.0, 50.0]),
    st.sampled_from([1, 2]),
)
def test_no_node_moves_the_sum_by_more_than_the_norm(rows, norm, order):
    k, d = rows.shape
    kind = LaplaceNoise if order == 1 else GaussianNoise
    parts = Clip(norm, order), kind(multiplier=0.0, delta=DELTA, where="central")
    updates = torch.from_numpy(rows)
    without = updates.clone()
    without[0] = 0
    moved = [mean(protector(*parts, k=k, d=d), u).double() * k for u in (updates, without)]
    length = float(torch.linalg.vector_norm(moved[0] - moved[1], order))
    assert length <= norm * (1 + 1e-5)  # the mean's float32, of up to 5 norms


def test_a_node_of_many_rows_counts_as_much_as_one_of_few_where_there_is_noise():
    parts = Clip(1.0), gauss(multiplier=0.0)
    updates, weight = torch.eye(4, 3), torch.tensor([0.97, 0.01, 0.01, 0.01])
    found = protector(*parts).mean(updates, weight, np.arange(4))
    assert torch.allclose(found, torch.full((3,), 0.25))


def test_a_liar_behind_masks_is_not_clipped_and_one_without_is():
    updates = torch.zeros(4, 3)
    updates[1] = 1e30
    plain = mean(protector(Clip(1.0), malicious=[1]), updates)
    assert float(plain.norm()) == pytest.approx(1 / 4, rel=1e-4)
    masked = mean(protector(Clip(1.0), SecureAggregation(), malicious=[1]), updates)
    # Each number as large as one may be: three of them, of which nobody sees the norm.
    assert float(masked.norm()) == pytest.approx(math.sqrt(3) / 4, rel=1e-4)
    honest = mean(protector(Clip(1.0), SecureAggregation()), updates)
    assert float(honest.norm()) == pytest.approx(1 / 4, rel=1e-4)


@pytest.mark.parametrize("parts", [(), (SecureAggregation(),)])
def test_updates_that_are_not_finite_are_turned_away(parts):
    updates = torch.ones(4, 3)
    updates[2, 0] = math.inf
    found = mean(protector(Clip(10.0), *parts), updates)
    if parts:
        assert torch.allclose(found, torch.ones(3), atol=1e-5)
    wild = protector(AdaptiveClip(1e-3), *parts)
    assert mean(wild, torch.full((4, 3), 3e38)).isfinite().all()


def test_a_cohort_without_rows_or_updates_leaves_the_model():
    part = protector(AdaptiveClip(1.0))
    assert part.mean(torch.ones(4, 3), torch.zeros(4), np.arange(4)) is None
    assert mean(part, torch.full((4, 3), math.nan)) is None


# adaptive clipping
@pytest.mark.parametrize("parts", [(), (gauss(multiplier=0.0),), (SecureAggregation(),)])
def test_the_norm_follows_the_quantile(parts):
    # Three of four updates are at most 1: C exp(-0.2 (3/4 - 1/4)) = exp(-0.1).
    updates = torch.diag(torch.tensor([0.5, 0.25, 0.75, 4.0]))
    memory = {}
    clip = AdaptiveClip(1.0, quantile=0.25, lr=0.2)
    found = mean(protector(clip, *parts, d=4, memory=memory), updates)
    assert torch.allclose(found, torch.tensor([0.5, 0.25, 0.75, 1.0]) / 4, atol=1e-5)
    (norm,) = memory.values()
    assert float(norm) == pytest.approx(math.exp(-0.1), rel=1e-6)
    # With the new norm 0.904..., still three of four.
    found = mean(protector(clip, *parts, d=4, memory=memory), updates)
    assert float(found[3]) == pytest.approx(math.exp(-0.1) / 4, rel=1e-4)
    assert float(*memory.values()) == pytest.approx(math.exp(-0.2), rel=1e-6)


def test_bits_and_updates_share_the_noise_as_the_paper_says():
    # Andrew et al. 2021, theorem 1: z_update = (z^-2 - (2 s)^-2)^(-1/2), where the sum of bits has
    # noise s; with z = 1 and 10 nodes s = 1 (a twentieth, 0.5, is below z): 1.1547.
    d, clip = 100_000, AdaptiveClip(1.0, quantile=0.5, lr=1.0)
    updates = torch.zeros(10, d)
    found = mean(protector(clip, gauss(), k=10, d=d), updates)
    least, most = bounds(1 / math.sqrt(1 - 1 / 4) / 10, d)
    assert least <= float(found.double().square().mean().sqrt()) <= most
    # All bits are 1: log C = -(1 - 1/2) - N(0, s^2) / 10.
    logs = []
    for seed in range(400):
        memory = {}
        mean(protector(clip, gauss(), k=10, d=1, seed=seed, memory=memory), updates[:, :1])
        logs.append(math.log(float(*memory.values())) + 0.5)
    least, most = bounds(1 / 10, 400)
    assert least <= math.sqrt(np.mean(np.square(logs))) <= most


# the budget in a run
def test_epsilon_is_reported_and_the_run_ends_before_the_budget_is_passed():
    epsilon = gaussian_epsilon(math.sqrt(4.5), DELTA)
    result = run(Clip(1.0), gauss(epsilon=epsilon), rounds=9)
    expected = [gaussian_epsilon(math.sqrt(t), DELTA) for t in (1, 2, 3, 4)]
    assert [row["epsilon"] for row in result.metrics] == pytest.approx(expected, rel=1e-6)
    assert "accuracy" in result.metrics[-1]


def test_dpsgd_reports_its_epsilon_and_changes_the_training():
    part = tacit.DPSGD(norm=1.0, multiplier=1.0, delta=1e-3)
    data = small.federation((8, 8, 8))
    guarded = experiment(part, data=data, rounds=2)
    result = tacit.run(guarded, workers=1)
    # Batches of all 8 rows, one step a round: the plain Gaussian mechanism.
    expected = [gaussian_epsilon(math.sqrt(t), 1e-3) for t in (1, 2)]
    assert [row["epsilon"] for row in result.metrics] == pytest.approx(expected, rel=0.01)
    assert not torch.allclose(vector(result), vector(run(data=data, rounds=2)), atol=1e-3)


def test_a_run_without_noise_reports_no_epsilon():
    assert "epsilon" not in run(Clip(1.0), SecureAggregation()).metrics[-1]


@pytest.mark.parametrize(
    "parts",
    [
        (AdaptiveClip(0.1), gauss(multiplier=0.5)),
        (AdaptiveClip(0.1), gauss(multiplier=0.5, where="distributed"), SecureAggregation()),
        (Clip(0.1), gauss(multiplier=0.0, where="local")),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, parts):
    base = experiment(*parts, rounds=4)
    whole = tacit.run(base, workers=1)
    with pytest.raises(Stop):
        tacit.run(base, folder=tmp_path, on_round=stop_after(2), workers=1)
    resumed = tacit.run(base, folder=tmp_path, resume=True, workers=1)
    assert torch.equal(vector(resumed), vector(whole))
    assert resumed.metrics[-1]["epsilon"] == whole.metrics[-1]["epsilon"]


@pytest.mark.parametrize("where", ["local", "central"])
def test_an_update_that_overflowed_is_no_step_and_keeps_its_noise(where: str) -> None:
    noise = tacit.GaussianNoise(multiplier=2.0, delta=1e-5, where=where)
    plan = experiment(protection=[tacit.Clip(1.0), noise])
    here = Protector(plan.guard, Round(), bytes(32), np.array([], np.int64))
    updates = torch.tensor([[torch.inf, 0.0], [0.0, 0.0], [0.0, 0.0]])
    still = torch.zeros(3, 2)
    nodes, even = np.arange(3), torch.full((3,), 1 / 3)
    assert torch.equal(here.steps(updates, nodes), here.steps(still, nodes))
    assert torch.equal(here.mean(updates, even, nodes), here.mean(still, even, nodes))
    assert here.mean(updates, even, nodes).isfinite().all()
