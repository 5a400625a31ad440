"""Rules made for a server: against ByzFL, numbers by hand, and what liars may not do."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from byzfl_parts import aggregators
from tacit.aggregation.caf import CAF
from tacit.aggregation.centered_clipping import CenteredClipping
from tacit.aggregation.dnc import DnC
from tacit.aggregation.fltrust import FLTrust
from tacit.aggregation.foolsgold import FoolsGold
from tacit.aggregation.geometric_median import GeometricMedian
from tacit.aggregation.krum import Krum, MultiKrum
from tacit.aggregation.norm_bound import NormBound
from tacit.aggregation.rule import Aggregated, Aggregation, Round
from tacit.aggregation.subsets import MDA, SMEA
from tacit.errors import InputError

RULES = [
    Krum(2),
    MultiKrum(2),
    MultiKrum(2, m=3),
    GeometricMedian(),
    CenteredClipping(1.5),
    CenteredClipping(1.5, steps=3),
    MDA(2),
    SMEA(2),
    CAF(2),
    DnC(2, dimensions=7),
    DnC(2, iterations=3, dimensions=5),
    NormBound(1.5),
    FoolsGold(),
]
# Those whose result stays among the honest whatever f of 9 send.
ROBUST = [Krum(2), MultiKrum(2), GeometricMedian(), MDA(2), SMEA(2), CAF(2), DnC(2)]
named = pytest.mark.parametrize("rule", RULES, ids=repr)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def even(received: Tensor) -> Tensor:
    k = received.shape[-2]
    return torch.full(received.shape[:-1], 1 / max(1, k))


def served(rule: Aggregation, received: Tensor, own: Tensor | None = None) -> Aggregated:
    """At a server whose model is 0 if no other is given."""
    own = torch.zeros(received.shape[-1]) if own is None else own
    return rule(own, received, even(received))


def byzfl(rule: object, received: Tensor) -> Tensor:
    np.random.seed(0)  # noqa: NPY002 (some of its rules draw from the global generator)
    return torch.from_numpy(np.asarray(rule(received.double().numpy()))).float()  # type: ignore[operator]


# Against ByzFL.


@pytest.mark.parametrize("seed", range(5))
def test_krum_is_byzfl_s_with_one_more_liar(seed: int) -> None:
    """ByzFL's score takes n - f - 1 others: with f + 1 it takes the n - f - 2 of the paper."""
    x = drawn(11, 20, seed=seed)
    assert torch.allclose(served(Krum(2), x).result, byzfl(aggregators.Krum(3), x))


@pytest.mark.parametrize("seed", range(5))
def test_multi_krum_is_byzfl_s_with_one_more_liar(seed: int) -> None:
    """ByzFL averages n - f, so that with its f = 3 of 11 it averages 8."""
    x = drawn(11, 20, seed=seed)
    found = served(MultiKrum(2, m=8), x)
    assert torch.allclose(found.result, byzfl(aggregators.MultiKrum(3), x), atol=1e-6)
    assert found.accepted.sum() == 8


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e12])
def test_geometric_median_is_byzfl_s_with_small_nu_and_many_steps(scale: float) -> None:
    x = drawn(12, 30)
    x[:3] *= scale
    expected = byzfl(aggregators.GeometricMedian(nu=1e-6, T=2000), x)
    assert torch.allclose(served(GeometricMedian(), x).result, expected, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_centered_clipping_is_byzfl_s(steps: int) -> None:
    x = drawn(12, 30) + 3
    expected = byzfl(aggregators.CenteredClipping(L=steps, tau=2.0), x)
    assert torch.allclose(served(CenteredClipping(2.0, steps), x).result, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_mda_is_byzfl_s_where_one_subset_is_best(seed: int) -> None:
    x = drawn(8, 20, seed=seed)
    x[:2] += 10
    assert torch.allclose(served(MDA(2), x).result, byzfl(aggregators.MDA(2), x), atol=1e-6)


def test_smea_and_caf_drop_the_outliers_that_byzfl_s_drop() -> None:
    """ByzFL's take one power step from a random vector, which finds far outliers all the same, but
    weighs the others by a direction of chance: a kept outlier would move CAF's result by 50."""
    x = drawn(8, 20)
    x[:2] += 100
    assert torch.allclose(served(SMEA(2), x).result, byzfl(aggregators.SMEA(2), x), atol=1e-6)
    assert torch.allclose(served(SMEA(2), x).result, x[2:].mean(0), atol=1e-6)
    assert (served(CAF(2), x).result - byzfl(aggregators.CAF(2), x)).norm() < 5
    assert served(CAF(2), x).accepted[:2].max() < 1e-3


# Numbers by hand.


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(-1)


def test_krum_by_hand() -> None:
    """f = 1, k = 5: the 2 nearest. Scores of 0, 1, 2, 4, 100: 1 + 4, 1 + 1, 1 + 4, 4 + 9, far."""
    found = served(Krum(1), column(0, 1, 2, 4, 100))
    assert found.result == 1
    assert found.accepted.tolist() == [0, 1, 0, 0, 0]


def test_krum_sums_over_k_less_f_less_2() -> None:
    """0, 3, 4, 8.1, 8.2 and f = 1. With the 2 nearest: 9 + 16, 1 + 9, 1 + 16, 0.01 + 16.81, ...:
    3 wins with 10. With ByzFL's 3 nearest: 3 has 36.01, 4 has 33.81 and wins."""
    assert served(Krum(1), column(0, 3, 4, 8.1, 8.2)).result == 3


def test_multi_krum_by_hand() -> None:
    """As above, scores 5, 2, 5, 13: the mean of 0, 1, 2, 4; of the best three, 1."""
    x = column(0, 1, 2, 4, 100)
    assert served(MultiKrum(1), x).result == pytest.approx(7 / 4)
    assert served(MultiKrum(1, m=3), x).result == pytest.approx(1)


def test_multi_krum_averages_all_that_are_left_where_these_are_fewer_than_m() -> None:
    x = column(1, 2, 3, 6, float("nan"))
    assert served(MultiKrum(1, m=5), x).result == pytest.approx(3)


def test_geometric_median_by_hand() -> None:
    """On a line it is the median. Of a triangle's corners (0,0), (1,0), (1/2, sqrt(3)/2) it is the
    centre (1/2, sqrt(3)/6). A vector with more than half of the weight is it."""
    assert served(GeometricMedian(), column(0, 1, 5, 7, 90)).result == pytest.approx(5, abs=1e-4)
    triangle = torch.tensor([[0, 0], [1, 0], [0.5, math.sqrt(3) / 2]])
    centre = served(GeometricMedian(), triangle).result
    assert centre.tolist() == pytest.approx([0.5, math.sqrt(3) / 6], abs=1e-6)
    heavy = GeometricMedian()(torch.zeros(2), triangle, torch.tensor([0.2, 0.6, 0.2])).result
    assert heavy.tolist() == pytest.approx([1, 0], abs=1e-5)


def test_centered_clipping_by_hand() -> None:
    """From 0 with tau 2: 1, 2 and 9 count 1, 2, 2: v = 5/3. From there: -2/3, 1/3, 2: v = 20/9."""
    x = column(1, 2, 9)
    assert served(CenteredClipping(2.0), x).result == pytest.approx(5 / 3)
    found = served(CenteredClipping(2.0, steps=2), x)
    assert found.result == pytest.approx(20 / 9)
    # The last radius over the last distance: 2 / (9 - 5/3).
    assert found.accepted.tolist() == pytest.approx([1, 1, 2 / (9 - 5 / 3)])


def test_norm_bound_by_hand() -> None:
    """Own 1, weights 1/4 and 3/4: updates 1 and 8, the second cut to 2: 1 + 1/4 + 3/4 2."""
    found = NormBound(2.0)(torch.ones(1), column(2, 9), torch.tensor([0.25, 0.75]))
    assert found.result == pytest.approx(2.75)
    assert found.accepted.tolist() == [1, 0.25]


def test_clipping_cuts_what_overflows_a_square() -> None:
    """(6e37, 8e37) has the norm 1e38, whose square no float32 holds: cut to 2 it is (1.2, 1.6)."""
    found = NormBound(2.0)(torch.zeros(2), torch.tensor([[6e37, 8e37]]), torch.ones(1))
    assert found.result.tolist() == pytest.approx([1.2, 1.6], rel=1e-4)


def test_mda_takes_the_least_variance_among_equal_diameters() -> None:
    """0, 1, 5, 10, 30 without one: only {0, 1, 5, 10} has diameter 10, mean 4. 9, 10, 0, 1.1, 5
    without two: {9, 10, 5} and {0, 1.1, 5} have diameter 5. Their pairs' squares sum to 1 + 16 + 25
    = 42 and 1.21 + 15.21 + 25 = 41.42: the second, though the first comes first."""
    assert served(MDA(1), column(0, 1, 5, 10, 30)).result == pytest.approx(4)
    assert served(MDA(2), column(9, 10, 0, 1.1, 5)).result == pytest.approx(6.1 / 3)


def test_smea_looks_at_the_variance_and_mda_at_the_diameter() -> None:
    """0, 0, 3.4, -2, 2 without one: {0, 0, 3.4, 2} has diameter 3.4 and variance 15.56 / 4 - 1.35^2
    = 2.07, {0, 0, -2, 2} has diameter 4 and variance 2."""
    x = column(0, 0, 3.4, -2, 2)
    assert served(MDA(1), x).accepted.tolist() == [1, 1, 1, 0, 1]
    assert served(SMEA(1), x).accepted.tolist() == [1, 1, 0, 1, 1]


def test_smea_by_hand() -> None:
    """Leave one of (3,0), (-3,0), (0,2), (0,-2) out. Without (3,0): mean (-1,0), the covariance is
    diag(2, 8/3); without (0,2): diag(6, 8/9). So the first wins with 8/3, twice over; with (3.1,0)
    in place of (3,0), leaving that one out."""
    x = torch.tensor([[0, 2.0], [0, -2], [-3, 0], [3.1, 0]])
    found = served(SMEA(1), x)
    assert found.accepted.tolist() == [1, 1, 1, 0]
    assert found.result.tolist() == pytest.approx([-1, 0])


@pytest.mark.parametrize("seed", [0, 5, 6, 7])
def test_smea_is_the_definition(seed: int) -> None:
    """Every eigenvalue by NumPy. From seed 5 on, the least trace is of another subset."""
    x = drawn(8, 5, seed=seed).double().numpy()
    top = {
        subset: np.linalg.eigvalsh(np.cov(x[list(subset)].T))[-1]
        for subset in itertools.combinations(range(8), 6)
    }
    best = list(min(top, key=lambda subset: top[subset]))
    assert torch.equal(
        served(SMEA(2), torch.tensor(x).float()).accepted.nonzero().flatten(), torch.tensor(best)
    )


@pytest.mark.parametrize("size", [1.0, 1e6])
@pytest.mark.parametrize("seed", [0, 1, 10, 15])
def test_caf_is_the_definition(seed: int, size: float) -> None:
    """The loop of the paper over d-dimensional covariances, the maximum taken of c > 0. With
    seeds 10 and 15 the least top eigenvalue is not the last."""
    x = drawn(10, 4, seed=seed).double().numpy()
    x[:3] *= size
    c, best = np.ones(10), (np.inf, np.zeros(4))
    while c.sum() > 10 - 2 * 3:
        mean = c @ x / c.sum()
        values, vectors = np.linalg.eigh((x - mean).T @ ((x - mean) * c[:, None]) / c.sum())
        best = min(best, (values[-1], mean), key=lambda pair: pair[0])
        tau = ((x - mean) @ vectors[:, -1]) ** 2
        c *= np.clip(1 - tau / tau[c > 0].max(), 0, None)
    found = served(CAF(3), torch.tensor(x).float()).result
    assert found.tolist() == pytest.approx(best[1].tolist(), abs=1e-4)


def test_caf_by_hand() -> None:
    """-1, 0, 1, 12 and f = 1, on a line. mu = 3, tau = 16, 9, 4, 81; c = 65/81, 72/81, 77/81, 0,
    whose sum 214/81 = 2.64 is above 2; mu = (77 - 65) / 214 = 6/107. Variance 23.5, then below 1.
    The largest tau is now -1's, and the sum of c no longer above 2: 2 f turns are done."""
    found = served(CAF(1), column(-1, 0, 1, 12))
    assert found.result == pytest.approx(12 / 214)
    assert found.accepted.tolist() == pytest.approx([65 / 77, 72 / 77, 1, 0])


def test_caf_without_liars_or_differences_is_the_mean() -> None:
    x = drawn(5, 3)
    assert torch.allclose(served(CAF(0), x).result, x.mean(0), atol=1e-6)
    assert torch.allclose(served(CAF(2), x[:1].repeat(5, 1)).result, x[0], atol=1e-6)


def test_dnc_drops_the_largest_projections() -> None:
    """By a singular value decomposition of the centred matrix, as the paper says."""
    x = drawn(9, 6)
    centred = (x - x.mean(0)).double()
    score = (centred @ torch.linalg.svd(centred).Vh[0]).square()
    found = served(DnC(2), x)
    expected = torch.ones(9).scatter(0, score.topk(2).indices, 0)
    assert torch.equal(found.accepted, expected)
    assert torch.allclose(found.result, x[expected == 1].mean(0), atol=1e-6)
    assert served(DnC(2, c=1.5), x).accepted.sum() == 6


def test_dnc_sees_what_it_draws() -> None:
    """With one coordinate of 50 a round, an outlier in a single one is mostly let through; with all
    of them never."""
    x = drawn(9, 50)
    x[4, 7] = 1000
    own = torch.zeros(50)
    rule = DnC(1, dimensions=1)
    passed = [rule(own, x, even(x), Round(index=i)).accepted[4] for i in range(40)]
    assert sum(passed) > 20
    assert served(DnC(1), x).accepted[4] == 0


def test_foolsgold_by_hand() -> None:
    """Two alike and one at a right angle have the weights 0, 0, 1."""
    found = served(FoolsGold(), torch.tensor([[1.0, 0], [3, 0], [0, 2]]))
    assert found.accepted.tolist() == [0, 0, 1]
    assert found.result.tolist() == pytest.approx([0, 2])


def test_foolsgold_follows_its_authors_code() -> None:
    """The loops of model_aggregator.py, written out."""
    x = drawn(6, 4)
    x[1] = x[0] + 0.3 * x[1]
    unit = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    cs = unit @ unit.T - np.eye(6)
    most = cs.max(1) + 1e-5
    for i in range(6):
        for j in range(6):
            if i != j and most[i] < most[j]:
                cs[i, j] *= most[i] / most[j]
    wv = np.clip(1 - cs.max(1), 0, 1)
    wv /= wv.max()
    wv[wv == 1] = 0.99
    wv = np.log(wv / (1 - wv) + 1e-5) + 0.5
    wv = np.clip(wv, 0, 1)
    expected = (wv @ x.double().numpy()) / wv.sum()
    assert served(FoolsGold(), x).result.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_foolsgold_remembers_senders_and_writes_nothing_in_place() -> None:
    """Round 0: links 0 and 2 at a right angle. Round 1: both to the right; what they sent before
    still tells them apart: the sums are (2, 0) and (1, 1), cosine 0.71; without memory, 1 and no
    one would count. Link 1 did not send and keeps its row."""
    memory: dict[str, Tensor] = {}
    own, links = torch.zeros(2), torch.tensor([0, 2])
    weight = torch.tensor([0.5, 0.5])
    right, up = [1.0, 0.0], [0.0, 1.0]
    rule = FoolsGold()
    rule(own, torch.tensor([right, up]), weight, Round(links=links, all_links=3, memory=memory))
    first = memory["history"]
    kept = first.clone()
    asked = dict(memory)
    again = Round(index=1, links=links, all_links=3, memory=memory)
    found = rule(own, torch.tensor([right, right]), weight, again)
    assert torch.equal(first, kept)
    assert torch.equal(asked["history"], kept)
    assert memory["history"].tolist() == [[2, 0], [0, 0], [1, 1]]
    assert found.accepted.sum() > 0
    assert served(rule, torch.tensor([right, right])).accepted.sum() == 0


def test_foolsgold_lets_no_one_of_many_alike_through() -> None:
    """Multiples of one vector, whose cosines are 1 but for rounding."""
    x = drawn(1, 100) * torch.tensor([0.1, 0.3, 0.7, 1.9]).unsqueeze(-1)
    found = served(FoolsGold(), x)
    assert found.accepted.tolist() == [0, 0, 0, 0]
    assert torch.equal(found.result, torch.zeros(100))


def test_foolsgold_s_memory_does_not_overflow() -> None:
    x = torch.tensor([[3e38, 0], [0, 1], [1, 0.5]])
    memory: dict[str, Tensor] = {}
    for index in range(3):
        round = Round(index=index, links=torch.arange(3), all_links=3, memory=memory)
        assert FoolsGold()(torch.zeros(2), x, even(x), round).accepted.isfinite().all()
    assert memory["history"].isfinite().all()


def trusting(start: Tensor) -> Tensor:
    """The root rows would move a model by (0, 2)."""
    return start + torch.tensor([0.0, 2.0])


def test_fltrust_by_hand() -> None:
    """g_0 = (0, 2). (0, 8) has trust 1 and is cut to (0, 2); (3, 3) has cos 45 degrees = 0.7071 and
    is cut to (1.414, 1.414); (1, -1) and (5, 0) have none. (0 + 1) / 1.7071, (2 + 1) / 1.7071."""
    own = torch.tensor([10.0, 20.0])
    x = own + torch.tensor([[0, 8.0], [3, 3], [1, -1], [5, 0]])
    found = FLTrust()(own, x, even(x), Round(root=trusting))
    assert (found.result - own).tolist() == pytest.approx([1 / 1.70711, 3 / 1.70711], abs=1e-4)
    assert found.accepted.tolist() == pytest.approx([1, math.sqrt(0.5), 0, 0], abs=1e-6)


def test_fltrust_without_a_server_trusts_the_own_training() -> None:
    """The same, from a model at (10, 20) that moved to (10, 22) itself, with weights 1/2 in sum."""
    start = torch.tensor([10.0, 20.0])
    own = trusting(start)
    x = start + torch.tensor([[0, 8.0], [3, 3], [1, -1], [5, 0]])
    found = FLTrust()(own, x, even(x) / 2, Round(start=start))
    half = [0.5 / 1.70711, (2 + 3 / 1.70711) / 2]
    assert (found.result - start).tolist() == pytest.approx(half, abs=1e-4)


def test_fltrust_trusts_nobody_and_keeps_its_own() -> None:
    own = torch.tensor([1.0, 2.0])
    x = own + torch.tensor([[0, -1.0], [0, 0]])
    found = FLTrust()(own, x, even(x), Round(root=trusting))
    assert torch.equal(found.result, own)
    assert found.accepted.tolist() == [0, 0]
    start = own - torch.tensor([3.0, 0.0])
    found = FLTrust()(own, start + torch.tensor([[-1.0, 4], [0, 2]]), even(x), Round(start=start))
    assert torch.equal(found.result, own)


def test_fltrust_refuses_a_server_without_root_rows() -> None:
    with pytest.raises(InputError, match="clean rows"):
        served(FLTrust(), drawn(3, 2))
    with pytest.raises(InputError, match=r"root.*\(3, 2\).*as many inputs as targets"):
        FLTrust(root=(drawn(3, 2), drawn(4)))
    for wrong in (5, "xy", (None, None), (drawn(3, 2),), (drawn(3, 2), drawn(3), drawn(3)), (1, 2)):
        with pytest.raises(InputError, match=r"aggregation\.root: .* a pair \(x, y\) of arrays"):
            FLTrust(root=wrong)  # type: ignore[arg-type]
    assert FLTrust(root=(np.ones((3, 2)), np.ones(3))).root[0].shape == (3, 2)  # type: ignore


# What holds for all of them.


@named
def test_a_batch_of_receivers_is_each_of_them(rule: Aggregation) -> None:
    own, x, weight = drawn(4, 10), drawn(4, 9, 10, seed=1), even(drawn(4, 9, 10)) * 0.7
    together = rule(own, x, weight)
    for i in range(4):
        alone = rule(own[i], x[i], weight[i])
        assert torch.allclose(together.result[i], alone.result, atol=1e-6)
        assert torch.allclose(together.accepted[i], alone.accepted, atol=1e-4)


@named
def test_nothing_is_changed_in_place(rule: Aggregation) -> None:
    given = drawn(10), drawn(9, 10), even(drawn(9, 10))
    before = [tensor.clone() for tensor in given]
    rule(*given)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@named
def test_a_gossip_node_keeps_its_share(rule: Aggregation) -> None:
    """With the weights summing to 0.4, own + 0.4 (what a server with this model gets - own)."""
    own, x = drawn(10, seed=3), drawn(9, 10)
    server, gossip = rule(own, x, even(x)).result, rule(own, x, even(x) * 0.4).result
    assert torch.allclose(gossip, own + 0.4 * (server - own), atol=1e-6)


@pytest.mark.parametrize("rule", ROBUST, ids=repr)
@pytest.mark.parametrize("size", [1e3, 1e10, 1e30, 3e38])
def test_liars_of_any_size_leave_the_result_among_the_honest(
    rule: Aggregation, size: float
) -> None:
    """No result may lie farther from the honest mean than their diameter."""
    x = drawn(9, 10)
    x[1], x[5] = size, -size
    x[5, 0] = size
    honest = torch.cat([x[:1], x[2:5], x[6:]])
    found = served(rule, x)
    diameter = torch.cdist(honest, honest).max()
    assert (found.result - honest.mean(0)).norm() < diameter
    assert found.accepted.isfinite().all()
    assert max(found.accepted[1], found.accepted[5]) < 0.01


@pytest.mark.parametrize("size", [1e3, 1e30, 3e38])
def test_clipped_liars_move_the_result_by_no_more_than_the_radius(size: float) -> None:
    """9 vectors, 2 of them lies: 2/9 of the radius beside the honest sum."""
    honest = drawn(7, 10)
    x = torch.cat([honest, torch.full((1, 10), size), torch.full((1, 10), -size)])
    for rule in (CenteredClipping(1.5), NormBound(1.5)):
        alone = honest * (1.5 / honest.norm(dim=1, keepdim=True)).clamp(max=1)
        assert (served(rule, x).result - alone.sum(0) / 9).norm() < 2 / 9 * 1.5 + 1e-5
    assert served(CenteredClipping(1.5, steps=3), x).result.norm() <= 3 * 1.5 + 1e-4
    assert served(FLTrust_of_ones(), x).result.norm() <= math.sqrt(10) + 1e-4
    assert served(FoolsGold(), x).result.isfinite().all()


class FLTrust_of_ones(FLTrust):
    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        return super().aggregate(own, received, weight, Round(root=lambda start: start + 1))


@pytest.mark.parametrize("huge", [False, True])
def test_near_identical_vectors_far_from_the_origin_are_told_apart(huge: bool) -> None:
    """Around 1e4, 1e-2 apart, with an own model at 0: their squared norms agree to 12 digits. Also
    while a liar sends 1e30. The float32 spacing at 1e4 is 1e-3."""
    near = (1e4 + 0.01 * drawn(9, 1000).double()).float()
    near[3] = near.double().mean(0).float()
    if huge:
        near[8] = 1e30
    assert served(Krum(2), near).accepted[3] == 1
    honest = near[:8] if huge else near
    median = served(GeometricMedian(), near).result
    expected = served(GeometricMedian(), honest - 1e4).result
    assert (median - 1e4 - expected).abs().max() < 0.01
    gone = served(DnC(1), near).accepted
    assert gone[3] == 1


def test_identical_vectors_are_the_result() -> None:
    x = drawn(1, 10).repeat(9, 1)
    for rule in ROBUST:
        assert torch.allclose(served(rule, x).result, x[0], atol=1e-6), rule


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (Krum(2), 7),
        (MultiKrum(2), 7),
        (MultiKrum(1, m=8), 8),
        (MDA(2), 5),
        (SMEA(3), 7),
        (CAF(2), 5),
        (DnC(2), 5),
        (DnC(2, iterations=4), 9),
        (GeometricMedian(), 1),
        (CenteredClipping(), 1),
    ],
    ids=repr,
)
def test_too_few_are_refused_with_the_smallest_number(rule: Aggregation, least: int) -> None:
    assert served(rule, drawn(least, 3)).result.isfinite().all()
    with pytest.raises(InputError, match=f"it needs {least} or more"):
        served(rule, drawn(least - 1, 3))


@pytest.mark.parametrize("rule", [MDA(10), SMEA(10)], ids=repr)
def test_too_many_subsets_are_refused(rule: Aggregation) -> None:
    """C(50, 10) = 10,272,278,170."""
    with pytest.raises(InputError, match="10,272,278,170 subsets"):
        served(rule, drawn(50, 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Krum(-1), "aggregation.f: -1"),
        (lambda: Krum(1.5), "aggregation.f: 1.5"),
        (lambda: MultiKrum(1, m=0), "aggregation.m: 0"),
        (lambda: Krum(f=True), "aggregation.f: True"),
        (lambda: GeometricMedian(nu=0), "aggregation.nu: 0"),
        (lambda: CenteredClipping(tau=0), "aggregation.tau: 0"),
        (lambda: CenteredClipping(steps=0), "aggregation.steps: 0"),
        (lambda: CenteredClipping(steps=1.5), "aggregation.steps: 1.5"),
        (lambda: DnC(1, iterations=1.5), "aggregation.iterations: 1.5"),
        (lambda: DnC(1, c=math.nan), "aggregation.c: nan"),
        (lambda: NormBound(-1), "aggregation.norm: -1"),
        (lambda: DnC(1, c=0), "aggregation.c: 0"),
        (lambda: DnC(1, iterations=0), "aggregation.iterations: 0"),
        (lambda: DnC(1, dimensions=0), "aggregation.dimensions: 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong()  # type: ignore[operator]
