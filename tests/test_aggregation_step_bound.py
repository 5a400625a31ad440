"""StepBound: numbers by hand, and how far any lie can move its result."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.aggregation.rule import Round
from tacit.aggregation.step_bound import StepBound
from tacit.errors import InputError


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def equal(*shape: int) -> torch.Tensor:
    return torch.full(shape, 1 / (shape[-1] + 1))


def test_without_liars_it_is_the_mean_of_clipped_updates():
    # From (10, 0) the own step is (0, 2). (13, 4) is the update (3, 4) of length 5, which is cut to
    # length 2: (1.2, 1.6). (11, 0) is (1, 0), and stays. Mean of the three: (2.2 / 3, 3.6 / 3).
    got = StepBound(f=0)(
        tensor(10, 2), tensor([13, 4], [11, 0]), equal(2), Round(start=tensor(10, 0))
    )
    torch.testing.assert_close(got.result, tensor(10 + 2.2 / 3, 1.2))
    torch.testing.assert_close(got.accepted, tensor(0.4, 1))


def test_c_scales_the_radius():
    # Twice the radius is 4: (3, 4) is cut to (2.4, 3.2), and the mean is (3.4 / 3, 5.2 / 3).
    got = StepBound(f=0, c=2)(
        tensor(10, 2), tensor([13, 4], [11, 0]), equal(2), Round(start=tensor(10, 0))
    )
    torch.testing.assert_close(got.result, tensor(10 + 3.4 / 3, 5.2 / 3))
    torch.testing.assert_close(got.accepted, tensor(0.8, 1))


def test_mixes_with_the_nearest_and_trims():
    # Updates 4 (own), 3, 2 and -100, which is cut to -4. Each is mixed with the nearest three of
    # four (f = 1), itself included: 4, 3 and 2 with one another, to 3; -4 with 2 and 3, to 1/3.
    # Without the least and the largest of 3, 3, 3, 1/3 the mean is 3. The liar is in one mixture of
    # four, and cut to 4 %; 3 and 2 are in all four.
    got = StepBound(f=1)(tensor(5), tensor([4], [3], [-99]), equal(3), Round(start=tensor(1)))
    torch.testing.assert_close(got.result, tensor(4))
    torch.testing.assert_close(got.accepted, tensor(1, 1, 0.01))


def test_the_nearest_are_found_after_clipping():
    # Updates 4 (own), 100, which is cut to 4, and 3. With the nearest two of three: 4, 4, 3.5, of
    # which the median is 4. By their distances as sent, own would be mixed with 3 instead.
    got = StepBound(f=1)(tensor(5), tensor([101], [4]), equal(2), Round(start=tensor(1)))
    torch.testing.assert_close(got.result, tensor(5))


def test_a_node_that_did_not_move_is_not_moved():
    own, received = tensor(1, 2), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    got = StepBound(f=1)(own, received, equal(4), Round(start=own))
    torch.testing.assert_close(got.result, own)


def test_a_batch_of_receivers_is_receivers_one_by_one():
    random = torch.Generator().manual_seed(1)
    own, start = torch.randn(2, 3, 7, generator=random)
    received = torch.randn(3, 6, 7, generator=random)
    rule = StepBound(f=2)
    together = rule(own, received, equal(3, 6), Round(start=start))
    for i in range(3):
        alone = rule(own[i], received[i], equal(6), Round(start=start[i]))
        torch.testing.assert_close(together.result[i], alone.result)
        torch.testing.assert_close(together.accepted[i], alone.accepted)


def test_the_nearest_are_found_by_running_means():
    # Round 1, from 0: own 4, a 3 and b -4 lie 0, -1 and -8 from own, means of 0.1 times that.
    # Round 2: own 4, a 0 and b 3.5 lie 0, -4 and -0.5 from own, and the means are 0,
    # 0.9 (-0.1) + 0.1 (-4) = -0.49 and 0.9 (-0.8) + 0.1 (-0.5) = -0.77. Of f = 1 the nearest two:
    # own with a, 2; a with b, 1.75; b with a, 1.75; their median is 1.75. By this round alone they
    # would be own with b, b with own, 3.75, and a with b.
    memory, links = {}, torch.arange(2)
    for rule, expected in ((StepBound(f=1, memory=0.9), 1.75), (StepBound(f=1, memory=0), 3.75)):
        for received in (tensor([3], [-4]), tensor([0], [3.5])):
            seen = Round(links=links, all_links=2, start=tensor(0), memory=memory)
            got = rule(tensor(4), received, equal(2), seen)
        torch.testing.assert_close(got.result, tensor(expected))


def test_to_ask_leaves_the_memory_of_others_as_it_was():
    rule, links = StepBound(f=1), torch.tensor([1, 3])
    told = Round(links=links, all_links=5, start=tensor(0))
    rule(tensor(4), tensor([3], [-4]), equal(2), told)
    # 0.3 of how far they were from own; other links have sent nothing.
    apart = torch.tensor([0, -0.3, 0, -2.4, 0]).unsqueeze(1)
    torch.testing.assert_close(told.memory["apart"], apart)
    asked = Round(links=links, all_links=5, start=tensor(0), memory=dict(told.memory))
    rule(tensor(4), tensor([9], [9]), equal(2), asked)
    torch.testing.assert_close(told.memory["apart"], apart)


def test_a_batch_of_receivers_remembers_as_receivers_one_by_one():
    random = torch.Generator().manual_seed(2)
    rule, links = StepBound(f=2), torch.arange(18).view(3, 6)
    together, alone = {}, {}
    for _ in range(3):
        own, start = torch.randn(2, 3, 7, generator=random)
        received = torch.randn(3, 6, 7, generator=random)
        seen = Round(links=links, all_links=18, start=start, memory=together)
        got = rule(own, received, equal(3, 6), seen).result
        for i in range(3):
            seen = Round(links=links[i], all_links=18, start=start[i], memory=alone)
            one = rule(own[i], received[i], equal(6), seen).result
            torch.testing.assert_close(one, got[i])


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    f=st.integers(0, 3),
    extra=st.integers(0, 3),
    c=st.floats(0.1, 3),
    size=st.floats(-3, 30),
)
def test_no_lie_moves_it_beyond_the_bound(seed, f, extra, c, size):
    # Of y within r of the start, the squared length of the trimmed mean is at most the sum over
    # coordinates of the kept values' mean square (Jensen), so at most n r^2 / (n - 2 f).
    random = torch.Generator().manual_seed(seed)
    k = max(1, 2 * f + extra)
    start, own = torch.randn(2, 12, generator=random)
    received = torch.randn(k, 12, generator=random) * 10**size
    result = StepBound(f, c)(own, received, equal(k), Round(start=start)).result
    n, radius = k + 1, max(1, c) * (own - start).norm()
    assert (result - start).norm() <= (n / (n - 2 * f)) ** 0.5 * radius * (1 + 1e-4)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(-3, 30))
def test_f_liars_do_not_move_a_node_whose_honest_neighbours_agree(seed, size):
    # 6 honest neighbours of 8 made the very step that the receiver made: the nearest 7 of 9 to an
    # honest update are the 7 honest ones (a lie that equals them apart), so that 7 mixtures of 9
    # are that step, and trimming 2 off either end of each coordinate leaves nothing else.
    random = torch.Generator().manual_seed(seed)
    start, own = torch.randn(2, 5, generator=random)
    lies = torch.randn(2, 5, generator=random) * 10**size
    received = torch.cat([own.expand(6, 5), lies])
    result = StepBound(f=2)(own, received, equal(8), Round(start=start)).result
    torch.testing.assert_close(result, own)


def test_refuses():
    with pytest.raises(InputError, match="before its local step"):
        StepBound(f=0)(tensor(1), tensor([2]), equal(1), Round())
    with pytest.raises(InputError, match="it needs 4 or more"):
        StepBound(f=2)(tensor(1), tensor([2], [3], [4]), equal(3), Round(start=tensor(0)))
    for wrong in ({"f": -1}, {"f": 0.5}, {"f": 1, "c": 0}, {"f": 1, "memory": 1}):
        with pytest.raises(InputError, match="allowed is"):
            StepBound(**wrong)


def test_what_is_not_finite_is_turned_away():
    # Of own 2 and received 4, cut to 2, and nan the mean is 2: from 0, the radius is 2.
    got = StepBound(f=1)(tensor(2), tensor([float("nan")], [4]), equal(2), Round(start=tensor(0)))
    torch.testing.assert_close(got.result, tensor(2))
    torch.testing.assert_close(got.accepted, tensor(0, 0.5))
