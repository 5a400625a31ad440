"""The node's proof that the projections of what it shared are small.

The witness z holds a random mask, the bits of each projection y_j + b, the bits of
tau - sum(y^2), and the y_j. f is the polynomial with f(w^i) = z_i, w a root of unity of order
N >= len(z); the proof is F = f^2 by its 2 N values at the roots of order 2 N, shared as the witness
is. Every second value of F is a z_i^2, with which each check becomes linear.

Source: Boneh, Boyle, Corrigan-Gibbs, Gilboa, Ishai, "Zero-knowledge proofs on secret-shared data
via fully linear PCPs", CRYPTO 2019 (the gadget is one squaring); Prio3's FLP.
"""

import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import MessageError, TacitError, require
from tacit.protection.proof import field
from tacit.protection.proof.field import Field
from tacit.protection.proof.projection import NormClaim, project
from tacit.protection.sharing import TAG, Session, expand, split


class UnluckyError(TacitError):
    """The projections of a vector within its bound are too large: send nothing in this round."""

    code = "TACIT-109"


@dataclass(frozen=True)
class Layout:
    """Where the witness has what: the mask first, then bits, then projections, then zeros."""

    claim: NormClaim

    @property
    def ranges(self) -> slice:
        return slice(1, 1 + self.claim.projections * self.claim.bits)

    @property
    def gap(self) -> slice:
        return slice(self.ranges.stop, self.ranges.stop + self.claim.gap_bits)

    @property
    def projections(self) -> slice:
        return slice(self.gap.stop, self.gap.stop + self.claim.projections)

    @property
    def size(self) -> int:
        """N."""
        return 1 << (self.projections.stop - 1).bit_length()

    @property
    def proof(self) -> int:
        """Elements that a node sends: mask and bits, then the squares; the rest is known."""
        return self.gap.stop + 2 * self.size


def bits(values: NDArray[np.int64], count: int) -> Field:
    """The ``count`` low bits of each, lowest first, value after value."""
    return ((values[:, None] >> np.arange(count)) & 1).astype(np.uint64).reshape(-1)


def interpolate(z: Field) -> Field:
    """The 2 N values of f^2 of the N values of f."""
    coefficients = np.concatenate([field.transform(z, inverse=True), np.zeros_like(z)])
    values = field.transform(coefficients)
    return field.multiply(values, values)


class Prover:
    """A node's two messages of shares and, once they are fixed, its one proof.

    ``upload`` and ``proof`` go to the server, ``seed`` to the helper, whose share of the proof is
    expanded from it too.

    Args:
        values: (d,) over the field (``field.encode`` of signed integers).

    Raises:
        InputError: the vector is longer than claimed, or the session cannot carry the claim.
    """

    def __init__(self, session: Session, claim: NormClaim, node: int, values: Field) -> None:
        claim.check(session)
        norm = float(np.linalg.norm(field.decode(values).astype(np.float64)))
        require(
            norm <= claim.norm * (1 + 1e-9),
            "values",
            "a longer vector",
            f"norm {claim.norm} at most",
        )
        self._session, self._claim, self._node = session, claim, node
        self._values: Field | None = values
        self.upload, self.seed = split(session, node, values)

    def prove(self, challenge: bytes) -> bytes:
        """The proof for the challenge that server and helper tossed over the fixed shares.

        Once only: two proofs under the same masks would tell the server the witness.

        Raises:
            UnluckyError: with probability ``claim.error`` at most for a vector within the claim.
        """
        if self._values is None:
            raise MessageError("one proof a round is made")
        values, self._values = self._values, None
        claim = self._claim
        y = field.decode(project(challenge, claim.projections, [values])[0])
        gap = claim.threshold - sum(int(v) ** 2 for v in y)
        if gap < 0:
            raise UnluckyError("the projections are too large: send nothing in this round")
        return seal(self._session, claim, self._node, y, gap, self.seed[TAG:])


def seal(
    session: Session, claim: NormClaim, node: int, y: NDArray[np.int64], gap: int, seed: bytes
) -> bytes:
    """The message that claims these projections (k,) and this gap, masked for the server."""
    layout = Layout(claim)
    z = np.zeros(layout.size, np.uint64)
    z[0] = secrets.randbelow(field.P)
    z[layout.ranges] = bits(y + claim.limit, claim.bits)
    z[layout.gap] = bits(np.array([gap]), claim.gap_bits)
    z[layout.projections] = field.encode(y)
    proof = np.concatenate([z[: layout.gap.stop], interpolate(z)])
    mask = expand(seed, session.bind("proof share", node), layout.proof, field.P)
    return session.bind("proof", node) + field.subtract(proof, mask).tobytes()
