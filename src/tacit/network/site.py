"""A site of a run: it asks what there is to do, trains on its rows, and offers its update."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor

from tacit.algorithms.base import State
from tacit.data import Federation
from tacit.data.sites import told
from tacit.engine.recording import claim
from tacit.errors import CheckpointError, DivergenceError, InputError, MessageError
from tacit.experiment import Experiment
from tacit.network.blobs import Digest, Offer
from tacit.network.disclosure import Disclosure, disclosed
from tacit.network.identity import write
from tacit.network.labels import answered
from tacit.network.masked import signs_masked, vector_in
from tacit.network.notes import read_notes
from tacit.network.protocol import (
    INSIDE,
    MOST_ROWS,
    Answer,
    Ask,
    Body,
    Decline,
    Deliver,
    Done,
    Enter,
    Go,
    Join,
    Measured,
    OfRecord,
    Ready,
    Reply,
    Request,
    Stage,
    Train,
)
from tacit.network.rounds import Part, Site, own_entries, pay, shapes
from tacit.network.software import software
from tacit.network.stages import Vector, kind_of
from tacit.network.sums import KeyOf, Parcels, SiteSum, directory, session_of
from tacit.network.tensors import HEADER, Tensors, finite, parsed
from tacit.network.transport import Unreachable
from tacit.network.witnessing import Witnessing
from tacit.protection.budget import PrivacyBudget
from tacit.protection.secagg.node import Signer
from tacit.protection.secagg.session import Aborted
from tacit.topology import Star

_log = logging.getLogger("tacit.network")

PAUSE = 0.5
_NOTES = "site.json"


class Notes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a site must not forget: its last update, and what it keeps for later rounds.

    Attributes:
        start: digest of the state that it trained from.
        session: least number of a secure sum's session that it would enter in this round.
        opened: how many exchanges' sums it has helped to open in this round.
        again: in asynchronous runs, how often it had trained from this round's model before.
        trainings: how many there were.
    """

    experiment: str
    round: int
    update: Offer
    loss: float | None
    own: Offer
    start: Digest
    session: int = 0
    opened: int = 0
    again: int = 0
    trainings: int = 0


class SiteRun:
    """One site's run.

    Args:
        experiment: as the file defines it, without rows.
        data: the same federation with the rows of this site.
        name: of the site.
        folder: of this run at this site, where it goes on after the process was killed.
        ask: gets the coordinator's reply, however long the coordinator is away.
        pull: brings what the coordinator offers to a path.
        offer: lets the coordinator pull a file.
        wake: returns after so many seconds, or earlier with news of the coordinator.
        ledger: pays for each round before it begins.
        signer: holds the site's long-term key, for secure sums.
        key_of: tells others' keys, for secure sums.
        disclosure: how much the coordinator learns of why the site leaves a round out.
        record: its part in the record of the run, should the coordinator keep one.

    Raises:
        InputError: a site without rows, or that the experiment does not have.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: Federation,
        name: str,
        folder: Path,
        ask: Callable[[Request], Reply],
        pull: Callable[[Offer, Path], object],
        offer: Callable[[Path], object],
        wake: Callable[[float], None] = time.sleep,
        ledger: PrivacyBudget | None = None,
        signer: Signer | None = None,
        key_of: KeyOf | None = None,
        disclosure: Disclosure = "redacted",
        record: Witnessing | None = None,
    ) -> None:
        if name not in experiment.data.names:
            raise InputError(
                f"site: {name!r} was given; the experiment has {', '.join(experiment.data.names)}"
            )
        self.experiment, self.name = experiment, name
        self.node = experiment.data.names.index(name)
        self.data = answered(experiment, data, self.node, folder)
        self.rows = int(data.train.sizes[self.node])
        if not self.rows:
            raise InputError(f"data: {name!r} has no rows to train on")
        self.digest, self.folder, self.tensors = (
            experiment.digest(),
            folder,
            Tensors(folder / "tensors"),
        )
        self.ask, self.pull, self.offer, self.wake = ask, pull, offer, wake
        self.ledger, self.signer, self.key_of = ledger, signer, key_of
        self.disclosure, self.record = disclosure, record
        self.parcels = Parcels(self.tensors, offer)
        self.site: Site | None = None
        unread = own_entries(experiment) | experiment.algorithm.server_only()
        self._shapes = {n: s for n, s in shapes(experiment, 1).items() if n not in unread}
        self._most = HEADER + sum(s.numel() * t.itemsize for s, t in self._shapes.values())
        self.notes = read_notes(self.folder / _NOTES, Notes, self.digest)
        self._measured: Measured | None = None
        self._sum: SiteSum | None = None
        self.done: Done | None = None
        self.row: dict[str, float] = {}  # of the last round here
        guard = experiment.guard
        if self.notes and not (guard and guard.secure):  # it may have been half pulled
            self.offer(self.tensors.path(self.notes.update.digest))

    def run(self) -> Done:
        """Take part until the coordinator says that the run is over."""
        reply = self.ask(Join(self.digest, software(), self.rows))
        while not isinstance(reply, Done):
            if isinstance(reply, Train):
                try:
                    self._take_part(reply)
                except Unreachable as error:  # the coordinator is away, or is at another round
                    _log.info("%s", error)
                    self.wake(PAUSE)
            elif isinstance(reply, Enter | Go):
                self._summed(reply)
            elif isinstance(reply, OfRecord) and self.record:
                self.record.follow(reply)
            else:
                self.wake(PAUSE)
            reply = self.ask(Ask(self.digest))
        _log.info("the run is over: %s", reply.reason)
        self.done = reply
        return reply

    def outcome(self, done: Done) -> tuple[Tensor, dict[str, float]] | None:
        """(d,) the model that this site goes home with, and its scores; None after a failure.

        Raises:
            Unreachable: the coordinator was gone before the model came.
        """
        if done.state is None:
            return None
        if self.record:
            self.record.allows(self.experiment.rounds)
        return self.home(done.rows, self._shared(done.state))

    def home(self, rows: tuple[int, ...], state: State) -> tuple[Tensor, dict[str, float]]:
        """(d,) its own model of a state, or the one that all share, and that model's scores."""
        site = self._site(rows)
        _, scores = site.measure(state)
        return site.model(state), scores

    def _take_part(self, order: Train) -> None:
        if self.record and not self.record.allows(order.round):
            self.wake(PAUSE)
            return
        site = self._site(order.rows)
        state: State | None = None
        if order.measure:
            if self._measured is None or self._measured.round != order.round:
                state = self._shared(order.state, order.inside)
                self._measured = Measured(self.digest, order.round, *site.measure(state))
            self.ask(self._measured)  # again where the coordinator was killed, and forgot
        if not order.train:
            self.wake(PAUSE)
            return
        try:
            notes = self.update(order, lambda: state or self._shared(order.state, order.inside))
        except (CheckpointError, MessageError, Unreachable, OSError):
            raise  # for its own operator, who can mend it
        except (DivergenceError, InputError) as error:
            _log.warning("%s", error, extra={"round": order.round + 1})
            self._decline(order.round, error, "it could not train")
            return
        except Exception as error:
            _log.exception("training failed", extra={"round": order.round + 1})
            self._decline(order.round, error, "it could not train")
            return
        guard = site.experiment.guard
        if guard and guard.secure:
            self._ready(notes)
            return
        self._hand_over(notes)

    def _hand_over(self, notes: Notes) -> None:
        self._deliver(notes)
        self.wake(PAUSE)

    def _deliver(self, notes: Notes) -> Reply:
        """Send or offer the update, once more where it did not arrive."""
        path, inside = self.tensors.path(notes.update.digest), b""
        if notes.update.size <= INSIDE:
            inside = path.read_bytes()
        else:
            self.offer(path)
        loss = float("nan") if notes.loss is None else notes.loss
        return self.ask(
            Deliver(
                self.digest, notes.round, notes.update, loss, notes.again, inside,
                self._entry(notes),
            )
        )  # fmt: skip

    def _entry(self, notes: Notes) -> bytes:
        """What it says of its update in the record of the run."""
        if self.record is None:
            return b""
        path = self.tensors.path(notes.update.digest)
        of = claim(self.experiment)
        return self.record.contribution(notes.round, path, self.rows, of, notes.again)[0]

    def _signed(self, entered: SiteSum, stage: Stage, answer: bytes) -> tuple[bytes, bytes]:
        """What it says in the record of the vector that it sends behind masks, and the nonce."""
        masked = stage == entered.kind.adds and signs_masked(self.experiment)
        if self.record is None or not masked:
            return b"", b""
        session, of = entered.session, claim(self.experiment)
        vector = vector_in(session, self.node, answer)
        return self.record.contribution(session.round, vector, self.rows, of)

    def update(self, order: Train, state: Callable[[], State]) -> Notes:
        """Its part of a round: trained once, and paid for once, however often it is asked for.

        Args:
            state: gives the server's entries, if they are needed.

        Raises:
            MessageError: an order that does not keep to the experiment.
            DivergenceError, InputError: it cannot train, or not pay.
        """
        site, notes = self._site(order.rows), self.notes
        self._refuse(order, notes)
        if notes is None or (notes.round, notes.again) != (order.round, order.again):
            if self.ledger:
                pay(self.ledger, site.experiment, order.round, order.again)
            notes = self._train(site, order, state())
        return notes

    def _refuse(self, order: Train, notes: Notes | None) -> None:
        """An order that no coordinator gives that keeps to the experiment.

        Trained on again, an earlier round would tell more of the rows than was paid for.
        """
        last = -1 if notes is None else notes.round
        if not last <= order.round < self.experiment.rounds:
            raise MessageError(
                f"the coordinator asks for round {order.round + 1} of {self.experiment.rounds};"
                f" the last one here was round {last + 1}"
            )
        plan, names = self.experiment.plan, self.experiment.data.names
        assert isinstance(plan, Star)
        if self.node not in plan.sample(len(names), self.experiment.seed, order.round):
            raise MessageError(
                f"the coordinator asks for round {order.round + 1}, whose cohort {self.name!r} is"
                " not in"
            )

    def _ready(self, notes: Notes) -> None:
        if notes.opened:
            why = "it has helped to open this round's sum, and opens no second one"
            self._decline(notes.round, Aborted(why), why)
        elif notes.session and self._sum is None:
            why = "it was started anew within a secure sum, and enters none twice"
            self._decline(notes.round, Aborted(why), why)
        else:
            loss = float("nan") if notes.loss is None else notes.loss
            entry = b"" if signs_masked(self.experiment) else self._entry(notes)
            self.ask(Ready(self.digest, notes.round, loss, notes.session, entry))
            self.wake(PAUSE)

    def _decline(self, round: int, error: Exception, phase: str) -> None:
        self.ask(Decline(self.digest, round, *disclosed(self.disclosure, error, phase)))
        self.wake(PAUSE)

    def _summed(self, order: Enter | Go) -> None:
        """Carry out a stage of a secure sum."""
        try:
            entered = self._enter(order) if isinstance(order, Enter) else self._sum
            if entered is None or not entered.is_(order.round, order.session):
                raise InputError(f"session: {order.session} is not the one that was entered")
            stage: Stage = entered.kind.first if isinstance(order, Enter) else order.stage
            body = b"" if isinstance(order, Enter) else order.body
            answer = self._answer(entered, stage, body)
            signed = self._signed(entered, stage, answer)
        except InputError as error:
            _log.warning("%s", error)
            self._decline(order.round, error, "it does not enter this secure sum")
            return
        except Unreachable as error:
            _log.info("%s", error)
            self.wake(PAUSE)
            return
        except (Aborted, MessageError) as error:
            about = {"round": order.round + 1}
            _log.warning("left a secure sum of round %d: %s", order.round + 1, error, extra=about)
            answer, signed = b"", (b"", b"")
        packed = self.parcels.pack(answer)
        self.ask(Answer(self.digest, order.round, order.session, stage, packed, *signed))

    def _enter(self, order: Enter) -> SiteSum:
        """Begin a secure sum, as one of these nodes, and never again.

        Raises:
            InputError: what the site does not take part in, by what it knows itself.
        """
        site, notes = self.site, self.notes
        if self._sum and self._sum.is_(order.round, order.session):
            return self._sum
        if site is None or notes is None or notes.round != order.round:
            raise InputError(f"round: {order.round} was given, for which nothing was trained")
        if not (site.experiment.guard and site.experiment.guard.secure):
            raise InputError(f"session: {order.session} was given; this run has no secure sums")
        assert self.signer is not None
        assert self.key_of is not None
        if order.session < notes.session:
            raise InputError(f"session: {order.session} was entered, or an earlier one than that")
        if order.exchange >= len(self.experiment.algorithm.sends(self.experiment.layout)):
            raise InputError(f"exchange: {order.exchange} was given; the algorithm has no such one")
        if order.exchange < notes.opened:
            raise InputError(f"exchange: {order.exchange} was opened; a second sum would tell more")
        experiment = site.experiment
        assert isinstance(experiment.plan, Star)
        cohort = experiment.plan.sample(experiment.data.nodes, experiment.seed, order.round)
        if self.node not in order.nodes or not set(order.nodes) <= set(cohort.tolist()):
            raise InputError(f"nodes: {order.nodes} were given; allowed are those of the round")
        session = session_of(
            experiment, order.round, order.session, order.exchange, order.nodes, notes.start
        )
        keys = directory(experiment, order.nodes, self.key_of)
        self._note(msgspec.structs.replace(notes, session=order.session + 1))
        assert experiment.guard is not None
        self._sum = SiteSum(
            kind_of(experiment.guard), session, order.session, order.exchange, self.node,
            self.signer, keys, partial(self._hidden, order),
        )  # fmt: skip
        return self._sum

    def _hidden(self, order: Enter) -> Vector:
        assert self.site is not None
        assert self.notes is not None
        step = self.tensors.get(self.notes.update.digest)[str(order.exchange)]
        return self.site.hidden(step, order.round, order.exchange, np.array(order.nodes))

    def _answer(self, entered: SiteSum, stage: Stage, body: Body) -> bytes:
        if isinstance(body, Offer):
            path = self.tensors.path(body.digest)
            if body.size > entered.most:
                raise MessageError(f"{body.size} bytes are offered; {entered.most} is the most")
            self.pull(body, path)
            body = path.read_bytes()
            path.unlink()
        if stage == entered.kind.opens and self.notes:  # from here on the sum may be known
            opened = max(self.notes.opened, entered.exchange + 1)
            self._note(msgspec.structs.replace(self.notes, opened=opened))
        self.parcels.clear()
        return entered.answer(stage, body)

    def _train(self, site: Site, order: Train, state: State) -> Notes:
        """Train, and note it, so that a round that was begun again sends the same update."""
        began = time.monotonic()
        part = self._part(site, order, state)
        self.row = {"seconds": time.monotonic() - began}
        if (guard := site.experiment.guard) and guard.budget:
            self.row["epsilon"] = guard.epsilon(order.round + 1)
        _log.info("trained for round %d", order.round + 1, extra={"round": order.round + 1})
        update = self.tensors.put({str(i): step for i, step in enumerate(part.steps)})
        own = self.tensors.put(site.kept)
        loss = part.loss if part.loss == part.loss else None
        start = order.state.digest
        before = self.notes
        notes = Notes(
            self.digest, order.round, update, loss, own, start, again=order.again,
            trainings=1 + (before.trainings if before else 0),
        )  # fmt: skip
        self._note(notes)
        if before is not None:
            for digest in {before.update.digest, before.own.digest} - {update.digest, own.digest}:
                self.tensors.drop(digest)
        return notes

    def _part(self, site: Site, order: Train, state: State) -> Part:
        return site.take_part(order.round, state)

    def _note(self, notes: Notes) -> None:
        write(self.folder / _NOTES, msgspec.json.encode(notes))
        self.notes = notes

    def _site(self, rows: tuple[int, ...]) -> Site:
        if self.site is None:
            names = self.experiment.data.names
            if len(rows) != len(names) or rows[self.node] != self.rows or max(rows) >= MOST_ROWS:
                raise MessageError("the coordinator tells other row counts than this site has")
            experiment = self.experiment.replace(data=told(self.experiment.data, rows))
            self.site = Site(experiment, self.data, self.node)
            for each in (self.experiment, experiment):
                each.forget_template()
            if self.notes:
                self.site.restore(self.tensors.get(self.notes.own.digest))
        return self.site

    def _shared(self, offer: Offer, inside: bytes = b"") -> State:
        if offer.size > (most := self._most):
            raise MessageError(f"the coordinator offers {offer.size} bytes; {most} is the most")
        if inside:
            offer.require(inside, "the coordinator")
            self._compare(inside)
            state = parsed(inside)
        else:
            state = self._pulled(offer)
        if {name: (t.shape, t.dtype) for name, t in state.items()} != self._shapes:
            raise MessageError("the coordinator sent another state than the algorithm has")
        if not all(finite(tensor) for tensor in state.values()):
            raise MessageError("the coordinator sent a model that holds NaN or infinity")
        return state

    def _pulled(self, offer: Offer) -> State:
        path = self.tensors.path(offer.digest)
        if not path.exists():
            self.pull(offer, path)
        try:
            self._compare(path)
            return self.tensors.get(offer.digest)
        finally:
            self.tensors.drop(offer.digest)

    def _compare(self, state: Path | bytes) -> None:
        """Refuse another state than the one that the run's record names."""
        if self.record:
            self.record.require(state)
