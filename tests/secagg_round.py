"""A secure sum that tests stop at any stage, with what the nodes are about to be sent."""

from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.protection.secagg.node import Node
from tacit.protection.secagg.receiver import Receiver
from tacit.protection.secagg.session import Session
from tacit.protection.secagg.simulate import STAGES

IDENTITIES = {node: Ed25519PrivateKey.generate() for node in range(1, 17)}
DIRECTORY = {node: key.public_key() for node, key in IDENTITIES.items()}


def session(n: int = 6, threshold: int = 4, **changed) -> Session:
    made = {
        "experiment": bytes(32),
        "model": bytes(32),
        "round": 1,
        "nodes": tuple(range(1, n + 1)),
        "threshold": threshold,
        "length": 5,
        "dtype": np.dtype(np.uint32),
        "minimum": 2,
    }
    return Session(**(made | changed))


def vectors(session: Session) -> dict[int, np.ndarray]:
    draw = np.random.default_rng(7)
    high = np.iinfo(session.dtype).max
    return {
        node: draw.integers(0, high, session.length, session.dtype, endpoint=True)
        for node in session.nodes
    }


def total(session: Session, nodes) -> np.ndarray:
    """What the sum has to be, in Python's unbounded integers."""
    given = vectors(session)
    modulus = 2 ** (8 * session.dtype.itemsize)
    columns = zip(*(given[node].tolist() for node in nodes), strict=True)
    return np.array([sum(column) % modulus for column in columns], session.dtype)


@dataclass
class Drill:
    """Nodes and a receiver; ``inbox`` is what nodes are sent next, ``outbox`` their answers."""

    session: Session
    nodes: dict[int, Node] = field(init=False)
    receiver: Receiver = field(init=False)
    inbox: dict[int, bytes] = field(init=False, default_factory=dict)
    outbox: dict[int, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.receiver = Receiver(self.session, DIRECTORY)
        self.nodes = {
            me: Node(self.session, me, IDENTITIES[me], DIRECTORY) for me in self.session.nodes
        }
        self.given = vectors(self.session)

    def call(self, stage: str, me: int, message: bytes) -> bytes:
        """One node's answer."""
        node = self.nodes[me]
        if stage == "advertise":
            return node.advertise()
        if stage == "mask":
            return node.mask(message, self.given[me])
        return getattr(node, stage)(message)

    def answer(self, stage: str) -> None:
        """Every node answers what is in the inbox."""
        self.outbox = {
            me: self.call(stage, me, self.inbox.get(me, b""))
            for me in self.nodes
            if stage == "advertise" or me in self.inbox
        }

    def receive(self, stage: str):
        """The receiver takes the outbox; after the last stage it gives the sum."""
        if stage == "mask":
            for me, message in self.outbox.items():
                self.receiver.add(me, message)
            self.inbox = self.receiver.survivors()
            return self.inbox
        call = {"advertise": "keys", "share": "deliver", "consent": "request", "unmask": "sum"}
        self.inbox = getattr(self.receiver, call[stage])(self.outbox)
        return self.inbox

    def before(self, stage: str) -> "Drill":
        """Run up to where nodes are about to enter a stage."""
        for earlier in STAGES[: STAGES.index(stage)]:
            self.answer(earlier)
            self.receive(earlier)
        return self

    def after(self, stage: str) -> "Drill":
        """Run up to where nodes have answered a stage and the receiver has not seen it."""
        self.before(stage).answer(stage)
        return self

    def finish(self, stage: str):
        """From where nodes have answered a stage to the sum and the survivors."""
        found = self.receive(stage)
        for later in STAGES[STAGES.index(stage) + 1 :]:
            self.answer(later)
            found = self.receive(later)
        return found
