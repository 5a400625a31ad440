"""What each kind of secure sum says in its stages: one table a kind, which ``sums`` carries out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from tacit.errors import MessageError
from tacit.network.decoding import from_msgpack
from tacit.network.protocol import Stage
from tacit.protection import ThresholdEncryption
from tacit.protection.codec import SumError
from tacit.protection.encryption import node as encrypting
from tacit.protection.encryption import receiver as decrypting
from tacit.protection.guard import Guard
from tacit.protection.secagg.messages import advert_size
from tacit.protection.secagg.node import Node, Signer
from tacit.protection.secagg.receiver import Receiver
from tacit.protection.secagg.session import Aborted, Session

Vector = NDArray[np.unsignedinteger]
Keys = Mapping[int, Ed25519PublicKey]
# A node's message of a stage, of the receiver's message to it and what it hides.
Answers = Callable[[Any, bytes, Callable[[], Vector]], bytes]
# What the receiver makes of a stage: the next one's messages; after the last, the sum and of whom.
Advances = Callable[[Any, Mapping[int, bytes]], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of secure sum.

    Attributes:
        node: a node's part, of the session, its number, its long-term key and everybody's.
        receiver: the receiver's, of the session and everybody's long-term keys.
        stages: in order, what either makes of them.
        adds: the stage whose messages the receiver takes one by one as they come.
        opens: the stage with whose answer a node helps to open the sum.
        up, down: bytes of the largest message of a node, and to one.
        more: numbers that a node hides beside its vector.
    """

    node: Callable[[Session, int, Signer, Keys], Any]
    receiver: Callable[[Session, Keys], Any]
    stages: Mapping[Stage, tuple[Answers, Advances]]
    adds: Stage
    opens: Stage
    up: Callable[[Session], int]
    down: Callable[[Session], int]
    more: int = 0

    @property
    def first(self) -> Stage:
        return next(iter(self.stages))

    def after(self, stage: Stage) -> Stage | None:
        """The next stage; None after the last."""
        names = [*self.stages, None]
        return names[names.index(stage) + 1]


def kind_of(guard: Guard) -> Kind:
    """By what a guard asks for."""
    if guard.verify:
        return COMMITTED
    return ENCRYPTION if isinstance(guard.secure, ThresholdEncryption) else MASKS


def _vectors(session: Session) -> int:
    return 1024 + session.length * session.dtype.itemsize + 128 * len(session.nodes)


def _adverts(session: Session) -> int:
    return 1024 + len(session.nodes) * (advert_size(session) + 4)


MASKS = Kind(
    Node,
    Receiver,
    {
        "advertise": (lambda node, _, __: node.advertise(), Receiver.keys),
        "share": (lambda node, said, _: node.share(said), Receiver.deliver),
        "mask": (
            lambda node, said, vector: node.mask(said, vector()),
            lambda receiver, _: receiver.survivors(),
        ),
        "consent": (lambda node, said, _: node.consent(said), Receiver.request),
        "unmask": (lambda node, said, _: node.unmask(said), Receiver.sum),
    },
    adds="mask",
    opens="unmask",
    up=_vectors,
    down=_adverts,
)


def _ciphertexts(session: Session) -> int:
    """Of one node, or its part of the key, which is sent twice."""
    from tacit.protection.encryption.messages import scheme

    return 4096 + scheme(session).ciphertext_bytes(session.length) + 128 * len(session.nodes)


def _uploads(receiver: decrypting.Receiver) -> dict[int, bytes]:
    uploads = receiver.uploads()
    packed = msgspec.msgpack.encode(list(uploads.items()))
    return dict.fromkeys(uploads, packed)


def _decrypt(node: encrypting.Node, said: bytes) -> bytes:
    try:
        return node.decrypt(from_msgpack(said, list[tuple[int, bytes]]))
    except msgspec.MsgspecError:
        raise Aborted("these are no ciphertexts") from None


ENCRYPTION = Kind(
    encrypting.Node,
    decrypting.Receiver,
    {
        "advertise": (lambda node, _, __: node.advertise(), decrypting.Receiver.keys),
        "share": (lambda node, said, _: node.share(said), decrypting.Receiver.deliver),
        "commit": (
            lambda node, said, vector: node.commit(said, vector()),
            decrypting.Receiver.commits,
        ),
        "upload": (
            lambda node, said, _: node.upload(said),
            lambda receiver, _: _uploads(receiver),
        ),
        "decrypt": (lambda node, said, _: _decrypt(node, said), decrypting.Receiver.request),
        "rebuild": (lambda node, said, _: node.rebuild(said), decrypting.Receiver.sum),
    },
    adds="upload",
    opens="decrypt",
    up=_ciphertexts,
    down=lambda session: (len(session.nodes) + 1) * _ciphertexts(session),
)


# Of ``proof.commitment``, which takes an extra to import.
_LIMBS = 16


class Committing(Node):
    """A node behind masks that commits to what it hides, before it knows anybody's key."""

    _vector: Vector | None = None

    def pledge(self, vector: Vector) -> bytes:
        """The commitment to my vector; behind the masks its blinding comes after it."""
        from tacit.protection.proof.commitment import blinding, commit, coordinates

        if self._vector is not None:
            raise Aborted("this node is committed to a vector")
        drawn = blinding()
        self._vector = np.append(vector, coordinates(drawn).astype(vector.dtype))
        return commit(_signed(vector), drawn)

    def mask_pledged(self, message: bytes) -> bytes:
        """As ``mask``, of what I am committed to."""
        if self._vector is None:
            raise Aborted("this node is committed to no vector")
        return self.mask(message, self._vector)


class Checking(Receiver):
    """A receiver that opens no other sum than that of the vectors that nodes are committed to."""

    def pledged(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """From ``Committing.pledge``: there is nothing to say to those who have sent one."""
        from tacit.protection.proof import group

        self._pledges = {}
        for node, message in messages.items():
            try:
                group.parse(message)
            except MessageError:
                continue
            self._pledges[node] = message
        if len(self._pledges) < self.session.fewest:
            raise Aborted(f"{len(self._pledges)} nodes are committed to a vector")
        return dict.fromkeys(self._pledges, b"")

    def checked(self, messages: Mapping[int, bytes]) -> tuple[Vector, tuple[int, ...]]:
        """As ``sum``, without the blindings.

        Raises:
            SumError: a node hid another vector, and nobody can tell which.
        """
        from tacit.protection.proof.commitment import sum_holds, summed_blinding

        opened, nodes = self.sum(messages)
        total, limbs = np.split(opened, [-_LIMBS])
        held = [self._pledges[node] for node in nodes]
        if not sum_holds(held, _signed(total), summed_blinding(limbs)):
            raise SumError("the sum is not that of the vectors that the nodes have committed to")
        return total, nodes


def _signed(vector: Vector) -> NDArray[np.int64]:
    return vector.view(f"int{8 * vector.itemsize}").astype(np.int64)


COMMITTED = replace(
    MASKS,
    node=Committing,
    receiver=Checking,
    more=_LIMBS,
    stages={
        "pledge": (lambda node, _, vector: node.pledge(vector()), Checking.pledged),
        **MASKS.stages,
        "mask": (lambda node, said, _: node.mask_pledged(said), MASKS.stages["mask"][1]),
        "unmask": (MASKS.stages["unmask"][0], Checking.checked),
    },
)
