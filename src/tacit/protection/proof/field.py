"""Vectors over the prime field of p = 2^64 - 2^32 + 1, as NumPy uint64 in [0, p).

2^64 = 2^32 - 1 and 2^96 = -1 (mod p), so that a 128-bit product is reduced by shifts; p - 1 is a
multiple of 2^32, so that there are roots of unity for number-theoretic transforms. 7 generates the
multiplicative group. Arrays wrap silently; the error state covers the scalars that sums leave.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.uint64]
Operand = Field | np.uint64

P = 2**64 - 2**32 + 1
_P = np.uint64(P)
_EPSILON = np.uint64(2**32 - 1)
_32 = np.uint64(32)


def encode(integers: NDArray[np.int64]) -> Field:
    """Signed integers above -p / 2 and below p / 2; a negative v becomes p + v."""
    words = integers.astype(np.uint64)
    # p + v = (2^64 + v) - (2^32 - 1)
    return np.where(integers < 0, words - _EPSILON, words)


def decode(values: Field) -> NDArray[np.int64]:
    """The representative closest to 0."""
    return np.where(values > _P // np.uint64(2), values + _EPSILON, values).astype(np.int64)


@np.errstate(over="ignore")
def add(a: Operand, b: Operand) -> Field:
    total = a + b
    # A wrap of 2^64 lost 2^32 - 1 (mod p).
    total = np.where(total < a, total + _EPSILON, total)
    return np.where(total >= _P, total - _P, total)


@np.errstate(over="ignore")
def subtract(a: Operand, b: Operand) -> Field:
    difference = a - b
    return np.where(a < b, difference - _EPSILON, difference)


@np.errstate(over="ignore")
def multiply(a: Operand, b: Operand) -> Field:
    """Schoolbook on 32-bit halves, then the reduction above."""
    a_low, a_high, b_low, b_high = a & _EPSILON, a >> _32, b & _EPSILON, b >> _32
    low = a_low * b_low
    middle = a_high * b_low + (low >> _32)
    other = a_low * b_high + (middle & _EPSILON)
    high = a_high * b_high + (middle >> _32) + (other >> _32)
    low = (other << _32) | (low & _EPSILON)
    top = high >> _32
    reduced = low - top
    reduced = np.where(low < top, reduced - _EPSILON, reduced)
    return add(reduced, (high & _EPSILON) * _EPSILON)


def total(values: Field, axis: int = -1) -> Field:
    """The sum along an axis of up to 2^31 elements, by 32-bit halves."""
    low = (values & _EPSILON).sum(axis, dtype=np.uint64)
    high = (values >> _32).sum(axis, dtype=np.uint64)
    return add(low % _P, multiply(high % _P, np.uint64(2**32)))


def dot(a: Field, b: Field) -> Field:
    """The inner product along the last axis."""
    return total(multiply(a, b))


def powers(base: int, count: int) -> Field:
    """(count,) base^0, base^1, ...; by doubling."""
    found = np.ones(1, np.uint64)
    while len(found) < count:
        found = np.concatenate([found, multiply(found, np.uint64(pow(base, len(found), P)))])
    return found[:count]


@cache
def _roots(size: int, inverse: bool) -> Field:
    root = pow(7, (P - 1) // size, P)
    return powers(pow(root, -1, P) if inverse else root, size // 2)


def transform(coefficients: Field, inverse: bool = False) -> Field:
    """Values at 1, w, w^2, ... of a polynomial of n = 2^k coefficients, w^n = 1; or back.

    Radix 2, decimation in time, iterative (Cooley and Tukey 1965).
    """
    size = len(coefficients)
    bits = size.bit_length() - 1
    values = coefficients.reshape((2,) * bits).transpose().reshape(size)
    for level in range(bits):
        half = 1 << level
        pairs = values.reshape(-1, 2, half)
        twiddles = _roots(size, inverse)[:: size // (2 * half)]
        turned = multiply(pairs[:, 1], twiddles)
        values = np.stack([add(pairs[:, 0], turned), subtract(pairs[:, 0], turned)], 1).reshape(-1)
    return multiply(values, np.uint64(pow(size, -1, P))) if inverse else values
