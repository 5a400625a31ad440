"""The secure sums of a run: every party's part of the protocol, in this process."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tacit.protection import (
    HomomorphicEncryption,
    SecretSharing,
    SecureAggregation,
    ThresholdEncryption,
)
from tacit.protection.codec import Codec, SumError
from tacit.protection.guard import COMPLETE, Guard

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tacit.protection.secagg.masks import Mask
    from tacit.protection.secagg.session import Session

Vectors = Mapping[int, NDArray[np.unsignedinteger]]
Heard = Callable[[int, NDArray[np.unsignedinteger]], None]


@dataclass(frozen=True)
class Opened:
    """What comes of a secure sum.

    Attributes:
        total: (length,) integers of the codec; None where too few nodes are left.
        nodes: whose sum it is, ascending.
        bytes: of all messages that carry vectors, shares, proofs or sums of them, up and, where
            nodes are sent the sum, down; keys, coins and lists of nodes come on top.
        behind: of masked vectors, their sum with all that rode along, as it was opened.
        masks: that were taken out of it.
    """

    total: NDArray[np.unsignedinteger] | None
    nodes: tuple[int, ...]
    bytes: int
    behind: NDArray[np.unsignedinteger] | None = None
    masks: tuple["Mask", ...] = field(default=(), repr=False)


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
    start: bytes = field(repr=False)
    sums: int

    @property
    def model(self) -> bytes:
        return hashlib.sha256(self.sums.to_bytes(8, "little") + self.start).digest()

    @property
    def named(self) -> bytes:
        """Experiment and model as one name."""
        return hashlib.sha256(self.experiment + self.model).digest()


def secure_sum(
    guard: Guard, codec: Codec, binding: Binding, vectors: Vectors, heard: Heard | None = None
) -> Opened:
    """The sum of (length,) integers of the codec, by the kind that the guard asks for.

    Args:
        heard: is told what each node sends behind its masks.

    Raises:
        Aborted: the protocol ended without a sum.
        SumError: one that passes the codec's integers.
    """
    if guard.commits:
        return _verified(guard, codec, binding, vectors, heard)
    return _opened(guard, codec, binding, vectors, heard)


def _verified(
    guard: Guard, codec: Codec, binding: Binding, vectors: Vectors, heard: Heard | None
) -> Opened:
    """Of vectors with blindings, checked against the commitments of those who are in the sum."""
    from tacit.protection.proof.commitment import (
        blinding,
        commit,
        coordinates,
        sum_holds,
        summed_blinding,
    )  # fmt: skip
    from tacit.protection.proof.simulate import simulate_committed

    signed = {node: _signed(vector) for node, vector in vectors.items()}
    blindings = {node: blinding() for node in vectors}
    commitments = {node: commit(signed[node], blindings[node]) for node in vectors}
    nodes, sent = sorted(vectors), sum(map(len, commitments.values()))
    if guard.proof and isinstance(guard.secure, SecureAggregation):
        name, claim = binding.named, guard.claim(codec)
        nodes, proofs = simulate_committed(claim, signed, blindings, commitments, name)
        sent += proofs
        if len(nodes) < guard.threshold:
            return Opened(None, tuple(nodes), sent)
    blinded = {
        node: np.append(vectors[node], coordinates(blindings[node]).astype(codec.dtype))
        for node in nodes
    }
    opened = _opened(guard, codec, binding, blinded, heard)
    if opened.total is None:
        return replace(opened, bytes=opened.bytes + sent)
    total, limbs = np.split(opened.total, [codec.length])
    held = [commitments[node] for node in opened.nodes]
    if not sum_holds(held, _signed(total), summed_blinding(limbs)):
        raise SumError("the sum is not that of the vectors that the nodes have committed to")
    return replace(opened, total=total, bytes=opened.bytes + sent)


def _opened(
    guard: Guard, codec: Codec, binding: Binding, vectors: Vectors, heard: Heard | None
) -> Opened:
    match guard.secure:
        case SecureAggregation():
            return _masked(guard, codec, binding, vectors, heard)
        case SecretSharing() if guard.proof:
            return _proved(guard, codec, binding, vectors)
        case SecretSharing():
            return _shared(guard, codec, binding, vectors)
        case ThresholdEncryption():
            return _jointly_encrypted(guard, codec, binding, vectors)
        case HomomorphicEncryption():
            return _encrypted(guard, codec, binding, vectors)
    raise AssertionError("no secure sum is asked for")


def _masked(
    guard: Guard, codec: Codec, binding: Binding, vectors: Vectors, heard: Heard | None
) -> Opened:
    from tacit.protection.secagg.messages import Kind, Reader
    from tacit.protection.secagg.simulate import simulate

    session = masking(guard, codec, binding, vectors, _length(vectors))

    def listen(node: int, message: bytes) -> None:
        if heard is not None:
            sent = Reader(session, Kind.MASKED, node, message).take(
                session.length * session.dtype.itemsize
            )
            heard(node, np.frombuffer(sent, session.dtype.newbyteorder("<")))

    masks = list["Mask"]()
    total, survivors = simulate(
        session, _identities(vectors), vectors, heard=listen, recovered=masks.extend
    )
    sent = sum(vector.nbytes for vector in vectors.values())
    return Opened(total, survivors, sent, total, tuple(masks))


def _jointly_encrypted(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    from tacit.protection.encryption.messages import scheme
    from tacit.protection.encryption.simulate import simulate

    session = _session(guard, codec, binding, vectors, _length(vectors))
    total, survivors = simulate(session, _identities(vectors), vectors)
    sent = len(vectors) * scheme(session).ciphertext_bytes(session.length)
    return Opened(total, survivors, sent)


def _encrypted(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    from tacit.protection.encryption.ckks import ciphertext_bytes, simulate

    session = _session(guard, codec, binding, vectors, _length(vectors))
    # CKKS adds real numbers; the sums are exact to far less than a step of the codec.
    numbers = {node: _signed(vector) / codec.scale for node, vector in vectors.items()}
    limit = codec.limit / codec.scale
    total, survivors = simulate(session, _identities(vectors), numbers, limit=limit)
    whole = np.rint(total * codec.scale).astype(np.int64).astype(codec.dtype)
    return Opened(whole, survivors, 2 * len(vectors) * ciphertext_bytes(session.length))


def masking(
    guard: Guard, codec: Codec, binding: Binding, nodes: Collection[int], length: int
) -> "Session":
    """What the parties of a sum behind masks, or under a joint key, agree on.

    Args:
        nodes: whose vectors it is to be the sum of.
        length: of these.

    Raises:
        InputError: fewer nodes than the guard asks for.
    """
    from tacit.protection.secagg.neighbours import degree

    session = _session(guard, codec, binding, nodes, length)
    if len(nodes) <= COMPLETE or not isinstance(guard.secure, SecureAggregation):
        return session
    neighbours, threshold = degree(len(nodes))
    return replace(session, degree=neighbours, threshold=threshold)


def _session(
    guard: Guard, codec: Codec, binding: Binding, nodes: Collection[int], length: int
) -> "Session":
    from tacit.protection.secagg.session import Session

    return Session(
        binding.experiment, binding.model, binding.round, tuple(sorted(nodes)),
        max(guard.threshold, len(nodes) // 2 + 1), length, codec.dtype, guard.threshold,
    )  # fmt: skip


def _identities(nodes: Iterable[int]) -> dict[int, "Ed25519PrivateKey"]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return {node: Ed25519PrivateKey.generate() for node in nodes}


def _shared(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    from tacit.protection.sharing import Session, simulate

    length = _length(vectors)
    session = Session(binding.named, binding.round, length, 2**codec.bits, guard.threshold)
    total, sent = simulate(session, vectors)
    return Opened(total, tuple(sorted(vectors)), sent)


def _proved(guard: Guard, codec: Codec, binding: Binding, vectors: Vectors) -> Opened:
    from tacit.protection.proof import field as prime
    from tacit.protection.proof.simulate import simulate
    from tacit.protection.sharing import Session

    session = Session(binding.named, binding.round, _length(vectors), prime.P, guard.threshold)
    elements = {node: prime.encode(_signed(vector)) for node, vector in vectors.items()}
    total, nodes, sent = simulate(session, guard.claim(codec), elements)
    if total is None:
        return Opened(None, nodes, sent)
    signed = prime.decode(total)
    narrow = signed.astype(codec.dtype)
    if (_signed(narrow) != signed).any():
        raise SumError(f"the sum of {len(nodes)} nodes does not fit {codec.bits} bits")
    return Opened(narrow, nodes, sent)


def _signed(vector: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    return vector.view(f"int{8 * vector.itemsize}").astype(np.int64)


def _length(vectors: Vectors) -> int:
    return len(next(iter(vectors.values())))
