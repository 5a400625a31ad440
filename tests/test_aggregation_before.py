"""Pre-aggregations: against ByzFL and numbers by hand, and what composing them must keep."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from byzfl_parts import preaggregators
from tacit.aggregation.balance import Balance
from tacit.aggregation.before import NNM, Bucketing, PreAggregation
from tacit.aggregation.centered_clipping import CenteredClipping
from tacit.aggregation.clipping import ARC, StaticClipping
from tacit.aggregation.coordinates import Median, TrimmedMean
from tacit.aggregation.fltrust import FLTrust
from tacit.aggregation.foolsgold import FoolsGold
from tacit.aggregation.geometric_median import GeometricMedian
from tacit.aggregation.gram import Seen, combinations
from tacit.aggregation.krum import Krum, MultiKrum
from tacit.aggregation.mean import Mean
from tacit.aggregation.rule import Aggregation, Round
from tacit.aggregation.sketch_guard import SketchGuard
from tacit.aggregation.subsets import MDA
from tacit.errors import InputError

PRE = [NNM(2), Bucketing(2), StaticClipping(2.0), ARC(2)]
named = pytest.mark.parametrize("pre", PRE, ids=repr)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def even(received: Tensor, total: float = 1.0) -> Tensor:
    return torch.full(received.shape[:-1], total / received.shape[-2])


def made(pre: PreAggregation, own: Tensor, received: Tensor, round: Round | None = None) -> Tensor:
    share, kept = pre.mixing(Seen(received, own), round or Round())
    return combinations(own, received, share * kept.unsqueeze(-2))


# Against ByzFL, which clips what it is given in place.


@pytest.mark.parametrize("f", [0, 1, 4])
def test_nnm_is_byzfl_s(f: int) -> None:
    x = drawn(11, 20)
    expected = torch.from_numpy(preaggregators.NNM(f)(x.numpy()))
    assert torch.allclose(made(NNM(f), drawn(20, seed=1), x), expected, atol=1e-6)


@pytest.mark.parametrize("f", [0, 1, 4])
def test_arc_is_byzfl_s(f: int) -> None:
    x = drawn(11, 20) * torch.arange(1, 12).unsqueeze(-1)
    expected = torch.from_numpy(preaggregators.ARC(f)(x.numpy().copy()))
    assert torch.allclose(made(ARC(f), torch.zeros(20), x), expected, rtol=1e-5)


def test_clip_is_byzfl_s() -> None:
    x = drawn(11, 20)
    expected = torch.from_numpy(preaggregators.Clipping(4.0)(x.numpy().copy()))
    assert torch.allclose(made(StaticClipping(4.0), torch.zeros(20), x), expected, atol=1e-6)


# Numbers by hand.


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(-1)


def test_nnm_by_hand() -> None:
    """0, 1, 3, 90 with f = 1: means of {0, 1, 3}, {0, 1, 3}, {0, 1, 3} and {1, 3, 90}."""
    y = made(NNM(1), torch.zeros(1), column(0, 1, 3, 90))
    assert y.flatten().tolist() == pytest.approx([4 / 3, 4 / 3, 4 / 3, 94 / 3])


def test_clipping_is_of_differences_to_own() -> None:
    """From 10: 11, 13, 4 differ by 1, 3, -6. To 2: 11, 12, 8. ARC, f = 1 of 3, cuts floor(4/3) = 1
    to the next norm, 3: 11, 13, 7."""
    own, x = torch.tensor([10.0]), column(11, 13, 4)
    assert made(StaticClipping(2.0), own, x).flatten().tolist() == pytest.approx([11, 12, 8])
    assert made(ARC(1), own, x).flatten().tolist() == pytest.approx([11, 13, 7])
    found = (StaticClipping(2.0) | Median())(own, x, even(x))
    assert found.result == pytest.approx(11)


@pytest.mark.parametrize(("f", "cut"), [(2, 3), (1, 1), (4, 4)])
def test_arc_cuts_as_many_as_it_says(f: int, cut: int) -> None:
    """k = 10: 2 f (10 - f) / 10 = 3.2, 1.8 and 4.8."""
    x = column(*range(1, 11))
    kept = ARC(f).mixing(Seen(x, torch.zeros(1)), Round())[1]
    assert (kept < 1).sum() == cut
    assert (kept * x.flatten()).amax() == pytest.approx(10 - cut)


def test_arc_at_norms_of_0() -> None:
    x = torch.zeros(5, 3)
    assert torch.equal(made(ARC(2), torch.zeros(3), x), x)


def test_bucketing_draws_every_vector_once() -> None:
    """7 vectors, 3 at a time: buckets of 3, 3, 1; sums of powers of two name their members."""
    x = column(*(2.0**i for i in range(7)))
    y = made(Bucketing(3), torch.zeros(1), x).flatten()
    assert (y * torch.tensor([3.0, 3, 1])).sum() == pytest.approx(127, abs=1e-3)
    sizes = [round(float(v)).bit_count() for v in y * torch.tensor([3.0, 3, 1])]
    assert sizes == [3, 3, 1]


def test_bucketing_is_addressed_by_round_and_receiver() -> None:
    own, x = torch.zeros(1), column(*range(20))

    def buckets(index: int = 0, receiver: int = -1, seed: int = 0) -> list[float]:
        round = Round(index=index, seed=seed, receivers=torch.tensor(receiver))
        return made(Bucketing(2), own, x, round).flatten().tolist()

    assert buckets() == buckets()
    assert buckets() == made(Bucketing(2), own, x).flatten().tolist()
    assert len({tuple(b) for b in (buckets(), buckets(1), buckets(0, 3), buckets(seed=1))}) == 4
    many = Round(receivers=torch.tensor([-1, 3]))
    both = made(Bucketing(2), own.expand(2, 1), x.expand(2, 20, 1), many)
    assert both.squeeze(-1).tolist() == [buckets(), buckets(0, 3)]


def test_every_vector_comes_into_every_bucket_as_often() -> None:
    """1,000 draws of 8 into 4 buckets: 250 each, with a standard deviation of 13.7."""
    shape = (1000, 8, 1)
    round = Round(receivers=torch.arange(1000))
    share, _ = Bucketing(2).mixing(Seen(torch.zeros(shape), torch.zeros(1000, 1)), round)
    often = (share > 0).sum(0)
    assert often.sum() == 8000
    assert (often - 250).abs().max() < 5 * 13.7


# Compositions.


@named
@pytest.mark.parametrize("rule", [Krum(1), GeometricMedian(), CenteredClipping(1.0), Median()])
@pytest.mark.parametrize("total", [1.0, 0.6])
def test_a_composition_is_one_after_the_other(
    pre: PreAggregation, rule: Aggregation, total: float
) -> None:
    own, x = drawn(20, seed=1), drawn(12, 20)
    y = made(pre, own, x)
    expected = rule(own, y, even(y, total)).result
    assert len(y) == pre.outputs(12)
    found = (pre | rule)(own, x, even(x, total))
    assert torch.allclose(found.result, expected, atol=1e-5)
    assert found.accepted.shape == (12,)


def test_three_in_a_row() -> None:
    own, x = drawn(20, seed=1), drawn(15, 20)
    y = made(NNM(1), own, made(Bucketing(2), own, x))
    for rule in (Krum(1), Median()):
        expected = rule(own, y, even(y)).result
        by_left = Bucketing(2) | NNM(1) | rule
        by_right = Bucketing(2) | (NNM(1) | rule)
        assert repr(by_left) == repr(by_right) == f"Bucketing(s=2) | NNM(f=1) | {rule}"
        assert torch.allclose(by_left(own, x, even(x)).result, expected, atol=1e-5)
        grouped = Bucketing(2) | (NNM(1) | StaticClipping(1.0)) | rule
        assert repr(grouped) == f"Bucketing(s=2) | NNM(f=1) | StaticClipping(norm=1.0) | {rule}"


@named
@pytest.mark.parametrize("rule", [MultiKrum(1), TrimmedMean(1)], ids=repr)
def test_a_batch_of_receivers_is_each_of_them(pre: PreAggregation, rule: Aggregation) -> None:
    own, x = drawn(4, 10), drawn(4, 12, 10, seed=1)
    receivers = torch.tensor([5, 1, 7, 2])
    composed = pre | rule
    together = composed(own, x, even(x, 0.7), Round(receivers=receivers))
    for i in range(4):
        alone = composed(own[i], x[i], even(x[i], 0.7), Round(receivers=receivers[i]))
        assert torch.allclose(together.result[i], alone.result, atol=1e-6)
        assert torch.allclose(together.accepted[i], alone.accepted, atol=1e-6)


@named
def test_nothing_is_changed_in_place(pre: PreAggregation) -> None:
    given = drawn(10), drawn(12, 10), even(drawn(12, 10))
    before = [tensor.clone() for tensor in given]
    for rule in (Krum(1), Median()):
        (pre | rule)(*given)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("rule", [Krum(2), GeometricMedian(), Median(), TrimmedMean(2)], ids=repr)
@pytest.mark.parametrize("size", [1e3, 1e30, 3e38])
def test_liars_of_any_size_leave_the_result_among_the_honest(
    rule: Aggregation, size: float
) -> None:
    """Behind NNM and ARC no result lies farther from the honest mean than their diameter."""
    x = drawn(9, 10)
    x[1], x[5] = size, -size
    honest = torch.cat([x[:1], x[2:5], x[6:]])
    diameter = torch.cdist(honest, honest).max()
    for composed in (NNM(2) | rule, ARC(2) | rule, ARC(2) | NNM(2) | rule):
        found = composed(torch.zeros(10), x, even(x))
        assert (found.result - honest.mean(0)).norm() < diameter, composed
        assert found.accepted.isfinite().all()


def test_near_identical_vectors_far_from_the_origin_are_told_apart_behind_nnm() -> None:
    near = (1e4 + 0.01 * drawn(9, 1000).double()).float()
    near[8] += 0.05
    own = torch.zeros(1000)
    found = (NNM(2) | MultiKrum(1, m=1))(own, near, even(near))
    assert found.accepted[8] == 0
    expected = (NNM(2) | MultiKrum(1, m=1))(own, near - 1e4, even(near)).result
    assert (found.result - 1e4 - expected).abs().max() < 0.002


# The verdict, traced back.


def test_the_verdict_of_buckets_is_that_of_their_members() -> None:
    x = column(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 50)
    own = torch.zeros(1)
    share, _ = Bucketing(2).mixing(Seen(x, own), Round())
    together = share[:, 9] > 0  # the bucket of 50
    found = (Bucketing(2) | MDA(1))(own, x, even(x)).accepted
    assert torch.equal(found, 1 - (share[together] > 0).squeeze(0).float())
    assert found.sum() == 8


def test_the_verdict_behind_nnm_is_how_much_of_each_is_in_what_was_accepted() -> None:
    """0, 1, 2, 90, 91 with f = 2: y of {0, 1, 2} three times, {90, 91, 2} twice. Krum picks
    one of the first, Multi-Krum all three: 0, 1 and 2 count."""
    x = column(0, 1, 2, 90, 91)
    for rule in (Krum(1), MultiKrum(1, m=3)):
        found = (NNM(2) | rule)(torch.zeros(1), x, even(x))
        assert found.result == pytest.approx(1)
        assert found.accepted.tolist() == [1, 1, 1, 0, 0]


def test_all_that_a_rule_accepts_behind_nnm_counts_by_how_often_it_is_mixed_in() -> None:
    """As above, with all five y: 0 and 1 are in three, 2 in five, 90 and 91 in two."""
    x = column(0, 1, 2, 90, 91)
    found = (NNM(2) | Mean())(torch.zeros(1), x, even(x))
    assert found.accepted.tolist() == pytest.approx([0.6, 0.6, 1, 0.4, 0.4])


def test_the_verdict_behind_clipping_is_the_cut() -> None:
    """Norms 1, 4, 10 cut to 2: factors 1, 1/2, 1/5; then to 1: 1, 1/2, 1/2 of that."""
    x = column(1, 4, 10)
    clipped = StaticClipping(2.0) | Mean()
    assert clipped(torch.zeros(1), x, even(x)).accepted.tolist() == pytest.approx([1, 0.5, 0.2])
    twice = StaticClipping(2.0) | CenteredClipping(1.0)
    assert twice(torch.zeros(1), x, even(x)).accepted.tolist() == pytest.approx([1, 0.25, 0.1])


def test_weights_of_a_bucket_add_up() -> None:
    """The mean of five in buckets of 2, 2, 1, weighted by rows: each bucket's mean counts with the
    weights of its members."""
    x, weight = column(1, 2, 3, 4, 5), torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])
    share, _ = Bucketing(2).mixing(Seen(x, torch.zeros(1)), Round())
    members = share > 0
    expected = sum(float(x[m].mean() * weight[m].sum()) for m in members)
    assert (Bucketing(2) | Mean())(torch.zeros(1), x, weight).result == pytest.approx(expected)


# What a composed rule says of itself.


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (NNM(1) | Krum(1), 5),
        (NNM(4) | Krum(1), 9),
        (Bucketing(2) | Krum(1), 9),  # ceil(9 / 2) = 5
        (Bucketing(3) | NNM(2) | Median(), 13),  # ceil(13 / 3) = 5
        (NNM(2) | Bucketing(3) | TrimmedMean(1), 7),  # ceil(7 / 3) = 3
        (StaticClipping(1.0) | Median(), 1),
        (ARC(3) | Median(), 7),
    ],
    ids=repr,
)
def test_too_few_are_refused_with_the_smallest_number(rule: Aggregation, least: int) -> None:
    assert rule.least == least
    own = torch.zeros(2)
    assert rule(own, drawn(least, 2), even(drawn(least, 2))).result.isfinite().all()
    if least > 1:
        x = drawn(least - 1, 2)
        with pytest.raises(InputError, match=f"it needs {least} or more"):
            rule(own, x, even(x))


def test_what_the_rule_refuses_is_refused_behind_a_pre_aggregation() -> None:
    x = drawn(50, 2)
    with pytest.raises(InputError, match="subsets"):
        (NNM(10) | MDA(10))(torch.zeros(2), x, even(x))


def test_a_found_liar_is_one_less_for_both_parts() -> None:
    composed = Bucketing(2) | NNM(3) | Krum(2)
    assert repr(composed.without(2)) == "Bucketing(s=2) | NNM(f=1) | Krum(f=0)"
    assert repr(ARC(1).without(4)) == "ARC(f=0)"
    x = drawn(9, 4)
    x[3, 1] = torch.nan
    found = (NNM(2) | Krum(2))(torch.zeros(4), x, even(x))
    left = torch.cat([x[:3], x[4:]])
    expected = (NNM(1) | Krum(1))(torch.zeros(4), left, even(left))
    assert torch.allclose(found.result, expected.result)
    assert found.accepted[3] == 0


def test_what_the_rule_uses_is_handed_on() -> None:
    assert (NNM(1) | FLTrust()).uses == {"start", "root"}
    assert (NNM(1) | Krum(1)).uses == set()
    own, x = torch.zeros(2), torch.tensor([[0.0, 9], [3, 0], [9, 0]])
    round = Round(root=lambda start: start + torch.tensor([0.0, 1]))
    found = (StaticClipping(2.0) | FLTrust())(own, x, even(x), round)
    assert found.result.tolist() == pytest.approx([0, 1])
    assert found.accepted.tolist() == pytest.approx([2 / 9, 0, 0])
    rows = (torch.ones(3, 2), torch.ones(3))
    assert (StaticClipping(2.0) | FLTrust(rows)).root == rows
    # A sketch of 7 numbers over each of 10 links, and 4 models of 100.
    assert (NNM(1) | SketchGuard(buckets=7)).traffic(10, 4, 100) == 470


def test_a_memory_of_senders_is_refused_behind_buckets() -> None:
    assert (NNM(1) | FoolsGold()).uses == {"memory"}
    with pytest.raises(InputError, match="remembers each sender"):
        Bucketing(2) | FoolsGold()
    with pytest.raises(InputError, match="remembers each sender"):
        Bucketing(2) | NNM(1) | FoolsGold()


def test_distances_behind_a_pre_aggregation_are_those_of_the_rule_s_view() -> None:
    """A rule that sees the first coordinate alone: 1 and 2 lie within its reach of 3, whatever the
    second says."""

    class First(Balance):
        def view(self, vectors: Tensor, round: Round) -> Tensor:
            return vectors[..., :1]

    x = torch.tensor([[4.0, 50], [5, -70], [9, 0]])
    own = torch.tensor([3.0, 0])
    found = (StaticClipping(100.0) | First(gamma=1.0, alpha=0.0))(own, x, even(x))
    assert found.accepted.tolist() == [1, 1, 0]
    assert found.result.tolist() == pytest.approx([4.5, -10])


def test_a_composition_says_what_it_tolerates() -> None:
    said = (Bucketing(2) | Krum(1)).tolerates(10)
    assert said.startswith("1 of 5")
    assert "Bucketing(s=2) makes of 10" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: NNM(-1), "aggregation.f: -1"),
        (lambda: ARC(0.5), "aggregation.f: 0.5"),
        (lambda: Bucketing(0), "aggregation.s: 0"),
        (lambda: Bucketing(2.5), "aggregation.s: 2.5"),  # type: ignore[arg-type]
        (
            lambda: Krum(1) | Median(),
            r"Krum\(f=1\) \| Median\(\) .* left of \| is a pre-aggregation",
        ),
        (lambda: NNM(1) | Krum(1) | Median(), r"left of \| is a pre-aggregation, such as NNM"),
        (lambda: StaticClipping(0), "aggregation.norm: 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong()  # type: ignore[operator]


@pytest.mark.slow
def test_nnm_of_50_vectors_of_a_million_takes_less_than_a_gigabyte() -> None:
    """In all, the vectors themselves (0.2 GB) and torch included; (50, 50, d) would be 10 GB."""
    program = """
import resource, torch
from tacit.aggregation.before import NNM
from tacit.aggregation.coordinates import Median
from tacit.aggregation.gram import Seen, combinations
from tacit.aggregation.krum import Krum
from tacit.aggregation.rule import Round
x, own = torch.ones(50, 1_000_000), torch.zeros(1_000_000)
(NNM(10) | Krum(10))(own, x, torch.full((50,), 0.02))
share, _ = NNM(10).mixing(Seen(x, own), Round())
assert combinations(own, x, share).shape == x.shape
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1e9 / 1024
