"""What a norm proof claims: random projections of x are small, and what that says of x.

R is (k, d) with independent entries -1, 0, 1 of probability 1/4, 1/2, 1/4, drawn after x is fixed.
A row r gives y = <r, x> with E y^2 = |x|^2 / 2, so that 2 sum(y^2) / |x|^2 is about chi-square with
k degrees of freedom (Rademacher projection of (x, x) / 2; Achlioptas, "Database-friendly random
projections", JCSS 2003: E y^4 is at most the Gaussian's). A claim is accepted if sum(y^2) <= tau
over the integers and each y_j is in [-b, b), b a power of two above sqrt(tau).

Wrap-around lemma (Rothblum et al., "PINE: efficient verification of a Euclidean norm bound of a
secret-shared vector", 2023, with this protocol's parameters). The projections are only
known mod p. Let |x_i| be the distance of x_i from 0 mod p.

1. If some |x_i| >= 2 b, each y_j falls into [-b, b) mod p with probability at most 1/2: given the
   other entries of the row, two of the values z, z + x_i, z - x_i that lie in the window must be
   z + x_i and z - x_i, which the row takes with 1/4 each, or it is z alone, with 1/2. All k do
   with at most 2^-k.
2. Else every |y_j| < 2 b d over the integers, and as (2 d + 1) b < p, a y_j that is in [-b, b)
   mod p is so over the integers: nothing wraps. (d < 2^32 by the session, b < 2^29 by 3.)
3. tau - sum(y^2) is shown to be in [0, 2^t) mod p, and as k b^2 + 2^t < p (checked), it is over
   the integers.

PINE computes the exact squared norm and uses such projections only against wrap-around; here they
estimate the norm too, which is cheaper and has the slack of ``NormClaim.slack``.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.proof import field
from tacit.protection.proof.field import Field
from tacit.protection.sharing import Session, keystream

# Part of the protocol: the keystream is laid out block after block, row after row within a block.
# 128 rows of it fit a second-level cache, and 255 x 512 < 2^24: float32 sums are exact.
_COLUMNS = 512


def _entries() -> NDArray[np.complex128]:
    """(256,): a byte as four float32 entries, in each pair the low bit minus the high one.

    Four entries ride in one 16-byte item, which NumPy copies at once.
    """
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return (bits[:, ::2] - bits[:, 1::2]).astype(np.float32).view(np.complex128).reshape(-1)


_ENTRIES = _entries()


def _blocks(seed: bytes, rows: int, size: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """R (rows, size) of the seed's keystream in blocks of columns, in one buffer."""
    stream = keystream(seed, b"projection")
    blank = bytes(rows * _COLUMNS // 4)
    drawn = np.empty(len(blank), np.complex128)
    matrix = drawn.view(np.float32).reshape(rows, _COLUMNS)
    for start in range(0, size, _COLUMNS):
        np.take(_ENTRIES, np.frombuffer(stream.update(blank), np.uint8), out=drawn, mode="clip")
        columns = slice(start, min(start + _COLUMNS, size))
        yield columns, matrix[:, : columns.stop - start]


def project(seed: bytes, rows: int, vectors: Sequence[Field]) -> Field:
    """R x for each of n vectors (d,) over the field: (n, rows), R of the seed's keystream.

    Each byte of the vectors is multiplied on its own, in float32 and exactly.
    """
    count = len(vectors)
    sums = np.zeros((rows, count * 8))
    for columns, matrix in _blocks(seed, rows, len(vectors[0])):
        limbs = [vector[columns].view(np.uint8).reshape(-1, 8) for vector in vectors]
        sums += matrix @ np.concatenate(limbs, axis=1).astype(np.float32)
    shifts = np.array([1 << 8 * i for i in range(8)], np.uint64)
    limb = field.encode(sums.astype(np.int64)).reshape(rows, count, 8)
    return np.ascontiguousarray(field.dot(limb, shifts).T)


def combine(seed: bytes, weights: Sequence[int], size: int) -> list[int]:
    """The (size,) integers w R of weights (rows,) below 2^128, as exact as ``project``."""
    limbs = np.frombuffer(b"".join(w.to_bytes(16, "little") for w in weights), np.uint8)
    limbs = limbs.reshape(len(weights), 16).astype(np.float32)
    shifts = np.array([1 << 8 * i for i in range(16)], object)
    found: list[int] = []
    for _, matrix in _blocks(seed, len(weights), size):
        found += ((matrix.T @ limbs).astype(np.int64).astype(object) @ shifts).tolist()
    return found


@dataclass(frozen=True)
class NormClaim:
    """That an integer vector's Euclidean norm is at most ``norm``.

    Attributes:
        norm: B, at least 1.
        projections: k, 128 to 1,024 and a multiple of 8.
        error: probability that a vector of norm B has no proof, and that one longer than
            ``slack`` x B has one; in the limit of vectors with many coordinates of like size.
            The shorter or sparser, the smaller both.

    Raises:
        InputError: a setting out of its range, or a norm so large that the field overflows.
    """

    norm: int
    projections: int = 128
    error: float = 1e-6

    def __post_init__(self) -> None:
        require(self.norm >= 1, "norm", self.norm, "at least 1")
        allowed = range(128, 1025, 8)
        require(self.projections in allowed, "projections", self.projections, "128 to 1024 by 8")
        require(2**-64 <= self.error <= 0.01, "error", self.error, "2^-64 to 0.01")
        total = self.projections * self.limit**2 + 2**self.gap_bits
        require(total < field.P, "norm", self.norm, "a norm whose squared projections fit 64 bits")

    def check(self, session: Session) -> None:
        """Refuse a session of another modulus."""
        require(session.modulus == field.P, "modulus", session.modulus, "field.P")

    def slack(self, error: float) -> float:
        """|x| / B from which a vector is accepted with probability at most ``error``."""
        from scipy.stats import chi2

        k = self.projections
        return math.sqrt(chi2.isf(self.error, k) / chi2.ppf(error, k))

    @cached_property
    def threshold(self) -> int:
        """tau."""
        from scipy.stats import chi2

        return math.floor(self.norm**2 / 2 * chi2.isf(self.error, self.projections))

    @cached_property
    def bits(self) -> int:
        """Of one projection: [-2^(bits - 1), 2^(bits - 1)) holds whatever tau lets pass."""
        return math.isqrt(self.threshold).bit_length() + 1

    @property
    def limit(self) -> int:
        """b."""
        return 1 << self.bits - 1

    @cached_property
    def gap_bits(self) -> int:
        """t: tau - sum(y^2) is below 2^t."""
        return self.threshold.bit_length()
