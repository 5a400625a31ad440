"""The two aggregators' side: joint coins, projected shares, and 24 bytes a node exchanged.

Order of a round: uploads are taken and the set fixed; the projections' seed is tossed; the nodes
send proofs; the set of proofs is fixed; the query is tossed; each aggregator sends its share of
f(r), of f^2(r) and of a random combination of all linear checks; the two add up to u, v, w, and the
node is accepted if u^2 = v and w = 0. No challenge exists before what it challenges is fixed, hence
nothing can be ground.

Soundness, both aggregators honest: a wrong square passes at 2 N - 1 points r of p - N, a wrong
linear check with 1 / p: together below 2^-47 (N <= 2^15), beside the claim's own error and 2^-k of
the wrap-around lemma. Zero knowledge towards one of them: its shares are uniform; u is, by the mask
z_0, whose coefficient at r is not 0 as r^N != 1; v and w follow. A second query of the same proof
would cancel the mask: each step is done once. Trust: they do not collude.
"""

import hmac
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from tacit.errors import MessageError
from tacit.protection.proof import field
from tacit.protection.proof.field import Field
from tacit.protection.proof.node import Layout
from tacit.protection.proof.projection import NormClaim, project
from tacit.protection.sharing import TAG, Helper, Server, Session, expand, parse

# Shares that are projected with one drawing of the matrix.
_TOGETHER = 16


class Toss:
    """One side of a coin toss by commitment and opening (Blum 1983), over a set of nodes.

    Each side sends ``commitment``, then ``reveal(the other's)``, then both have
    ``result(the other's coin)``: uniform if one of them is honest. A toss about another set of
    nodes, session or purpose does not open.
    """

    def __init__(self, session: Session, role: str, purpose: str, nodes: Collection[int]) -> None:
        self._coin = os.urandom(32)
        self._roles = ("server", "helper") if role == "server" else ("helper", "server")
        self._about = session.bind(f"toss {purpose}", *sorted(nodes))
        self._theirs: bytes | None = None

    def _commit(self, role: str, coin: bytes) -> bytes:
        return blake2b(coin + self._about + role.encode(), digest_size=32).digest()

    @property
    def commitment(self) -> bytes:
        return self._commit(self._roles[0], self._coin)

    def reveal(self, theirs: bytes) -> bytes:
        """The own coin, once the other's commitment is known; MessageError if it changes."""
        if self._theirs not in (None, theirs):
            raise MessageError("the other side's commitment changed")
        self._theirs = theirs
        return self._coin

    def result(self, coin: bytes) -> bytes:
        """32 bytes that both sides share; MessageError unless the coin opens the commitment."""
        opened = len(coin) == 32 and self._commit(self._roles[1], coin)
        if self._theirs is None or not opened or not hmac.compare_digest(opened, self._theirs):
            raise MessageError("the other side's coin does not open its commitment to this set")
        coins = {self._roles[0]: self._coin, self._roles[1]: coin}
        return blake2b(coins["server"] + coins["helper"] + self._about, digest_size=32).digest()


@dataclass(frozen=True)
class Queries:
    """The randomness of one node's check: a point r, and coefficients of the linear checks."""

    point: int
    bits: Field
    ranges: Field
    squares: np.uint64

    @staticmethod
    def of(seed: bytes, session: Session, claim: NormClaim, node: int) -> "Queries":
        count = Layout(claim).gap.stop - 1
        drawn = expand(
            seed, session.bind("query", node), 4 + count + claim.projections + 1, field.P
        )
        # All four fail with probability below 2^-180.
        size = Layout(claim).size
        point = next(int(r) for r in drawn[:4] if pow(int(r), size, field.P) != 1)
        return Queries(point, drawn[4 : 4 + count], drawn[4 + count : -1], drawn[-1])


class Verifier:
    """One aggregator's part in checking one claim about every node of a session."""

    def __init__(self, claim: NormClaim, receiver: Server | Helper) -> None:
        claim.check(receiver.session)
        self.claim, self.receiver, self.session = claim, receiver, receiver.session
        self.layout = Layout(claim)
        self._projected: dict[int, Field] = {}
        self._proofs: dict[int, bytes] = {}
        self._fixed: list[int] | None = None
        self._queried = False

    def fix_uploads(self, nodes: Collection[int]) -> Toss:
        """No upload is taken any more; the one toss of the projections' seed over these nodes."""
        if self.receiver.closed:
            raise MessageError("the uploads are fixed once")
        self.receiver.closed = True
        if missing := set(nodes) - set(self.receiver.nodes):
            raise MessageError(f"nothing came from nodes {sorted(missing)}")
        return Toss(self.session, self.receiver.role, "projections", nodes)

    def project(self, nodes: Collection[int], seed: bytes) -> None:
        """Project the shares of these nodes, once their uploads are fixed."""
        if not self.receiver.closed or self._projected:
            raise MessageError("projected once, after the uploads are fixed")
        chosen = sorted(nodes)
        for start in range(0, len(chosen), _TOGETHER):
            group = chosen[start : start + _TOGETHER]
            shares = [self.receiver.share(node) for node in group]
            found = project(seed, self.claim.projections, shares)
            self._projected |= dict(zip(group, found, strict=True))

    def receive(self, node: int, message: bytes) -> None:
        """Take a node's proof (the server); MessageError if late, doubled, misplaced, malformed."""
        if self._fixed is not None or node not in self._projected or node in self._proofs:
            raise MessageError(f"no proof of node {node} is awaited")
        if not hmac.compare_digest(message[:TAG], self.session.bind("proof", node)):
            raise MessageError(f"the proof is not node {node}'s of this round")
        parse(message[TAG:], self.layout.proof, field.P)
        self._proofs[node] = message[TAG:]

    @property
    def proved(self) -> list[int]:
        """Whose proofs the server took, in ascending order."""
        return sorted(self._proofs)

    def fix_proofs(self, nodes: Collection[int]) -> Toss:
        """No proof is taken any more; the one toss of the query over these nodes."""
        if self._fixed is not None:
            raise MessageError("the proofs are fixed once")
        self._fixed = sorted(nodes)
        held = self._proofs if isinstance(self.receiver, Server) else self._projected
        if missing := set(nodes) - held.keys():
            raise MessageError(f"nothing came from nodes {sorted(missing)}")
        return Toss(self.session, self.receiver.role, "query", nodes)

    def query(self, seed: bytes) -> dict[int, bytes]:
        """For each node, this side's shares of u, v, w: to the other aggregator."""
        if self._fixed is None or self._queried:
            raise MessageError("queried once, after the proofs are fixed")
        self._queried = True
        return {node: self._answer(node, seed) for node in self._fixed}

    def _answer(self, node: int, seed: bytes) -> bytes:
        layout, claim, session = self.layout, self.claim, self.session
        query = Queries.of(seed, session, claim, node)
        if isinstance(self.receiver, Helper):
            context = session.bind("proof share", node)
            proof = expand(self.receiver.seed(node), context, layout.proof, field.P)
        else:
            proof = parse(self._proofs[node], layout.proof, field.P)
        z = np.zeros(layout.size, np.uint64)
        z[: layout.gap.stop] = proof[: layout.gap.stop]
        z[layout.projections] = self._projected[node]
        squares = proof[layout.gap.stop :]
        u = field.dot(field.transform(z, inverse=True), field.powers(query.point, layout.size))
        v = field.dot(
            field.transform(squares, inverse=True), field.powers(query.point, 2 * layout.size)
        )
        return np.array([u, v, self._linear(query, z, squares[::2])]).astype("<u8").tobytes()

    def _linear(self, query: Queries, z: Field, squares: Field) -> Field:
        """This side's share of the combination of: bits are 0 or 1; they make up y; sum(y^2)."""
        layout, claim = self.layout, self.claim
        known = isinstance(self.receiver, Server)  # Constants are added on one side.
        limit = np.uint64(claim.limit if known else 0)
        threshold = np.uint64(claim.threshold if known else 0)
        weights = field.powers(2, max(claim.bits, claim.gap_bits))
        both = slice(layout.ranges.start, layout.gap.stop)
        boolean = field.dot(query.bits, field.subtract(squares[both], z[both]))
        digits = z[layout.ranges].reshape(claim.projections, claim.bits)
        made = field.dot(digits, weights[: claim.bits])
        shifted = field.add(z[layout.projections], limit)
        ranges = field.dot(query.ranges, field.subtract(shifted, made))
        spent = field.add(
            field.total(squares[layout.projections]),
            field.dot(z[layout.gap], weights[: claim.gap_bits]),
        )
        norm = field.multiply(query.squares, field.subtract(spent, threshold))
        return field.add(field.add(boolean, ranges), norm)


def accepted(own: Mapping[int, bytes], theirs: Mapping[int, bytes]) -> list[int]:
    """The nodes whose u^2 = v and w = 0 by both sides' answers; malformed ones are refused."""
    return [node for node in sorted(own.keys() & theirs.keys()) if _holds(own[node], theirs[node])]


def _holds(own: bytes, theirs: bytes) -> bool:
    try:
        u, v, w = field.add(parse(own, 3, field.P), parse(theirs, 3, field.P))
    except MessageError:
        return False
    return bool(field.multiply(u, u) == v and w == 0)
