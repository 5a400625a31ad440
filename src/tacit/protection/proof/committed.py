"""The norm proof to a single server, about a committed vector (RiseFL's idea).

The server draws the projections' seed after it has the commitment C. The node commits to the bits
of each y_j + b and of tau - sum(y^2), and proves that

1. each committed bit is 0 or 1 (Cramer, Damgard, Schoenmakers, CRYPTO 1994: one of two
   logarithms); Y_j, the commitment to y_j, is the weighted sum of its bits' commitments;
2. S_j commits to y_j^2: S_j = y_j Y_j + u_j H;
3. sum_j S_j + (the gap's commitment) - tau G = omega H, by revealing omega;
4. a random combination of the Y_j is the same combination of the rows of R applied to the vector
   in C: a linear sigma protocol with d responses, 32 bytes each.

1, 2 and 4 are made non-interactive by SHA-512 (Fiat-Shamir): in this group of order 2^256 nothing
is gained by grinding it. The seed is not, because its error of 10^-6 would be: it is the server's
coin. The wrap-around lemma of ``projection`` holds with the group's order for p. Soundness: the
claim's error, 2^-k of the lemma, 2^-128 of the combination. Zero knowledge in the random-oracle
model, timing excepted (products skip zero digits); that a node sends no proof, as happens with
probability ``claim.error``, is seen.

RiseFL commits to every coordinate on its own and checks the projections by k multi-exponentiations
at the server; here one 33-byte commitment and one such product at each side. Source: Zhu et al.,
"RiseFL: secure and private federated learning with input integrity", VLDB 2024.
"""

import hmac
import os

import numpy as np
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.proof import field, group
from tacit.protection.proof.commitment import blinding as fresh
from tacit.protection.proof.group import ORDER, Point
from tacit.protection.proof.message import SCALAR, Parts, Transcript
from tacit.protection.proof.node import UnluckyError
from tacit.protection.proof.projection import NormClaim, combine, project


def prove(
    claim: NormClaim,
    values: NDArray[np.int64],
    blinding: int,
    commitment: bytes,
    context: bytes,
    seed: bytes,
) -> bytes:
    """The proof that the vector in ``commitment`` has at most the claimed norm.

    Args:
        values: (d,), with ``blinding`` what ``commitment.commit`` bound.
        context: 32 bytes that name experiment, round and node (``Session.bind``).
        seed: 32 bytes that the server drew once it had the commitment.

    Raises:
        InputError: the vector is longer than claimed.
        UnluckyError: with probability ``claim.error`` at most for a vector within the claim.
    """
    norm = float(np.linalg.norm(values.astype(np.float64)))
    require(
        norm <= claim.norm * (1 + 1e-9), "values", "a longer vector", f"norm {claim.norm} at most"
    )
    y = field.decode(project(seed, claim.projections, [field.encode(values)])[0]).tolist()
    gap = claim.threshold - sum(v * v for v in y)
    if gap < 0:
        raise UnluckyError("the projections are too large: send nothing in this round")
    return seal(claim, values, blinding, commitment, context, seed, y, gap)


def seal(
    claim: NormClaim,
    values: NDArray[np.int64],
    blinding: int,
    commitment: bytes,
    context: bytes,
    seed: bytes,
    y: list[int],
    gap: int,
) -> bytes:
    """The proof that claims these projections (k,) and this gap."""
    transcript = Transcript(claim, len(values), commitment, context, seed)
    digits = [v + claim.limit >> i & 1 for v in y for i in range(claim.bits)]
    digits += [gap >> i & 1 for i in range(claim.gap_bits)]
    masks = [fresh() for _ in digits]
    bits = [group.pedersen(b, r) for b, r in zip(digits, masks, strict=True)]
    made, _ = _weighted(claim, bits)
    of_y, of_gap = _weighted_masks(claim, masks)

    # 1: the branch that is false is simulated.
    nonces, fakes, answers = ([fresh() for _ in digits] for _ in range(3))
    said: list[Point] = []
    for b, point, w, e, z in zip(digits, bits, nonces, fakes, answers, strict=True):
        real = group.multiply(group.BLINDING, w)
        fake = _minus(group.multiply(group.BLINDING, z), e, _branch(point, 1 - b))
        said += [fake, real] if b else [real, fake]
    e = transcript.challenge([*bits, *said], b"bits")
    bit_scalars = [e]
    for b, r, w, fake_e, z in zip(digits, masks, nonces, fakes, answers, strict=True):
        real_z = (w + (e - fake_e) * r) % ORDER
        bit_scalars += [fake_e, z, real_z] if b else [(e - fake_e) % ORDER, real_z, z]

    # 2
    u = [fresh() for _ in y]
    squares = [
        group.add(group.multiply(point, v), group.multiply(group.BLINDING, r))
        for point, v, r in zip(made, y, u, strict=True)
    ]
    triples = [(fresh(), fresh(), fresh()) for _ in y]
    said = []
    for point, (a, c, f) in zip(made, triples, strict=True):
        said.append(group.pedersen(a, c))
        said.append(group.add(group.multiply(point, a), group.multiply(group.BLINDING, f)))
    e = transcript.challenge([*squares, *said], b"squares")
    square_scalars = [e]
    for (a, c, f), v, s, r in zip(triples, y, of_y, u, strict=True):
        square_scalars += [(a + e * v) % ORDER, (c + e * s) % ORDER, (f + e * r) % ORDER]

    # 3
    omega = (sum(v * s + r for v, s, r in zip(y, of_y, u, strict=True)) + of_gap) % ORDER

    # 4
    weights = transcript.weights([], len(y))
    row = combine(seed, weights, len(values))
    of_row = sum(w * s for w, s in zip(weights, of_y, strict=True))
    hidden = [int.from_bytes(os.urandom(SCALAR), "little") % ORDER for _ in row]
    t_c, t_d = fresh(), fresh()
    first = group.add(
        group.product(group.generators(len(row)), hidden), group.multiply(group.BLINDING, t_c)
    )
    second = group.pedersen(sum(a * m for a, m in zip(row, hidden, strict=True)), t_d)
    e = transcript.challenge([first, second], b"linear")
    responses = [(m + e * v) % ORDER for m, v in zip(hidden, values.tolist(), strict=True)]
    linear = [e, (t_c + e * blinding) % ORDER, (t_d + e * of_row) % ORDER, *responses]
    return Parts(bits, squares, bit_scalars, square_scalars, [omega], linear).encode()


def holds(
    claim: NormClaim, dimension: int, commitment: bytes, context: bytes, seed: bytes, proof: bytes
) -> bool:
    """Whether a proof shows the claim about the (d,) vector in the commitment.

    Raises:
        MessageError: malformed bytes.
    """
    parts = Parts.parse(claim, dimension, proof)
    committed = group.parse(commitment)
    transcript = Transcript(claim, dimension, commitment, context, seed)
    made, gap_point = _weighted(claim, parts.bits)

    e, *scalars = parts.bit_scalars
    said: list[Point] = []
    for point, e_0, z_0, z_1 in zip(
        parts.bits, scalars[::3], scalars[1::3], scalars[2::3], strict=True
    ):
        said.append(_minus(group.multiply(group.BLINDING, z_0), e_0, point))
        said.append(_minus(group.multiply(group.BLINDING, z_1), e - e_0, _branch(point, 1)))
    if not _same(transcript.challenge([*parts.bits, *said], b"bits"), e):
        return False

    e, *scalars = parts.square_scalars
    said = []
    for point, square, z_y, z_s, z_u in zip(
        made, parts.squares, scalars[::3], scalars[1::3], scalars[2::3], strict=True
    ):
        said.append(_minus(group.pedersen(z_y, z_s), e, point))
        turned = group.add(group.multiply(point, z_y), group.multiply(group.BLINDING, z_u))
        said.append(_minus(turned, e, square))
    if not _same(transcript.challenge([*parts.squares, *said], b"squares"), e):
        return False

    spent = group.add(*parts.squares, gap_point)
    limit = group.pedersen(claim.threshold, parts.omega[0])
    if group.add(spent, group.negate(limit)) is not None:
        return False

    weights = transcript.weights([], len(made))
    row = combine(seed, weights, dimension)
    target = group.add(*(group.multiply(p, w) for p, w in zip(made, weights, strict=True)))
    e, z_c, z_d, *responses = parts.linear
    opened = group.add(
        group.product(group.generators(dimension), responses),
        group.multiply(group.BLINDING, z_c),
    )
    value = sum(a * s for a, s in zip(row, responses, strict=True))
    said = [_minus(opened, e, committed), _minus(group.pedersen(value, z_d), e, target)]
    return _same(transcript.challenge(said, b"linear"), e)


def _same(made: int, given: int) -> bool:
    return hmac.compare_digest(made.to_bytes(SCALAR, "little"), given.to_bytes(SCALAR, "little"))


def _minus(point: Point, scalar: int, other: Point) -> Point:
    return group.add(point, group.multiply(other, -scalar))


def _branch(bit: Point, claimed: int) -> Point:
    """What is a multiple of H alone if the bit is the claimed one."""
    return _minus(bit, claimed, group.VALUE)


def _weighted(claim: NormClaim, bits: list[Point]) -> tuple[list[Point], Point]:
    """The commitments to y (k,) and to the gap that the bits' commitments (n,) make up."""

    def number(of: list[Point]) -> Point:
        found = None
        for bit in reversed(of):
            found = group.add(found, found, bit)
        return found

    ends = range(0, claim.projections * claim.bits, claim.bits)
    limit = group.multiply(group.VALUE, -claim.limit)
    made = [group.add(number(bits[i : i + claim.bits]), limit) for i in ends]
    return made, number(bits[claim.projections * claim.bits :])


def _weighted_masks(claim: NormClaim, masks: list[int]) -> tuple[list[int], int]:
    """The blindings of those commitments."""

    def number(of: list[int]) -> int:
        return sum(mask << i for i, mask in enumerate(of)) % ORDER

    ends = range(0, claim.projections * claim.bits, claim.bits)
    made = [number(masks[i : i + claim.bits]) for i in ends]
    return made, number(masks[claim.projections * claim.bits :])
