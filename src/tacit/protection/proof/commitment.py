"""Pedersen commitments to integer vectors, and what follows from their product.

C = r H + sum_i x_i G_i hides x perfectly and binds it as long as nobody finds a relation between
the generators (discrete logarithms on secp256k1). Commitments add up: the sum of the cohort's
commitments is that of the sum, so that anyone who has them checks a published sum, in every mode of
secure aggregation. The blindings' sum travels with the values, as 16 more coordinates.

Source: Pedersen, "Non-interactive and information-theoretic secure verifiable secret sharing",
CRYPTO 1991; Guo et al., "VeriFL", IEEE TIFS 2021 (the check of the sum).
"""

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.proof import group
from tacit.protection.proof.group import ORDER, Point

LIMBS = 16


def blinding() -> int:
    """A fresh r, 1 to the group's order - 1."""
    return 1 + secrets.randbelow(ORDER - 1)


def commit(values: NDArray[np.int64], blinding: int) -> bytes:
    """33 bytes that bind signed integers (d,) and the blinding."""
    return point(values, blinding).format()


def point(values: NDArray[np.int64], blinding: int) -> Point:
    """The commitment as a point; None where it is the neutral element."""
    require(values.ndim == 1 and len(values) > 0, "values", values.shape, "(d,) with d > 0")
    bases = group.generators(len(values))
    signs = []
    for side in (np.maximum(values, 0), np.maximum(-values, 0)):
        chosen = np.flatnonzero(side).tolist()
        signs.append(group.product([bases[i] for i in chosen], side[chosen].tolist()))
    mask = group.multiply(group.BLINDING, blinding)
    return group.add(mask, signs[0], group.negate(signs[1]))


def coordinates(blinding: int) -> NDArray[np.uint32]:
    """(16,) limbs of 16 bits, to be summed with the values, mod 2^32 at least, by 65,536 nodes."""
    return np.frombuffer(blinding.to_bytes(2 * LIMBS, "little"), "<u2").astype(np.uint32)


def summed_blinding(limbs: NDArray[np.unsignedinteger]) -> int:
    """The blinding of the sum, of the summed (16,) coordinates."""
    require(limbs.shape == (LIMBS,), "limbs", limbs.shape, f"({LIMBS},)")
    return sum(int(limb) << 16 * i for i, limb in enumerate(limbs)) % ORDER


def sum_holds(commitments: Sequence[bytes], total: NDArray[np.int64], blinding: int) -> bool:
    """Whether a published sum (d,) is that of the committed vectors.

    Args:
        commitments: of each node in the sum, 33 bytes each.
        total: the signed sum.
        blinding: the sum of the nodes' blindings.

    Raises:
        MessageError: bytes that are no commitment.
    """
    made = group.add(*(group.parse(commitment) for commitment in commitments))
    found = point(total, blinding)
    return group.add(made, group.negate(found)) is None
