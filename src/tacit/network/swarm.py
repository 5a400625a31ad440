"""A member of a swarm: it trains, votes on each round's model, and leads when it is its turn."""

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from torch import Tensor

from tacit.data import Federation
from tacit.data.sites import told
from tacit.errors import CheckpointError, InputError, MessageError, TacitError
from tacit.experiment import Experiment
from tacit.ledger.agreement import Action, Agreement, Collect, Decided, Judge, Kept, Step, Wait
from tacit.ledger.votes import Committee, Proposal
from tacit.network import rounds
from tacit.network.attendance import Attendance
from tacit.network.blobs import Offer
from tacit.network.collecting import Collecting
from tacit.network.identity import write
from tacit.network.messages import Refused
from tacit.network.notes import read_notes
from tacit.network.party import Ended, require_same_run
from tacit.network.proposals import Proposals
from tacit.network.protocol import (
    MOST_ROWS,
    Entries,
    Missing,
    Record,
    Settled,
    Talk,
    Train,
    Trained,
)
from tacit.network.replica import Replica
from tacit.network.rounds import Server
from tacit.network.site import SiteRun
from tacit.network.software import software
from tacit.network.tensors import Tensors, unwritable
from tacit.protection.budget import PrivacyBudget
from tacit.protection.secagg.node import Signer
from tacit.topology import Star, Swarm

_log = logging.getLogger("tacit.network")

Row = dict[str, object]

_NOTES = "swarm.json"
_PAUSE = 0.5  # seconds between two talks without news
_VOTES = 1.0  # seconds to wait for the votes of those who are late, in a round's first view
_FAREWELL = 30.0  # seconds that cosignatures of the last head are waited for
_WORDS = 8  # of a member, in one message


def _nobody(*_: object) -> NoReturn:
    raise AssertionError("a swarm has no coordinator to ask, nor, without a record, entries of it")


class Notes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a member must not forget.

    Attributes:
        round: that it carries out, from the state ``base``.
        rows: of all members, once they are known.
        kept: what it said in the round, on disk before anybody hears of it.
        records: what its words are about.
        settled: the last decision.
    """

    experiment: str
    round: int
    base: Offer
    rows: tuple[int, ...] = ()
    kept: Kept = Kept()
    records: tuple[Record, ...] = ()
    settled: Settled | None = None


class _Failed(Exception):
    """The run cannot go on here."""


def check(experiment: Experiment) -> None:
    """Refuse what a swarm cannot carry out, beside what ``Experiment.check`` refuses.

    Raises:
        InputError: with the nearest plan that works.
    """
    plan, guard = experiment.plan, experiment.guard
    if not isinstance(plan, Swarm):
        raise InputError(f"topology: {plan!r} was given; in a swarm allowed is Swarm()")
    experiment.check()
    rounds.check(experiment.replace(topology=Star(plan.cohort, plan.sampling)))
    if guard and guard.secure:
        raise InputError(
            f"protection: {guard.secure!r} was given; among the machines of a swarm sums are not"
            " masked so far: a leader that fails after it opened one would leave a second one to be"
            " opened; use DPSGD, or tacit coordinator with Star()"
        )
    if "memory" in experiment.aggregation.uses:
        raise InputError(
            f"aggregation: {experiment.aggregation!r} was given, which remembers what nodes sent,"
            " and each leader of a swarm sees some rounds alone; use Median()"
        )


class SwarmRun:
    """One member's run. ``answer`` and ``here`` may be called from many threads, ``run`` from one.

    Args:
        experiment: as the file defines it, without rows.
        data: the same federation with the rows of this member.
        name: of the member.
        folder: of this run at this member, where it goes on after the process was killed.
        signer: holds the member's key.
        key_of: tells a member's key.
        ask: gets a member's reply, or raises ``TacitError``.
        pull: brings what a member offers to a path, or raises ``TacitError``.
        offer: lets the named members pull a file; all, where nobody is named.
        deadline: seconds after which a round with a quorum closes without those who are late and
            send nothing; None: its leader waits for all that are there.
        patience: seconds without anything new after which the run fails.
        stall: seconds without progress after which a leader that is there is given up; in later
            views of a round it is given more.
        grace: seconds for which a member may be gone before the others go on without it.
        ledger: pays for each round before it begins.
        on_round: called after each round.
        replica: the member's copy of the run's record; None: the run leaves none.
        missing: gets entries of the record from a member, or raises ``TacitError``.

    Raises:
        InputError: a plan that cannot work in a swarm, a member without rows, or one that the
            experiment does not have.
    """

    # Of the present round, which ``_open`` begins.
    committee: Committee
    agreement: Agreement
    _cohort: list[str]
    _base: bytes  # digest of the state's file, in the record
    _timers: set[tuple[Step, int]]
    _since: dict[tuple[Step, int], float]
    _judging: list[Judge]  # what is to be judged
    _again: float  # when, after a leader did not give it
    collecting: Collecting  # of use if it leads
    _records: dict[bytes, Record]
    _collected: int  # how many updates the leader says that it has
    _ahead: tuple[str, Settled] | None  # who told of a newer decision
    _busy: bool  # with training
    _offered: str  # whom the own update was offered to last
    _opened: float
    _began: float

    def __init__(
        self,
        experiment: Experiment,
        data: Federation,
        name: str,
        folder: Path,
        signer: Signer,
        key_of: Callable[[str], Ed25519PublicKey],
        ask: Callable[[str, Talk], Talk],
        pull: Callable[[str, Offer, Path], object],
        offer: Callable[[Path, Collection[str] | None], object],
        *,
        deadline: float | None = None,
        patience: float = 600.0,
        stall: float = 60.0,
        grace: float = 2.0,
        ledger: PrivacyBudget | None = None,
        on_round: Callable[[Row], None] = lambda row: None,
        replica: Replica | None = None,
        missing: Callable[[str, Missing], Entries] = _nobody,
    ) -> None:
        check(experiment)
        self.experiment, self.name, self.folder = experiment, name, folder
        self.names, self.digest = experiment.data.names, experiment.digest()
        self.site = SiteRun(
            experiment, data, name, folder, _nobody, lambda _, __: None, lambda _: None,
            ledger=ledger,
        )  # fmt: skip
        self.signer, self.key_of, self.ask, self.pull, self.offer = signer, key_of, ask, pull, offer
        self.deadline, self.stall = deadline, stall
        self.replica = replica
        self.attendance = Attendance(set(self.names) - {name}, folder, patience, grace)
        self.on_round, self.software, self.rounds = on_round, software(), experiment.rounds
        self.row: Row = {}  # of the last round, for whoever watches
        self.ended: Ended | None = None
        self.received, self.server = Tensors(folder / "received"), Server(experiment)
        self.proposals = Proposals(
            name, folder / "states", self.server.shared | self.server.remembered(),
            self.server.shared, replica, pull, offer, missing,
        )  # fmt: skip
        self._life = secrets.token_bytes(8)
        self._changed = self.attendance.changed
        self._news = 0  # counts what others are to hear of
        self._over = False
        self._rows = {name: self.site.rows}
        self._lives: dict[str, bytes] = {}
        self._told: dict[str, tuple[int, int]] = {}  # round, and how many words of it
        self._rounds = dict.fromkeys(self.names, 0)
        # Agreement has a thread of its own, and so has training; pulls of updates have some.
        self._training = ThreadPoolExecutor(1, "tacit-train")
        self._pool = ThreadPoolExecutor(8, "tacit-pull")
        self.notes = read_notes(self.folder / _NOTES, Notes, self.digest) or self._first_notes()
        if self.notes.rows:
            self._rows = dict(zip(self.names, self.notes.rows, strict=True))
        if replica:
            replica.require(self.notes.round)
        with self._changed:
            self._open(self.notes)

    @property
    def connected(self) -> int:
        """How many others are here."""
        return self.attendance.connected

    # What others say

    def answer(self, member: str, talk: Talk) -> Talk:
        """The reply to another member, at once.

        Raises:
            MessageError: a member, an experiment or a version that has no place in this run.
        """
        with self._changed:  # throughout, so that what was heard was heard in the round replied
            self._hear(member, talk)
            self.here(member, True)
            return self._status(member, talk.round)

    def here(self, member: str, there: bool) -> None:
        """A member came or went: it was seen to, it said something, or it did not reply."""
        with self._changed:
            if self.attendance.here(member, there):
                self._tell()

    def _hear(self, member: str, talk: Talk) -> None:
        require_same_run(self, member, talk)
        if not 0 < talk.rows < MOST_ROWS or self._rows.get(member, talk.rows) != talk.rows:
            raise MessageError(
                f"{member!r} says that it has {talk.rows} rows; before it had others"
            )
        if (talk.founding is None) != (self.replica is None):
            raise MessageError(
                f"{member!r} keeps {'no' if talk.founding is None else 'a'} record of the run,"
                f" unlike {self.name!r}: give --record to all members, or to none"
            )
        if talk.settled:
            self._check_settled(talk.settled)
        with self._changed:
            self._hear_of_record(member, talk)
            if member not in self._rows or self._lives.get(member) != talk.life:
                self._rows[member], self._lives[member] = talk.rows, talk.life
                self._told.pop(member, None)
                self._tell()
            if talk.round != self._rounds[member]:
                self._rounds[member] = talk.round
                self._tell()
            known = self._ahead[1].record.round if self._ahead else self.notes.round - 1
            if talk.settled and talk.settled.record.round > known:
                self._ahead = member, talk.settled
                self._changed.notify_all()
            if talk.round == self.notes.round < self.experiment.rounds:
                self._hear_in_round(member, talk)

    def _hear_of_record(self, member: str, talk: Talk) -> None:
        if self.replica is None:
            return
        try:
            news = talk.founding is not None and self.replica.found(member, talk.founding)
            if talk.witnessed is not None:
                news |= self.replica.cosigned(member, talk.witnessed)
        except CheckpointError as error:
            self.attendance.end(error)
            raise
        if news:
            self._tell()

    def _hear_in_round(self, member: str, talk: Talk) -> None:
        if (trained := talk.trained) and member not in self.collecting.parts:
            if self.replica and trained.update:
                entry, rows, round = trained.entry, self._rows[member], self.notes.round
                self.replica.check(member, round, self._base, entry, rows)
            self.collecting.parts[member] = trained
            self._changed.notify_all()
        leader = self.committee.leader(self.notes.round, self.agreement.kept.view)
        collected = min(talk.collected, len(self._cohort))
        if member == leader and collected > self._collected:
            self._collected = collected
            self.attendance.progress = time.monotonic()
        new = {r.value: r for r in talk.records if r.value not in self._records}
        self._records |= new
        for message in talk.said:
            try:
                if isinstance(message, Proposal) and message.value not in self._records:
                    raise MessageError(f"{member!r} proposes what it does not tell")
                self._event(partial(self.agreement.receive, message))
            except MessageError as error:
                _log.warning("%s: %s", member, error)
        for value in new.keys() - self.agreement.proposed:  # nobody is to fill the memory
            del self._records[value]

    # What this member says

    def _status(self, member: str, theirs: int) -> Talk:
        """Where this member is, for another one."""
        round, parts = self.notes.round, self.collecting.parts
        leads = self.committee.leader(round, self.agreement.kept.view) == member
        trained = parts.get(self.name) if leads else None
        if trained and trained.update and self._offered != member:
            self._offered = member
            self.offer(self.site.tensors.path(trained.update.digest), [member])
        settled = self.notes.settled if theirs < round else None
        return Talk(
            self.digest, self.software, self._life, self.site.rows, round, trained,
            len(self.collecting.updates), settled=settled,
            founding=self.replica.founding if self.replica else None,
            witnessed=self.replica.witnessed if self.replica else None,
        )  # fmt: skip

    def _words(self, member: str) -> tuple[Talk, tuple[int, int]]:
        """What a member has not heard yet, and how much it has then heard."""
        round = self.notes.round
        before, heard = self._told.get(member, (round, 0))
        first = heard if before == round else 0
        new = self.notes.kept.said[first : first + _WORDS]
        records = {self._records[m.value] for m in new if isinstance(m, Proposal)}
        status = self._status(member, self._rounds[member])
        talk = msgspec.structs.replace(status, records=tuple(records), said=new)
        return talk, (round, first + len(new))

    def _talk(self, member: str) -> None:
        """Tell a member all news, until the run is over."""
        known = -1
        while True:
            with self._changed:
                until = time.monotonic() + _PAUSE
                while time.monotonic() < until and not self._over:
                    if known != self._news and member not in self.attendance.away:
                        break
                    self._changed.wait(_PAUSE)
                if self._over:
                    return
                known, life = self._news, self._lives.get(member)
                talk, told = self._words(member)
            try:
                reply = self.ask(member, talk)
                self._hear(member, reply)
                self.here(member, True)
            except (MessageError, Refused) as error:
                _log.warning("%s", error)
                time.sleep(_PAUSE)
            except TacitError as error:
                _log.info("%s", error)
                self.here(member, False)
            else:
                with self._changed:
                    if (reply.round, reply.life) == (told[0], life):
                        self._told[member] = told
                        known -= told[1] < len(self.notes.kept.said)

    def _tell(self) -> None:
        self._news += 1
        self._changed.notify_all()

    # Votes

    def _event(self, event: Callable[[], list[Action]]) -> None:
        """Have the agreement go on: what it says is on the disk before anybody hears of it."""
        before = self.agreement.kept
        for action in event():
            match action:
                case Wait(step, view):
                    self._timers.add((step, view))
                    self._since[step, view] = time.monotonic()
                    self.attendance.progress = time.monotonic()
                case Judge():
                    self._judging.append(action)
                case Collect():
                    self._opened = self.attendance.progress = time.monotonic()
                case Decided(certificate):
                    if record := self._records.get(certificate.value):
                        self._ahead = self.name, Settled(record, certificate)
        for member, evidence in self.agreement.evidence.items():
            path = self.folder / f"evidence-{self.notes.round + 1}-{member}.json"
            if not path.exists():
                _log.warning("%s signed two things of which one is a lie: see %s", member, path)
                self._write(path, msgspec.json.encode(evidence))
        if self.agreement.kept != before:
            kept = self.agreement.kept
            about = {m.value for m in (*kept.said, *filter(None, [kept.locked, kept.valid]))}
            records = tuple(r for value, r in self._records.items() if value in about)
            self._note(msgspec.structs.replace(self.notes, kept=kept, records=records))
            self._tell()
        self._changed.notify_all()

    def _due(self) -> tuple[Step, int] | None:
        """A time to wait that is over."""
        kept, now = self.agreement.kept, time.monotonic()
        leader = self.committee.leader(self.notes.round, kept.view)
        for step, view in self._timers:
            since, more = self._since[step, view], 1 + view
            if view != kept.view:
                continue
            if step != "propose":
                if now - since > _VOTES * more:
                    return step, view
            elif kept.step == "propose" and not self._busy:
                stalled = now - max(since, self.attendance.progress) > self.stall * more
                if self.attendance.gone(leader) or stalled:
                    return step, view
        return None

    def _signed(self, member: str, message: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self.key_of(member).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def _check_settled(self, settled: Settled) -> None:
        record, certificate = settled.record, settled.certificate
        self.committee.check(certificate)
        same = (certificate.value, certificate.round) == (record.value, record.round)
        if not same or certificate.phase != "precommit" or record.experiment != self.digest:
            raise MessageError("a decision was told whose votes are for something else")

    # What happens by itself

    def run(self) -> Ended:
        """Carry out the rounds that are left, then stay until all who are here are done."""
        for member in self.names:
            if member != self.name:
                threading.Thread(target=self._talk, args=[member], daemon=True).start()
        try:
            self._begin()
            while self.notes.round < self.experiment.rounds:
                self._round()
            ended = self.ended = Ended("finished", f"all {self.experiment.rounds} rounds are done")
            self._stay()
        except (_Failed, InputError) as error:
            ended = self.ended = Ended("failed", str(error))
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            self._training.shutdown(cancel_futures=True)
            self._pool.shutdown(cancel_futures=True)
        return ended

    def home(self) -> tuple[Tensor, dict[str, float]]:
        """(d,) the newest model, and its scores on this member's test rows."""
        shared, _ = self.proposals.state(self.notes.base)
        return self.site.home(self.notes.rows, shared)

    def _begin(self) -> None:
        """Wait until all have told how many rows they have."""
        with self._changed:
            until = time.monotonic() + self.attendance.patience
            while missing := self._absent():
                self._changed.wait(_PAUSE)
                if time.monotonic() > until:
                    names, waited = ", ".join(missing), f"{self.attendance.patience:g} seconds"
                    did = "join" if set(missing) - self._rows.keys() else "sign the record"
                    raise _Failed(f"{names} did not {did} within {waited}")
            if not self.notes.rows:
                rows = tuple(self._rows[name] for name in self.names)
                self._note(msgspec.structs.replace(self.notes, rows=rows))
            self.attendance.progress = time.monotonic()
        data = told(self.experiment.data, list(self.notes.rows))
        self.server = Server(self.experiment.replace(data=data))
        if self.notes.round < self.experiment.rounds:
            self._train()

    def _absent(self) -> list[str]:
        """Whom the run waits for to begin."""
        missing = [name for name in self.names if name not in self._rows]
        if missing or self.replica is None or self._ahead:
            return missing
        return self.replica.absent

    def _round(self) -> None:
        """Do one thing that is to be done, or wait for one."""
        with self._changed:
            if self.attendance.broken:
                raise self.attendance.broken
            ahead, due = self._ahead, self._judging and time.monotonic() >= self._again
            judge = self._judging.pop(0) if due else None
            ready = collecting = False
            if ahead is None and judge is None:
                collecting = self._collects()
                if collecting:
                    self._fetch()
                    ready = self._complete()
                if not ready:
                    if over := self._due():
                        self._timers.discard(over)
                        self._event(partial(self.agreement.timeout, *over))
                        return
                    self._give_up()
                    self._changed.wait(0.05 if self._timers or collecting else _PAUSE)
                    return
        if ahead is not None:
            self._settle(*ahead)
        elif judge is not None:
            self._judge(judge)
        elif ready:
            self._close()

    def _give_up(self) -> None:
        if self._busy:
            self.attendance.progress = time.monotonic()
        if self.attendance.silent():
            here = 1 + self.attendance.connected
            raise _Failed(
                f"round {self.notes.round + 1}: nothing was heard for"
                f" {self.attendance.patience:g} seconds;"
                f" {here} of {len(self.names)} are here, {self.committee.quorum} are needed"
            )

    # As a site

    def _train(self) -> None:
        notes = self.notes
        if self.name in self._cohort:
            self._busy = True
            self._training.submit(self._train_on, notes)

    def _cohort_of(self, round: int) -> list[str]:
        plan = self.experiment.plan
        assert isinstance(plan, Star)
        if round == self.experiment.rounds:
            return []
        nodes = plan.sample(len(self.names), self.experiment.seed, round)
        return [self.names[int(node)] for node in nodes]

    def _train_on(self, notes: Notes) -> None:
        order = Train(self.digest, notes.round, notes.rows, notes.base, False, True)
        trained = Trained(None, None)
        try:
            made = self.site.update(order, lambda: self.proposals.state(notes.base)[0])
            trained = Trained(made.update, made.loss, self._contribution(notes, made.update))
        except (CheckpointError, OSError) as error:
            self.attendance.end(error)
        except TacitError as error:
            _log.warning("%s", error)
        except Exception:  # of the experiment's own code; the others go on without it
            _log.exception("training failed", extra={"round": notes.round + 1})
        finally:
            with self._changed:
                if self.notes.round == notes.round:
                    self._busy, self.collecting.parts[self.name] = False, trained
                    self.attendance.progress = time.monotonic()
                    self._tell()

    def _contribution(self, notes: Notes, update: Offer) -> bytes:
        """What this member signs for its update, where the run leaves a record."""
        if self.replica is None:
            return b""
        path = self.site.tensors.path(update.digest)
        return self.replica.contribution(notes.round, self._base, path, self.site.rows)

    # As the leader

    def _collects(self) -> bool:
        kept, round = self.agreement.kept, self.notes.round
        leads = self.committee.leader(round, kept.view) == self.name
        return leads and kept.step == "propose" and kept.valid is None

    def _fetch(self) -> None:
        self.collecting.fetch(self.name, self.site.tensors.path, self._pool)

    def _complete(self) -> bool:
        """Whether the round can be closed."""
        least = max(1, math.ceil(len(self._cohort) / 2), self.experiment.aggregation.least)
        late = self.deadline is not None and time.monotonic() - self._opened > self.deadline
        return self.collecting.complete(least, late)

    def _close(self) -> None:
        """Make the new state, and propose it."""
        with self._changed:
            notes, parts = self.notes, dict(self.collecting.parts)
            updates, view = dict(self.collecting.updates), self.agreement.kept.view
        nodes = np.array([i for i, name in enumerate(self.names) if name in updates], np.int64)
        sent = [(int(i), updates[self.names[i]]) for i in nodes]
        self.server.remember(*self.proposals.state(notes.base))
        self.server.close(notes.round, nodes, self.server.wire.readers(sent, notes.round))
        state = self.proposals.files.put(self.server.shared | self.server.remembered())
        losses = [(notes.rows[i], parts[self.names[i]].loss) for i in nodes]
        known = [(rows, loss) for rows, loss in losses if loss is not None]
        total = sum(rows for rows, _ in known)
        loss = sum(rows * loss for rows, loss in known) / total if total else None
        record = Record(
            self.digest, notes.round, notes.base.digest, state, tuple(nodes.tolist()), loss,
            self.proposals.added(
                notes.round, view, notes.base, state,
                {name: parts[name].entry for name in updates},
                {self.names[node]: why for node, why in self.server.turned_away.items()},
            ),
        )  # fmt: skip
        self.proposals.serve(record)
        with self._changed:
            if self.notes.round == notes.round:
                self._records[record.value] = record
                self._event(partial(self.agreement.offer, record.value))

    # As a voter

    def _judge(self, judge: Judge) -> None:
        """Pull what is proposed, and see whether it can be the round's new state."""
        record, round = self._records[judge.value], self.notes.round
        valid = False
        try:
            self._judge_record(record)
            rows = {self.names[i]: self._rows[self.names[i]] for i in record.included}
            self.proposals.judge(judge.leader, record, self.notes.base, rows)
            valid = True
        except MessageError as error:
            _log.warning("round %d: %r proposes what cannot be: %s", round + 1, judge.leader, error)
        except TacitError as error:  # the leader is away; what it proposed may come again
            _log.info("%s", error)
            with self._changed:
                if not self.attendance.gone(judge.leader):
                    self._judging.append(judge)
                    self._again = time.monotonic() + _PAUSE  # it may never give what it proposed
            return
        self.proposals.serve(record)
        with self._changed:
            if self.notes.round == round:
                self.attendance.progress = time.monotonic()
                self._event(partial(self.agreement.judged, judge.value, valid))

    def _judge_record(self, record: Record) -> None:
        notes = self.notes
        if (record.experiment, record.round) != (self.digest, notes.round):
            raise MessageError("it is of another round")
        if record.base != notes.base.digest:
            raise MessageError("it begins with another state than was decided on")
        cohort = {self.names.index(name) for name in self._cohort}
        included = record.included
        if not set(included) <= cohort or len(set(included)) < len(included):
            raise MessageError("it counts other nodes than those of the round")
        if 2 * len(included) < len(cohort):
            raise MessageError(f"it counts {len(included)} of {len(cohort)} nodes; half is needed")

    def _settle(self, source: str, settled: Settled) -> None:
        """Go on from what was decided."""
        record = settled.record
        holders = [source, *settled.certificate.signatures, *self.names]
        for member in dict.fromkeys(holders):
            if member in self.attendance.away:
                continue
            try:
                self.proposals.bring(member, record.state)
            except TacitError as error:  # it is away, or sends something else
                _log.info("%s", error)
                continue
            try:
                self.proposals.state(record.state)
            except MessageError as error:
                raise _Failed(f"round {record.round + 1}: what was decided on: {error}") from None
            if self.proposals.recorded(member, record):
                break
        else:
            with self._changed:
                self._give_up()
                self._changed.wait(_PAUSE)
            return
        with self._changed:
            left_out = [n for i, n in enumerate(self.names) if i not in record.included]
            left_out = [name for name in left_out if name in self._cohort]
            old, seconds = self.notes.base, time.monotonic() - self._began
            notes = Notes(self.digest, record.round + 1, record.state, self.notes.rows,
                          settled=settled)  # fmt: skip
            self._note(notes)
            self._open(notes)
            self.proposals.retain(record, old)
            self.received.retain(())
            self._tell()
        self.row = {
            "round": notes.round, "cohort": len(record.included), "train_loss": record.loss,
            "left_out": left_out, "seconds": seconds,
        }  # fmt: skip
        self.on_round(self.row)
        if notes.round < self.experiment.rounds:
            self._train()

    def _open(self, notes: Notes) -> None:
        """Begin a round, or go on with it."""
        self.offer(self.proposals.files.path(notes.base.digest), None)
        self._timers, self._since, self._judging, self._again = set(), {}, [], 0.0
        self._records = {record.value: record for record in notes.records}
        self._cohort = self._cohort_of(notes.round)
        run = bytes.fromhex(self.digest)
        keys = {name: self.key_of(name).public_bytes_raw() for name in self.names}
        turns = self.replica and self.replica.turns
        self.committee = Committee.of(run, turns.seed if turns else run, keys, self._signed)
        self._base = self.proposals.digest(notes.base)
        self.collecting = Collecting(
            self.attendance, self.server.wire, notes.round, self._cohort, self.received.folder,
            self.pull, self._tell,
        )  # fmt: skip
        self._collected, self._ahead, self._busy, self._offered = 0, None, False, ""
        self._opened = self._began = self.attendance.progress = time.monotonic()
        for record in (*notes.records, *([notes.settled.record] if notes.settled else [])):
            self.proposals.serve(record)
        self.agreement = Agreement(
            self.committee, self.name, notes.round, self.signer.sign, notes.kept
        )
        if notes.round < self.experiment.rounds:
            self._event(self.agreement.start)

    def _stay(self) -> None:
        """Serve on until all who are here are done, or nothing is new of them for too long.

        Then, for a while, until the record's head counts here and with them.
        """
        known, since = dict[str, int](), time.monotonic()
        with self._changed:
            while True:
                gone = {name for name in self.names if self.attendance.gone(name)}
                now = {n: r for n, r in self._rounds.items() if n not in gone | {self.name}}
                done = all(round >= self.experiment.rounds for round in now.values())
                if done and (self.replica is None or self.replica.ready(list(now))):
                    return
                if now != known:
                    known, since = now, time.monotonic()
                patience = self.attendance.patience
                if time.monotonic() - since > (min(_FAREWELL, patience) if done else patience):
                    return
                self._changed.wait(_PAUSE)

    def _first_notes(self) -> Notes:
        whole = self.server.shared | self.server.remembered()
        notes = Notes(self.digest, 0, self.proposals.files.put(whole))
        self._write(self.folder / _NOTES, msgspec.json.encode(notes))
        return notes

    def _note(self, notes: Notes) -> None:
        self._write(self.folder / _NOTES, msgspec.json.encode(notes))
        self.notes = notes

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write(path, content)
        except OSError as error:
            self.attendance.end(error)
            raise unwritable(self.folder, error) from error
