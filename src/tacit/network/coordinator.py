"""The coordinator of a run: it answers sites, closes rounds, and forgets nothing when killed."""

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data.sites import told
from tacit.engine.secure_sum import Opened
from tacit.errors import CheckpointError, InputError, MessageError, TacitError, require
from tacit.experiment import Experiment
from tacit.network.blobs import Offer
from tacit.network.masked import Masked, signs_masked
from tacit.network.policy import NO_LIMITS, Limits, enforce
from tacit.network.protocol import (
    INSIDE,
    MOST_ROWS,
    Answer,
    Ask,
    Decline,
    Deliver,
    Done,
    Enter,
    Extend,
    Go,
    Join,
    Leave,
    Measured,
    Ready,
    Reply,
    Request,
    Stage,
    Taken,
    ToRecord,
    Train,
    Wait,
)
from tacit.network.recording import Recording
from tacit.network.rounds import Server, check
from tacit.network.software import software
from tacit.network.stages import kind_of
from tacit.network.store import Kept, Store, Update
from tacit.network.sums import CoordinatorSum, KeyOf, Parcels, directory, session_of
from tacit.network.tensors import HEADER, unwritable
from tacit.protection import SecureSum
from tacit.protection.codec import SumError
from tacit.protection.secagg.session import Aborted
from tacit.topology import Star
from tacit.training.metrics import HIGHER_IS_BETTER, summary
from tacit.training.plan import Ints

_log = logging.getLogger("tacit.network")

Row = dict[str, Any]
_TICK = 0.02
# Seconds that sites have to come back to a coordinator that was killed.
_RETURN = 10.0
# Pulls of an update that fail although its sender is there, before the round goes on without it.
_PULLS = 3
# Of a float32; what a loss may be.
_LARGEST = 3.4e38
# Secure sums of a round that may end without one.
_TRIES = 5


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
    ) -> None:
        check(experiment)
        enforce(limits, experiment)
        most = experiment.data.nodes
        require(quorum is None or quorum <= most, "quorum", quorum, f"{most}, the sites, or less")
        self.experiment, self.store, self.pull, self.offer = experiment, store, pull, offer
        self.digest, self.names = experiment.digest(), experiment.data.names
        self.deadline, self.patience, self.grace = deadline, patience, grace
        self.quorum, self.tell, self.key_of, self.limits = quorum, tell, key_of, limits
        self.on_round = on_round or (lambda row: None)
        self.software, self.record = software(), record
        if record and (begun := store.read()):
            record.require(begun.round)
        self.server: Server | None = None
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(8, "tacit-pull")
        self._rows = store.sites()
        self._seen: dict[str, float] = {}
        self._away: dict[str, float] = dict.fromkeys(self.names, time.monotonic() + _RETURN)
        self._kept: Kept | None = None
        self._cohort: tuple[str, ...] = ()
        self._updates: dict[str, Update] = {}
        self._inside = b""  # of the state that the round begins with
        self._secure: SecureSum | None = None
        self._sum: CoordinatorSum | None = None
        self._sessions = 0
        self._declined: dict[str, str] = {}
        self._scores: dict[str, tuple[int, dict[str, float]]] = {}
        self._pulling: set[str] = set()
        self._begun: dict[str, Path] = {}
        self._failed: Counter[str] = Counter()
        self._broken: CheckpointError | None = None
        self.accepted = self.refused = 0  # updates, for whoever watches
        self.row: Row = {}  # of the last closed round
        self._left: set[str] = set()
        self._progress = self._opened = time.monotonic()

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
                        self._progress = time.monotonic()
                    return order
                case Leave():
                    self._left.add(site)
                    self._news()
                    return Taken(self.digest, True)
                case Deliver():
                    if (reply := self._deliver(site, request)) is not None:
                        return reply
                case Ready():
                    return self._ready(site, request)
                case Answer():
                    return self._answered(site, request)
                case Measured():
                    return self._measured(site, request)
                case Decline():
                    return self._decline(site, request)
        # A small update, for which there is nothing but the disk to wait for.
        used = self._take(site, request)
        return Taken(self.digest, used, self._declined.get(site, "")[:2000])

    def here(self, site: str, there: bool) -> None:
        """A site came or went."""
        with self._changed:
            if site not in self.names or there == (site not in self._away):
                return
            if there:
                del self._away[site]
            else:
                self._away[site] = time.monotonic()
            self._news()

    @property
    def connected(self) -> int:
        """How many sites are here."""
        return len(self.names) - len(self._away)

    @property
    def trouble(self) -> str:
        """Why the run cannot go on, or nothing."""
        if self._broken:
            return str(self._broken)
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
                self._break(error)
                raise
            self._rows[site] = request.rows
            _log.info("%s joined with %d rows", site, request.rows, extra={"site": site})
        elif known != request.rows:
            raise MessageError(
                f"{site!r} joined with {known} rows and now has {request.rows}: give it the data"
                " that it joined with, or start the run anew"
            )
        if self._secure:  # the keys and what it kept in memory are gone with the process before
            self._updates.pop(site, None)
        self._news()
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
            self._break(error)
            raise
        if not isinstance(request, Extend):
            with self._changed:
                self._news()
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
        if (go := self._go(site)) is not None:
            return go
        wanted = site in self._cohort and site not in self._updates and site not in self._declined
        measure = self._measures(kept.round) and site not in self._scores
        if not (wanted or measure) or site in self._pulling:
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

    def _go(self, site: str) -> Reply | None:
        """What a secure sum waits for at a site."""
        kept, sum, node = self._kept, self._sum, self.names.index(site)
        here = site in self._updates and site not in self._pulling
        if kept is None or sum is None or not here or node not in sum.awaited:
            return None
        if sum.stage == sum.kind.first:
            nodes = sum.session.nodes
            return Enter(self.digest, kept.round, sum.number, sum.exchange, nodes)
        return Go(self.digest, kept.round, sum.number, sum.stage, sum.asked[node])

    def _open_to(self, site: str, round: int) -> bool:
        """Whether the round takes something of a site."""
        kept = self._kept
        open_ = kept is not None and kept.outcome is None and round == kept.round
        return open_ and site in self._cohort and site not in self._declined

    def _ready(self, site: str, request: Ready) -> Reply:
        used = self._open_to(site, request.round)
        if used and not self._secure:
            raise MessageError(f"{site!r} keeps its update; this run has no secure sums")
        if used:
            if not signs_masked(self.experiment):
                self._check_entry(site, request)
                self._record_entry(site, request)
            self._updates[site] = Update(None, real(request.loss))
            self._sessions = max(self._sessions, request.session)
            self._news()
        return Taken(self.digest, used)

    def _answered(self, site: str, request: Answer) -> Reply:
        sum, node = self._sum, self.names.index(site)
        if sum is None or not sum.is_(request.round, request.session) or node not in sum.awaited:
            return Taken(self.digest, False)
        if isinstance(request.body, bytes):
            sum.check(node, request, request.body, self._rows[site])
            used = self._add(site, request.stage, request.body, sum)
            self._news()
            return Taken(self.digest, used)
        if request.body.size > sum.most:
            raise MessageError(
                f"{site!r} offers a message of {request.body.size} bytes; {sum.most} is the most"
            )
        if site not in self._pulling:
            self._pulling.add(site)
            self._pool.submit(self._fetch, site, request, request.body, sum)
        return Wait(self.digest, "your message is being pulled")

    def _fetch(self, site: str, request: Answer, body: Offer, sum: CoordinatorSum) -> None:
        """Pull a site's message of a secure sum."""
        message: bytes | None = None
        try:
            path = self._receive(site, body)
            message = path.read_bytes()
            path.unlink()
            sum.check(self.names.index(site), request, message, self._rows[site])
        except MessageError as error:
            _log.warning("left out of a secure sum: %s", error, extra={"site": site})
            message = b""
        except (CheckpointError, OSError) as error:
            self._break(error)
        except TacitError as error:
            _log.warning("%s's message did not arrive: %s", site, error, extra={"site": site})
        finally:
            with self._changed:
                self._pulling.discard(site)
                if message is not None:
                    self._add(site, request.stage, message, sum)
                self._news()

    def _add(self, site: str, stage: Stage, message: bytes, sum: CoordinatorSum) -> bool:
        """Take a site's message of a secure sum; whether it was awaited."""
        try:
            return sum.take(self.names.index(site), stage, message)
        except CheckpointError as error:
            self._break(error)
            return False

    def _deliver(self, site: str, request: Deliver) -> Reply | None:
        """The reply; None where the update is here, and is to be taken."""
        if not self._open_to(site, request.round):
            return Taken(self.digest, False)
        if self._secure:
            raise MessageError(f"{site!r} offers its update; in this run updates are hidden")
        if site in self._updates:
            return Taken(self.digest, True)
        self._check_entry(site, request)
        assert self.server is not None
        most = self.server.wire.bytes + HEADER
        if request.update.size > most:
            raise MessageError(
                f"{site!r} offers an update of {request.update.size} bytes; {most} is the most"
            )
        if site not in self._pulling:
            self._pulling.add(site)
            if request.inside:
                return None
            self._pool.submit(self._take, site, request)
        return Wait(self.digest, "your update is being pulled")

    def _check_entry(self, site: str, request: Deliver | Ready) -> None:
        if self.record:
            self.record.check(site, request.round, request.entry, self._rows[site])

    def _record_entry(self, site: str, request: Deliver | Ready) -> None:
        if self.record:
            try:
                self.record.contributed(site, request.round, request.entry)
            except CheckpointError as error:
                self._break(error)
                raise

    def _take(self, site: str, request: Deliver) -> bool:
        """Pull an update, look at it, and keep it; whether the round takes it."""
        about = {"site": site, "round": request.round + 1}
        assert self.server is not None
        try:
            if request.inside:
                request.update.require(request.inside, repr(site))
            sent = request.inside or self._receive(site, request.update)
            self._record_entry(site, request)
            self.server.wire.examine(site, sent, request.round)
            return self._accept(site, request, sent)
        except MessageError as error:
            _log.warning("left out of round %d: %s", request.round + 1, error, extra=about)
            with self._changed:
                self._declined[site] = str(error)
                self.refused += 1
        except (CheckpointError, OSError) as error:
            self._break(error)
        except TacitError as error:
            _log.warning("%s's update did not arrive: %s", site, error, extra=about)
            with self._changed:
                self._failed[site] += site not in self._away
                if self._failed[site] >= _PULLS:
                    _log.warning("left out of round %d: %s", request.round + 1, site, extra=about)
                    self._declined[site] = f"its update did not arrive ({error})"
        except Exception:  # which would vanish with its thread
            _log.exception("%s's update could not be taken", site, extra=about)
            with self._changed:
                self._declined[site] = "the coordinator failed; its log says why"
        finally:
            with self._changed:
                self._pulling.discard(site)
                self._news()
        return False

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
                self._updates[site] = update
                self._accepted(site, request)
            return open_

    def _accepted(self, site: str, request: Deliver) -> None:
        self.accepted += 1
        _log.info(
            "%s's update is accepted", site,
            extra={"site": site, "round": request.round + 1,
                   "digest": request.update.digest.hex(), "bytes": request.update.size},
        )  # fmt: skip

    def _receive(self, site: str, offer: Offer) -> Path:
        """Pull what a site offers to a path of its own, whatever bytes others have or send."""
        path = self.store.tensors.folder / f".{site}"
        partial = path.with_name(f".{path.name}.{offer.digest.hex()[:16]}")
        begun = self._begun.get(site)
        left = [begun] if begun else path.parent.glob(f".{path.name}.*")
        for other in left:  # what it began and left
            if other != partial:
                other.unlink(missing_ok=True)
        self._begun[site] = partial
        self.pull(site, offer, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return path

    def _break(self, error: CheckpointError | OSError) -> None:
        """End the process, not the run, for what only its operator can mend."""
        folder = self.store.tensors.folder
        with self._changed:
            self._broken = (
                error if isinstance(error, CheckpointError) else unwritable(folder, error)
            )
            self._changed.notify_all()

    def _measured(self, site: str, request: Measured) -> Reply:
        if not request.scores.keys() <= HIGHER_IS_BETTER.keys():
            raise MessageError(f"{site!r} sent scores that are not known by name")
        scores = self._open_scores(request.round)
        if scores is not None and site not in scores:
            found = {name: real(score) for name, score in request.scores.items()}
            known = {name: score for name, score in found.items() if score is not None}
            scores[site] = (min(request.rows, MOST_ROWS), known)
            self._news()
        return Taken(self.digest, scores is not None)

    def _open_scores(self, round: int) -> dict[str, tuple[int, dict[str, float]]] | None:
        """Where scores of the model that a round began with go; None: nowhere any more."""
        kept = self._kept
        here = kept is not None and round == kept.round and self._measures(round)
        return self._scores if here else None

    def _decline(self, site: str, request: Decline) -> Reply:
        used = self._open_to(site, request.round)
        if used and (self._secure or site not in self._updates):
            self._updates.pop(site, None)
            reason, number = f"{request.code} {request.reason}".rstrip(), request.round + 1
            self._declined[site] = reason
            about = {"site": site, "round": number}
            _log.warning("%s left round %d out: %r", site, number, reason, extra=about)
            self._news()
        return Taken(self.digest, used)

    def _news(self) -> None:
        self._progress = time.monotonic()
        self._changed.notify_all()

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
                lost = {name for name, since in self._away.items() if now - since > most}
                if self._left | lost >= set(self.names):
                    return
                self._changed.wait(_TICK)

    def stop(self) -> None:
        """Take no more; what is kept stays."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> Kept:
        """Wait until everybody has joined, and go to where the store says the run is."""
        with self._changed:
            while missing := self._absent():
                heard = self._changed.wait(self.patience)
                if self._broken:
                    raise self._broken
                if not heard:
                    raise InputError(
                        f"sites: {', '.join(missing)} did not join within {self.patience:g} seconds"
                    )
        experiment = self.experiment.replace(data=told(self.experiment.data, self._all_rows()))
        check(experiment)
        enforce(self.limits, experiment)
        server = self.server = Server(experiment)
        guard = experiment.guard
        if guard and guard.secure:
            assert self.key_of is not None
            self._secure = guard.secure
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
            self._kept, self._declined, self._scores = kept, {}, {}
            self._failed.clear()
            self._updates, self._sessions = self.store.accepted(kept.round), 0
            plan = self.experiment.plan
            assert isinstance(plan, Star)
            last = kept.round == self.experiment.rounds
            nodes = () if last else plan.sample(len(self.names), self.experiment.seed, kept.round)
            self._cohort = tuple(self.names[int(node)] for node in nodes)
            self._opened = time.monotonic()
            self._news()
        if not last:
            about = {"round": kept.round + 1, "digest": kept.state.digest.hex()}
            _log.info(
                "round %d begins, of %s", kept.round + 1, ", ".join(self._cohort), extra=about
            )
        for name in self.names:
            self.tell(name)

    def _round(self, kept: Kept) -> Kept:
        """Wait for the round to be complete, or complete enough, and close it."""
        least = self.quorum or math.ceil(len(self._cohort) / 2)
        least = max(1, min(least, len(self._cohort)), self.experiment.aggregation.least)
        server = self.server
        assert server is not None
        guard = server.experiment.guard
        if guard and self._secure:
            least = max(least, guard.threshold)
        if reason := self._gather(least):
            return self._fail(f"round {kept.round + 1}: {reason}")
        with self._changed:
            updates, scores = dict(self._updates), dict(self._scores)
        epsilon: float | None = None
        if guard and (guard.budget or guard.labels):
            epsilon = guard.epsilon(kept.round + 1)
            self.store.spend(kept.round, epsilon, guard.budget.delta if guard.budget else 0.0)
        if self._secure:
            try:
                nodes = self._close_sums(kept, least)
                self.accepted += len(nodes)
            except (Aborted, SumError) as error:
                return self._fail(f"round {kept.round + 1}: {error}")
        else:
            nodes = self._close(kept, updates)
        self._report(kept.round, scores)
        counted = [self.names[node] for node in nodes]
        found = {name: updates[name].loss for name in counted if name in updates}
        losses = {name: loss for name, loss in found.items() if loss is not None}
        rows = sum(self._rows[name] for name in losses)
        row: Row = {
            "round": kept.round + 1,
            "cohort": len(counted),
            "train_loss": sum(self._rows[n] * loss for n, loss in losses.items()) / max(rows, 1),
            "left_out": [name for name in self._cohort if name not in counted],
            "seconds": time.monotonic() - self._opened,
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

    def _close(self, kept: Kept, updates: Mapping[str, Update]) -> Ints:
        """Take the round's step with the updates that came; whose."""
        assert self.server is not None
        nodes = np.array([i for i, name in enumerate(self.names) if name in updates], np.int64)
        wire, path = self.server.wire, self.store.tensors.path
        sent = [
            (node, update.inside or path(update.digest))
            for node in nodes.tolist()
            if (update := updates[self.names[node]]).digest
        ]
        arrived = [
            [wire.reader(what, exchange, node, kept.round) for node, what in sent]
            for exchange in range(len(wire.sizes))
        ]
        self.server.close(kept.round, nodes, arrived)
        return nodes

    def _close_sums(self, kept: Kept, least: int) -> Ints:
        """Take the round's step with secure sums of the updates that sites keep; whose.

        Raises:
            Aborted: no sum was opened, and none will be.
            SumError: one that no honest sites can have sent.
        """
        assert self.server is not None
        opened: list[Opened] = []
        failed = 0
        while len(opened) < len(self.experiment.algorithm.sends(self.experiment.layout)):
            try:
                opened.append(self._opened_sum(kept, len(opened), least))
            except Aborted as error:
                failed += 1
                _log.warning("a secure sum of round %d ended: %s", kept.round + 1, error)
                if failed == _TRIES:
                    raise Aborted(f"{failed} secure sums ended, the last as {error}") from None
                if reason := self._gather(least):
                    raise Aborted(f"a secure sum ended as {error}; then {reason}") from None
        self.server.close_sums(kept.round, opened)
        return np.array(opened[-1].nodes, np.int64)

    def _opened_sum(self, kept: Kept, exchange: int, least: int) -> Opened:
        """One secure sum, of all who are ready and here."""
        assert self.server is not None
        assert self.key_of is not None
        with self._changed:
            number, self._sessions = self._sessions, self._sessions + 1
            nodes = [self.names.index(name) for name in self._here()]
        if len(nodes) < least:
            raise Aborted(f"{len(nodes)} sites are left; it takes {least}")
        experiment = self.server.experiment
        session = session_of(experiment, kept.round, number, exchange, nodes, kept.state.digest)
        keys = directory(experiment, nodes, self.key_of)
        parcels = Parcels(self.store.tensors, self.offer)
        assert experiment.guard is not None
        kind = kind_of(experiment.guard)
        masked = None
        if self.record and signs_masked(self.experiment):
            masked = Masked(self.record, session, self.names)
        sum = CoordinatorSum(kind, session, number, exchange, keys, parcels.pack, masked)
        opened: Opened | None = None
        try:
            while opened is None:
                with self._changed:
                    self._sum, since = sum, time.monotonic()
                    self._news()
                for node in sum.asked:
                    self.tell(self.names[node])
                with self._changed:
                    while not self._stage_complete(sum, since):
                        self._changed.wait(_TICK)
                        if self._broken:
                            raise self._broken
                    answers = sum.close()
                opened = sum.advance(answers)
            return opened
        finally:
            with self._changed:
                self._sum = None
            parcels.clear()

    def _stage_complete(self, sum: CoordinatorSum, since: float) -> bool:
        now = time.monotonic()
        silent = now - max(since, self._progress) > self.patience
        late = self.deadline is not None and now - since > self.deadline
        for name in (self.names[node] for node in sum.awaited):
            lost = silent or name not in self._updates or self._gone(name)
            if not (lost or (late and sum.enough and name not in self._pulling)):
                return False
        return True

    def _gather(self, least: int) -> str:
        """Wait for the updates of a round; why there will not be enough of them, or nothing."""
        with self._changed:
            while not self._complete(least):
                self._changed.wait(_TICK if self._away or self.deadline else self.patience)
                if self._broken:
                    raise self._broken
                came = (
                    f"{len(self._here())} of {len(self._cohort)} updates came, {least} are"
                    " needed, and"
                )
                if len(self._cohort) - len(self._declined) < least:
                    why = "; ".join(f"{name}: {said}" for name, said in self._declined.items())
                    return f"{came} too many sites declined: {why}"
                if time.monotonic() - self._progress > self.patience:
                    silent = ", ".join(name for name in self._cohort if name not in self._here())
                    return f"{came} nothing was heard for {self.patience:g} seconds of {silent}"
        return ""

    def _here(self) -> list[str]:
        """Whose update counts, in order: one that a site keeps goes with it."""
        return [
            name
            for name in self.names
            if name in self._updates and not (self._secure and self._gone(name))
        ]

    def _gone(self, name: str) -> bool:
        return time.monotonic() - self._away.get(name, math.inf) > self.grace

    def _complete(self, least: int) -> bool:
        if len(self._here()) < least:
            return False
        late = self.deadline is not None and time.monotonic() - self._opened > self.deadline
        for name in self._missing():
            known = self._gone(name) or name in self._declined
            if not (known or (late and name not in self._pulling)):
                return False
        assert self._kept is not None
        return late or not self._measures(self._kept.round) or self._all_measured()

    def _all_measured(self) -> bool:
        """Whether the scores of all sites that are here have come."""
        known = self._scores.keys() | self._away.keys() | self._declined.keys()
        return known >= set(self.names)

    def _missing(self) -> list[str]:
        return [name for name in self._cohort if name not in self._updates]

    def _measures(self, round: int) -> bool:
        """Whether the model that a round begins with is to be measured."""
        every, last = self.experiment.evaluate_every, self.experiment.rounds
        return round > 0 and (round % every == 0 or round == last)

    def _report(self, round: int, scores: Mapping[str, tuple[int, dict[str, float]]]) -> None:
        """Add the sites' scores of a round's model to the row of the round that made it."""
        if not scores:
            return
        row = dict(self.store.metrics()[round - 1])
        rows = np.array([count for count, _ in scores.values()])
        for name in sorted({name for _, found in scores.values() for name in found}):
            values = np.array([found.get(name, math.nan) for _, found in scores.values()])
            over = summary(name, values, rows)
            row |= {name: over.mean, f"worst_{name}": over.worst_value}
        self.store.describe(round - 1, row)

    def _finish(self, kept: Kept) -> Kept:
        """After the last round, wait for the scores of those who are there."""
        with self._changed:
            until = time.monotonic() + min(self.patience, 60.0)
            while time.monotonic() < until:
                if self._all_measured():
                    break
                self._changed.wait(_TICK)
            scores = dict(self._scores)
        self._report(kept.round, scores)
        return self._end("finished", f"all {kept.round} rounds are done")

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
        for name in self.names:
            self.tell(name)
        return kept


def real(value: float) -> float | None:
    """What a site measured, or None where that is no number of float32."""
    return value if abs(value) <= _LARGEST else None
