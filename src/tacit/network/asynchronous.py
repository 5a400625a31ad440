"""Asynchronous rounds among real machines: updates are taken whenever they come.

A site that asks is given the newest model, trains, and delivers with the number of the model that
it began at. The server takes a step after every K updates; who is slow holds nobody back, and who
joins late begins with the newest model.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from tacit.algorithms import FedBuff
from tacit.algorithms.arrivals import Arrivals
from tacit.algorithms.base import State
from tacit.data.sites import told
from tacit.engine.exchange import StarExchange
from tacit.engine.pace import OwnPace
from tacit.engine.recording import turned_away
from tacit.errors import DivergenceError, InputError, MessageError
from tacit.network.async_recording import AsyncRecording
from tacit.network.blobs import Offer
from tacit.network.coordinator import Coordinator, Row
from tacit.network.protocol import Decline, Deliver, Reply, Taken, Train, Wait
from tacit.network.rounds import Part, Sending, Server, Site
from tacit.network.scores import real
from tacit.network.site import PAUSE, Notes, SiteRun
from tacit.network.store import Arrival, Kept
from tacit.network.tensors import finite
from tacit.topology import Star

_log = logging.getLogger("tacit.network")

# Seconds until a site first looks whether its update has been pulled.
_POLL = 0.02


class Delivered:
    """``AsyncTrain`` at the server: what sites have trained, each from a model of its own.

    Args:
        steps: (k, d) as ``trained_alone`` gives them.
        staleness: (k,) of each.
    """

    def __init__(self, server: Server, steps: Tensor, staleness: Tensor, concurrency: int) -> None:
        self.layout, self.steps, self.staleness = server.experiment.layout, steps, staleness
        self.concurrency, self.reach = concurrency, 0

    def __call__(self, start: Tensor) -> Tensor:
        ends, p = self.steps.clone(), self.layout.trained
        ends[:, :p] += start[:, :p]
        return ends


def take_step(
    server: Server, round: int, nodes: Sequence[int], staleness: Sequence[int], steps: Tensor
) -> dict[int, str]:
    """Take the server's step with (k, d) updates that have arrived from (k,) nodes.

    Returns:
        Which of the k the rule turned away, and why.
    """
    experiment = server.experiment
    assert isinstance(experiment.algorithm, FedBuff)
    assert isinstance(experiment.plan, Star)
    n, tau = experiment.data.nodes, torch.tensor(staleness)
    # An update is a difference, so that the model that it began at is not needed any more.
    past = server.shared["past"].expand(int(tau.max()) + 1, -1)
    train = Delivered(server, steps, tau, experiment.algorithm.concurrency or n)
    star = StarExchange(
        experiment.plan, experiment.aggregation, np.array(nodes, np.int64), server.now(round), n
    )
    server.shared, _ = experiment.algorithm.round({"past": past}, train, star)
    return turned_away(star)


def trained_alone(site: Site, round: int, again: int, state: State) -> Part:
    """What a site delivers that was given the model of a round, for the how manieth time.

    Its step is the difference that it learned; of buffers (BatchNorm statistics), their values.
    """
    experiment, p = site.experiment, site.experiment.layout.trained
    one = np.zeros(1, np.int64)
    train = OwnPace(
        site.trainer, Arrivals(one + site.node, one, one + again, one[:0], 1, 1, 0), round
    )
    sending = Sending()
    experiment.algorithm.round(state, train, sending)
    (step,) = sending.steps
    if not finite(step):
        raise DivergenceError(experiment.data.names[site.node], round + 1)
    step = site.guarded(step, round)
    step[p:] += state["past"][0, p:]
    return Part([step], train.mean_loss())


class AsyncCoordinator(Coordinator):
    """A ``Coordinator`` whose rounds are steps of FedBuff, for which it waits for nobody.

    The run begins when the first site has joined or, if it leaves a record, when all have signed
    the beginning of that. What was accepted is in the store with its place in the order of
    arrivals, by which alone it belongs to a step.
    """

    def __init__(
        self, *args: Any, quorum: int | None = None, deadline: float | None = None, **settings: Any
    ) -> None:
        if quorum is not None or deadline is not None:
            raise InputError(
                "quorum and deadline are for rounds that wait for sites; asynchronous ones end with"
                " algorithm.buffer updates"
            )
        super().__init__(*args, **settings)
        assert isinstance(self.experiment.algorithm, FedBuff)
        self.algorithm = self.experiment.algorithm
        self._arrived = self.store.arrivals()
        record = self.record
        assert record is None or isinstance(record, AsyncRecording)
        if record:
            record.step = self._entries
            begun = self.store.read()
            for arrival in self._arrived[begun.round * self.algorithm.buffer if begun else 0 :]:
                if not arrival.entry:
                    raise InputError(
                        f"record: {record.folder} was given, and this run began without a record;"
                        " leave it out, or give the run a new folder"
                    )
                record.take(arrival.entry)
        self._recording = record
        self._training: dict[str, Offer] = {}
        self._queue: dict[str, None] = {}
        self._dropped: set[tuple[str, int, int]] = set()
        self.scores.late = True

    def _absent(self) -> list[str]:
        if not self._rows:
            return super()._absent()
        return self.record.absent if self.record else []

    def _entries(self, step: int) -> list[bytes]:
        """What sites have signed of a step's updates."""
        first = step * self.algorithm.buffer
        return [a.entry for a in self._arrived[first : first + self.algorithm.buffer]]

    # What sites ask

    def _order(self, site: str) -> Reply:
        kept = self._kept
        if kept is None or kept.outcome is not None or site not in self._rows:
            return super()._order(site)
        if self.record and (asked := self.record.order(site)) is not None:
            return asked
        if site in self.intake.pulling:
            return Wait(self.digest, "your update is being pulled")
        train = (
            len(self._arrived) < self._most
            and site not in self.intake.declined
            and self._turn(site)
        )
        measure = self.scores.wanted(site, kept.round)
        if not (train or measure):
            return Wait(self.digest, f"nothing to do for {site} at step {kept.round}")
        if train:
            self._training[site] = kept.state
        return self._train(kept, measure, train, self._delivered(site, kept.round))

    def _turn(self, site: str) -> bool:
        """Whether it may train now: those who have waited longest come first."""
        busy = {name for name in self._training if name != site and not self.attendance.gone(name)}
        free = (self.algorithm.concurrency or len(self.names)) - len(busy)
        self._queue.setdefault(site)
        waiting = [name for name in self._queue if not self.attendance.gone(name)]
        if site not in waiting[: max(0, free)]:
            return False
        del self._queue[site]
        return True

    def _delivered(self, site: str, round: int) -> int:
        return sum(arrival.site == site and arrival.round == round for arrival in self._arrived)

    def _deliver(self, site: str, request: Deliver) -> Reply | None:
        kept, key = self._kept, (site, request.round, request.again)
        before = self._delivered(site, request.round)
        if request.again < before:
            return Taken(self.digest, True)
        if kept is None:  # started again, and not yet where it was
            return Wait(self.digest, "waiting for the start")
        if request.round > kept.round or request.again > before:
            raise MessageError(f"{site!r} delivers what it was not asked for")
        if kept.outcome is not None or len(self._arrived) >= self._most:
            return self._refuse(site, "the run has all the updates that it takes")
        if (stale := self._next - request.round) > self.algorithm.max_staleness:
            self._dropped.add(key)
            return self._refuse(
                site,
                f"the update is {stale} steps old; {self.algorithm.max_staleness} is the most",
            )
        if site in self.intake.declined:
            return self._refuse(site, self.intake.declined[site])
        return super()._deliver(site, request)

    def _refuse(self, site: str, reason: str) -> Reply:
        self._training.pop(site, None)
        self.intake.refused += 1
        _log.warning("%s's update is not taken: %s", site, reason, extra={"site": site})
        return Taken(self.digest, False, reason[:2000])

    @property
    def _next(self) -> int:
        """The step that the next update belongs to."""
        return len(self._arrived) // self.algorithm.buffer

    @property
    def _most(self) -> int:
        return self.experiment.rounds * self.algorithm.buffer

    def _open_to(self, site: str, round: int) -> bool:
        kept = self._kept
        return kept is not None and kept.outcome is None and site not in self.intake.declined

    def _accept(self, site: str, request: Deliver, sent: Path | bytes) -> bool:
        digest = request.update.digest
        arrival = Arrival(
            site, request.round, request.again, digest, real(request.loss), request.entry
        )
        with self._changed:
            self._training.pop(site, None)
            if len(self._arrived) >= self._most or site in self.intake.declined:
                return False
            if self._next - request.round > self.algorithm.max_staleness:
                return False  # while it was pulled; the site is told when it asks
            if isinstance(sent, Path):
                sent.replace(self.store.tensors.path(digest))
            else:
                self.store.tensors.keep(sent)
            self.store.arrive(len(self._arrived), arrival)
            self._arrived.append(arrival)
            if self._recording:
                self._recording.take(arrival.entry)
            self._accepted(site, request)
            return True

    def _decline(self, site: str, request: Decline) -> Reply:
        self._training.pop(site, None)
        return super()._decline(site, request)

    # What happens by itself

    def _needed(self, kept: Kept) -> set[bytes]:
        later = self._arrived[kept.round * self.algorithm.buffer :]
        models = {offer.digest for offer in self._training.values()}
        return super()._needed(kept) | models | {arrival.digest for arrival in later}

    def _round(self, kept: Kept) -> Kept:
        """Wait for a buffer of updates, and take a step."""
        if reason := self._fill(kept.round):
            return self._fail(f"step {kept.round + 1}: {reason}")
        server, first = self.server, kept.round * self.algorithm.buffer
        assert server is not None
        with self._changed:
            taken = self._arrived[first : first + self.algorithm.buffer]
            dropped = len(self._dropped)
            self._dropped.clear()
        staleness = [kept.round - arrival.round for arrival in taken]
        nodes, path = [self.names.index(a.site) for a in taken], self.store.tensors.path
        sent = [
            server.wire.reader(path(a.digest), 0, i, a.round)
            for i, a in zip(nodes, taken, strict=True)
        ]
        steps = torch.stack([read(slice(None)) for read in sent])
        turned = take_step(server, kept.round, nodes, staleness, steps)
        self.scores.report()
        losses = {a.site: a.loss for a in taken if a.loss is not None}
        rows = sum(self._rows[name] for name in losses)
        row: Row = {
            "round": kept.round + 1,
            "cohort": len(taken),
            "train_loss": sum(self._rows[n] * loss for n, loss in losses.items()) / max(rows, 1),
            "staleness": sum(staleness) / len(staleness),
            "dropped": dropped,
            "seconds": time.monotonic() - self.intake.opened,
        }
        if self.record:
            row["turned_away"] = {str(i): why for i, why in turned.items()}
        return self._advance(kept, row)

    def _fill(self, round: int) -> str:
        """Wait for the updates of a step; why they will not come, or nothing."""
        full = (round + 1) * self.algorithm.buffer
        with self._changed:
            while len(self._arrived) < full:
                self.attendance.wait(min(self.attendance.patience, 1.0))
                came = f"{len(self._arrived)} of {full} updates came, and"
                if self.intake.declined.keys() >= set(self.names):
                    return f"{came} all sites declined: {self.intake.reasons()}"
                if self.attendance.silent():
                    patience = self.attendance.patience
                    return f"{came} nothing was heard for {patience:g} seconds of any site"
        return ""

    def _excused(self) -> set[str]:
        return super()._excused() | self._training.keys()  # they are not waited for


class AsyncSiteRun(SiteRun):
    """A ``SiteRun`` that trains at its own pace, from the newest model each time.

    Of others' rows it needs to know nothing: what DP-SGD costs is accounted for by its own. It
    stops when it has trained as often as the plan has paid for, whatever the coordinator says.
    """

    _handed = False
    _signed_entry: bytes | None = None

    def _take_part(self, order: Train) -> None:
        if self.notes and not self._handed:  # trained before the process was killed
            self._hand_over(self.notes)
            return
        guard = self._site(order.rows).experiment.guard
        trained = self.notes.trainings if self.notes else 0
        if order.train and guard and guard.multiplier and trained >= guard.turns(guard.rounds):
            why = f"its {trained} trainings are all that is paid for"
            self._decline(order.round, InputError(why), why)
            order = msgspec.structs.replace(order, train=False)
        super()._take_part(order)

    def _hand_over(self, notes: Notes) -> None:
        """Deliver until the update was taken, or is of no use any more."""
        pause = _POLL
        while isinstance(reply := self._deliver(notes), Wait):
            self.wake(pause)
            pause = min(2 * pause, PAUSE)
        self._handed = True
        if isinstance(reply, Taken) and reply.used and self.record:
            self.record.expect(notes.round, notes.again)
        elif isinstance(reply, Taken) and not reply.used:
            _log.warning("an update was not taken: %s", reply.reason)

    def _note(self, notes: Notes) -> None:
        self._signed_entry = super()._entry(notes)  # while the model that it began with is known
        super()._note(notes)

    def _entry(self, notes: Notes) -> bytes:
        if self._signed_entry is None:  # by the process before
            self._signed_entry = super()._entry(notes)
        return self._signed_entry

    def _refuse(self, order: Train, notes: Notes | None) -> None:
        last = (-1, 0) if notes is None else (notes.round, notes.again)
        if not last <= (order.round, order.again) or order.round >= self.experiment.rounds:
            raise MessageError(
                f"the coordinator asks for round {order.round + 1} of {self.experiment.rounds} once"
                f" more; the last one here was round {last[0] + 1}"
            )

    def _part(self, site: Site, order: Train, state: State) -> Part:
        self._handed = False
        return trained_alone(site, order.round, order.again, state)

    def _site(self, rows: tuple[int, ...]) -> Site:
        if self.site is None:
            if len(rows) != len(self.experiment.data.names) or rows[self.node] != self.rows:
                raise MessageError("the coordinator tells other row counts than this site has")
            mine = [count if i == self.node else 0 for i, count in enumerate(rows)]
            experiment = self.experiment.replace(data=told(self.experiment.data, mine))
            self.site = Site(experiment, self.data, self.node)
            for each in (self.experiment, experiment):
                each.forget_template()
        return self.site
