"""Secure sums among real machines: the part of a site, and that of the coordinator.

A sum is one session of a kind of ``stages``. A site enters one with keys that live in its
process and nowhere else, so that a site that was killed is lost to that session.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.engine.secure_sum import Binding, Opened, masking
from tacit.experiment import Experiment
from tacit.network.blobs import Offer
from tacit.network.masked import Masked
from tacit.network.protocol import SMALL, Answer, Body, Stage
from tacit.network.stages import Kind, Vector, kind_of
from tacit.network.tensors import Tensors
from tacit.network.wire import Wire
from tacit.protection.secagg.node import Signer
from tacit.protection.secagg.session import Aborted, Session

# A member's long-term key, by its name.
KeyOf = Callable[[str], Ed25519PublicKey]


def session_of(
    experiment: Experiment, round: int, number: int, exchange: int, nodes: Sequence[int],
    state: bytes,
) -> Session:  # fmt: skip
    """What all parties agree on, each by what it knows.

    Sites whom a lying coordinator tells another state, or other row counts, from which weights
    follow, are in another session, whose masks do not cancel against those of the first.

    Args:
        experiment: with everybody's row counts.
        number: of the session in the round, which no two have in common.
        exchange: of the algorithm's, from 0.
        nodes: whose sum it is to be.
        state: digest of the server's entries of the state, from which nodes trained.

    Raises:
        InputError: fewer nodes than the experiment's protection asks for.
    """
    guard = experiment.guard
    assert guard is not None
    rows = experiment.data.train.sizes.astype("<i8").tobytes()
    start = state + exchange.to_bytes(1, "little") + rows
    binding = Binding(bytes.fromhex(experiment.digest()), round, start, number)
    codec = guard.codec(Wire(experiment).sizes[exchange])
    return masking(guard, codec, binding, nodes, codec.length + kind_of(guard).more)


def directory(
    experiment: Experiment, nodes: Sequence[int], key_of: KeyOf
) -> dict[int, Ed25519PublicKey]:
    """Long-term keys by node."""
    return {node: key_of(experiment.data.names[node]) for node in nodes}


class SiteSum:
    """A site's part of one sum.

    Args:
        number, exchange: as for ``session_of``.
        vector: gives what the site hides.
    """

    def __init__(
        self, kind: Kind, session: Session, number: int, exchange: int, me: int, signer: Signer,
        keys: Mapping[int, Ed25519PublicKey], vector: Callable[[], Vector],
    ) -> None:  # fmt: skip
        self.kind, self.session, self.number, self.exchange = kind, session, number, exchange
        self._node = kind.node(session, me, signer, keys)
        self._vector = vector
        self._last: tuple[Stage, bytes] | None = None

    @property
    def most(self) -> int:
        """Bytes of the largest message to a site."""
        return self.kind.down(self.session)

    def is_(self, round: int, number: int) -> bool:
        """Whether this is the round's session of that number."""
        return (self.session.round, self.number) == (round, number)

    def answer(self, stage: Stage, message: bytes) -> bytes:
        """The site's message of a stage; the same if the last stage is asked for again.

        Raises:
            Aborted: the session is over for this site.
        """
        if self._last is None or self._last[0] != stage:
            if stage not in self.kind.stages:
                raise Aborted(f"{stage} is no stage of this sum")
            answers, _ = self.kind.stages[stage]
            self._last = stage, answers(self._node, message, self._vector)
        return self._last[1]


class CoordinatorSum:
    """The coordinator's part of one sum: a stage after the other, each closed by ``advance``.

    Args:
        number, exchange: as for ``session_of``.
        pack: makes a message ready for the way.
        masked: tells the run's record of vectors behind masks.

    Attributes:
        stage: the present one.
        asked: by node, this stage's message to it; empty while the next stage's are computed.
    """

    def __init__(
        self, kind: Kind, session: Session, number: int, exchange: int,
        keys: Mapping[int, Ed25519PublicKey], pack: Callable[[bytes], Body],
        masked: Masked | None = None,
    ) -> None:  # fmt: skip
        self.kind, self.session, self.number, self.exchange = kind, session, number, exchange
        self._receiver, self._pack = kind.receiver(session, keys), pack
        self._masked = masked
        self.stage = kind.first
        self.asked: dict[int, Body] = dict.fromkeys(session.nodes, b"")
        self._answers: dict[int, bytes] = {}

    @property
    def most(self) -> int:
        """Bytes of the largest message of a site."""
        return self.kind.up(self.session)

    def is_(self, round: int, number: int) -> bool:
        """Whether this is the round's session of that number."""
        return (self.session.round, self.number) == (round, number)

    @property
    def awaited(self) -> frozenset[int]:
        """Nodes whose message of this stage has not come."""
        return frozenset(self.asked.keys() - self._answers.keys())

    @property
    def enough(self) -> bool:
        """Whether as many have answered as the next stage takes."""
        return len(self._answers) >= self.session.fewest

    def check(self, node: int, answer: Answer, message: bytes, rows: int) -> None:
        """Refuse a vector that is not what its sender has signed for the run's record.

        Raises:
            MessageError: it is not.
        """
        if self._masked and answer.stage == self.kind.adds and message:
            self._masked.check(node, message, answer.entry, answer.nonce, rows)

    def take(self, node: int, stage: Stage, message: bytes) -> bool:
        """A site's message, empty if it is out; whether it was awaited."""
        if stage != self.stage or node not in self.awaited:
            return False
        if stage == self.kind.adds:  # vectors are added up as they come
            if self._masked and message:
                self._masked.heard(node, message)
            self._receiver.add(node, message)
            message = b""
        self._answers[node] = message
        return True

    def close(self) -> dict[int, bytes]:
        """The stage's answers; none is taken after them."""
        answers, self._answers, self.asked = self._answers, {}, {}
        return answers

    def advance(self, answers: Mapping[int, bytes]) -> Opened | None:
        """Go to the next stage, or give the sum after the last; it may take long.

        Raises:
            CheckpointError: the sum is there, and the run's record cannot be written.
            Aborted: too few nodes are left.
            SumError: one that honest nodes cannot have sent.
        """
        _, advances = self.kind.stages[self.stage]
        made, after = advances(self._receiver, answers), self.kind.after(self.stage)
        if after is None:
            total, nodes = made
            opened = Opened(total, nodes, total.nbytes * len(nodes))
            if self._masked:
                recovered = self._receiver.recovered
                opened = replace(opened, behind=total, masks=recovered)
                self._masked.opened(opened)
            return opened
        packed = {node: self._pack(message) for node, message in made.items()}
        self.stage, self.asked = after, packed
        return None


class Parcels:
    """Messages on their way: what is too large for one lies in a file until it is cleared.

    Args:
        offer: lets the other party pull a file.
    """

    def __init__(self, tensors: Tensors, offer: Callable[[Path], object]) -> None:
        self._tensors, self._offer = tensors, offer
        self._files: set[bytes] = set()

    def pack(self, message: bytes) -> Body:
        if len(message) <= SMALL:
            return message
        kept: Offer = self._tensors.keep(message)
        self._files.add(kept.digest)
        self._offer(self._tensors.path(kept.digest))
        return kept

    def clear(self) -> None:
        """Forget what was packed."""
        while self._files:
            self._tensors.drop(self._files.pop())
