"""The coordinator of a run: it answers sites, closes rounds, and forgets nothing when killed."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data.sites import told
from tacit.errors import CheckpointError, InputError, MessageError, require
from tacit.experiment import Experiment
from tacit.network.attendance import Attendance
from tacit.network.blobs import Offer
from tacit.network.intake import Intake
from tacit.network.masked import signs_masked
from tacit.network.policy import NO_LIMITS, Limits, enforce
from tacit.network.protocol import (
    INSIDE,
    MOST_ROWS,
    Answer,
    Ask,
    Decline,
    Deliver,
    Done,
    Extend,
    Join,
    Leave,
    Measured,
    Ready,
    Reply,
    Request,
    Taken,
    ToRecord,
    Train,
    Wait,
)
from tacit.network.recording import Recording
from tacit.network.releasing import Releasing
from tacit.network.rounds import Server, check
from tacit.network.scores import Scores, real
from tacit.network.software import software
from tacit.network.store import Kept, Store, Update
from tacit.network.summing import Summing
from tacit.network.sums import KeyOf, Parcels
from tacit.network.tensors import HEADER
from tacit.protection.codec import SumError
from tacit.protection.secagg.session import Aborted
from tacit.topology import Star

_log = logging.getLogger("tacit.network")

Row = dict[str, Any]
_TICK = 0.02


class Coordinator:
    """One run. ``answer`` and ``here`` may be called from many threads, ``run`` from one.

    Args:
        experiment: as the file defines it, without rows.
        store: of this experiment; a run that it holds goes on.
        pull: brings what a site offers to a path, or raises ``TacitError``; may take long.
        offer: lets sites pull a file.
        tell: lets a site know that there are news for it; may fail in silence.
        key_of: tells a site's long-term key, for secure sums.
        quorum: the fewest updates that close a round; None: half of the cohort.
        deadline: seconds after which a round with a quorum closes without those who are late and
            send nothing; None: it waits for all that are there.
        patience: seconds without a quorum and without anything new after which the run fails.
        grace: seconds for which a site may be gone before its round goes on without it.
        on_round: called with the metrics of each closed round.
        limits: of the federation, to which the experiment must keep.
        record: that the run leaves; None: none.
        release: hands the model out after the last round, as the record's members sign.

    Raises:
        InputError: a plan that cannot work among real machines, or is against the limits.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: Store,
        pull: Callable[[str, Offer, Path], object],
        offer: Callable[[Path], object],
        tell: Callable[[str], object] = lambda site: None,
        key_of: KeyOf | None = None,
        *,
        quorum: int | None = None,
        deadline: float | None = None,
        patience: float = 600.0,
        grace: float = 1.0,
        on_round: Callable[[Row], None] | None = None,
        limits: Limits = NO_LIMITS,
        record: Recording | None = None,
        release: Releasing | None = None,
    ) -> None:
        check(experiment)
        enforce(limits, experiment)
        most = experiment.data.nodes
        require(quorum is None or quorum <= most, "quorum", quorum, f"{most}, the sites, or less")
        self.experiment, self.store, self.offer = experiment, store, offer
        self.digest, self.names = experiment.digest(), experiment.data.names
        self.quorum, self.tell, self.key_of, self.limits = quorum, tell, key_of, limits
        self.on_round = on_round or (lambda row: None)
        self.software, self.record, self.release = software(), record, release
        if record and (begun := store.read()):
            record.require(begun.round)
        folder = store.tensors.folder
        self.attendance = Attendance(self.names, folder, patience, grace)
        self.intake = Intake(
            self.attendance, self.names, folder, pull, self._keep, self._all_measured, deadline
        )
        self.scores = Scores(experiment, store, self.attendance)
        self.server: Server | None = None
        self.summing: Summing | None = None
        self.row: Row = {}  # of the last closed round
        self._changed = self.attendance.changed
        self._rows = store.sites()
        self._kept: Kept | None = None
        self._inside = b""  # of the state that the round begins with
        self._left: set[str] = set()

    # What sites ask

    def answer(self, site: str, request: Request) -> Reply:
        """The reply to a site, at once.

        Raises:
            MessageError: a site, an experiment or a message that has no place in this run.
        """
        if site not in self.names:
            raise MessageError(
                f"{site!r} is no site of this experiment; it has {', '.join(self.names)}"
            )
        if request.experiment != self.digest:
            raise MessageError(
                f"{site!r} has experiment {request.experiment[:12]}, the coordinator"
                f" {self.digest[:12]}: give both the same file and settings"
            )
        if isinstance(request, ToRecord):
            return self._recorded(site, request)
        with self._changed:
            match request:
                case Join():
                    return self._join(site, request)
                case Ask():
                    order = self._order(site)
                    if not isinstance(order, Wait):
                        self.attendance.progress = time.monotonic()
                    return order
                case Leave():
                    self._left.add(site)
                    self.attendance.news()
                    return Taken(self.digest, True)
                case Deliver():
                    if (reply := self._deliver(site, request)) is not None:
                        return reply
                case Ready():
                    return self._ready(site, request)
                case Answer():
                    if self.summing:
                        return self.summing.answer(site, request)
                    return Taken(self.digest, False)
                case Measured():
                    return Taken(self.digest, self.scores.take(site, request))
                case Decline():
                    return self._decline(site, request)
        # A small update, for which there is nothing but the disk to wait for.
        used = self.intake.take(site, request)
        return Taken(self.digest, used, self.intake.declined.get(site, "")[:2000])

    def here(self, site: str, there: bool) -> None:
        """A site came or went."""
        with self._changed:
            if self.attendance.here(site, there):
                self.attendance.news()

    @property
    def connected(self) -> int:
        """How many sites are here."""
        return self.attendance.connected

    @property
    def trouble(self) -> str:
        """Why the run cannot go on, or nothing."""
        if self.attendance.broken:
            return str(self.attendance.broken)
        kept = self._kept
        return kept.reason or "" if kept and kept.outcome == "failed" else ""

    def _join(self, site: str, request: Join) -> Reply:
        if request.software != self.software:
            raise MessageError(
                f"{site!r} runs tacit {request.software}, the coordinator {self.software}: install"
                " the same version"
            )
        if not 0 < request.rows < MOST_ROWS:
            raise MessageError(f"{site!r} says that it has {request.rows} rows")
        known = self._rows.get(site)
        if known is None:
            try:
                self.store.join(site, request.rows)
            except CheckpointError as error:
                self.attendance.end(error)
                raise
            self._rows[site] = request.rows
            _log.info("%s joined with %d rows", site, request.rows, extra={"site": site})
        elif known != request.rows:
            raise MessageError(
                f"{site!r} joined with {known} rows and now has {request.rows}: give it the data"
                " that it joined with, or start the run anew"
            )
        if self.summing:  # the keys and what it kept in memory are gone with the process before
            self.intake.updates.pop(site, None)
        self.attendance.news()
        return self._order(site)

    def _recorded(self, site: str, request: ToRecord) -> Reply:
        if self.record is None:
            raise MessageError(
                f"{site!r} witnesses the record of this run, and the coordinator was started"
                " without one: give it --record again"
            )
        try:
            reply = self.record.answer(site, request)
        except CheckpointError as error:
            self.attendance.end(error)
            raise
        if not isinstance(request, Extend):
            with self._changed:
                self.attendance.news()
        return reply

    def _order(self, site: str) -> Reply:
        if self.record and site in self._rows and (asked := self.record.order(site)) is not None:
            return asked
        if (kept := self._kept) is None:
            absent = ", ".join(self._absent()) or "the start"
            return Wait(self.digest, f"waiting for {absent}"[:2000])
        if kept.outcome is not None:
            state = kept.state if kept.outcome == "finished" else None
            reason = (kept.reason or "")[:2000]
            return Done(self.digest, kept.outcome, reason, state, self._all_rows())
        if site not in self._rows:
            raise MessageError(f"{site!r} has not joined yet")
        here = site in self.intake.updates
        if self.summing and here and (order := self.summing.order(site)) is not None:
            return order
        wanted = self.intake.open_to(site) and not here
        measure = self.scores.wanted(site, kept.round)
        if not (wanted or measure) or site in self.intake.pulling:
            return Wait(self.digest, f"round {kept.round + 1} goes on without {site}")
        return self._train(kept, measure, wanted)

    def _train(self, kept: Kept, measure: bool, train: bool, again: int = 0) -> Train:
        rows, state = self._all_rows(), kept.state
        return Train(self.digest, kept.round, rows, state, measure, train, again, self._inside)

    def _all_rows(self) -> tuple[int, ...]:
        """Of every site, in order; 0 for one that has not joined."""
        return tuple(self._rows.get(name, 0) for name in self.names)

    def _absent(self) -> list[str]:
        """Whom the run waits for to begin."""
        absent = [name for name in self.names if name not in self._rows]
        return absent or (self.record.absent if self.record else [])

    def _open_to(self, site: str, round: int) -> bool:
        """Whether the round takes something of a site."""
        kept = self._kept
        open_ = kept is not None and kept.outcome is None and round == kept.round
        return open_ and self.intake.open_to(site)

    def _ready(self, site: str, request: Ready) -> Reply:
        used = self._open_to(site, request.round)
        if used:
            if self.summing is None:
                raise MessageError(f"{site!r} keeps its update; this run has no secure sums")
            if not signs_masked(self.experiment):
                self._check_entry(site, request)
                self._record_entry(site, request)
            self.intake.updates[site] = Update(None, real(request.loss))
            self.summing.sessions = max(self.summing.sessions, request.session)
            self.attendance.news()
        return Taken(self.digest, used)

    def _deliver(self, site: str, request: Deliver) -> Reply | None:
        """The reply; None where the update is here, and is to be taken."""
        if not self._open_to(site, request.round):
            return Taken(self.digest, False)
        if self.summing:
            raise MessageError(f"{site!r} offers its update; in this run updates are hidden")
        if site in self.intake.updates:
            return Taken(self.digest, True)
        self._check_entry(site, request)
        assert self.server is not None
        most = self.server.wire.bytes + HEADER
        if request.update.size > most:
            raise MessageError(
                f"{site!r} offers an update of {request.update.size} bytes; {most} is the most"
            )
        if request.inside and site not in self.intake.pulling:
            self.intake.pulling.add(site)
            return None
        self.intake.start(site, self.intake.take, request)
        return Wait(self.digest, "your update is being pulled")

    def _check_entry(self, site: str, request: Deliver | Ready) -> None:
        if self.record:
            self.record.check(site, request.round, request.entry, self._rows[site])

    def _record_entry(self, site: str, request: Deliver | Ready) -> None:
        if self.record:
            try:
                self.record.contributed(site, request.round, request.entry)
            except CheckpointError as error:
                self.attendance.end(error)
                raise

    def _keep(self, site: str, request: Deliver, sent: Path | bytes) -> bool:
        """Look at an update that is here, and keep it; whether the round takes it."""
        self._record_entry(site, request)
        assert self.server is not None
        self.server.wire.examine(site, sent, request.round)
        return self._accept(site, request, sent)

    def _accept(self, site: str, request: Deliver, sent: Path | bytes) -> bool:
        """Keep an update that is here and in order, if the round still takes it."""
        update = Update(request.update.digest, real(request.loss), request.inside)
        with self._changed:
            if not self._open_to(site, request.round):
                return False
            if isinstance(sent, Path):
                sent.replace(self.store.tensors.path(request.update.digest))
        self.store.accept(request.round, site, update)  # waits for the disk
        with self._changed:
            if open_ := self._open_to(site, request.round):
                self.intake.updates[site] = update
                self._accepted(site, request)
            return open_

    def _accepted(self, site: str, request: Deliver) -> None:
        self.intake.accepted += 1
        _log.info(
            "%s's update is accepted", site,
            extra={"site": site, "round": request.round + 1,
                   "digest": request.update.digest.hex(), "bytes": request.update.size},
        )  # fmt: skip

    def _decline(self, site: str, request: Decline) -> Reply:
        used = self._open_to(site, request.round)
        if used and (self.summing or site not in self.intake.updates):
            self.intake.updates.pop(site, None)
            reason, number = f"{request.code} {request.reason}".rstrip(), request.round + 1
            self.intake.declined[site] = reason
            about = {"site": site, "round": number}
            _log.warning("%s left round %d out: %r", site, number, reason, extra=about)
            self.attendance.news()
        return Taken(self.digest, used)

    # What happens by itself

    def run(self) -> Kept:
        """Carry the run out, from wherever the store says it is, to its end."""
        kept = self._begin()
        while kept.outcome is None:
            kept = self._finish(kept) if kept.round == self.experiment.rounds else self._round(kept)
        return kept

    def farewell(self, most: float) -> None:
        """Wait until all sites that were here not long ago have gone home with the model.

        Args:
            most: seconds.
        """
        until = time.monotonic() + most
        with self._changed:
            while (now := time.monotonic()) < until:
                lost = {name for name, since in self.attendance.away.items() if now - since > most}
                if self._left | lost >= set(self.names):
                    return
                self._changed.wait(_TICK)

    def stop(self) -> None:
        """Take no more; what is kept stays."""
        self.intake.stop()

    def _begin(self) -> Kept:
        """Wait until everybody has joined, and go to where the store says the run is."""
        with self._changed:
            while missing := self._absent():
                if not self.attendance.wait(patience := self.attendance.patience):
                    raise InputError(
                        f"sites: {', '.join(missing)} did not join within {patience:g} seconds"
                    )
        experiment = self.experiment.replace(data=told(self.experiment.data, self._all_rows()))
        check(experiment)
        enforce(self.limits, experiment)
        server = self.server = Server(experiment)
        guard = experiment.guard
        if guard and guard.secure:
            assert self.key_of is not None
            self.intake.hidden = True
            self.summing = Summing(
                experiment, self.attendance, self.intake, self.key_of,
                Parcels(self.store.tensors, self.offer), self.tell, self.record,
            )  # fmt: skip
        kept = self.store.read()
        if kept is None:
            memory = self.store.tensors.put(server.remembered())
            self.store.begin(self.store.tensors.put(server.shared), memory.digest)
            kept = self.store.read()
            assert kept is not None
        self.row = (self.store.metrics() or [{}])[-1]
        for each in (self.experiment, experiment):
            each.forget_template()
        self._open(kept)
        return kept

    def _needed(self, kept: Kept) -> set[bytes]:
        """Digests of the tensors that a round goes on from."""
        accepted = self.store.accepted(kept.round).values()
        needed = {update.digest for update in accepted if update.digest}
        needed |= {kept.state.digest, kept.memory}
        if self._kept is not None:  # of which somebody may not have all yet
            needed.add(self._kept.state.digest)
        return needed

    def _open(self, kept: Kept) -> None:
        """Begin the round that comes next, from the files, which need no memory."""
        tensors = self.store.tensors
        assert self.server is not None
        self.server.remember(tensors.get(kept.state.digest), tensors.get(kept.memory))
        with self._changed:  # else one that comes just now is taken for one that is not needed
            self.store.tensors.retain(self._needed(kept))
        state = self.store.tensors.path(kept.state.digest)
        if self.record:
            before = (self.store.metrics() or [{}])[-1]
            self.record.go_on(kept.round, state, before, kept.outcome is not None)
        self.offer(state)
        with self._changed:
            self._inside = state.read_bytes() if kept.state.size <= INSIDE else b""
            self._kept = kept
            plan = self.experiment.plan
            assert isinstance(plan, Star)
            last = kept.round == self.experiment.rounds
            nodes = () if last else plan.sample(len(self.names), self.experiment.seed, kept.round)
            cohort = tuple(self.names[int(node)] for node in nodes)
            self.intake.open(cohort, self.store.accepted(kept.round))
            self.scores.open(kept.round)
            if self.summing:
                self.summing.sessions = 0
            self.attendance.news()
        if not last:
            about = {"round": kept.round + 1, "digest": kept.state.digest.hex()}
            _log.info("round %d begins, of %s", kept.round + 1, ", ".join(cohort), extra=about)
        self._tell_all()

    def _round(self, kept: Kept) -> Kept:
        """Wait for the round to be complete, or complete enough, and close it."""
        cohort, server = self.intake.cohort, self.server
        least = self.quorum or math.ceil(len(cohort) / 2)
        least = max(1, min(least, len(cohort)), self.experiment.aggregation.least)
        assert server is not None
        guard = server.experiment.guard
        if guard and guard.secure:
            least = max(least, guard.threshold)
        if reason := self.intake.gather(least):
            return self._fail(f"round {kept.round + 1}: {reason}")
        with self._changed:
            updates = dict(self.intake.updates)
        epsilon: float | None = None
        if guard and (guard.budget or guard.labels):
            epsilon = guard.epsilon(kept.round + 1)
            self.store.spend(kept.round, epsilon, guard.budget.delta if guard.budget else 0.0)
        if self.summing:
            try:
                opened = self.summing.open(kept, least)
                server.close_sums(kept.round, opened)
                nodes = list(opened[-1].nodes)
                self.intake.accepted += len(nodes)
            except (Aborted, SumError) as error:
                return self._fail(f"round {kept.round + 1}: {error}")
        else:
            nodes = self._close(kept, updates)
        self._report()
        counted = [self.names[node] for node in nodes]
        found = {name: updates[name].loss for name in counted if name in updates}
        losses = {name: loss for name, loss in found.items() if loss is not None}
        rows = sum(self._rows[name] for name in losses)
        row: Row = {
            "round": kept.round + 1,
            "cohort": len(counted),
            "train_loss": sum(self._rows[n] * loss for n, loss in losses.items()) / max(rows, 1),
            "left_out": [name for name in cohort if name not in counted],
            "seconds": time.monotonic() - self.intake.opened,
        }
        if epsilon is not None:
            row["epsilon"] = epsilon
        if self.record:
            turned = server.turned_away.items()
            row["turned_away"] = {self.names[node]: why for node, why in turned}
        return self._advance(kept, row)

    def _advance(self, kept: Kept, row: Row) -> Kept:
        """Keep the state after a round, and open the next."""
        server = self.server
        assert server is not None
        state = self.store.tensors.put(server.shared)
        memory = self.store.tensors.put(server.remembered())
        self.store.advance(kept.round, state, memory.digest, row)
        about = {"round": kept.round + 1}
        _log.info("round %d is closed: %d updates", kept.round + 1, row["cohort"], extra=about)
        if left_out := row.get("left_out"):
            _log.warning("left out of it: %s", ", ".join(left_out), extra=about)
        now = self.store.read()
        assert now is not None
        self._open(now)
        self.row = row
        self.on_round(row)
        return now

    def _close(self, kept: Kept, updates: Mapping[str, Update]) -> list[int]:
        """Take the round's step with the updates that came; whose."""
        assert self.server is not None
        path = self.store.tensors.path
        nodes = [i for i, name in enumerate(self.names) if name in updates]
        sent = [
            (node, update.inside or path(update.digest))
            for node in nodes
            if (update := updates[self.names[node]]).digest
        ]
        readers = self.server.wire.readers(sent, kept.round)
        self.server.close(kept.round, np.array(nodes, np.int64), readers)
        return nodes

    def _all_measured(self) -> bool:
        """Whether the round waits for no more scores."""
        assert self._kept is not None
        table = self.scores.tables.get(self._kept.round)
        return table is None or table.keys() | self._excused() >= set(self.names)

    def _excused(self) -> set[str]:
        """Sites whose scores are not waited for."""
        return self.attendance.away.keys() | self.intake.declined.keys()

    def _finish(self, kept: Kept) -> Kept:
        """After the last round, wait for the scores of those who are there."""
        with self._changed:
            until = time.monotonic() + min(self.attendance.patience, 60.0)
            while time.monotonic() < until and not self._all_measured():
                self._changed.wait(_TICK)
        self._report()
        reason = f"all {kept.round} rounds are done"
        if self.release:
            assert self.server is not None
            said = self.release.carry_out(
                self.server.experiment, self.server.shared,
                self.store.tensors.path(kept.state.digest),
                self.scores.told(self.store.metrics()[-1]),
                self.attendance, self._tell_all,
            )  # fmt: skip
            reason = "; ".join(filter(None, (reason, said)))
        return self._end("finished", reason)

    def _report(self) -> None:
        """Add what sites have measured to the rows of rounds, and to the record."""
        for row in self.scores.report():
            if self.record:
                self.record.evaluated(row["round"], self.scores.told(row))

    def _tell_all(self) -> None:
        for name in self.names:
            self.tell(name)

    def _fail(self, reason: str) -> Kept:
        return self._end("failed", reason)

    def _end(self, outcome: str, reason: str) -> Kept:
        self.store.end(outcome, reason)
        if self.record:
            self.record.end()
        _log.info("the run is over (%s): %s", outcome, reason)
        with self._changed:
            kept = self._kept = self.store.read()
            assert kept is not None
        self._tell_all()
        return kept
