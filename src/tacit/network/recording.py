"""The coordinator's part in the record of a run: it keeps the log that the sites witness.

Everything in it follows from what is on the disk: whoever is killed goes on with the same log, and
no entry is written twice.
"""

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.engine.recording import claim, rules
from tacit.errors import CheckpointError, InputError, MessageError
from tacit.experiment import Experiment
from tacit.ledger import records
from tacit.ledger.log import Log
from tacit.ledger.merkle import leaf_hash
from tacit.ledger.note import (
    COSIGNATURE,
    NOTE,
    Checkpoint,
    Key,
    Signature,
    received,
    sign,
    split,
    verified,
)
from tacit.ledger.policy import Policy, quorum
from tacit.ledger.recorder import (
    HEAD,
    LOG,
    MOST_WITNESSES,
    OPENINGS,
    POLICY,
    measured,
    opened,
)
from tacit.ledger.statement import Envelope, Statement, encoded, signed
from tacit.network.identity import Identity, sign_key, write
from tacit.network.joint import Joint
from tacit.network.masked import openings
from tacit.network.members import is_signed
from tacit.network.protocol import (
    Cosign,
    Cosigned,
    Extend,
    Extension,
    Found,
    Founded,
    Introduce,
    Introduced,
    Receipt,
    Released,
    Reply,
    Taken,
    ToRecord,
    Wait,
)
from tacit.network.sums import KeyOf

_log = logging.getLogger("tacit.network")


def log_key(experiment: str) -> str:
    """File of the key of an experiment's log, in a run's folder: it shows that there is a record.

    Args:
        experiment: its digest.
    """
    return f"log-{experiment[:16]}.key"


@dataclass(frozen=True)
class _Beginning:
    """The first entries of a record before they are signed, and which sites sign each."""

    policy: Policy
    statements: tuple[tuple[Statement, Sequence[str]], ...]

    def of(self, site: str) -> Statement:
        """The one that a site signs."""
        return next(statement for statement, names in self.statements if site in names)


class Recording:
    """The record of a networked run. May be used from many threads.

    Args:
        folder: of the record; one that is there goes on.
        own: the coordinator's folder of the run, for the log's key.
        experiment: as the file defines it, without rows.
        keeper: the coordinator.
        key_of: tells the sites' long-term keys, with which they sign contributions.
        masked: file for the openings of masked vectors; None keeps none.
        deadline: seconds, of a round; None: it has none.

    Raises:
        InputError: a folder with another run's record, or openings of a run that has none.
        CheckpointError: a folder that cannot be written.
    """

    def __init__(
        self, folder: Path, own: Path, experiment: Experiment, keeper: Identity, key_of: KeyOf,
        masked: Path | None = None, deadline: float | None = None,
    ) -> None:  # fmt: skip
        self.deadline = deadline
        self.folder, self.experiment, self.keeper, self.key_of = folder, experiment, keeper, key_of
        self.digest = experiment.digest()
        # No peer is a witness of its own log.
        self.names = tuple(name for name in experiment.data.names if name != keeper.name)
        self._task, self._claim = bytes.fromhex(self.digest), claim(experiment)
        self._lock = threading.RLock()
        self.openings = openings(experiment, masked) if masked else None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            origin = self._origin()
            self.log = Log(folder / LOG, origin)
            private = sign_key(own, log_key(self.digest))
        except OSError as error:
            raise CheckpointError(f"record: {folder} cannot be written ({error})") from None
        self._key, self._private = Key.of(origin, private, NOTE), private
        # Until the record is founded.
        self._witnesses: dict[str, Key] = {}
        self._signatures: dict[str, bytes] = {}
        self._planned: _Beginning | None = None
        self._policy: Policy | None = None
        # Of the log, which says them again after a restart.
        self._places: dict[int, dict[str, int]] = {}  # of contributions: by round and site
        self._stand: dict[bytes, int] = {}  # of the same, by their leaf hashes
        self._closed, self._open, self._model, self._last = 0, -1, b"", 0
        self._evaluated = 0  # rounds after which the model was measured
        self._view = 0  # how often the open round was begun before
        self._released = b""  # payload of the last release
        self._joint: Joint | None = None  # of the release that members are asked to sign
        # The head that is being cosigned, and by whom it was.
        self._head: Checkpoint | None = None
        self._note = ""
        self._lines: dict[str, str] = {}
        self._cosigned: set[str] = set()
        with ExitStack() as failed:
            failed.enter_context(closing(self.log))
            for place, entry in enumerate(self.log):
                self._read(place, entry)
            if len(self.log):
                self._policy = Policy.from_text((folder / POLICY).read_text())
                if self._policy.logs != (self._key,):
                    raise InputError(f"record: {folder} has a log whose key is not in {own}")
            failed.pop_all()

    # What sites are asked for, and ask

    @property
    def absent(self) -> list[str]:
        """Whose signature the beginning of the record waits for."""
        with self._lock:
            founded = self._policy is not None
            return [] if founded else [n for n in self.names if n not in self._signatures]

    @property
    def uncosigned(self) -> set[str]:
        """Who has not cosigned the head that is to be cosigned."""
        with self._lock:
            return set(self.names) - self._cosigned if self._head else set()

    def order(self, site: str) -> Reply | None:
        """What a site is to do for the record, before anything else."""
        with self._lock:
            if self._policy is not None:
                if self._head is not None and site not in self._cosigned:
                    return Cosign(self.digest)
                return self._joint.order(site) if self._joint else None
            if site not in self._witnesses:
                return Introduce(self.digest)
            if len(self._witnesses) < len(self.names) or site in self._signatures:
                return None
            planned = self._beginning()
            return Found(self.digest, str(planned.policy), planned.of(site).payload())

    def answer(self, site: str, request: ToRecord) -> Reply:
        """The reply to a site.

        Raises:
            MessageError: a key, a signature or a request that no site sends.
            CheckpointError: the record cannot be written.
        """
        with self._lock:
            match request:
                case Introduced():
                    return Taken(self.digest, self._introduced(site, request.witness))
                case Founded():
                    return Taken(self.digest, self._founded(site, request.signature))
                case Extend():
                    return self._extension(site, request)
                case Cosigned():
                    return Taken(self.digest, self._cosign(site, request))
                case Released():
                    return Taken(self.digest, self._release(site, request.signature))

    def check(self, site: str, round: int, entry: bytes, rows: int) -> Statement:
        """What a site signed; refused if it is no contribution to the open round as it must be.

        Raises:
            MessageError: it is not; with what is wrong.
        """
        said, by = self.apart(site, entry)
        with self._lock:
            base, committed = self._base(round), said.subjects.get("commitment", b"")
            wanted = records.contribution(round, site, base, committed, rows, self._claim)
            if not base or by != [site] or said.payload() != wanted.payload():
                raise MessageError(f"{site!r} has signed a contribution to something else")
        return said

    def apart(self, site: str, entry: bytes) -> tuple[Statement, list[str]]:
        """What an entry says that a site sent, and whether the site has signed it.

        Raises:
            MessageError: it is none, or somebody else's.
        """
        try:
            return records.read(entry, {site: self.public(site)})
        except MessageError as error:
            raise MessageError(f"the contribution of {site!r}: {error}") from None

    def _base(self, round: int) -> bytes:
        """The model from which a site may have trained for a round; none, if it is not open."""
        return self._model if round == self._open else b""

    def contributed(self, site: str, round: int, entry: bytes) -> None:
        """A contribution whose bytes have come; none twice, and none after its round.

        Raises:
            CheckpointError: the record cannot be written.
        """
        with self._lock:
            if round == self._open and site not in self._places.get(round, ()):
                self._append([entry])

    def summed(self, entries: Mapping[str, bytes]) -> None:
        """The contributions to the open round's sum, by site.

        If the coordinator was killed once it had recorded a sum, and the round came to another one,
        the round begins again: of the first sum nothing was made.

        Raises:
            CheckpointError: the record cannot be written.
        """
        with self._lock:
            if self._places.get(self._open):
                self._append([self._opening(self._open, self._view + 1)])
            self._append(list(entries.values()))

    # What happens in the run

    def require(self, round: int) -> None:
        """Refuse a record that is not this run's, which is in a round.

        Raises:
            InputError: it has fewer rounds, or more.
        """
        if round != self._closed and (round, self._open) != (self._closed + 1, self._closed):
            raise InputError(
                f"record: {self.folder} holds {self._closed} rounds, and round {round + 1} is to be"
                " recorded; give the folder that this run began with"
            )

    def go_on(self, round: int, model: Path, last: Mapping[str, Any], over: bool) -> None:
        """Bring the record to where the run is: at the beginning of a round, or at its end.

        Args:
            model: what the round begins with.
            last: row of the round before; who was left out or turned away in it.
            over: whether no more rounds come.

        Raises:
            InputError: the record does not hold the rounds before.
            CheckpointError: it cannot be written.
        """
        found = records.file_digest(model)
        with self._lock:
            self.require(round)
            if round > self._closed:
                self._append(self._closing(round - 1, found, last))
            if self._model and self._model != found:
                raise InputError(f"record: {self.folder} holds another model of round {round}")
            over = over or round == self.experiment.rounds
            if not over and self._open != round:
                self._model = found
                self._append([self._opening(round, 0)])
            self._propose(len(self.log) if over else self._last + 1)

    def evaluated(self, rounds: int, metrics: Mapping[str, float]) -> None:
        """The sites have measured the model after so many rounds; told once, and to the percent.

        Args:
            metrics: their means; nothing where too few have.

        Raises:
            CheckpointError: the record cannot be written.
        """
        with self._lock:
            new = rounds == self._closed and self._evaluated < rounds
            if not new or "accuracy" not in metrics:
                return
            own = self.public(self.keeper.name)
            said, nonce, digest = measured(rounds - 1, self._model, own, metrics, "accuracy")
            place = len(self.log)
            self._append([self._signed(said)])
            with closing(opened(self.folder / OPENINGS)) as db:
                opening = (place, self.keeper.name, nonce, digest)
                db.execute("INSERT OR REPLACE INTO openings VALUES (?, ?, ?, ?)", opening)

    def ends_with(self, model: Path) -> bool:
        """Whether a file is there that is what the last closed round ended with."""
        return model.is_file() and records.file_digest(model) == self._model

    def release(self, signature: bytes, bom: bytes) -> None:
        """Ask the sites to sign that the last model is handed out, unless the record says so.

        Args:
            signature: digest of the file that ``model-signing`` wrote.
            bom: digest of the bill of materials.
        """
        said = records.release(self._closed, self._model, signature, bom)
        with self._lock:
            if said.payload() != self._released:
                keys = {name: self.public(name) for name in (self.keeper.name, *self.names)}
                own = {self.keeper.name: self.keeper.sign(encoded(said.payload()))}
                self._joint = Joint(self.digest, said, keys, own)

    def unsigned(self, *, for_good: bool = False) -> str:
        """How far the signatures on a release are from a quorum; nothing once it is recorded.

        Args:
            for_good: whether no more signatures are taken.
        """
        with self._lock:
            if (joint := self._joint) is None:
                return ""
            if for_good:
                self._joint = None
            return f"{len(joint.signatures)} of {joint.least} signatures came"

    def end(self) -> None:
        """The run is over, and all that is in the record is to be cosigned."""
        with self._lock:
            if len(self.log):
                self._propose(len(self.log))

    def close(self) -> None:
        """Close the record; says in the log if its last head does not count."""
        with self._lock:
            head = self._head
            note = self.log.note()
            counts = note is not None and Checkpoint.from_text(split(note)[0]) == head
            if head is not None and not counts:
                _log.warning(
                    "%d of %d sites have cosigned the record of %d entries, too few for it to"
                    " count", len(self._lines), len(self.names), head.size,
                )  # fmt: skip
            self.log.close()
            if self.openings:
                self.openings.close()

    # The beginning

    def _introduced(self, site: str, text: str) -> bool:
        key = received(text)
        if key.kind != COSIGNATURE or key.name != site[:60]:
            raise MessageError(f"{site!r} has a witness key of another kind or name")
        if self._policy is None and self._witnesses.get(site) != key:
            self._witnesses[site], self._planned = key, None
            self._signatures.clear()
        return self._policy is None

    def _founded(self, site: str, signature: bytes) -> bool:
        if self._policy is not None or len(self._witnesses) < len(self.names):
            return False
        message = encoded(self._beginning().of(site).payload())
        if not is_signed(self.public(site).hex(), message, signature):
            return False  # of what was to be signed before another site came with another key
        self._signatures[site] = signature
        if not self.absent:
            self._begin()
        return True

    def _begin(self) -> None:
        planned, entries = self._beginning(), []
        for statement, names in planned.statements:
            signatures = {name: self._signatures[name] for name in names}
            if statement.kind == "genesis":
                own = self.keeper.sign(encoded(statement.payload()))
                signatures[self.keeper.name] = own
            entries.append(bytes(Envelope(statement.payload(), signatures)))
        try:
            write(self.folder / POLICY, str(planned.policy).encode())
        except OSError as error:
            raise CheckpointError(f"record: {self.folder} cannot be written ({error})") from None
        self._append(entries)
        self._policy = planned.policy
        _log.info("all %d sites have signed the beginning of the record", len(self.names))

    def _beginning(self) -> "_Beginning":
        """What the sites are to sign, once all have told their witness keys."""
        if self._planned is None:
            keys = {name: self.public(name) for name in self.names}
            witnesses = [self._witnesses[name] for name in self.names[:MOST_WITNESSES]]
            policy = Policy.of([self._key], witnesses)
            most, keeper = records.MOST_FOUNDERS, self.keeper.name
            told = hashlib.sha256(str(policy).encode()).digest()
            first, *others = [self.names[i : i + most] for i in range(0, len(keys), most)]
            genesis = records.genesis(
                self._task, told, keeper, self.public(keeper), self._rules(),
                {name: keys[name] for name in first},
            )  # fmt: skip
            later = [records.membership(self._task, {n: keys[n] for n in some}) for some in others]
            signers = zip([genesis, *later], [first, *others], strict=True)
            self._planned = _Beginning(policy, tuple(signers))
        return self._planned

    def _origin(self) -> str:
        """The log's name."""
        return f"tacit/{self.digest[:16]}"

    def _rules(self) -> dict[str, str]:
        return rules(self.experiment)

    def public(self, member: str) -> bytes:
        """A member's 32-byte Ed25519 key."""
        return self.key_of(member).public_bytes_raw()

    # Heads

    def _propose(self, size: int) -> None:
        """The head that the sites are to cosign from now on."""
        head = self.log.head(size)
        if head == self._head:
            return
        self._head, self._lines, self._cosigned = head, {}, set()
        self._note = f"{head.text}\n{sign(head.text, self._key, self._private)}"
        with suppress(OSError, MessageError):  # cosigned before this process was killed
            text, lines = split((self.folder / HEAD).read_text())
            if text == head.text:
                for line in lines:
                    for site in self.names:
                        if line.name == site[:60]:
                            self._take(site, line)

    def _extension(self, site: str, request: Extend) -> Reply:
        if self._head is None:
            return Wait(self.digest, "the record is not there yet")
        size = self._head.size
        proof = self.log.consistency(request.size, size) if request.size <= size else []
        places = [self._stand.get(sent, size) for sent in request.sent]
        return Extension(
            self.digest, self._note, tuple(proof), self.log[self._last],
            self._receipt(self._last, size),
            tuple(self._receipt(place, size) if place < size else None for place in places),
        )  # fmt: skip

    def _receipt(self, place: int, size: int) -> Receipt:
        return Receipt(place, tuple(self.log.inclusion(place, size)))

    def _cosign(self, site: str, request: Cosigned) -> bool:
        if self._head is None or request.size != self._head.size:
            return False
        _, (_, *lines) = split(self._note + request.line)
        if len(lines) != 1 or not self._take(site, lines[0]):
            raise MessageError(f"{site!r} sent another cosignature than its own")
        return True

    def _take(self, site: str, line: Signature) -> bool:
        """Count a cosignature of the head, if it is one of the site's."""
        assert self._policy is not None
        key = self._policy.witnesses.get(site[:60])
        if key is None:  # beyond those that the policy asks for
            self._cosigned.add(site)
            return True
        try:
            if key not in verified(self._note + str(line), [key])[1]:
                return False
        except MessageError:
            return False
        self._cosigned.add(site)
        self._lines[site] = str(line)
        note = self._note + "".join(self._lines.values())
        try:  # not forced to the disk: who is asked again gives the same
            new = self.folder / f".{HEAD}"
            new.write_text(note)
            new.replace(self.folder / HEAD)
        except OSError as error:
            raise CheckpointError(f"record: {self.folder} cannot be written ({error})") from None
        assert self._head is not None
        of = len(self._policy.witnesses)
        if len(self._lines) in (quorum(of), of):
            self.log.keep(self._head.size, note)
        return True

    def _release(self, site: str, signature: bytes) -> bool:
        if (joint := self._joint) is None or not joint.take(site, signature):
            return False  # of what was asked for before this process began
        if (entry := joint.entry) is not None:
            self._append([entry])
            self._joint = None
        return True

    # Entries

    def _aggregate(self, round: int, model: bytes, row: Mapping[str, Any]) -> Statement:
        out = dict.fromkeys(row["left_out"], "left out of the round") | row.get("turned_away", {})
        places = self._places.get(round, {})
        counted = sorted(place for site, place in places.items() if site not in out)
        why = {place: out[site] for site, place in places.items() if site in out}
        opened = self.openings.commitments(round, self.keeper.name) if self.openings else {}
        own = self.public(self.keeper.name)
        summed = {
            subject: records.commitment(own, round, nonce, digest)
            for subject, (nonce, digest) in opened.items()
        }
        return records.aggregate(round, model, counted, why, summed)

    def _closing(self, round: int, model: bytes, row: Mapping[str, Any]) -> list[bytes]:
        """The entries that end a round."""
        return [self._signed(self._aggregate(round, model, row))]

    def _opening(self, round: int, view: int) -> bytes:
        return self._signed(
            records.round_open(round, view, self._task, self._model, self.log.head(), self.deadline)
        )

    def _signed(self, statement: Statement) -> bytes:
        return signed(statement, {self.keeper.name: self.keeper})

    def _append(self, entries: Sequence[bytes]) -> None:
        first = self.log.append(entries)
        for place, entry in enumerate(entries, first):
            self._read(place, entry)

    def _read(self, place: int, entry: bytes) -> None:
        """Take over what an entry says."""
        said = Envelope.from_bytes(entry).statement
        match said.kind:
            case "genesis" if said.subjects["experiment"] != self._task:
                raise InputError(f"record: {self.folder} holds another experiment's record")
            case "contribution":
                self._places.setdefault(said.says["round"], {})[said.says["site"]] = place
                self._stand[leaf_hash(entry)] = place
            case "round-open":
                self._open, self._model, self._last = (
                    said.says["round"],
                    said.subjects["base"],
                    place,
                )
                self._view = said.says["view"]
                self._places.pop(self._open, None)
            case "aggregate":
                self._closed, self._model, self._last = (
                    said.says["round"] + 1, said.subjects["model"], place,
                )  # fmt: skip
            case "evaluation":
                self._evaluated = said.says["round"] + 1
            case "release":
                self._released = said.payload()
