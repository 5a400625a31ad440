"""The secure sums of a run: every party's part of the protocol, in this process."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.protection import SecretSharing, SecureAggregation
from tacit.protection.codec import Codec, SumError
from tacit.protection.guard import COMPLETE, Guard

Vectors = Mapping[int, NDArray[np.unsignedinteger]]
# The sum, and whose it is; no sum where too few are left.
Opened = tuple[NDArray[np.unsignedinteger] | None, tuple[int, ...]]


@dataclass(frozen=True)
class Binding:
    """What the keys, shares and messages of one sum are bound to, beside its cohort.

    Attributes:
        experiment: its 32-byte digest.
        round: from 0.
        start: the model that the nodes received in this round, as bytes; nobody's masks cancel
            against those of a node that received another. Empty between peers.
        sums: how many sums the round had before this one.
    """

    experiment: bytes
    round: int
    start: bytes
    sums: int

    @property
    def model(self) -> bytes:
        return hashlib.sha256(self.sums.to_bytes(8, "little") + self.start).digest()


def secure_sum(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    """The sum of (length,) integers of the codec, by the kind that the guard asks for.

    Raises:
        Aborted: the protocol ended without a sum.
        SumError: one that passes the codec's integers.
    """
    match guard.secure:
        case SecureAggregation():
            return _masked(guard, codec, binding, vectors)
        case SecretSharing():
            return _shared(guard, codec, binding, vectors)
        case None:
            raise AssertionError("no secure sum is asked for")


def _masked(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tacit.protection.secagg.neighbours import degree
    from tacit.protection.secagg.session import Session
    from tacit.protection.secagg.simulate import simulate

    n = len(vectors)
    neighbours, threshold = None, max(guard.threshold, n // 2 + 1)
    if n > COMPLETE:
        neighbours, threshold = degree(n)
    session = Session(
        binding.experiment, binding.model, binding.round, tuple(sorted(vectors)), threshold,
        codec.length, codec.dtype, guard.threshold, neighbours,
    )  # fmt: skip
    return simulate(session, {node: Ed25519PrivateKey.generate() for node in vectors}, vectors)


def _shared(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    from tacit.protection.proof import field, simulate
    from tacit.protection.sharing import Helper, Server, Session, split

    modulus = field.P if guard.proof else 2**codec.bits
    named = hashlib.sha256(binding.experiment + binding.model).digest()
    session = Session(named, binding.round, codec.length, modulus, guard.threshold)
    if guard.proof is None:
        server, helper = Server(session), Helper(session)
        for node, vector in vectors.items():
            for receiver, message in zip((server, helper), split(session, node, vector), strict=True):
                receiver.receive(node, message)
        nodes = server.nodes
        return server.finish(nodes, helper.answer(nodes)), tuple(nodes)
    signed = {node: _signed(vector, codec) for node, vector in vectors.items()}
    elements = {node: field.encode(vector) for node, vector in signed.items()}
    server, helper, nodes = simulate.simulate(session, guard.claim(codec), elements)
    if len(nodes) < guard.threshold:
        return None, tuple(nodes)
    total = field.decode(server.finish(nodes, helper.answer(nodes)))
    narrow = total.astype(codec.dtype)
    if (_signed(narrow, codec) != total).any():
        raise SumError(f"the sum of {len(nodes)} nodes does not fit {codec.bits} bits")
    return narrow, tuple(nodes)


def _signed(vector: NDArray[Any], codec: Codec) -> NDArray[np.int64]:
    return vector.view(f"int{codec.bits}").astype(np.int64)
