"""The bytes of a proof about a commitment, and the transcript that its challenges come from."""

from hashlib import sha512
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tacit.errors import MessageError
from tacit.protection.proof import group
from tacit.protection.proof.group import ORDER, Point
from tacit.protection.proof.projection import NormClaim

SCALAR = 32


class Transcript:
    """All that was said so far; each challenge depends on it."""

    def __init__(
        self, claim: NormClaim, dimension: int, commitment: bytes, context: bytes, seed: bytes
    ) -> None:
        self._hash = sha512(f"{claim} {dimension}".encode() + commitment + context + seed)

    def challenge(self, points: list[Point], purpose: bytes) -> int:
        self._hash.update(purpose + b"".join(map(group.encode, points)))
        return int.from_bytes(self._hash.digest(), "little") % ORDER

    def weights(self, points: list[Point], count: int) -> list[int]:
        """(count,) of 128 bits."""
        start = self.challenge(points, b"weights").to_bytes(SCALAR, "little")
        drawn = (sha512(start + j.to_bytes(4, "little")).digest() for j in range(count))
        return [int.from_bytes(d[:16], "little") for d in drawn]


class Parts(NamedTuple):
    """A proof: points, then scalars, each list of a length that claim and dimension fix."""

    bits: list[Point]  # (n,) of the projections' bits, then the gap's
    squares: list[Point]  # (k,)
    bit_scalars: list[int]  # e, then (e_0, z_0, z_1) of each bit
    square_scalars: list[int]  # e, then (z_y, z_s, z_u) of each square
    omega: list[int]  # (1,)
    linear: list[int]  # e, z_C, z_D, then (d,)

    def encode(self) -> bytes:
        points, scalars = [*self.bits, *self.squares], [s for part in self[2:] for s in part]
        words = (s.to_bytes(SCALAR, "little") for s in scalars)
        return b"".join([*map(group.encode, points), *words])

    @staticmethod
    def parse(claim: NormClaim, dimension: int, data: bytes) -> "Parts":
        k = claim.projections
        bits = k * claim.bits + claim.gap_bits
        lengths = (1 + 3 * bits, 1 + 3 * k, 1, 3 + dimension)
        split = (bits + k) * group.SIZE
        if len(data) != split + sum(lengths) * SCALAR:
            raise MessageError(f"{len(data)} bytes are not a proof for {dimension} values")
        points = [group.parse(data[i : i + group.SIZE]) for i in range(0, split, group.SIZE)]
        rest = range(split, len(data), SCALAR)
        scalars = [int.from_bytes(data[i : i + SCALAR], "little") for i in rest]
        ends = np.cumsum((0, *lengths)).tolist()
        parts = [scalars[a:b] for a, b in pairwise(ends)]
        return Parts(points[:bits], points[bits:], *parts)


def proof_size(claim: NormClaim, dimension: int) -> int:
    """Bytes of a proof."""
    bits = claim.projections * claim.bits + claim.gap_bits
    points, scalars = bits + claim.projections, 6 + 3 * (bits + claim.projections) + dimension
    return points * group.SIZE + scalars * SCALAR
