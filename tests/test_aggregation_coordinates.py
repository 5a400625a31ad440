"""Median, trimmed mean, MeaMed, Bulyan, sign majority, FoundationFL and BRIDGE, by hand."""

import statistics

import numpy as np
import pytest
import torch
from torch import Tensor

from byzfl_parts import aggregators
from tacit.aggregation import coordinates
from tacit.aggregation.bridge import BRIDGE
from tacit.aggregation.bulyan import Bulyan
from tacit.aggregation.coordinates import MeaMed, Median, TrimmedMean
from tacit.aggregation.foundation import FoundationFL
from tacit.aggregation.rule import Aggregated, Aggregation, Round
from tacit.aggregation.sign import SignMajority
from tacit.errors import InputError


def server(rule: Aggregation, columns: list[list[float]], own: float = 0.0) -> Aggregated:
    """At a server, where weights sum to one; one list of k values per coordinate."""
    received = torch.tensor(columns).T.contiguous()
    return rule(torch.full((len(columns),), own), received, uniform(received))


def uniform(received: Tensor) -> Tensor:
    k = received.shape[-2]
    return torch.full(received.shape[:-1], 1 / k, dtype=received.dtype)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_median_of_an_odd_and_of_an_even_number() -> None:
    result, accepted = server(Median(), [[5.0, 1.0, 9.0], [0.0, -1.0, 8.0]])
    assert result.tolist() == [5.0, 0.0]
    assert accepted.tolist() == [1.0, 0.0, 0.0]
    result, accepted = server(Median(), [[5.0, 1.0, 9.0, 7.0], [4.0, 3.0, 2.0, 1.0]])
    assert result.tolist() == [6.0, 2.5]
    assert accepted.tolist() == [0.5, 0.5, 0.5, 0.5]


def test_trimmed_mean_cuts_f_off_each_side() -> None:
    # Of 1 2 3 4 90 with f = 1: (2 + 3 + 4) / 3. Of -9 0 0 6 6: (0 + 0 + 6) / 3, and the value 6 is
    # kept, whoever sent it.
    result, accepted = server(
        TrimmedMean(1), [[90.0, 1.0, 2.0, 3.0, 4.0], [-9.0, 0.0, 6.0, 0.0, 6.0]]
    )
    assert result.tolist() == pytest.approx([3.0, 2.0])
    assert accepted.tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.0, 1.0, 2.0, 10.0, 11.0], [0.0, 1.0, 2.0]),  # median 2; distances 2 1 0 8 9
        ([-9.0, 0.0, 5.0, 6.0, 9.0], [5.0, 6.0, 9.0]),  # median 5; distances 14 5 0 1 4
        ([-2.0, -2.0, 0.0, 0.5, 2.0], [0.0, 0.5, -2.0]),  # median 0; the smaller of a tie
    ],
)
def test_meamed_keeps_those_nearest_to_the_median(values: list[float], kept: list[float]) -> None:
    result, accepted = server(MeaMed(2), [values])
    assert result.item() == pytest.approx(statistics.mean(kept))
    assert [v in kept for v in values] == [bool(share) for share in accepted]


def test_the_largest_floats_do_not_overflow() -> None:
    values = [3e38, 3e38, 2.5e38, -3e38, 3e38]
    assert server(Median(), [values[1:]]).result.item() == pytest.approx(2.75e38)
    assert server(TrimmedMean(1), [values]).result.item() == pytest.approx(8.5e38 / 3)
    assert server(MeaMed(1), [values]).result.item() == pytest.approx(11.5e38 / 4)


@pytest.mark.parametrize(("k", "f"), [(50, 10), (9, 4), (8, 3), (5, 0)])
def test_byzfl_and_numpy_give_the_same(k: int, f: int) -> None:
    vectors = random(k, 500)
    x = vectors.numpy()
    nearest = np.abs(x - np.median(x, axis=0)).argsort(axis=0)[: k - f]
    for ours, theirs, expected in (
        (Median(), aggregators.Median(), np.median(x, axis=0)),
        (TrimmedMean(f), aggregators.TrMean(f), np.sort(x, axis=0)[f : k - f].mean(axis=0)),
        (MeaMed(f), aggregators.Meamed(f), np.take_along_axis(x, nearest, axis=0).mean(axis=0)),
    ):
        result = ours(torch.zeros(500).double(), vectors, uniform(vectors)).result.numpy()
        np.testing.assert_allclose(result, expected, atol=1e-12)
        np.testing.assert_allclose(result, theirs(x), atol=1e-12)


def test_a_neighbour_keeps_what_the_mixing_weights_leave() -> None:
    # Weights 3 x 0.2 leave 0.4: 0.4 * 10 + 0.6 * median(1, 2, 30) = 5.2.
    received, weight = torch.tensor([[1.0], [2.0], [30.0]]), torch.full((3,), 0.2)
    assert Median()(torch.tensor([10.0]), received, weight).result.item() == pytest.approx(5.2)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tile", [7, 40, 1000])
@pytest.mark.parametrize(
    "rule",
    [Median(), TrimmedMean(1), MeaMed(1), Bulyan(1), SignMajority(), FoundationFL(1), BRIDGE(1)],
    ids=repr,
)
def test_tiles_and_threads_change_nothing(
    rule: Aggregation, tile: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, received = random(5, 11), random(5, 7, 11)
    expected = rule(own, received, uniform(received))
    monkeypatch.setattr(coordinates, "_TILE", tile)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = rule(own, received, uniform(received))
    torch.testing.assert_close(found.result, expected.result)
    assert torch.equal(found.accepted, expected.accepted)


def test_bulyan_of_seven_by_hand() -> None:
    # f = 1, n = 7. Krum counts max(1, left - 3) neighbours:
    # 7 left, 4 neighbours: 0 -> 1+4+9+16=30, 1 -> 1+1+4+9=15, 2 -> 1+1+4+4=10, 3 -> 1+1+4+9=15,
    #   4 -> 1+4+9+16=30, the others lie far off; takes 2.
    # 6 left, 3 neighbours: 0 -> 1+9+16, 1 -> 1+4+9=14, 3 -> 1+4+9=14, 4 -> 1+9+16; takes 1, the
    #   first. 5 left, 2 neighbours: 0 -> 9+16, 3 -> 1+9=10, 4 -> 1+16=17; takes 3.
    # 4 left, 1 neighbour: 50 and 60 lie 100 apart (squared), 0 -> 16, 4 -> 16; takes 0.
    # 3 left, 1 neighbour: 4 -> 46^2, 50 -> 100; takes 50.
    # Of {0, 1, 2, 3, 50} the 3 nearest to the median 2: 1, 2, 3.
    result, accepted = server(Bulyan(1), [[0.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0]])
    assert result.item() == pytest.approx(2.0)
    assert accepted.tolist() == [0, 1, 1, 1, 0, 0, 0]


def test_bulyan_turns_away_all_of_what_krum_does_not_choose() -> None:
    # The second coordinate of all is 0, within any bounds; only 5 of 7 are chosen.
    columns = [[0.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0], [0.0] * 7]
    accepted = server(Bulyan(1), columns).accepted
    assert accepted.tolist() == [0.5, 1, 1, 1, 0, 0.5, 0]


def test_bulyan_without_liars_takes_everything() -> None:
    vectors = random(4, 6)
    result, accepted = Bulyan(0)(torch.zeros(6).double(), vectors, uniform(vectors))
    torch.testing.assert_close(result, vectors.mean(0))
    assert accepted.tolist() == [1.0] * 4


def test_sign_majority_moves_each_coordinate_by_the_step() -> None:
    # Seen from own = 1: + + -, - - +, and a tie of + - 0.
    columns = [[2.0, 9.0, -1e30], [0.0, 0.5, 1e30], [3.0, -3.0, 1.0]]
    result, accepted = server(SignMajority(step=0.25), columns, own=1.0)
    assert result.tolist() == [1.25, 0.75, 1.0]
    assert accepted.tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3])


def test_foundation_copies_the_vector_farthest_from_the_extremes() -> None:
    # Of 0 1 5 6 20 the extremes are 0 and 20, the distances to the nearer 0 1 5 6 0, so that 6 is
    # copied 5 // 2 = 2 times: 0 1 5 6 6 6 20, median 6; without one off each side (1+5+18)/5.
    values = [[0.0, 1.0, 5.0, 6.0, 20.0]]
    result, accepted = server(FoundationFL(1), values)
    assert result.item() == 6.0
    assert accepted.tolist() == [0, 0, 0, 1, 0]
    result, accepted = server(FoundationFL(1, "trimmed-mean"), values)
    assert result.item() == pytest.approx(24 / 5)
    assert accepted.tolist() == [0, 1, 1, 1, 0]


def test_two_liars_make_foundation_copy_one_of_them() -> None:
    # The liars are (1e6, 0) and (0, 1e4); the extremes about (1e6, 1e4) and (0, 0). To the nearer
    # the first has 1e4, the second about 1e4 as well, the honest about 1: a liar is copied 4 times
    # among 9. The median still is an honest value; the trimmed mean, 2 off each side, is not.
    received = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    received[0], received[1] = torch.tensor([1e6, 0.5]), torch.tensor([0.5, 1e4])
    own = torch.zeros(2)
    assert FoundationFL(2)(own, received, uniform(received)).result.abs().max() < 1
    trimmed = FoundationFL(2, "trimmed-mean")(own, received, uniform(received)).result
    assert trimmed.abs().max() > 1e3


@pytest.mark.parametrize(
    ("screen", "expected", "accepted"),
    [
        ("trim", (5 + 1 + 3) / 3, [0.5, 1, 1, 0.5]),
        ("median", 3.0, [0.5, 0.5, 1, 0.5]),
        # 5 inputs, 2 neighbours: 0 -> 1+9, 1 -> 1+4, 3 -> 4+4, own 5 -> 4+16.
        ("krum", 1.0, [0, 1, 0, 0]),
        # Chooses 1; then with 1 neighbour of 0 3 5 100 the 3, which comes before own; then of
        # 0 5 100 the 0. The middle of {0, 1, 3} is 1.
        ("bulyan", 1.0, [0.5, 1, 0.5, 0]),
    ],
)
def test_bridge_counts_the_own_vector_among_the_inputs(
    screen: str, expected: float, accepted: list[float]
) -> None:
    # The second coordinate is 0 everywhere.
    own = torch.tensor([5.0, 0.0])
    received = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [100.0, 0.0]])
    # Bulyan's screen asks for max(4f, 3f + 2) = 5, one more than its arithmetic needs.
    found = BRIDGE(1, screen).aggregate(own, received, torch.full((4,), 0.2), Round())
    assert found.result.tolist() == pytest.approx([expected, 0.0])
    assert found.accepted.tolist() == accepted


def test_bridge_krum_may_choose_the_own_vector() -> None:
    received = torch.tensor([[0.0], [4.5], [9.0], [100.0]])
    # 2 neighbours: own 4 -> 0.25 + 16, 4.5 -> 0.25 + 20.25.
    result, accepted = BRIDGE(1, "krum")(torch.tensor([4.0]), received, torch.full((4,), 0.2))
    assert result.item() == 4.0
    assert accepted.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrimmedMean(-1), "aggregation.f: -1"),
        (lambda: MeaMed(0.2), "aggregation.f: 0.2"),
        (lambda: Bulyan(-2), "aggregation.f: -2"),
        (lambda: FoundationFL(1, "mode"), "aggregation.screen: 'mode'"),
        (lambda: BRIDGE(1, "trimm"), "allowed is trim or median or krum or bulyan"),
        (lambda: SignMajority(0), "aggregation.step: 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "k", "phrase"),
    [
        (Median(), 8, "3 of 8"),
        (TrimmedMean(2), 9, "2 of 9"),
        (MeaMed(2), 9, "widened"),
        (Bulyan(1), 9, "1 of 9"),
        (SignMajority(0.5), 9, "4 of 9"),
        (FoundationFL(2), 9, "range of the honest"),
        (FoundationFL(2, "trimmed-mean"), 9, "liars can arrange"),
        (BRIDGE(2), 9, "range of the honest"),
        (BRIDGE(2, "krum"), 9, "one input"),
    ],
)
def test_it_says_what_it_tolerates(rule: Aggregation, k: int, phrase: str) -> None:
    assert phrase in rule.tolerates(k)
