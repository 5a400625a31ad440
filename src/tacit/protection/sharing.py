"""Additive sharing of a vector between a server and a helper that do not collude.

A node sends ``values - PRG(seed)`` to the server and the 32-byte seed to the helper. Over one and
the same set of nodes the server sums what it holds, the helper sums what the seeds expand to, and
the two sums add up to the sum of the values. Each receiver alone sees only uniform values (the
server computationally, by AES; the helper perfectly: its seeds do not depend on them). Neither
detects a false sum of the other. Whoever sends a message is authenticated by the transport.

Source: Boyle, Gilboa, Ishai, "Function secret sharing: improvements and extensions", 2016, and
Corrigan-Gibbs and Boneh, "Prio", NSDI 2017 (share compression by a PRG).
"""

import hmac
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import CipherContext
from numpy.typing import NDArray

from tacit.errors import MessageError, require
from tacit.protection.keystream import start, words
from tacit.protection.proof import field

Values = NDArray[Any]
SEED = 32
TAG = 32
_DTYPES: dict[int, np.dtype[Any]] = {
    2**32: np.dtype("<u4"),
    2**64: np.dtype("<u8"),
    field.P: np.dtype("<u8"),
}


@dataclass(frozen=True)
class Session:
    """What every party of one round knows; each message and keystream is bound to it.

    Attributes:
        experiment: 32 bytes that name the experiment (its hash).
        round: at least 0.
        dimension: d, at least 1; of what each node shares, weight included.
        modulus: 2^32, 2^64, or the prime of ``proof.field`` where the norm is proved.
        minimum: fewest nodes in a sum, at least 2.
    """

    experiment: bytes
    round: int
    dimension: int
    modulus: int
    minimum: int

    def __post_init__(self) -> None:
        require(len(self.experiment) == 32, "experiment", len(self.experiment), "32 bytes")
        require(0 <= self.round < 2**32, "round", self.round, "0 to 2^32 - 1")
        require(0 < self.dimension < 2**32, "dimension", self.dimension, "1 to 2^32 - 1")
        require(self.modulus in _DTYPES, "modulus", self.modulus, "2^32, 2^64 or field.P")
        require(2 <= self.minimum < 2**32, "minimum", self.minimum, "2 to 2^32 - 1")

    @property
    def dtype(self) -> np.dtype[Any]:
        return _DTYPES[self.modulus]

    def bind(self, purpose: str, *parts: int) -> bytes:
        """32 bytes that no other purpose, parts or session have."""
        text = [purpose, self.round, self.dimension, self.modulus, self.minimum, *parts]
        return blake2b(repr(text).encode(), digest_size=TAG, key=self.experiment).digest()

    def add(self, a: Values, b: Values) -> Values:
        return field.add(a, b) if self.modulus == field.P else a + b

    def subtract(self, a: Values, b: Values) -> Values:
        return field.subtract(a, b) if self.modulus == field.P else a - b

    def parse(self, payload: bytes) -> Values:
        """(d,) values of a payload; MessageError unless it has exactly their length and range."""
        return parse(payload, self.dimension, self.modulus)

    def expand(self, seed: bytes, node: int) -> Values:
        """(d,) the helper's share of a node."""
        return expand(seed, self.bind("share", node), self.dimension, self.modulus)


def parse(payload: bytes, count: int, modulus: int) -> Values:
    """(count,) values; MessageError unless the payload has exactly their length and range."""
    if len(payload) != count * _DTYPES[modulus].itemsize:
        raise MessageError(f"{len(payload)} bytes do not hold {count} values")
    values = np.frombuffer(payload, _DTYPES[modulus])
    if modulus == field.P and bool((values >= field.P).any()):
        raise MessageError("a value is outside the field")
    return values


def keystream(seed: bytes, context: bytes) -> CipherContext:
    """AES-256-CTR; the key is BLAKE2b of the context keyed by the seed, one stream a context."""
    key = blake2b(context, digest_size=32, key=seed).digest()
    return start(key)


def expand(seed: bytes, context: bytes, count: int, modulus: int) -> Values:
    """(count,) values, uniform below the modulus, of an AES-256-CTR keystream.

    Words that the field does not have are passed over, as in Prio3's XOF (draft-irtf-cfrg-vdaf,
    section 6.2): no bias.
    """
    stream = keystream(seed, context)
    dtype = _DTYPES[modulus]
    values = words(stream, count, dtype)
    while modulus == field.P and (values >= field.P).any():
        values = values[values < field.P]
        values = np.concatenate([values, words(stream, count - len(values), dtype)])
    return values


def split(session: Session, node: int, values: Values) -> tuple[bytes, bytes]:
    """A node's two messages: to the server (tag and masked values) and to the helper (tag, seed).

    Args:
        node: its number, 0 to 2^32 - 1.
        values: (d,) of the session's unsigned type, below its modulus.
    """
    require(0 <= node < 2**32, "node", node, "0 to 2^32 - 1")
    require(values.shape == (session.dimension,), "values", values.shape, f"({session.dimension},)")
    require(values.dtype == session.dtype, "values", values.dtype, f"{session.dtype}")
    seed = os.urandom(SEED)
    masked = session.subtract(values, session.expand(seed, node))
    return (
        session.bind("server", node) + masked.tobytes(),
        session.bind("helper", node) + seed,
    )


class Receiver:
    """What the server and the helper have in common: one message a node until it is closed."""

    role: str

    def __init__(self, session: Session) -> None:
        self.session = session
        self.closed = False
        self._payloads: dict[int, bytes] = {}

    @property
    def nodes(self) -> list[int]:
        """Whose messages were taken, in ascending order."""
        return sorted(self._payloads)

    def receive(self, node: int, message: bytes) -> None:
        """Take a node's message; MessageError if late, doubled, misplaced or malformed."""
        if self.closed:
            raise MessageError(f"node {node} is late: the set of nodes is fixed")
        if node in self._payloads:
            raise MessageError(f"node {node} has already sent")
        if not hmac.compare_digest(message[:TAG], self.session.bind(self.role, node)):
            raise MessageError(f"the message is not node {node}'s of this round")
        self._check(message[TAG:])
        self._payloads[node] = message[TAG:]

    def _check(self, payload: bytes) -> None:
        raise NotImplementedError

    def share(self, node: int) -> Values:
        """(d,) this receiver's share of a node."""
        raise NotImplementedError

    def _sum(self, nodes: Collection[int]) -> Values:
        """Fixes the set; MessageError unless each node is here and they are enough."""
        self.closed = True
        if len(nodes) < self.session.minimum:
            raise MessageError(f"{len(nodes)} nodes are below the minimum {self.session.minimum}")
        if missing := set(nodes) - self._payloads.keys():
            raise MessageError(f"nothing came from nodes {sorted(missing)}")
        total = np.zeros(self.session.dimension, self.session.dtype)
        for node in nodes:
            total = self.session.add(total, self.share(node))
        return total


class Server(Receiver):
    """Holds the masked values."""

    role = "server"

    def _check(self, payload: bytes) -> None:
        self.session.parse(payload)

    def share(self, node: int) -> Values:
        return self.session.parse(self._payloads[node])

    def finish(self, nodes: Collection[int], answer: bytes) -> Values:
        """(d,) the sum of the values of these nodes, with the helper's answer.

        Raises:
            MessageError: a malformed answer, one over another set, too few nodes or missing ones.
        """
        chosen = sorted(set(nodes))
        if not hmac.compare_digest(answer[:TAG], self.session.bind("sum", *chosen)):
            raise MessageError("the helper summed over another set of nodes")
        return self.session.add(self._sum(chosen), self.session.parse(answer[TAG:]))


class Helper(Receiver):
    """Holds the seeds; answers for one set a round, since the difference of two would be a node."""

    role = "helper"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._answered = False

    def _check(self, payload: bytes) -> None:
        if len(payload) != SEED:
            raise MessageError(f"{len(payload)} bytes are not a seed")

    def share(self, node: int) -> Values:
        return self.session.expand(self._payloads[node], node)

    def seed(self, node: int) -> bytes:
        """What else of this node is expanded from, under another context."""
        return self._payloads[node]

    def answer(self, nodes: Collection[int]) -> bytes:
        """The hash of the set and the sum of its expansions, once.

        Raises:
            MessageError: a second set, too few nodes or missing ones.
        """
        if self._answered:
            raise MessageError("one set a round is answered")
        chosen = sorted(set(nodes))
        total = self._sum(chosen)
        self._answered = True
        self._payloads.clear()
        return self.session.bind("sum", *chosen) + total.tobytes()


def simulate(session: Session, vectors: Mapping[int, Values]) -> tuple[Values, int]:
    """A whole shared sum in this process: (d,) of these vectors, and the bytes that were sent."""
    server, helper, sent = Server(session), Helper(session), 0
    for node, values in vectors.items():
        upload, seed = split(session, node, values)
        server.receive(node, upload)
        helper.receive(node, seed)
        sent += len(upload) + len(seed)
    answer = helper.answer(server.nodes)
    return server.finish(server.nodes, answer), sent + len(answer)
