"""The secure sums of a run: every party's part of the protocol, in this process."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.protection import SecretSharing, SecureAggregation
from tacit.protection.codec import Codec, SumError
from tacit.protection.guard import COMPLETE, Guard

Vectors = Mapping[int, NDArray[np.unsignedinteger]]


@dataclass(frozen=True)
class Opened:
    """What comes of a secure sum.

    Attributes:
        total: (length,) integers of the codec; None where too few nodes are left.
        nodes: whose sum it is, ascending.
        bytes: of all messages that carry vectors, shares, proofs or sums; keys, coins and lists of
            nodes come on top.
    """

    total: NDArray[np.unsignedinteger] | None
    nodes: tuple[int, ...]
    bytes: int


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

    @property
    def named(self) -> bytes:
        """Experiment and model as one name."""
        return hashlib.sha256(self.experiment + self.model).digest()


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
    identities = {node: Ed25519PrivateKey.generate() for node in vectors}
    total, survivors = simulate(session, identities, vectors)
    return Opened(total, survivors, sum(vector.nbytes for vector in vectors.values()))


def _shared(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    from tacit.protection.sharing import Session, simulate

    if guard.proof:
        return _proved(guard, codec, binding, vectors)
    session = Session(binding.named, binding.round, codec.length, 2**codec.bits, guard.threshold)
    total, sent = simulate(session, vectors)
    return Opened(total, tuple(sorted(vectors)), sent)


def _proved(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    from tacit.protection.proof import field
    from tacit.protection.proof.simulate import simulate
    from tacit.protection.sharing import Session

    session = Session(binding.named, binding.round, codec.length, field.P, guard.threshold)
    elements = {node: field.encode(_signed(vector)) for node, vector in vectors.items()}
    total, nodes, sent = simulate(session, guard.claim(codec), elements)
    if total is None:
        return Opened(None, nodes, sent)
    signed = field.decode(total)
    narrow = signed.astype(codec.dtype)
    if (_signed(narrow) != signed).any():
        raise SumError(f"the sum of {len(nodes)} nodes does not fit {codec.bits} bits")
    return Opened(narrow, nodes, sent)


def _signed(vector: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    return vector.view(f"int{8 * vector.itemsize}").astype(np.int64)
