"""Proofs of a whole cohort in this process: the nodes, server and helper that a network drives."""

import math
import os
from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.protection.proof import field
from tacit.protection.proof.field import Field
from tacit.protection.proof.node import Prover, UnluckyError, seal
from tacit.protection.proof.projection import NormClaim, project
from tacit.protection.proof.verifier import Toss, Verifier, accepted
from tacit.protection.sharing import TAG, Helper, Server, Session, split


class Cheater:
    """A node that shares a vector of any length, and claims the projections of a shorter one."""

    def __init__(self, session: Session, claim: NormClaim, node: int, values: Field) -> None:
        self._session, self._claim, self._node, self._values = session, claim, node, values
        self.upload, self.seed = split(session, node, values)

    def prove(self, challenge: bytes) -> bytes:
        """A proof that is true if the projections happen to be small enough."""
        y, gap = _claimed(self._claim, challenge, self._values)
        return seal(self._session, self._claim, self._node, y, gap, self.seed[TAG:])


def _claimed(claim: NormClaim, challenge: bytes, values: Field) -> tuple[NDArray[np.int64], int]:
    y = field.decode(project(challenge, claim.projections, [values])[0])
    length = math.hypot(*y.tolist())
    y = np.trunc(y * min(1, math.sqrt(claim.threshold) / max(length, 1))).astype(np.int64)
    return y, max(claim.threshold - sum(v * v for v in y.tolist()), 0)


def simulate(
    session: Session, claim: NormClaim, vectors: Mapping[int, Field]
) -> tuple[Field | None, tuple[int, ...], int]:
    """A whole proved sum, from shares to verdicts to the sum of those who are believed.

    Args:
        vectors: (d,) over the field, by node; a longer one than claimed is a ``Cheater``'s.

    Returns:
        (d,) the sum, or None of fewer nodes than the session's minimum; the nodes that both
        accepted, ascending; the bytes of shares, proofs and the sum.
    """
    server, helper = Server(session), Helper(session)
    provers = {node: _prover(session, claim, node, values) for node, values in vectors.items()}
    for node, prover in provers.items():
        server.receive(node, prover.upload)
        helper.receive(node, prover.seed)
    sent = sum(len(prover.upload) + len(prover.seed) for prover in provers.values())
    one, other = Verifier(claim, server), Verifier(claim, helper)
    challenge = _tossed(one.fix_uploads(vectors), other.fix_uploads(vectors))
    for side in (one, other):
        side.project(vectors, challenge)
    for node, prover in provers.items():
        try:
            proof = prover.prove(challenge)
        except UnluckyError:
            continue
        one.receive(node, proof)
        sent += len(proof)
    query = _tossed(one.fix_proofs(one.proved), other.fix_proofs(one.proved))
    nodes = accepted(one.query(query), other.query(query))
    if len(nodes) < session.minimum:
        return None, tuple(nodes), sent
    answer = helper.answer(nodes)
    return server.finish(nodes, answer), tuple(nodes), sent + len(answer)


def _prover(session: Session, claim: NormClaim, node: int, values: Field) -> Prover | Cheater:
    try:
        return Prover(session, claim, node, values)
    except InputError:
        return Cheater(session, claim, node, values)


def simulate_committed(
    claim: NormClaim,
    vectors: Mapping[int, NDArray[np.int64]],
    blindings: Mapping[int, int],
    commitments: Mapping[int, bytes],
    binding: bytes,
) -> tuple[list[int], int]:
    """Proofs of all nodes to one server, about their commitments.

    Args:
        vectors: (d,) signed, by node; about a longer one than claimed a node lies.
        blindings, commitments: by node, as ``commitment.commit`` had and made them.
        binding: 32 bytes that name the experiment, its model and the round.

    Returns:
        The nodes that the server accepts, ascending, and the bytes of the proofs.
    """
    from tacit.protection.proof import committed

    nodes, sent = [], 0
    for node, vector in sorted(vectors.items()):
        context, seed = sha256(binding + node.to_bytes(4, "little")).digest(), os.urandom(32)
        blinding, commitment = blindings[node], commitments[node]
        try:
            proof = committed.prove(claim, vector, blinding, commitment, context, seed)
        except UnluckyError:
            continue
        except InputError:
            y, gap = _claimed(claim, seed, field.encode(vector))
            proof = committed.seal(
                claim, vector, blinding, commitment, context, seed, y.tolist(), gap
            )
        sent += len(proof)
        if committed.holds(claim, len(vector), commitment, context, seed, proof):
            nodes.append(node)
    return nodes, sent


def _tossed(one: Toss, other: Toss) -> bytes:
    coin = other.reveal(one.commitment)
    one.reveal(other.commitment)
    return one.result(coin)
