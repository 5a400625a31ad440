"""A site's part in the record of a run: it witnesses the coordinator's log, and signs what it sent.

It trains on no round whose beginning is not in a log that extends what it saw before. All that it
must not forget lies in a folder of its own: the witness key, the last head that it cosigned, whose
signatures make a head count, and what it needs to open its commitments.
"""

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tacit.errors import MessageError
from tacit.ledger import records
from tacit.ledger.merkle import included, leaf_hash
from tacit.ledger.note import COSIGNATURE, Checkpoint, Key, Signer, split
from tacit.ledger.policy import Policy
from tacit.ledger.recorder import HEAD, POLICY
from tacit.ledger.statement import Envelope, Statement, encoded
from tacit.ledger.witness import Witness
from tacit.network.identity import sign_key, write
from tacit.network.protocol import (
    MOST_RECEIPTS,
    Cosign,
    Cosigned,
    Extend,
    Extension,
    Found,
    Founded,
    Introduce,
    Introduced,
    OfRecord,
    Receipt,
    Release,
    Released,
    Reply,
    Request,
)
from tacit.network.receipts import Receipts, sha256, told
from tacit.network.sums import KeyOf

_log = logging.getLogger("tacit.network")

_KEY, _SEEN = "witness.key", "witness.db"


class Unrecorded(MessageError):
    """The coordinator gives an order that its record does not bear out."""

    code = "TACIT-114"


@dataclass(frozen=True, order=True)
class Where:
    """Where a run is, by its record.

    Attributes:
        round: the last one that was opened.
        closed: whether it was closed, too.
        model: SHA-256 of what it began with or, where it is closed, ended with.
    """

    round: int
    closed: bool
    model: bytes = b""


class Witnessing:
    """A site's part in a run's record. Nothing is written before the coordinator asks for it.

    Args:
        folder: of the record at this site.
        experiment: digest of what is run, for so many ``rounds``.
        site: its name; ``signer`` holds its long-term key.
        coordinator: name of who keeps the log.
        key_of: tells others' long-term keys.
        ask: gets the coordinator's reply.
        required: whether the site takes part in no run without a record.
        staleness: in asynchronous runs, rounds that pass at most until a contribution counts.
        rules: of the experiment, which the record must begin with.

    Raises:
        CheckpointError: the folder cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        rounds: int,
        site: str,
        signer: Signer,
        coordinator: str,
        key_of: KeyOf,
        ask: Callable[[Request], Reply],
        required: bool = False,
        staleness: int | None = None,
        *,
        rules: Mapping[str, str],
    ) -> None:
        self.folder, self.experiment, self.rounds = folder, experiment, rounds
        self.site, self.signer = site, signer
        self.coordinator, self.key_of, self.ask = coordinator, key_of, ask
        self.required, self.staleness, self.where = required, staleness, Where(-1, True)
        self.rules, self.receipts = rules, Receipts(folder, site, signer, key_of)

    @property
    def records(self) -> bool:
        """Whether this run leaves a record; once it does, it does to the end."""
        return (self.folder / POLICY).exists()

    def follow(self, order: OfRecord) -> None:
        """Do what the coordinator asks for.

        Raises:
            Forked: its log was rewritten since this site looked last.
            Unrecorded, MessageError: it asks for a signature that no site gives.
        """
        match order:
            case Introduce():
                self.ask(Introduced(self.experiment, str(self._witness.key)))
            case Found():
                self.ask(Founded(self.experiment, self._founded(order)))
            case Cosign():
                self._extend()
            case Release():
                self.ask(Released(self.experiment, self._released(order)))

    def allows(self, round: int) -> bool:
        """Whether the record is at the beginning of a round; not if it is past that.

        Args:
            round: the number of rounds for the end of the last.

        Raises:
            Unrecorded: the record is not as far as the coordinator says, or is not there although
                it is required.
        """
        if not self.records:
            if self.required:
                raise Unrecorded(
                    f"this site's policy asks for a record of the run, and {self.coordinator!r}"
                    " keeps none"
                )
            return True
        over = round == self.rounds
        wanted = Where(round - over, over)
        if self.where < wanted:
            self._extend()
        if self.where < wanted:
            raise Unrecorded(
                f"{self.coordinator!r} asks for round {round + 1}, whose beginning is not in its"
                " record"
                if not over
                else f"{self.coordinator!r} ends the run, and its record does not"
            )
        return (self.where.round, self.where.closed) == (wanted.round, wanted.closed)

    def require(self, model: Path | bytes) -> None:
        """Refuse a model that is another than the record's.

        Raises:
            Unrecorded: it is.
        """
        if self.records and not hmac.compare_digest(sha256(model), self.where.model):
            raise Unrecorded(f"{self.coordinator!r} sent another model than its record names")

    def contribution(
        self, round: int, sent: Path | bytes, rows: int, claim: str, again: int = 0
    ) -> tuple[bytes, bytes]:
        """The signed entry for what is sent, and its nonce; the same if it is sent again.

        Of a round the site stands by the last thing that it sent.

        Of an asynchronous run, it is signed while the round that it began with is the last one, and
        waited for once the coordinator has taken it (``expect``).

        Args:
            claim: what protects it, in words.
            again: how often the site had trained from the round's model before.
        """
        if not self.records:
            return b"", b""
        return self.receipts.contribution(
            round, self.where.model, sent, rows, claim, None, again, self.staleness is None
        )

    def expect(self, round: int, again: int) -> None:
        """The coordinator has taken a contribution of an asynchronous run."""
        if self.records:
            self.receipts.expect(round, again)

    def close(self) -> None:
        """Close its files."""
        if "_witness" in self.__dict__:
            self._witness.close()

    @cached_property
    def _witness(self) -> Witness:
        with told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            private = sign_key(self.folder, _KEY)
            key = Key.of(self.site[:60], private, COSIGNATURE)
            return Witness(self.folder / _SEEN, key, private, self._logs())

    def _logs(self) -> tuple[Key, ...]:
        path = self.folder / POLICY
        return Policy.from_text(path.read_text()).logs if path.exists() else ()

    def _founded(self, order: Found) -> bytes:
        """A signature on the beginning of the record, if it is what it must be."""
        policy = Policy.from_text(order.policy)
        said = Statement.from_payload(order.statement)
        records.require_shape(said)
        if said.kind == "genesis":
            keeper = said.says.get("keeper")
            members = records.keys(said.says["members"])
            fits = (
                said.subjects["policy"] == hashlib.sha256(order.policy.encode()).digest()
                and keeper == self.coordinator
                and members.get(keeper) == self.key_of(keeper).public_bytes_raw()
                and len(policy.logs) == 1
                # A head counts with a quorum of all, or half of them may be shown another record.
                and policy == Policy.of(policy.logs, list(policy.witnesses.values()))
                and self._witness.key in policy.witnesses.values()
            )
            if fits and said.says["rules"] != self.rules:
                raise Unrecorded(
                    f"{self.coordinator!r} begins a record with other rules than the experiment's"
                )
        else:
            fits = said.kind == "membership" and len(policy.logs) == 1
            members = records.keys(said.says["add"]) if fits else {}
        fits = fits and said.subjects["experiment"].hex() == self.experiment
        if not fits or members.get(self.site) != self.key_of(self.site).public_bytes_raw():
            raise Unrecorded(f"{self.coordinator!r} begins a record that is not of this run")
        if self._witness.logs and self._last().size:
            raise Unrecorded(f"{self.coordinator!r} begins the record of this run once more")
        with told(self.folder):
            write(self.folder / POLICY, order.policy.encode())
        self._witness.logs = {log.name: log for log in policy.logs}
        return self.signer.sign(encoded(order.statement))

    def _released(self, order: Release) -> bytes:
        """A signature on the release of the model that the record ends with."""
        if not self.records:
            raise Unrecorded(f"{self.coordinator!r} hands a model out, and its record is not begun")
        self.allows(self.rounds)
        said = Statement.from_payload(order.statement)
        records.require_shape(said)
        last = said.kind == "release" and said.says["rounds"] == self.rounds
        if not last or not hmac.compare_digest(said.subjects["model"], self.where.model):
            raise Unrecorded(
                f"{self.coordinator!r} hands out another model than its record ends with"
            )
        return self.signer.sign(encoded(order.statement))

    def _last(self) -> Checkpoint:
        """The last head that was cosigned here."""
        (origin,) = self._witness.logs
        return self._witness.last(origin) or Checkpoint(origin, 0, b"")

    def _extend(self) -> None:
        """Ask for the record's head, and cosign it if it extends the last one.

        Raises:
            Forked: it does not.
            Unrecorded: it does not name where the run is.
        """
        if not self.records:
            raise Unrecorded(f"{self.coordinator!r} asks to cosign a record that was not begun")
        waiting = self._waiting()
        with told(self.folder):
            last = self._last()
        sent = tuple(leaf_hash(self.receipts.entry(*each)) for each in waiting)
        reply = self.ask(Extend(self.experiment, last.size, sent))
        if not isinstance(reply, Extension):  # it was started again, and is not yet where it was
            return
        head = Checkpoint.from_text(split(reply.note)[0])
        with told(self.folder):
            line = self._witness.cosign(last.size, reply.proof, reply.note)
            write(self.folder / HEAD, f"{reply.note}{line}".encode())
        said = self._stated(head, reply)
        closed = said.kind == "aggregate"
        model = said.subjects["model" if closed else "base"]
        self.where = Where(said.says["round"], closed, model)
        if len(reply.receipts) != len(waiting):
            raise Unrecorded(f"{self.coordinator!r} tells of other contributions than it is asked")
        for (round, again), receipt in zip(waiting, reply.receipts, strict=True):
            self._receipt(round, again, head, receipt)
        self.ask(Cosigned(self.experiment, head.size, str(line)))
        full = len(waiting) == MOST_RECEIPTS
        if full and self._waiting() != waiting:
            self._extend()

    def _waiting(self) -> list[tuple[int, int]]:
        """Contributions that were not seen in the record so far."""
        return self.receipts.awaited(MOST_RECEIPTS)

    def _stated(self, head: Checkpoint, reply: Extension) -> Statement:
        """The entry that says where the run is: the coordinator's, and under the head."""
        envelope = Envelope.from_bytes(reply.entry)
        said = envelope.statement
        records.require_shape(said)
        key = self.key_of(self.coordinator).public_bytes_raw()
        if said.kind not in ("round-open", "aggregate") or not envelope.signers(
            {self.coordinator: key}
        ):
            raise Unrecorded(f"{self.coordinator!r} names no entry that opens or ends a round")
        if not _stands(reply.entry, reply.stands, head):
            raise Unrecorded(
                f"{self.coordinator!r} names the beginning of a round that is not in its record"
            )
        return said

    def _receipt(self, round: int, again: int, head: Checkpoint, receipt: Receipt | None) -> None:
        """Note where the record has this site's contribution, or that it has not."""
        now, entry = (self.where.round, self.where.closed), self.receipts.entry(round, again)
        if now < (round, True):
            return
        if receipt is not None and _stands(entry, receipt, head):
            self.receipts.found(round, receipt.place, again)
            return
        if now < (min(round + (self.staleness or 0), self.rounds - 1), True):
            return
        _log.warning(
            "%s's record leaves out what this site sent in round %d", self.coordinator, round + 1,
            extra={"round": round + 1},
        )  # fmt: skip
        self.receipts.withheld(round, self.coordinator, again)


def _stands(entry: bytes, at: Receipt, head: Checkpoint) -> bool:
    """Whether an entry is under a head."""
    return included(leaf_hash(entry), at.place, head.size, at.path, head.root)
