"""The integer codec: exact sums, unbiased rounding, bounds that hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tacit.errors import InputError
from tacit.protection.codec import Codec, SumError
from tacit.randomness import generator

FLOATS = st.floats(-1e3, 1e3, width=32)
VECTORS = arrays(np.float32, st.integers(1, 40), elements=FLOATS)


def signed(total: np.ndarray) -> list[int]:
    """Python integers of a (length,) sum mod 2^bits."""
    half = 2 ** (8 * total.dtype.itemsize - 1)
    return [(int(x) + half) % (2 * half) - half for x in total]


@settings(max_examples=150, deadline=None)
@given(VECTORS, st.floats(1e-3, 1e4), st.integers(-6, 8), st.integers(0, 2**32))
def test_the_norm_bound_is_never_passed(
    values: np.ndarray, clip: float, exponent: int, seed: int
) -> None:
    # Coarse steps, where rounding weighs most. Integers of Python, no rounding in the test itself.
    if clip * 2.0**exponent < 1:
        exponent = math.ceil(-math.log2(clip))
    for weight in (None, 3.0):
        codec = Codec(clip, 1, len(values), math.inf, weight, 0.0, 64, exponent)
        sent = signed(codec.encode(values, generator(seed, "test"), weight))
        assert sum(x * x for x in sent) <= (codec.norm_bound * codec.scale) ** 2
        assert max(map(abs, sent)) <= codec.limit


def test_norm_bound_by_hand() -> None:
    # Proposition 22 with gamma 1, c 16, d 4 and beta 2^-40: (c + sqrt(d))^2 = 324 is less than
    # c^2 + d/4 + sqrt(80 ln 2) (c + sqrt(d)/2) = 256 + 1 + 7.4466 * 17 = 383.6.
    codec = Codec(16.0, 1, 4, math.inf, None, 0.0, 32, 0)
    assert codec.norm_bound == pytest.approx(18)
    # d 10^6 and c 4: 16 + 250000 + 7.4466 * 504 = 253769.1 is less than 1004^2.
    codec = Codec(4.0, 1, 10**6, math.inf, None, 0.0, 32, 0)
    assert codec.norm_bound == pytest.approx(math.sqrt(253769.1), rel=1e-6)


def test_a_rounding_above_the_bound_is_drawn_again() -> None:
    class Up(np.random.Generator):
        """First rounds everything up, then nothing."""

        draws = 0

        def random(self, *args: object, **kwargs: object) -> np.ndarray:  # type: ignore[override]
            self.draws += 1
            return np.full(args[0], 0.0 if self.draws == 1 else 0.9999)  # type: ignore[call-overload]

    # 4,000 coordinates of 0.5 / sqrt(4000): all up gives sqrt(4000) = 63.2; the bound is about
    # sqrt(1 + 1000 + 7.45 * 32.6) = 35.2.
    codec = Codec(1.0, 1, 4000, math.inf, None, 0.0, 32, 0)
    up = Up(np.random.PCG64(0))
    sent = codec.encode(np.full(4000, 0.5 / math.sqrt(4000)), up)
    assert up.draws == 2
    assert not sent.any()

    class Stuck(Up):
        def random(self, *args: object, **kwargs: object) -> np.ndarray:  # type: ignore[override]
            return np.zeros(args[0])  # type: ignore[call-overload]

    with pytest.raises(InputError, match="generator"):
        codec.encode(np.full(4000, 0.5 / math.sqrt(4000)), Stuck(np.random.PCG64(0)))


@pytest.mark.parametrize("length", [1.0, 1.05, 300.0])
def test_longer_vectors_are_scaled_onto_the_clip(length: float) -> None:
    codec = Codec.for_sum(1.0, 2, 3, bits=64)
    sent, _ = codec.decode(codec.encode(np.array([2, -1, 2]) / 3 * length, generator(0, "test")))
    np.testing.assert_allclose(sent, np.array([2, -1, 2]) / 3, rtol=1e-12)


def test_unbiased() -> None:
    # Each coordinate of 400,000 roundings to 0 or 1 of a fraction p: the mean is off by t with
    # probability at most 2 exp(-2 n t^2) (Hoeffding); 2 of 6 fractions make 6e-7 at t = 0.005.
    fractions = np.array([0.0, 0.03125, 0.25, 0.5, 0.75, -0.375], dtype=np.float32)
    codec = Codec(1e4, 1, 400_000, 1.0, None, 0.0, 32, 0)
    for at, fraction in enumerate(fractions):
        sent = codec.encode(np.full(400_000, fraction), generator(0, "test", at))
        total = sum(signed(sent))
        assert abs(total / 400_000 - fraction) < 0.005
    assert not codec.encode(np.zeros(400_000), generator(0, "test")).any()


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=FLOATS),
    st.sampled_from([32, 64]),
    st.floats(0.1, 1e6),
    st.integers(0, 2**32),
)
def test_sums_are_exact_mod_the_modulus(
    values: np.ndarray, bits: int, clip: float, seed: int
) -> None:
    k, d = values.shape
    codec = Codec.for_sum(clip, k, d, bits=bits)
    sent = codec.encode(values, generator(seed, "test"))
    assert sent.dtype == codec.dtype == f"uint{bits}"
    total = sent.sum(0, dtype=codec.dtype)
    assert signed(total) == [sum(column) for column in zip(*map(signed, sent), strict=True)]
    codec.check(total, k)
    norm = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    expected = (values * np.minimum(1, clip / np.maximum(norm, 1e-300))).sum(0)
    decoded, weight = codec.decode(total)
    # Each rounding is off by less than a step.
    assert np.abs(decoded - expected).max() <= k / codec.scale + 1e-12 * k * clip
    assert math.isnan(weight)


def test_a_weighted_sum_gives_the_mean_and_the_weight() -> None:
    values = np.array([[3.0, -4.0], [0.5, 0.25], [1.0, 1.0]], dtype=np.float32)
    weights = np.array([10, 250, 0])
    codec = Codec.for_sum(5.0, 3, 2, max_weight=1000)
    sent = codec.encode(values, generator(0, "test"), weights)
    assert sent.shape == (3, 3)
    total, weight = codec.decode(sent.sum(0, dtype=np.uint32))
    assert weight == 260  # whole weights are exact
    np.testing.assert_allclose(total, [30 + 125, -40 + 62.5], atol=3 / codec.scale)
    # sqrt(1000^2 (5^2 + 4^2)): the weight reaches as far as the largest power of two up to 5.
    assert codec.norm_bound == pytest.approx(1000 * math.sqrt(41), rel=1e-4)
    for bad in ([10, 250, -1], [10, 1001, 0], [math.nan, 1, 1], [1, 2], None):
        with pytest.raises(InputError, match="weights"):
            codec.encode(values, generator(0, "test"), bad)
    with pytest.raises(InputError, match="weights"):
        Codec.for_sum(5.0, 3, 2).encode(values, generator(0, "test"), weights)


def test_coordinates_beyond_the_range_are_cut() -> None:
    codec = Codec.for_sum(math.inf, 1, 4, coordinate_range=2.0)
    sent = codec.encode([3.0, -1.5, -7.0, 2.0], generator(0, "test"))
    np.testing.assert_array_equal(codec.decode(sent)[0], [2.0, -1.5, -2.0, 2.0])
    assert codec.norm_bound == pytest.approx(4.0, rel=1e-6)  # 2 sqrt(4)
    # The range alone sets the step: 16 bits finer than a clip of 2^16 would.
    assert codec.exponent == Codec.for_sum(2.0**17, 1, 4).exponent + 16


@pytest.mark.parametrize("bits", [32, 64])
def test_no_overflow_at_the_bound_and_just_below_it(bits: int) -> None:
    # Steps of 1 and values to 4: n nodes sum to 4 n, which must stay below 2^(bits - 1).
    most = 2 ** (bits - 1) // 4 - 1
    codec = Codec(4.0, most, 1, math.inf, None, 0.0, bits, 0)
    assert codec.bound(most) == 2 ** (bits - 1) - 4
    with pytest.raises(InputError, match="could overflow"):
        Codec(4.0, most + 1, 1, math.inf, None, 0.0, bits, 0)
    # for_sum takes a step twice as large for one node more, and refuses where a step is the clip.
    assert Codec.for_sum(4.0, most, 1, bits=bits).exponent == 0
    assert Codec.for_sum(4.0, most + 1, 1, bits=bits).exponent == -1
    assert Codec.for_sum(4.0, 2 ** (bits - 1) - 1, 1, bits=bits).exponent == -2
    with pytest.raises(InputError, match="could overflow"):
        Codec.for_sum(4.0, 2 ** (bits - 1), 1, bits=bits)
    # The largest sum decodes as what it is.
    full = codec.encode([4.0], generator(0, "test")).astype(object) * most
    total = np.array(full % 2**bits, dtype=codec.dtype)
    assert codec.decode(total)[0] == pytest.approx(4.0 * most)
    codec.check(total, most)


@settings(max_examples=150, deadline=None)
@given(
    st.floats(1e-30, 1e30),
    st.integers(1, 1000),
    st.none() | st.floats(1e-30, 1e30),
    st.floats(0, 1e3),
    st.sampled_from([32, 64]),
)
def test_the_step_is_the_finest(
    clip: float, nodes: int, max_weight: float | None, noise: float, bits: int
) -> None:
    noise *= clip * (max_weight or 1)
    if noise > 1e30:
        noise = 0.0
    try:
        codec = Codec.for_sum(clip, nodes, 5, max_weight=max_weight, noise_std=noise, bits=bits)
    except InputError:  # only where weights take more than the modulus has
        assert (max_weight or 1) * nodes * 10_000 > 2 ** (bits - 1)
        return
    assert codec.bound(nodes) < 2 ** (bits - 1)
    with pytest.raises(InputError, match="could overflow"):
        replace(codec, exponent=codec.exponent + 1)


def test_room_for_the_noise() -> None:
    quiet = Codec.for_sum(1.0, 100, 10**6)
    noisy = Codec.for_sum(1.0, 100, 10**6, noise_std=1e4)
    assert noisy.exponent < quiet.exponent
    # sqrt(2 ln(2 10^6 2^40)) = 9.19 deviations for a Gaussian; Bernstein's adds a constant.
    tail = (noisy.bound(100) - 100 * noisy.limit) / noisy.scale
    assert tail == pytest.approx(9.19e4, rel=0.001)
    assert noisy.bound(100) < 2**31


def test_the_tail_holds_for_skellam_noise() -> None:
    # Exact: P[|X| > t] summed over the pmf of a Skellam of variance 2 mu must be below 2^-40 / d.
    from scipy.stats import skellam

    for deviation in (0.5, 2.0, 30.0):
        codec = Codec(1.0, 1, 1, math.inf, None, deviation, 32, 0)
        tail = codec.bound(0)
        mu = deviation**2 / 2
        far = np.arange(tail + 1, tail + 400)
        assert 2 * skellam.pmf(far, mu, mu).sum() < 2.0**-40


def test_a_sum_beyond_its_bound_is_named() -> None:
    codec = Codec.for_sum(1.0, 10, 3, max_weight=2)
    sent = codec.encode(np.zeros((4, 3)), generator(0, "test"), np.ones(4))
    total = sent.sum(0, dtype=np.uint32)
    codec.check(total, 4)
    edge = codec.bound(4)
    for at, value in ((0, edge + 1), (2, -edge - 1), (1, -(2**31)), (3, edge + 1), (3, -1)):
        cheat = total.copy()
        cheat[at] = value % 2**32
        with pytest.raises(SumError, match="a node sent"):
            codec.check(cheat, 4)
    total[0] = edge
    codec.check(total, 4)
    with pytest.raises(SumError, match="1 of 4 coordinates"):
        codec.check(total, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("d", [1, 5])
def test_what_is_not_finite_is_refused(bad: float, d: int) -> None:
    codec = Codec.for_sum(1.0, 2, d)
    values = np.zeros((2, d), dtype=np.float32)
    codec.encode(values, generator(0, "test"))
    values[1, d - 1] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        codec.encode(values, generator(0, "test"))


def test_settings_and_shapes() -> None:
    good = {"clip": 1.0, "nodes": 2, "dimension": 3}
    for field, bad in (
        ("clip", 0.0), ("clip", math.inf), ("clip", math.nan), ("nodes", 0), ("dimension", 0),
        ("bits", 16), ("noise_std", -1.0), ("noise_std", math.inf), ("noise_std", math.nan),
        ("max_weight", 0.0), ("max_weight", math.inf), ("coordinate_range", -1.0),
        ("clip", 1e-31), ("noise_std", 1e31), ("max_weight", 1e-31),
    ):  # fmt: skip
        with pytest.raises(InputError, match=field):
            Codec.for_sum(**(good | {field: bad}))  # type: ignore[arg-type]
    codec = Codec.for_sum(**good)  # type: ignore[arg-type]
    for values in (np.zeros(4), np.zeros((2, 4)), np.float32(1), np.zeros((1, 1, 3))):
        with pytest.raises(InputError, match="values"):
            codec.encode(values, generator(0, "test"))
    for total in (np.zeros(3, np.uint64), np.zeros(3, np.int32), np.zeros(2, np.uint32)):
        with pytest.raises(InputError, match="total"):
            codec.decode(total)
    with pytest.raises(InputError, match="nodes"):
        codec.check(np.zeros(3, np.uint32), 3)


def test_one_stream_gives_one_encoding() -> None:
    codec = Codec.for_sum(1.0, 2, 100)
    values = np.linspace(-0.05, 0.05, 100, dtype=np.float32)
    first = codec.encode(values, generator(0, "test"))
    np.testing.assert_array_equal(first, codec.encode(values, generator(0, "test")))
    assert (first != codec.encode(values, generator(1, "test"))).any()
