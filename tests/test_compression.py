"""Compressors: what is sent is what is counted, and it is off by no more than its paper says."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from tacit.compression.base import Compressor, Shared, pack, unpack
from tacit.compression.choco import choco_step, consensus_step
from tacit.compression.powersgd import PowerSGD
from tacit.compression.qsgd import QSGD
from tacit.compression.sign import DRIVE, SignCompression
from tacit.compression.sparsify import RandomK, TopK
from tacit.errors import InputError, MessageError
from tacit.layout import Entry, Layout
from tacit.protection.rotation import random_signs, rotate, unrotate
from tacit.randomness import generator

ALL = [
    TopK(0.1), TopK(0.5), RandomK(0.2), RandomK(0.2, feedback=False), QSGD(), QSGD(levels=3),
    QSGD(levels=127, bucket=5), SignCompression(), DRIVE(), PowerSGD(1), PowerSGD(2),
]  # fmt: skip
VECTORS = arrays(np.float32, st.integers(1, 70), elements=st.floats(-100, 100, width=32))
MODEL = Layout.of(nn.Sequential(nn.Linear(30, 20), nn.Conv2d(3, 8, 3), nn.Linear(6, 1)))


def shared(size: int, round: int = 0) -> Shared:
    """A model of one vector."""
    return Shared(Layout((Entry("vector", (size,), 0, True),), size, size), 0, round)


def through(compressor: Compressor, vector: Tensor, known: Shared, node: int = 0) -> Tensor:
    """What arrives of a (d,) vector, without a memory."""
    (message,) = compressor.encode(vector.unsqueeze(0), [node], known)
    return compressor.decompress(message, node, known)


def normal(*shape: int, key: int = 0) -> Tensor:
    return torch.from_numpy(generator(0, "test", key).standard_normal(shape, dtype=np.float32))


def error(compressor: Compressor, vector: Tensor, known: Shared) -> tuple[float, float]:
    """|C(x) - x|^2 and |x|^2."""
    sent = through(compressor, vector, known).double()
    return float((sent - vector).square().sum()), float(vector.double().square().sum())


@settings(max_examples=80, deadline=None)
@given(VECTORS, st.floats(0.01, 1))
def test_top_k_is_a_contraction(values: np.ndarray, share: float) -> None:
    off, square = error(TopK(share), torch.from_numpy(values), shared(len(values)))
    k = TopK(share).count(len(values))
    assert off <= (1 - k / len(values)) * square * (1 + 1e-9)


@settings(max_examples=80, deadline=None)
@given(VECTORS)
def test_sign_is_a_contraction(values: np.ndarray) -> None:
    x = torch.from_numpy(values)
    off, square = error(SignCompression(), x, shared(len(values)))
    expected = square - float(x.double().abs().sum()) ** 2 / len(values)
    assert off == pytest.approx(expected, rel=1e-4, abs=1e-5 * square)


def test_random_k_errs_by_the_share_on_average() -> None:
    # Over the draws |C(x) - x|^2 / |x|^2 has mean 1 - k/d, or d/k - 1 when scaled, and stays in
    # [0, 1] and [0, 1 + (d/k - 1)^2]: Hoeffding over 1,500 rounds gives 2 exp(-3000 t^2 / range^2).
    x = normal(40)
    for compressor, mean, reach in ((RandomK(0.25), 0.75, 1), (RandomK(0.25, False), 3.0, 10)):
        pairs = [error(compressor, x, shared(40, round)) for round in range(1500)]
        off = float(np.mean([off / square for off, square in pairs]))
        assert abs(off - mean) < 0.0708 * reach  # P <= 2 exp(-15) = 6e-7


@pytest.mark.parametrize(("levels", "bucket"), [(1, 64), (3, 16), (20, 64)])
def test_qsgd_errs_within_its_bound_on_average(levels: int, bucket: int) -> None:
    x = normal(64)
    compressor = QSGD(levels, bucket)
    off = np.mean([error(compressor, x, shared(64, round))[0] for round in range(300)])
    bound = min(bucket / levels**2, math.sqrt(bucket) / levels)
    assert off <= bound * float(x.square().sum())


def test_drive_errs_by_half_pi_minus_one() -> None:
    # A rotated Gaussian is Gaussian: d |x|^2 / |x|_1^2 - 1 tends to pi/2 - 1 = 0.5708; at d = 8192
    # |x|_1 / d has a relative deviation of sqrt((pi/2 - 1) / d) = 0.0083, the factor about twice.
    off, square = error(DRIVE(), normal(8192), shared(8192))
    assert off / square == pytest.approx(math.pi / 2 - 1, abs=0.15)


def test_scaled_random_k_is_unbiased() -> None:
    # Estimates are in [-4, 4]: 32 coordinates make 64 exp(-2 * 5000 t^2 / 8^2) = 5e-7 at t = 0.346.
    x = torch.linspace(-1, 1, 32)
    draws = [through(RandomK(0.25, feedback=False), x, shared(32, r)) for r in range(5000)]
    assert (torch.stack(draws).mean(0) - x).abs().max() < 0.346


@pytest.mark.parametrize("levels", [1, 3, 20])
def test_qsgd_is_unbiased(levels: int) -> None:
    # 20,000 buckets alike. An estimate is one of two neighbouring levels, |x| / levels apart:
    # 64 exp(-2 * 20000 t^2) = 5e-7 at t = 0.0217 of that.
    x = torch.linspace(-1, 1, 32)
    sent = through(QSGD(levels, 32), x.repeat(20_000), shared(640_000)).view(20_000, 32)
    assert (sent.double().mean(0) - x).abs().max() < 0.0217 * float(x.norm()) / levels


def test_drive_is_nearly_unbiased() -> None:
    # The projection on x is exact. The error of a mean of 500 is |x| sqrt((pi/2 - 1) / 500) =
    # 0.034 |x| over all coordinates; being a norm of 1,000 of them, it varies by some 2 % of that,
    # so that 0.045 is more than ten deviations away.
    x = normal(1000)
    sents = [through(DRIVE(), x, shared(1000, round)).double() for round in range(500)]
    for sent in sents[:20]:
        assert float(sent @ x.double()) == pytest.approx(float(x.double().square().sum()), rel=1e-5)
    mean = torch.stack(sents).mean(0)
    assert float((mean - x).norm() / x.norm()) < 0.045


def test_each_node_rotates_its_own_way() -> None:
    x = normal(64)
    assert (through(DRIVE(), x, shared(64), 0) != through(DRIVE(), x, shared(64), 1)).any()
    assert (through(DRIVE(), x, shared(64, 0)) != through(DRIVE(), x, shared(64, 1))).any()


@pytest.mark.parametrize("size", [1, 2, 8, 32, 4096])
def test_rotation_is_orthogonal(size: int) -> None:
    x = normal(3, size)
    signs = random_signs(generator(0, "signs"), size)
    y = rotate(x, signs)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(unrotate(y, signs), x, atol=1e-4, rtol=1e-4)
    if size <= 32:
        from scipy.linalg import hadamard

        expected = (x * signs) @ torch.tensor(hadamard(size), dtype=torch.float32)
        torch.testing.assert_close(y, expected / math.sqrt(size))


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_sent_plus_memory_is_the_sum_of_updates(compressor: Compressor) -> None:
    known = [Shared(MODEL, 0, round) for round in range(6)]
    memory = torch.zeros(2, compressor.memory_size(MODEL))
    sent, updates = torch.zeros(2, MODEL.size), torch.zeros(2, MODEL.size)
    for at in known:
        # Small multiples of 1/8: their sums are exact in float32.
        update = (normal(2, MODEL.size, key=at.round) * 8).round() / 8
        messages, memory = compressor.compress(update, memory, [4, 9], at)
        assert all(isinstance(m, bytes) for m in messages)
        sent += torch.stack(
            [compressor.decompress(m, n, at) for m, n in zip(messages, [4, 9], strict=True)]
        )
        updates += update
    if compressor.memory_size(MODEL) == 0:
        return
    left = memory[:, : MODEL.size]
    exact = isinstance(compressor, TopK | RandomK)
    torch.testing.assert_close(
        sent + left, updates, atol=0 if exact else 1e-4, rtol=0 if exact else 1e-4
    )


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_a_node_s_message_does_not_depend_on_the_others(compressor: Compressor) -> None:
    known = Shared(MODEL, 0, 3)
    updates = normal(3, MODEL.size)
    together = compressor.encode(updates, [5, 6, 7], known)
    alone = compressor.encode(updates[1:2], [6], known)
    torch.testing.assert_close(
        compressor.decompress(together[1], 6, known),
        compressor.decompress(alone[0], 6, known),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("size", [1, 2, 33, 600])
def test_zeros_and_odd_lengths(compressor: Compressor, size: int) -> None:
    assert not through(compressor, torch.zeros(size), shared(size)).any()
    assert through(compressor, normal(size), shared(size)).shape == (size,)


def test_message_lengths_by_hand() -> None:
    known = shared(1000)

    def length(compressor: Compressor, at: Shared = known) -> int:
        return len(compressor.encode(normal(1, at.layout.size), [0], at)[0])

    assert length(TopK(0.01)) == 13 + 40  # 10 indices of 10 bits, 10 floats
    assert length(TopK(0.2)) == 125 + 800  # 200 indices of 10 bits are longer than a bitmap
    assert length(RandomK(0.01)) == 40
    assert length(QSGD(7)) == 8 + 500  # two buckets' norms; 15 codes take 4 bits
    assert length(SignCompression()) == 4 + 125
    assert length(DRIVE()) == 4 + 128  # padded to 1,024
    # (20, 30) and (8, 27) as 2 (20 + 30) + 2 (8 + 27); biases 20 + 8 + 1 and the (1, 6) whole.
    assert length(PowerSGD(2), Shared(MODEL, 0, 0)) == 4 * (100 + 70 + 29 + 6)


def test_top_k_by_hand() -> None:
    x = torch.tensor([0.5, -3.0, 0.0, 2.0, -1.0])
    assert through(TopK(0.4), x, shared(5)).tolist() == [0, -3, 0, 2, 0]


def test_sign_by_hand() -> None:
    x = torch.tensor([1.0, -3.0, 0.0, 4.0])
    assert through(SignCompression(), x, shared(4)).tolist() == [2, -2, 2, 2]


def test_a_sum_of_random_k_is_random_k_of_the_sum() -> None:
    known = shared(50, 7)
    updates = (normal(4, 50) * 8).round()
    for compressor in (RandomK(0.2), RandomK(0.2, feedback=False)):
        assert compressor.linear
        summed = compressor.restore(compressor.project(updates, known).sum(0), known)
        torch.testing.assert_close(summed, through(compressor, updates.sum(0), known))
        assert int((summed != 0).sum()) <= 10
    positions = [RandomK(0.2).project(torch.arange(50.0), shared(50, r)) for r in (0, 1)]
    assert (positions[0] != positions[1]).any()
    assert [c.linear for c in ALL if not isinstance(c, RandomK)] == [False] * 9
    assert TopK.leaks_positions
    assert not RandomK.leaks_positions


def test_power_sgd_keeps_what_has_its_rank() -> None:
    known = Shared(MODEL, 0, 0)
    update = normal(MODEL.size)
    views = MODEL.views(update)
    views["0.weight"][:] = torch.outer(normal(20), normal(30)) + torch.outer(
        normal(20, key=1), normal(30, key=1)
    )
    views["1.weight"][:] = torch.outer(normal(8), normal(27)).view(8, 3, 3, 3)
    torch.testing.assert_close(through(PowerSGD(2), update, known), update, atol=1e-4, rtol=1e-4)
    assert (through(PowerSGD(1), update, known) - update).norm() > 1


def test_power_sgd_warm_start_finds_the_best_rank() -> None:
    # The same matrix again and again: the subspace iteration must come to the best rank-2 error,
    # that of the singular values left out (Eckart, Young 1936).
    matrix = normal(20, 30)
    layout = Layout((Entry("m", (20, 30), 0, True),), 600, 600)
    best = float(torch.linalg.svdvals(matrix.double())[2:].square().sum())
    memory = torch.zeros(1, PowerSGD(2).memory_size(layout))
    errors = []
    for round in range(60):
        known = Shared(layout, 0, round)
        memory[:, :600] = 0
        (message,), memory = PowerSGD(2).compress(matrix.view(1, -1), memory, [0], known)
        sent = PowerSGD(2).decompress(message, 0, known).view(20, 30)
        errors.append(float((sent - matrix).double().square().sum()))
        assert errors[-1] <= float(matrix.square().sum()) * (1 + 1e-6)
    assert errors[0] > 1.05 * best
    assert errors[-1] == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_other_lengths_are_refused(compressor: Compressor) -> None:
    known = Shared(MODEL, 0, 0)
    (message,) = compressor.encode(normal(1, MODEL.size), [0], known)
    for bad in (b"", message[:-1], message + b"\0", message[:4], message * 2):
        with pytest.raises(MessageError, match="bytes"):
            compressor.decompress(bad, 0, known)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALL), st.integers(1, 40), st.data())
def test_any_bytes_are_refused_or_finite(
    compressor: Compressor, size: int, data: st.DataObject
) -> None:
    known = shared(size)
    right = len(compressor.encode(torch.ones(1, size), [0], known)[0])
    length = data.draw(st.one_of(st.just(right), st.integers(0, 2 * right)))
    message = data.draw(st.binary(min_size=length, max_size=length))
    try:
        assert compressor.decompress(message, 0, known).shape == (size,)
    except MessageError:
        pass
    else:
        assert length == right


def test_bad_content_is_refused() -> None:
    def refuse(compressor: Compressor, size: int, message: bytes, match: str) -> None:
        with pytest.raises(MessageError, match=match):
            compressor.decompress(message, 0, shared(size))

    values = np.array([1, 2], "<f4").tobytes()
    nan = np.array([1, np.nan], "<f4").tobytes()
    pair = TopK(2 / 20)  # two indices of 5 bits, or rather 2 bytes
    assert pair.decompress(pack(np.array([3, 19]), 5) + values, 0, shared(20)).count_nonzero() == 2
    refuse(pair, 20, pack(np.array([3, 20]), 5) + values, "positions")
    refuse(pair, 20, pack(np.array([3, 3]), 5) + values, "positions")
    refuse(pair, 20, pack(np.array([4, 3]), 5) + values, "positions")
    refuse(pair, 20, pack(np.array([3, 19]), 5) + nan, "NaN")
    refuse(pair, 20, b"\x1c\xff" + values, "not zero")
    refuse(TopK(0.5), 4, b"\xe0" + values, "positions")  # three flags for two values
    refuse(RandomK(0.5), 4, nan, "NaN")
    refuse(QSGD(2), 1, np.float32(1).tobytes() + b"\xa0", "level")  # code 5 of 0 to 4
    refuse(QSGD(2), 1, np.float32(-1).tobytes() + b"\x00", "negative")
    refuse(SignCompression(), 8, np.float32(-1).tobytes() + b"\x00", "negative")
    refuse(DRIVE(), 8, np.float32(np.inf).tobytes() + b"\x00", "infinity")


@given(st.integers(1, 20), st.lists(st.integers(0, 2**20 - 1), max_size=30))
def test_packing_is_invertible(bits: int, codes: Sequence[int]) -> None:
    given = np.array(codes, np.int64) % 2**bits
    message = pack(given, bits)
    assert len(message) == math.ceil(len(codes) * bits / 8)
    np.testing.assert_array_equal(unpack(message, len(codes), bits), given)


@pytest.mark.parametrize("compressor", [TopK(0.2), RandomK(0.2), SignCompression(), QSGD(15)])
def test_choco_reaches_the_mean_of_all(compressor: Compressor) -> None:
    # A ring of 6; its gossip matrix has a gap of 1/3, plain gossip would shrink by 2/3 a round.
    n, d = 6, 20
    weights = sum(torch.roll(torch.eye(n), s, 0) for s in (-1, 0, 1)) / 3
    start = normal(n, d)
    own, public = start, torch.zeros(n, d)
    for round in range(400):
        own, public, messages = choco_step(
            own, public, weights.matmul, 0.15, compressor, range(n), shared(d, round)
        )
        assert len(messages) == n
    mean = start.mean(0)
    torch.testing.assert_close(own.mean(0), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, mean.expand(n, d), atol=1e-3, rtol=1e-3)


def test_choco_by_hand() -> None:
    # Everything is sent: copies become the models, and a step of 1 is plain gossip.
    own = torch.tensor([[0.0, 4.0], [2.0, 0.0]])
    weights = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    step = partial(choco_step, average=weights.matmul, step=1.0, nodes=[0, 1], shared=shared(2))
    new, public, _ = step(own, torch.zeros(2, 2), compressor=TopK(1.0))
    assert public.equal(own)
    assert new.tolist() == [[0.5, 3.0], [1.5, 1.0]]
    # Only the largest is sent; W public = [[0.75, 3], [2.25, 1]].
    own = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    new, public, _ = step(own, torch.zeros(2, 2), compressor=TopK(0.5))
    assert public.tolist() == [[0.0, 4.0], [3.0, 0.0]]
    assert new.tolist() == [[1.75, 3.0], [2.25, 3.0]]


def test_a_model_that_is_not_finite_tells_nothing() -> None:
    own = torch.tensor([[torch.inf, 4.0], [3.0, 2.0]])
    half = torch.full((2, 2), 0.5).matmul
    new, public, _ = choco_step(own, torch.ones(2, 2), half, 1.0, TopK(1.0), [0, 1], shared(2))
    assert public.tolist() == [[1.0, 1.0], [3.0, 2.0]]
    assert new[1].tolist() == [2.0, 1.5]


CONTRACTING = [TopK(0.1), TopK(0.5), RandomK(0.2), QSGD(levels=127, bucket=5), DRIVE()]


@pytest.mark.parametrize("compressor", CONTRACTING, ids=repr)
def test_what_is_left_out_is_within_the_contraction(compressor: Compressor) -> None:
    # On average over 400 rounds of a dense vector of 64; random-k is the worst, with a deviation of
    # sqrt(2 / 64 (0.2 0.8) / 400) = 0.004 of the square.
    vector, known = normal(64), shared(64)
    delta = compressor.contraction(known.layout)
    assert delta is not None
    off = [error(compressor, vector, shared(64, round)) for round in range(400)]
    assert np.mean([left / square for left, square in off]) <= 1 - delta + 0.02


def test_what_has_no_contraction_says_so() -> None:
    layout = shared(64).layout
    none = [RandomK(0.2, feedback=False), QSGD(levels=7), SignCompression(), PowerSGD(1)]
    assert [c.contraction(layout) for c in none] == [None] * 4
    # min(64 / 31^2, 8 / 31) of variance.
    assert QSGD(levels=31).contraction(layout) == pytest.approx(1 - 64 / 961)


@pytest.mark.parametrize(("factor", "settles"), [(1.0, True), (4.0, False)])
def test_the_consensus_step_is_stable_and_not_by_much(factor: float, settles: bool) -> None:
    # A ring of 4 with weights 1/4, 1/2, 1/4: 1 - lambda is up to 1, so that twice the step is the
    # most for a random 1 in 10 of the coordinates.
    n, d, compressor = 4, 100, RandomK(0.1)
    weights = sum(w * torch.roll(torch.eye(n), s, 0) for s, w in ((-1, 0.25), (0, 0.5), (1, 0.25)))
    assert consensus_step(1.0) == 1.0
    step, own, public = factor * consensus_step(0.1), normal(n, d), torch.zeros(n, d)
    apart = float((own - own.mean(0)).norm())
    for round in range(400):
        own, public, _ = choco_step(
            own, public, weights.matmul, step, compressor, range(n), shared(d, round)
        )
    assert (float((own - own.mean(0)).norm()) < 0.1 * apart) == settles


@pytest.mark.parametrize("make", [TopK, RandomK])
def test_settings(make: type[TopK] | type[RandomK]) -> None:
    for share in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="share"):
            make(share)
    for bad in (QSGD, PowerSGD):
        with pytest.raises(InputError, match=r"levels|rank"):
            bad(0)
    with pytest.raises(InputError, match="levels"):
        QSGD(128)
    with pytest.raises(InputError, match="bucket"):
        QSGD(1, 0)
