"""What the members of a swarm vote on, as files: a round's state, and its entries of the record."""

import logging
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec
from torch import Tensor

from tacit.algorithms.base import State
from tacit.errors import CheckpointError, MessageError, TacitError
from tacit.network.blobs import Offer
from tacit.network.decoding import from_msgpack
from tacit.network.malformed import MALFORMED
from tacit.network.protocol import Added, Entries, Missing, Record
from tacit.network.receipts import sha256
from tacit.network.replica import Replica
from tacit.network.tensors import HEADER, Tensors, finite
from tacit.network.transport import Unreachable

_log = logging.getLogger("tacit.network")

_ENTRY = 4096  # bytes of an entry of the record, on average, at most


class Proposals:
    """A member's files of what was proposed and decided on.

    Args:
        name: of the member.
        folder: for the files.
        first: the state before the first round; what all later ones are like.
        shared: which of its entries nodes read; the others are the leader's.
        replica: the member's copy of the run's record; None: the run leaves none.
        pull: brings what a member offers to a path, or raises ``TacitError``.
        offer: lets the named members pull a file; all, where nobody is named.
        missing: gets entries of the record from a member, or raises ``TacitError``.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        first: Mapping[str, Tensor],
        shared: Collection[str],
        replica: Replica | None,
        pull: Callable[[str, Offer, Path], object],
        offer: Callable[[Path, Collection[str] | None], object],
        missing: Callable[[str, Missing], Entries],
    ) -> None:
        self.name, self.files, self.replica = name, Tensors(folder), replica
        self.pull, self.offer, self.missing = pull, offer, missing
        self._shared = frozenset(shared)
        self._shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in first.items()}
        self._most = HEADER + sum(tensor.nbytes for tensor in first.values())

    def state(self, offer: Offer) -> tuple[State, State]:
        """What nodes read of a state that is here, and what a leader alone does.

        Raises:
            MessageError: it is not one that the algorithm has.
        """
        state = self.files.get(offer.digest)
        if {name: (t.shape, t.dtype) for name, t in state.items()} != self._shapes:
            raise MessageError("it is another state than the algorithm has")
        if not all(finite(tensor) for tensor in state.values()):
            raise MessageError("it holds NaN or infinity")
        shared = {name: state[name] for name in self._shared}
        return shared, {name: t for name, t in state.items() if name not in shared}

    def digest(self, state: Offer) -> bytes:
        """SHA-256 of a state's file, by which the record knows it; empty where there is none."""
        return sha256(self.files.path(state.digest)) if self.replica else b""

    def added(
        self, round: int, view: int, base: Offer, state: Offer, parts: Mapping[str, bytes],
        turned: Mapping[str, str],
    ) -> Added | None:  # fmt: skip
        """What a round adds to the record, as its leader proposes it; see ``Replica.round``."""
        if self.replica is None:
            return None
        before, after = self.digest(base), self.digest(state)
        entries, size, root = self.replica.round(round, view, before, after, parts, turned)
        file = msgspec.msgpack.encode(Entries(tuple(entries)))
        return Added(self.files.keep(file), size, root)

    def judge(self, leader: str, record: Record, base: Offer, rows: Mapping[str, int]) -> None:
        """Pull what a leader proposes, and refuse what cannot be.

        Args:
            base: state that the round began with.
            rows: of the sites whose updates the new one is made of.

        Raises:
            MessageError: with what is wrong.
            TacitError: it cannot be had.
        """
        if record.state.size > self._most:
            raise MessageError(f"it has {record.state.size} bytes; {self._most} is the most")
        if (record.added is None) != (self.replica is None):
            raise MessageError("it leaves a record where others leave none, or none where they do")
        self.bring(leader, record.state)
        self.state(record.state)
        if self.replica and (added := record.added):
            entries = self._entries(leader, added, len(rows))
            self.replica.judge(
                record.round, self.digest(base), self.digest(record.state), rows, entries,
                added.size, added.root,
            )  # fmt: skip

    def bring(self, member: str, what: Offer) -> None:
        """Have a file here, from a member who offers it."""
        path = self.files.path(what.digest)
        if not path.exists():
            if member == self.name:
                raise Unreachable(f"{path} is not here yet")
            self.pull(member, what, path)
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def recorded(self, member: str, record: Record) -> bool:
        """Add what was decided on to the record, and what is missing before, from a member.

        Raises:
            CheckpointError: the record cannot be written.
        """
        if self.replica is None or (added := record.added) is None:
            return True
        size = len(self.replica.log)
        if size >= added.size:  # before the process was killed
            return True
        try:
            entries = self._entries(member, added, len(record.included))
            missed = list[bytes]()
            while (due := added.size - len(entries) - size - len(missed)) > 0:
                asked = Missing(record.experiment, size + len(missed))
                page = self.missing(member, asked).entries
                if not page:
                    raise MessageError(f"{member!r} has no more entries of the record")
                missed += page[:due]
            self.replica.decided([*missed, *entries], added.size, added.root)
        except CheckpointError:
            raise
        except TacitError as error:
            _log.warning("%s", error)
            return False
        return True

    def serve(self, record: Record) -> None:
        """Let all pull what a record is of, if it is here."""
        for digest in self._digests(record):
            if (path := self.files.path(digest)).exists():
                self.offer(path, None)

    def retain(self, record: Record, before: Offer) -> None:
        """Forget all files but those of a record, and of the state before."""
        self.files.retain({*self._digests(record), before.digest})

    def _entries(self, member: str, added: Added, parts: int) -> tuple[bytes, ...]:
        most = _ENTRY * (parts + 2)
        if added.entries.size > most:
            raise MessageError(f"its entries have {added.entries.size} bytes; {most} is the most")
        self.bring(member, added.entries)
        try:
            raw = self.files.path(added.entries.digest).read_bytes()
            return from_msgpack(raw, Entries).entries
        except MALFORMED:
            raise MessageError("its entries are none") from None

    def _digests(self, record: Record) -> list[bytes]:
        added = record.added
        return [record.state.digest, *([added.entries.digest] if added else [])]
