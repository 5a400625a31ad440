"""A swarm member's copy of the run's record, which is the same at every member.

Nothing is in it that was not decided on: the leader proposes a round's entries with the round's new
state, the members vote on both, and whoever decides adds them to its copy and cosigns its head.
Each copy's head is signed with a key of its own; the witnesses of all are all members.
"""

import hashlib
import hmac
import logging
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tacit.engine.recording import claim, rules
from tacit.errors import CheckpointError, InputError, MessageError
from tacit.experiment import Experiment
from tacit.ledger import records
from tacit.ledger.log import MOST_ENTRY, Log
from tacit.ledger.merkle import Growing, leaf_hash
from tacit.ledger.note import COSIGNATURE, NOTE, Key, Signer, received, sign, split, verified
from tacit.ledger.policy import Policy, quorum
from tacit.ledger.recorder import HEAD, LOG, POLICY
from tacit.ledger.statement import Envelope, Statement, encoded, signed
from tacit.ledger.turns import Turns
from tacit.ledger.witness import Witness
from tacit.network.identity import sign_key, write
from tacit.network.members import is_signed
from tacit.network.protocol import SMALL, Entries, Founding, Witnessed
from tacit.network.receipts import Receipts
from tacit.network.sums import KeyOf

_log = logging.getLogger("tacit.network")

_LOG_KEY, _WITNESS_KEY, _TURN_KEY, _SEEN = "log.key", "witness.key", "turn.key", "witness.db"


class Replica:
    """A member's copy. Its methods may be called from many threads.

    Args:
        folder: of the copy; one that is there goes on.
        own: folder for what the member alone may know.
        experiment: as the file defines it, without rows.
        name: of the member; ``signer`` holds its long-term key.
        key_of: tells others' keys.

    Raises:
        InputError: more members than sign one entry, or a folder with another run's record.
        CheckpointError: a folder that cannot be written.
    """

    def __init__(
        self, folder: Path, own: Path, experiment: Experiment, name: str, signer: Signer,
        key_of: KeyOf,
    ) -> None:  # fmt: skip
        self.folder, self.own, self.experiment, self.name = folder, own, experiment, name
        self.names, self.signer, self.claim = experiment.data.names, signer, claim(experiment)
        if len(self.names) > records.MOST_FOUNDERS:
            raise InputError(
                f"record: {folder} was given; of a swarm of {len(self.names)} none is kept, allowed"
                f" are {records.MOST_FOUNDERS} members"
            )
        self._task = bytes.fromhex(experiment.digest())
        self._keys = {each: key_of(each).public_bytes_raw() for each in self.names}
        self._lock = threading.RLock()
        self.receipts = Receipts(own, name, signer, key_of)
        origin = f"tacit/{self._task.hex()[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            own.mkdir(parents=True, exist_ok=True)
            private, witness = sign_key(own, _LOG_KEY), sign_key(own, _WITNESS_KEY)
            if not (own / _TURN_KEY).exists():
                write(own / _TURN_KEY, secrets.token_bytes(32), secret=True)
            self._secret = (own / _TURN_KEY).read_bytes()
        except OSError as error:
            raise CheckpointError(f"record: {folder} cannot be written ({error})") from None
        self._key, self._private = Key.of(origin, private, NOTE), private
        key = Key.of(name[:60], witness, COSIGNATURE)
        self._witness = Witness(own / _SEEN, key, witness, [self._key])
        # Until all have signed the beginning.
        self._founders = {name: Founding(str(self._key), str(key), b"")}
        self._signatures: dict[str, bytes] = {}
        # Of the log.
        self.log = Log(folder / LOG, origin)
        self.turns: Turns | None = None
        self.closed = 0  # rounds
        self._tree, self._own = Growing(), dict[int, int]()  # places of own contributions, by round
        # Of the head.
        self._note, self._lines = "", dict[str, str]()
        self._told: dict[str, Witnessed] = {}
        with ExitStack() as failed:
            failed.callback(self.close)
            self._go_on()
            failed.pop_all()

    def _go_on(self) -> None:
        """Take over what the folder holds."""
        path = self.folder / POLICY
        self.policy = Policy.from_text(path.read_text()) if path.exists() else None
        if self.policy and self._key not in self.policy.logs:
            raise InputError(
                f"record: {self.folder} was begun with other keys than those in {self.own}"
            )
        for place, entry in enumerate(self.log):
            self._take(place, entry)
        if self.policy:
            self._sign()
        if self.turns:
            self._head()

    # The beginning

    @property
    def absent(self) -> list[str]:
        """Who has not signed the beginning."""
        with self._lock:
            return [] if self.turns else [n for n in self.names if n not in self._signatures]

    @property
    def founding(self) -> Founding:
        """What this member adds to the beginning."""
        with self._lock:
            return self._founders[self.name]

    def found(self, member: str, said: Founding) -> bool:
        """What another member adds; whether that is new.

        Raises:
            MessageError: other keys than it had, or none.
        """
        with self._lock:
            if self.turns or said == self._founders.get(member):
                return False
            log, witness = received(said.log), received(said.witness)
            before = self._founders.get(member)
            if before and (before.log, before.witness) != (said.log, said.witness) and self.policy:
                raise MessageError(
                    f"{member!r} has other keys for the record than those that were signed: it has"
                    " lost its folder; begin again, all in new folders"
                )
            fits = (log.name, log.kind) == (self._key.name, NOTE)
            if not fits or (witness.name, witness.kind) != (member[:60], COSIGNATURE):
                raise MessageError(f"{member!r} has a key of another kind or name for the record")
            keys = {log.public, witness.public}
            for name, other in self._founders.items():
                if name != member:
                    keys -= {received(other.log).public, received(other.witness).public}
            if len(keys) < 2:  # which would be a policy that no auditor takes
                raise MessageError(f"{member!r} has a key for the record that another one has")
            self._founders[member] = said
            self._sign()
            self._begin()
            return True

    def _sign(self) -> None:
        """Sign the beginning, once all have told their keys; from then on they stay."""
        if len(self._founders) < len(self.names) and self.policy is None:
            return
        if self.policy is None:
            told = [self._founders[name] for name in self.names]
            self.policy = Policy.of(
                [received(each.log) for each in told], [received(each.witness) for each in told]
            )
            self._write(self.folder / POLICY, str(self.policy).encode())
        for name, log, key in zip(
            self.names, self.policy.logs, self.policy.witnesses.values(), strict=True
        ):
            self._founders.setdefault(name, Founding(str(log), str(key), b""))
        if self.name not in self._signatures:  # also where others may have lost it since
            signature = self.signer.sign(encoded(self._genesis().payload()))
            self._signatures[self.name] = signature
            mine = self._founders[self.name]
            self._founders[self.name] = Founding(mine.log, mine.witness, signature)

    def _genesis(self) -> Statement:
        told = hashlib.sha256(str(self.policy).encode()).digest()
        return records.swarm_genesis(
            self._task, told, len(self.names), rules(self.experiment), self._keys
        )

    def _begin(self) -> None:
        """Count the signatures; those of all make the first entry."""
        if self.policy is None:  # they may have come before the last keys
            return
        genesis = self._genesis().payload()
        for member, said in self._founders.items():
            if said.signature and member not in self._signatures:
                if is_signed(self._keys[member].hex(), encoded(genesis), said.signature):
                    self._signatures[member] = said.signature
                else:
                    _log.warning("%s has signed another beginning of the record", member)
        if not self.absent:
            self._append([bytes(Envelope(genesis, self._signatures))])
            _log.info("all %d members have signed the beginning of the record", len(self.names))

    # Rounds

    def require(self, round: int) -> None:
        """Refuse a copy that is not this run's, which is in a round.

        Raises:
            InputError: it has fewer rounds, or more.
        """
        if round not in (self.closed, self.closed - 1) or (round and not self.turns):
            raise InputError(
                f"record: {self.folder} holds {self.closed} rounds, and round {round + 1} is to be"
                " recorded; give the folder that this run began with"
            )

    def contribution(self, round: int, base: bytes, sent: Path, rows: int) -> bytes:
        """The signed entry for what this member sends in a round."""
        with self._lock:
            before = max((each for each in self._own if each < round), default=None)
            revealed = b"" if before is None else self._nonce(before)
            turn = records.Turn(hashlib.sha256(self._nonce(round)).digest(), revealed)
        return self.receipts.contribution(round, base, sent, rows, self.claim, turn)[0]

    def check(self, member: str, round: int, base: bytes, entry: bytes, rows: int) -> None:
        """Refuse what is not a member's contribution to a round.

        Raises:
            MessageError: it is not; with what is wrong.
        """
        said, by = records.read(entry, {member: self._keys[member]})
        if said.kind != "contribution" or "next" not in said.subjects:
            raise MessageError(f"{member!r} has signed no contribution")
        with self._lock:
            self._begun().reveals(member, said)
        turn = records.Turn(said.subjects["next"], bytes.fromhex(said.says["revealed"]))
        wanted = records.contribution(
            round, member, base, said.subjects["commitment"], rows, self.claim, turn
        )
        if by != [member] or said.payload() != wanted.payload():
            raise MessageError(f"{member!r} has signed a contribution to something else")

    def round(
        self, round: int, view: int, base: bytes, state: bytes, parts: Mapping[str, bytes],
        turned: Mapping[str, str],
    ) -> tuple[list[bytes], int, bytes]:  # fmt: skip
        """A round's entries, as its leader proposes them; and the log's size and root with them.

        Args:
            base, state: digests of what the round began with, and ended with.
            parts: contributions by site.
            turned: sites whose updates were not counted, and why.
        """
        with self._lock:
            opened = records.round_open(round, view, self._task, base, self.log.head())
            sites = [name for name in self.names if name in parts]
            places = {name: place for place, name in enumerate(sites, len(self.log) + 1)}
            closed = records.aggregate(
                round, state, [places[name] for name in sites if name not in turned],
                {places[name]: turned[name] for name in sites if name in turned},
            )  # fmt: skip
            mine = {self.name: self.signer}
            entries = [signed(opened, mine), *[parts[n] for n in sites], signed(closed, mine)]
            return entries, *self._after(entries)

    def judge(
        self, round: int, base: bytes, state: bytes, rows: Mapping[str, int],
        entries: Sequence[bytes], size: int, root: bytes,
    ) -> None:  # fmt: skip
        """Refuse entries that a round cannot have.

        Args:
            base, state: as for ``round``.
            rows: of the sites whose updates the state is made of.
            size, root: of the log with these entries.

        Raises:
            MessageError: with what is wrong.
        """
        with self._lock:
            turns = self._begun()
            if len(entries) != len(rows) + 2:
                raise MessageError("its entries are others than a beginning, its parts and an end")
            if (longest := max(map(len, entries))) > MOST_ENTRY:
                raise MessageError(f"an entry has {longest} bytes; {MOST_ENTRY} is the most")
            first, last = entries[0], entries[-1]
            opened, by = records.read(first, self._keys)
            view = opened.says["view"] if opened.kind == "round-open" else -1
            leader = turns.leader(round, view)
            wanted = records.round_open(round, view, self._task, base, self.log.head())
            if by != [leader] or opened.payload() != wanted.payload():
                raise MessageError(
                    "the entry that begins it is not its leader's, or of another one"
                )
            for (member, count), entry in zip(rows.items(), entries[1:-1], strict=True):
                self.check(member, round, base, entry, count)
            closed, by = records.read(last, self._keys)
            turned = {}
            if closed.kind == "aggregate":
                turned = {each["entry"]: each["reason"] for each in closed.says["excluded"]}
            places = range(len(self.log) + 1, len(self.log) + 1 + len(rows))
            counted = [place for place in places if place not in turned]
            wanted = records.aggregate(round, state, counted, turned)
            fits = turned.keys() <= set(places) and closed.payload() == wanted.payload()
            if by != [leader] or not fits:
                raise MessageError("the entry that ends it is not its leader's, or of another one")
            if (size, root) != self._after(entries):
                raise MessageError("its entries do not make the head that it names")

    def decided(self, entries: Sequence[bytes], size: int, root: bytes) -> None:
        """Add what was decided on, and what was missed before; cosign the head.

        Raises:
            MessageError: the entries do not lead to the head that was decided on.
            CheckpointError: the copy cannot be written.
        """
        with self._lock:
            if (size, root) != self._after(entries):
                raise MessageError("the entries do not lead to the head that was decided on")
            self._append(entries)

    def page(self, first: int) -> Entries:
        """Entries for a member that misses them, as many as a message holds."""
        found, room = list[bytes](), SMALL
        with self._lock:
            for place in range(first, len(self.log)):
                entry = self.log[place]
                room -= len(entry)
                if found and room < 0:
                    break
                found.append(entry)
        return Entries(tuple(found))

    # Heads

    @property
    def witnessed(self) -> Witnessed | None:
        """This member's cosignature of its newest head."""
        with self._lock:
            if self.name not in self._lines:
                return None
            return Witnessed(len(self.log), self._lines[self.name], self.counts)

    @property
    def counts(self) -> bool:
        """Whether a quorum has cosigned the newest head."""
        return self.turns is not None and len(self._lines) >= quorum(len(self.names))

    def cosigned(self, member: str, said: Witnessed) -> bool:
        """Another member's cosignature; whether the head now counts that did not before."""
        with self._lock:
            self._told[member] = said
            before = self.counts
            if said.size == len(self.log):
                self._count(member)
            return self.counts and not before

    def ready(self, others: Sequence[str]) -> bool:
        """Whether the head counts here, and at others."""
        with self._lock:
            told = [self._told.get(member) for member in others]
            size = len(self.log)
            return self.counts and all(t is not None and t.counts and t.size == size for t in told)

    def close(self) -> None:
        """Close the copy; says in the log if its head does not count."""
        with self._lock:
            if self.turns and not self.counts:
                _log.warning(
                    "%d of %d members have cosigned the record of %d entries, too few for it to"
                    " count", len(self._lines), len(self.names), len(self.log),
                )  # fmt: skip
            self.log.close()
            self._witness.close()

    def _head(self) -> None:
        """Sign and cosign the newest head, and count who else has."""
        head = self.log.head()
        self._note = f"{head.text}\n{sign(head.text, self._key, self._private)}"
        self._lines = {}
        last = self._witness.last(self._key.name)
        old = last.size if last else 0
        if old > head.size:  # of a copy that was lost, and is not yet where it was
            return
        proof = self.log.consistency(old, head.size)
        self._lines[self.name] = str(self._witness.cosign(old, proof, self._note))
        for member, said in self._told.items():
            if said.size == head.size:
                self._count(member)
        self._keep()

    def _count(self, member: str) -> None:
        assert self.policy is not None
        key, line = self.policy.witnesses[member[:60]], self._told[member].line
        try:
            _, lines = split(self._note + line)
            fits = len(lines) == 2 and key in verified(self._note + line, [key])[1]
        except MessageError:
            fits = False
        if not fits:
            _log.warning("%s cosigned another record than this one", member)
        elif self._lines.get(member) != line:
            self._lines[member] = line
            self._keep()

    def _keep(self) -> None:
        note = self._note + "".join(self._lines.values())
        self._write(self.folder / HEAD, note.encode())
        if self.counts:
            self.log.keep(len(self.log), note)

    # Entries

    def _append(self, entries: Sequence[bytes]) -> None:
        first = self.log.append(entries)
        for place, entry in enumerate(entries, first):
            self._take(place, entry)
        waiting = self.receipts.waiting
        if waiting in self._own and self.receipts.entry(waiting) == self.log[self._own[waiting]]:
            self.receipts.found(waiting, self._own[waiting])
        self._head()

    def _take(self, place: int, entry: bytes) -> None:
        """Take over what an entry says."""
        said = Envelope.from_bytes(entry).statement
        self._tree.add(leaf_hash(entry))
        if self.turns is None:
            if said.subjects.get("experiment") != self._task:
                raise InputError(f"record: {self.folder} holds another experiment's record")
            self.turns = Turns(said, self._keys)
        self.turns.take(said)
        if said.kind == "contribution" and said.says["site"] == self.name:
            self._own[said.says["round"]] = place
        self.closed += said.kind == "aggregate"

    def _begun(self) -> Turns:
        if self.turns is None:
            raise MessageError("the record has not begun here yet")
        return self.turns

    def _after(self, entries: Sequence[bytes]) -> tuple[int, bytes]:
        """Size and root of the log with more entries."""
        tree = self._tree.copy()
        for entry in entries:
            tree.add(leaf_hash(entry))
        return len(self.log) + len(entries), tree.root

    def _nonce(self, round: int) -> bytes:
        """What this member's contribution to a round commits to, for its next one to reveal."""
        return hmac.digest(self._secret, round.to_bytes(8, "big"), "sha256")

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write(path, content)
        except OSError as error:
            raise CheckpointError(f"record: {path} cannot be written ({error})") from None
