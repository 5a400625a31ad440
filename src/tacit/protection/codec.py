"""The integer codec: real vectors as unsigned integers whose sum, mod 2^32 or 2^64, is exact.

Masks, shares, threshold encryption and distributed noise all work on these integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tacit.errors import InputError, TacitError, require

# P[the noise of a sum passes its tail], and P[a rounding is drawn again].
TAIL = 2.0**-40
# Relative; covers the float64 evaluation of a norm of up to 10^8 coordinates.
_SLACK = 1e-9
# Of values, weights and noise: so that no float64 below overflows.
_LEAST, _MOST = 1e-30, 1e30
# Of the rounding; an honest generator needs a ninth with probability 2^-320.
_DRAWS = 8
# Coordinates rounded at a time, so that they stay in the cache.
_BLOCK = 8192


class SumError(TacitError):
    """A decoded sum that no honest nodes can have sent."""

    code = "TACIT-108"


@dataclass(frozen=True)
class Codec:
    """Fixed point with conditional stochastic rounding; made by ``Codec.for_sum``.

    A value v becomes v 2^exponent, rounded up or down at random with mean v 2^exponent, mod 2^bits;
    the vector is drawn again while its norm is above ``norm_bound``. Kairouz, Liu, Steinke,
    "The distributed discrete Gaussian mechanism for federated learning with secure aggregation",
    ICML 2021, Algorithm 1 and Proposition 22. There beta is exp(-1/2); here it is 2^-40, so that
    the bias of the condition is below any float32, which costs nothing at 32 bits. The draws have
    24 bits: the mean is right to 2^-24 steps. Steps are powers of two: scaling a float32 is exact.

    The sum of ``nodes`` vectors plus noise stays below 2^(bits - 1) in every coordinate: always
    without noise, else with probability 1 - 2^-40 a sum, for sub-Gaussian (discrete Gaussian) and
    Skellam noise alike.

    Attributes:
        clip: largest L2 norm of the values, before their weight; longer ones are scaled onto it.
            Infinite where ``coordinate_range`` alone bounds them.
        nodes: largest number of summands, at least 1.
        dimension: d, values of a node.
        coordinate_range: largest |value|; what is beyond is cut, which biases it.
        max_weight: largest weight of a node; None where the sum is not weighted. Else values are
            sent as weight x value, and the weight as one more coordinate at the end.
        noise_std: standard deviation of all the noise in the sum, in units of the values.
        bits: of the modulus, 32 or 64.
        exponent: log2 of the integer steps a unit.

    Raises:
        InputError: a setting out of its range, or a sum that could overflow.
    """

    clip: float
    nodes: int
    dimension: int
    coordinate_range: float
    max_weight: float | None
    noise_std: float
    bits: int
    exponent: int

    def __post_init__(self) -> None:
        require(self.bits in (32, 64), "bits", self.bits, "32 or 64")
        require(self.nodes >= 1, "nodes", self.nodes, "1 or more")
        require(self.dimension >= 1, "dimension", self.dimension, "1 or more")
        require(self.clip > 0, "clip", self.clip, "a number above 0")
        require(self.coordinate_range > 0, "coordinate_range", self.coordinate_range, "above 0")
        finite = _LEAST <= self._largest_value <= _MOST
        require(finite, "clip", self.clip, f"{_LEAST} to {_MOST}, or such a coordinate_range")
        noise = 0 <= self.noise_std <= _MOST
        require(noise, "noise_std", self.noise_std, f"0 to {_MOST}")
        weight = self.max_weight is None or _LEAST <= self.max_weight <= _MOST
        require(weight, "max_weight", self.max_weight, f"None or {_LEAST} to {_MOST}")
        if self._largest_value * self.scale < 1:
            raise InputError(f"exponent: {self.exponent} makes a step that is above every value")
        if not self._fits(self.exponent):
            raise InputError(
                f"bits: a sum of {self.nodes} vectors of values to"
                f" {self._largest_value * self._largest_weight:g} and noise of {self.noise_std:g},"
                f" in steps of {1 / self.scale:g}, could overflow {self.bits} bits"
            )

    @classmethod
    def for_sum(
        cls,
        clip: float,
        nodes: int,
        dimension: int,
        *,
        coordinate_range: float = math.inf,
        max_weight: float | None = None,
        noise_std: float = 0.0,
        bits: int = 32,
    ) -> Codec:
        """The codec with the finest step that cannot overflow.

        Raises:
            InputError: a setting out of its range, or no step that is fine enough fits.
        """
        largest = min(clip, coordinate_range)
        finite = _LEAST <= largest <= _MOST
        require(finite, "clip", clip, f"{_LEAST} to {_MOST}, or such a coordinate_range")
        coarsest = math.ceil(-math.log2(largest))
        codec = cls(clip, nodes, dimension, coordinate_range, max_weight, noise_std, bits, coarsest)
        # One value alone takes bits - 1 of them in steps finer than this.
        finest = math.floor(bits - math.log2(largest * codec._largest_weight))
        steps = range(coarsest, max(coarsest, finest) + 1)
        return replace(codec, exponent=max(e for e in steps if codec._fits(e)))

    @property
    def scale(self) -> float:
        """Integer steps a unit of the values."""
        return math.ldexp(1.0, self.exponent)

    @property
    def weight_scale(self) -> float:
        """Steps a unit of weight, at least 1: the most that reaches no further than the values."""
        return 2.0 ** math.floor(math.log2(self._largest_value * self.scale))

    @property
    def length(self) -> int:
        """Coordinates sent: ``dimension``, and one for the weight."""
        return self.dimension + (self.max_weight is not None)

    @property
    def dtype(self) -> np.dtype:
        """Of what is sent: uint32 or uint64."""
        return np.dtype(f"uint{self.bits}")

    @property
    def _largest_value(self) -> float:
        return min(self.clip, self.coordinate_range)

    @property
    def _largest_weight(self) -> float:
        return 1.0 if self.max_weight is None else self.max_weight

    @property
    def limit(self) -> int:
        """Largest |integer| of one node in one coordinate, without noise."""
        return self._limit(self.exponent)

    def bound(self, nodes: int) -> int:
        """Largest |integer| of a sum of ``nodes`` honest vectors and all the noise."""
        return nodes * self.limit + self._tail(self.exponent)

    def _fits(self, exponent: int) -> bool:
        most = self.nodes * self._limit(exponent) + self._tail(exponent)
        return most < 2 ** (self.bits - 1)

    def _limit(self, exponent: int) -> int:
        return math.ceil(math.ldexp(self._largest_weight * self._largest_value, exponent))

    def _tail(self, exponent: int) -> int:
        """What the noise passes in some coordinate with probability at most 2^-40.

        Bernstein's bound for Skellam noise of variance v: P[|X| > t] <= 2 exp(-t^2 / 2 (v + t/3)),
        since cosh(x) - 1 <= x^2 / 2 (1 - x/3). A sub-Gaussian tail is lighter.
        """
        deviation = math.ldexp(self.noise_std, exponent)
        log = math.log(2 * self.length / TAIL)
        tail = log / 3 + math.hypot(log / 3, deviation * math.sqrt(2 * log))
        return math.ceil(tail) if deviation else 0

    @property
    def norm_bound(self) -> float:
        """Largest L2 norm of what one node sends, weight included, in units of the values.

        The sensitivity to account for: one node more or less moves the sum by no more. In integers
        it is ``norm_bound * scale``, and so is ``noise_std * scale``.
        """
        d = self.length
        values = min(self.clip, self.coordinate_range * math.sqrt(self.dimension)) * self.scale
        weight = 0.0 if self.max_weight is None else self.weight_scale
        c = self._largest_weight * math.hypot(values, weight)
        likely = c * c + d / 4 + math.sqrt(2 * math.log(1 / TAIL)) * (c + math.sqrt(d) / 2)
        return min(math.sqrt(likely), c + math.sqrt(d)) * (1 + _SLACK) / self.scale

    def encode(
        self,
        values: ArrayLike,
        generator: np.random.Generator,
        weights: ArrayLike | None = None,
    ) -> NDArray[np.unsignedinteger]:
        """What nodes send.

        The rounding need not be secret: ``norm_bound`` holds for every outcome.

        Args:
            values: (d,) or (k, d) float32, one row a node.
            generator: draws the rounding, row after row.
            weights: () or (k,) where the codec is weighted, in [0, max_weight].

        Returns:
            (length,) or (k, length) unsigned integers.

        Raises:
            InputError: a wrong shape, NaN, infinity, a weight out of its range, or a generator that
                rounds past the norm bound again and again.
        """
        rows = np.asarray(values)
        good = rows.ndim in (1, 2) and rows.shape[-1] == self.dimension
        require(good, "values", rows.shape, f"the shape ({self.dimension},) or (k, it)")
        if (weights is None) != (self.max_weight is None):
            raise InputError("weights: they go with a codec that has a max_weight, and only there")
        w = np.asarray(1.0 if weights is None else weights, dtype=np.float64)
        good = w.shape in ((), rows.shape[:-1])
        require(good, "weights", w.shape, f"the shape {rows.shape[:-1]}")
        if not ((w >= 0) & (w <= self._largest_weight)).all():
            raise InputError(f"weights: each must be in [0, {self._largest_weight:g}]")
        w = np.broadcast_to(w, rows.shape[:-1])
        result = np.empty((*rows.shape[:-1], self.length), self.dtype)
        for at in np.ndindex(rows.shape[:-1]):
            result[at] = self._round(self._scaled(rows[at], float(w[at])), generator)
        return result

    def _scaled(self, values: NDArray, weight: float) -> NDArray[np.float64]:
        result = np.empty(self.length)
        head = result[: self.dimension]
        head[:] = values
        norm = math.sqrt(head @ head)
        if not math.isfinite(norm):
            raise InputError("values: NaN or infinity was given; only finite numbers are allowed")
        head *= self.scale * weight * (self.clip / norm if norm > self.clip else 1.0)
        edge = weight * self._largest_value * self.scale
        np.clip(head, -edge, edge, out=head)
        if self.max_weight is not None:
            result[-1] = weight * self.weight_scale
        return result

    def _round(
        self, scaled: NDArray[np.float64], generator: np.random.Generator
    ) -> NDArray[np.integer]:
        # Half of the slack is left to what the float64 norm of the rounded vector may be off.
        allowed = (self.norm_bound * self.scale) ** 2 * (1 - _SLACK)
        result = np.empty(self.length, f"int{self.bits}")
        for _ in range(_DRAWS):
            square = 0.0
            for start in range(0, self.length, _BLOCK):
                part = scaled[start : start + _BLOCK]
                rounded = np.floor(part)
                rounded += generator.random(len(part), dtype=np.float32) < part - rounded
                square += float(rounded @ rounded)
                result[start : start + _BLOCK] = rounded
            if square <= allowed:
                return result.view(self.dtype)
        raise InputError("generator: its numbers are not uniform on [0, 1): no rounding is allowed")

    def decode(self, total: NDArray[np.unsignedinteger]) -> tuple[NDArray[np.float64], float]:
        """The sum that (length,) integers stand for.

        Returns:
            (d,) the sum of the values (each times its weight), and the sum of the weights (NaN
            where the codec is not weighted).

        Raises:
            InputError: a wrong dtype or shape.
        """
        signed = self._signed(total)
        values = signed[: self.dimension] / self.scale
        return values, math.nan if self.max_weight is None else signed[-1] / self.weight_scale

    def check(self, total: NDArray[np.unsignedinteger], nodes: int) -> None:
        """Refuse a sum that ``nodes`` honest nodes cannot have.

        Args:
            total: (length,) the sum mod 2^bits.
            nodes: how many took part in it, 1 to the codec's ``nodes``.

        Raises:
            SumError: a coordinate beyond ``bound(nodes)``, or a weight below the noise's tail.
            InputError: a wrong dtype, shape or number of nodes.
        """
        require(1 <= nodes <= self.nodes, "nodes", nodes, f"1 to {self.nodes}")
        signed = self._signed(total)
        bound = self.bound(nodes)
        # Not abs(): that of the smallest integer is itself.
        wrong = (signed > bound) | (signed < -bound)
        if wrong.any():
            raise SumError(
                f"the sum of {nodes} nodes passes its bound in {np.count_nonzero(wrong)} of"
                f" {self.length} coordinates: a node sent more than it may, or the sum overflowed"
            )
        if self.max_weight is not None and signed[-1] < -self.bound(0):
            raise SumError(
                f"the weights of {nodes} nodes sum to {signed[-1] / self.weight_scale:g}:"
                " a node sent a negative weight, or the sum overflowed"
            )

    def _signed(self, total: NDArray[np.unsignedinteger]) -> NDArray[np.signedinteger]:
        require(total.dtype == self.dtype, "total", str(total.dtype), str(self.dtype))
        require(total.shape == (self.length,), "total", total.shape, f"the shape ({self.length},)")
        return np.ascontiguousarray(total).view(f"int{self.bits}")
