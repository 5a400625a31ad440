"""Noise of a stated distribution, drawn from a seeded source or a cryptographic one.

Every draw turns uniform 64-bit words, the keystream of a cipher, into noise: a simulation and a
deployment run the same code and differ in the key alone.

Continuous noise is rounded to floats, whose gaps can reveal the value under the noise (Mironov
2012); where that matters, add integer noise (``discrete_gaussian``, ``skellam``) to integers. These
are inverted from tables of whole 64-bit probabilities: the distribution drawn is within total
variation ``TABLE_ERROR`` of the named one for each table used.
"""

import math
import os
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from tacit.errors import require
from tacit.randomness import key

Words = Callable[[int], NDArray[np.uint64]]
"""A stream: called with n, it gives the next n uniform 64-bit words."""

TABLE_ERROR = 2.0**-49
_TABLE_STD = 1024  # a discrete Gaussian table's largest std: 2^15 entries, which the cache holds
_SKELLAM_STD = 2**13


def seeded(seed: int, purpose: str, *address: int) -> Words:
    """Addressed randomness for experiments: the same address, the same noise. Not secret."""
    return _keystream(key(seed, purpose, *address).to_bytes(16, "little"))


def secure() -> Words:
    """Randomness for deployments, under a key of its own from the operating system."""
    return _keystream(os.urandom(16))


def _keystream(key: bytes) -> Words:
    """AES-128 in counter mode."""
    from tacit.protection import keystream

    stream = keystream.start(key)
    return lambda count: keystream.words(stream, count, np.uint64)


def gaussian(source: Words, std: float, shape: tuple[int, ...]) -> torch.Tensor:
    """N(0, std^2) values, float32 of ``shape``, by inversion of a word each; |x| < 8.3 std."""
    _positive("std", std)
    word = torch.from_numpy(source(math.prod(shape)).view(np.int64))
    unit = word.to(torch.float64).mul_((1 - 2**-53) / 2**63)  # in (-1, 1), never its ends
    return unit.erfinv_().mul_(math.sqrt(2) * std).to(torch.float32).view(shape)


def laplace(source: Words, scale: float, shape: tuple[int, ...]) -> torch.Tensor:
    """Laplace values of density exp(-|x|/scale) / (2 scale), float32 of ``shape``."""
    _positive("scale", scale)
    word = source(math.prod(shape))
    sign = torch.from_numpy((word & np.uint64(1)).astype(np.int8)).mul_(2).sub_(1)
    size = torch.from_numpy(((word >> np.uint64(11)) + np.uint64(1)) * 2.0**-53).log_()
    return (size.mul_(-scale) * sign).to(torch.float32).view(shape)


def discrete_gaussian(source: Words, std: float, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Integers with probability proportional to exp(-k^2 / (2 std^2)), int64 of ``shape``.

    ``std`` is the formula's parameter; the deviation itself is less below 1 (0.464 at 0.5).

    Above a standard deviation of 1,024 it is a sum x + 256 y of two such draws, which is within
    2^-80 of one (Micciancio & Walter 2017: the inner parameter 1.7 smooths the
    integers). ``std`` is from 0.25 to 2^40.
    """
    require(0.25 <= std <= 2**40, "std", std, "a number from 0.25 to 2^40")
    if std <= _TABLE_STD:
        return _draw(source, "discrete_gaussian", std, shape)
    step = _TABLE_STD // 4
    fine = _draw(source, "discrete_gaussian", 2.0 * step, shape)
    return fine + step * discrete_gaussian(source, math.sqrt(std**2 / step**2 - 4), shape)


def skellam(source: Words, std: float, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The difference of two Poisson(std^2 / 2) values, int64 of ``shape``.

    A sum of independent draws is Skellam again, its variance their sum. ``std`` is from 0.25 to
    2^13.
    """
    allowed = f"a number from 0.25 to {_SKELLAM_STD}; beyond, the discrete Gaussian serves"
    require(0.25 <= std <= _SKELLAM_STD, "std", std, allowed)
    return _draw(source, "skellam", std, shape)


def _positive(field: str, value: float) -> None:
    require(0 < value < math.inf, field, value, "a finite number above 0")


def _draw(source: Words, kind: str, std: float, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Invert the cumulative table: an index from the word's first bits, then one comparison.

    Only words whose first bits straddle a step of the table are searched (Chen & Asau 1974).
    """
    above, start, shift = _table(kind, std)
    word = source(math.prod(shape))
    index = start[(word >> shift).view(np.int64)]
    missed = np.flatnonzero(above[index] <= word)
    index[missed] = np.searchsorted(above, word[missed], side="right")
    return (index.astype(np.int64) - len(above) // 2).reshape(shape)


@lru_cache(maxsize=16)
def _table(kind: str, std: float) -> tuple[NDArray[np.uint64], NDArray[np.int32], np.uint64]:
    """(above, start, shift): value i - n//2 is drawn for words in [above[i - 1], above[i]).

    ``start[b]`` is the first value that a word with first bits b can have.
    """
    mass = (_skellam_mass if kind == "skellam" else _gaussian_mass)(std, math.ceil(9.5 * std) + 20)
    whole = np.rint(mass * 2.0**64).astype(np.uint64)  # a float's 53 bits are exact in 64
    whole = np.trim_zeros(whole, "b")
    probability = np.concatenate([whole[:0:-1], whole])
    with np.errstate(over="ignore"):
        # What rounding left over (a part in 2^49) goes to 0, the most likely value.
        probability[len(whole) - 1] -= probability.sum(dtype=np.uint64)
        above = np.cumsum(probability, dtype=np.uint64)
    above[-1] = np.iinfo(np.uint64).max
    bits = min(max((8 * len(above)).bit_length(), 8), 20)
    shift = np.uint64(64 - bits)
    first = np.arange(2**bits, dtype=np.uint64) << shift
    start = np.searchsorted(above, first, side="right").astype(np.int32)
    return above, start, shift


def _gaussian_mass(std: float, reach: int) -> NDArray[np.float64]:
    """(reach + 1,) probabilities of 0, 1, ... reach."""
    weight = np.exp(-0.5 * (np.arange(reach + 1) / std) ** 2)
    return weight / (weight[0] + 2 * math.fsum(weight[1:]))


def _skellam_mass(std: float, reach: int) -> NDArray[np.float64]:
    """(reach + 1,) probabilities I_k(v) / (sum of I_|k|(v)) of 0, 1, ... reach; v the variance.

    The ratios r_k = I_{k+1}/I_k = 1 / (2(k + 1)/v + r_{k+1}) run downwards, where errors contract;
    1 - r_k is carried instead of r_k, which keeps its relative precision when r_k is near 1.
    """
    fall = [0.0] * (reach + 1)
    last = 1.0  # 1 - r far out; its error dies off within a few terms
    for k in range(reach + 64, -1, -1):
        step = 2 * (k + 1) / std**2
        last = (step - last) / (1 + step - last)
        if k <= reach:
            fall[k] = last
    weight = np.exp(np.concatenate([[0.0], np.cumsum(np.log1p(-np.array(fall[:reach])))]))
    return weight / (weight[0] + 2 * math.fsum(weight[1:]))
