"""Proofs of a whole cohort in this process: the nodes, server and helper that a network drives."""

import math
from collections.abc import Mapping

import numpy as np

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
        claim = self._claim
        y = field.decode(project(challenge, claim.projections, [self._values])[0])
        length = math.hypot(*y.tolist())
        y = np.trunc(y * min(1, math.sqrt(claim.threshold) / max(length, 1))).astype(np.int64)
        gap = claim.threshold - sum(v * v for v in y.tolist())
        return seal(self._session, claim, self._node, y, max(gap, 0), self.seed[TAG:])


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


def _tossed(one: Toss, other: Toss) -> bytes:
    coin = other.reveal(one.commitment)
    one.reveal(other.commitment)
    return one.result(coin)
