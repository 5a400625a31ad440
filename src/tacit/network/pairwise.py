"""A peer that works at its own pace: it trains, and averages with one neighbour after the other.

Lian, Zhang, Zhang, Liu, "Asynchronous decentralized parallel stochastic gradient descent", ICML
2018, algorithm 1, in which two peers that ask each other at once would wait for ever. Here nobody
waits: a peer that asks has fixed its model and answers others that it is busy, and who hears that
lets go of its own model for a moment that is drawn.

The asker i notes an exchange by its number, the neighbour j that it has taken the mean, each before
it says so. An answer that did not come is asked for again, and is the same. In the meantime i goes
on, and adds what the exchange was, (x_j - x_i) / 2 of the models as they were then, once it knows:
whoever is killed, the sum of all models stays.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor

from tacit.data import Federation
from tacit.engine.local import LocalTrain
from tacit.errors import DivergenceError, InputError, MessageError, TacitError
from tacit.experiment import Experiment
from tacit.network.blobs import Offer
from tacit.network.identity import write
from tacit.network.messages import Refused
from tacit.network.notes import read_notes
from tacit.network.party import (
    GRACE,
    NOTES,
    PAUSE,
    Ended,
    Isolated,
    Party,
    Place,
    Row,
    require_same_run,
)
from tacit.network.protocol import Average, Averaged, Holds, Seek
from tacit.network.rounds import SiteTrain, pay
from tacit.network.tensors import Tensors, finite
from tacit.network.transport import Unreachable
from tacit.protection.budget import PrivacyBudget
from tacit.randomness import generator
from tacit.training.plan import Ints

_log = logging.getLogger("tacit.network")

# Seconds of the first pause of a peer whose neighbour was busy; they double up to PAUSE.
_SHORTEST = 0.01


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exchange of which the peer does not know what became.

    Attributes:
        model: that it had when it asked.
    """

    number: int
    model: Offer


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to the last exchange that a neighbour asked for.

    Attributes:
        model: that the peer had before it took the mean; None: it did not.
    """

    number: int
    model: Offer | None


class Notes(Place, frozen=True):
    """What a peer must not forget; ``own`` is its model.

    Attributes:
        number: of the last exchange that it asked for.
        asked: what is open, by neighbour.
        given: by neighbour.
    """

    number: int
    asked: dict[str, Asked]
    given: dict[str, Given]

    def shown(self) -> dict[Offer, set[str]]:
        """Who may pull which models."""
        found = dict[Offer, set[str]]()
        lasts: list[tuple[str, Asked | Given]] = [*self.asked.items(), *self.given.items()]
        for name, last in lasts:
            if last.model:
                found.setdefault(last.model, set()).add(name)
        return found


class PairRun(Party):
    """One peer's run of ADPSGD.

    ``average``, ``answer`` and ``here`` may be called from many threads, ``run`` from one.

    Args:
        ask: gets a peer's reply, or raises ``TacitError``.
        average: as ``ask``; waits for as long as a model takes to travel.
        wake: returns after so many seconds.
        patience: seconds after which the run fails where no neighbour takes part in an exchange.
        ledger: pays for each training before it begins.
        on_round: called after each training.

    The others are those of ``PeerRun``.

    Raises:
        InputError: as ``PeerRun``.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: Federation,
        name: str,
        folder: Path,
        ask: Callable[[str, Seek], Holds],
        average: Callable[[str, Average], Averaged],
        pull: Callable[[str, Offer, Path], object],
        offer: Callable[[Path, Collection[str]], object],
        withdraw: Callable[[Offer], object],
        wake: Callable[[float], None] = time.sleep,
        *,
        patience: float = 600.0,
        ledger: PrivacyBudget | None = None,
        on_round: Callable[[Row], None] = lambda row: None,
    ) -> None:
        super().__init__(
            experiment, data, name, folder, ask, pull, offer, withdraw, wake, patience, ledger,
            on_round,
        )  # fmt: skip
        self._average = average
        self.neighbours = self._names(self.peer.hearers(0))
        # One model is received at a time by who asks, and one by who answers.
        self._replies, self._asks = Tensors(folder / "replies"), Tensors(folder / "asks")
        self._receiving, self._lock = threading.Lock(), threading.Lock()
        self._asking = False  # the model is fixed
        found = read_notes(self.folder / NOTES, Notes, self.digest)
        self._expect(bool(found), GRACE)
        first = found.own if found else self.tensors.put({"model": self.peer.own["models"][0]})
        self.notes: Notes = found or Notes(self.digest, 0, first, 0, {}, {})
        self.model = self._load(first)
        shown = self.notes.shown()
        self.tensors.retain({model.digest for model in {first, *shown}})
        for model, to in shown.items():
            offer(self.tensors.path(model.digest), to)

    # What others ask

    def answer(self, peer: str, request: Seek) -> Holds:
        """The reply to another peer, at once.

        Raises:
            MessageError: a peer, an experiment or a version that has no place in this run.
        """
        require_same_run(self, peer, request)
        if request.round >= self.rounds:
            self._done.add(peer)
        return Holds(self.notes.round, ())

    def average(self, peer: str, request: Average) -> Averaged:
        """The reply to a neighbour, after its model has come; noted before it is given.

        Raises:
            MessageError: as ``answer``; whoever is no neighbour; an exchange that is over; a model
                that is none.
        """
        require_same_run(self, peer, request)
        if peer not in self.neighbours:
            raise MessageError(f"{peer!r} is no neighbour of {self.name!r}")
        new = self._is_new(peer, request.number) and not self._asking
        theirs = self._receive(peer, request.model) if new and request.model else None
        with self._lock:
            if self._is_new(peer, request.number):
                before = None
                if theirs is not None and not self._asking:
                    before, mean = self.notes.own, (self.model + theirs) / 2
                given = self.notes.given | {peer: Given(request.number, before)}
                self._note(mean if before else None, given=given)
            return Averaged(self.notes.given[peer].model)

    def _receive(self, peer: str, model: Offer) -> Tensor | None:
        """A neighbour's model; None while another one is on its way, or if it does not come."""
        if not self._receiving.acquire(blocking=False):
            return None
        try:
            return self._take(peer, model, self._asks)
        except Unreachable as error:
            _log.info("%s", error)
            return None
        finally:
            self._receiving.release()

    def _is_new(self, peer: str, number: int) -> bool:
        last = self.notes.given.get(peer)
        if last and number < last.number:
            raise MessageError(
                f"{peer!r} asks for exchange {number}, but {last.number} was the last: its folder"
                " of the run is an older one, or was lost"
            )
        return last is None or number > last.number

    # What happens by itself

    def _run(self) -> Ended:
        try:
            while self.notes.round < self.rounds:
                self._train(self.notes.round)
        except (Isolated, DivergenceError, InputError) as error:
            return Ended("failed", str(error))
        finally:
            self._settled()
        return Ended("finished", f"all {self.rounds} rounds are done")

    def stay(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """As ``Party.stay``, and learn what became of exchanges whose answer did not come."""

        def settle() -> None:
            for name in self._seen(self.notes.asked):
                self._settle(name)
            meanwhile()

        super().stay(settle)
        self._settled()

    def _settled(self) -> None:
        """The peer measures, and takes home, the model that it has now."""
        own = self.model.unsqueeze(0)
        self.peer.own = dict.fromkeys(self.peer.own, own)

    def _train(self, round: int) -> None:
        began, experiment = time.monotonic(), self.peer.experiment
        if self.ledger:
            pay(self.ledger, experiment, round)
        local = LocalTrain(self.peer.trainer, np.array([self.node]), round)
        exchange = Pairing(self, round)
        own = self.model.unsqueeze(0)
        try:
            state, _ = experiment.algorithm.round(
                {"models": own, "begun": own}, SiteTrain(local), exchange
            )
            (model,) = state["models"]
            if not finite(model):
                raise DivergenceError(self.name, round + 1)
            with self._lock:
                self._note(model, round=round + 1)
        finally:
            self._asking = False
        self.row = {
            "round": round + 1, "train_loss": local.mean_loss(), "partner": exchange.partner,
            "busy": exchange.busy, "seconds": time.monotonic() - began,
        }  # fmt: skip
        if (guard := experiment.guard) and guard.budget:
            self.row["epsilon"] = guard.epsilon(round + 1)
        self.on_round(self.row)

    def begin(self, name: str) -> None:
        """Fix the model, and note that this neighbour will be asked for the mean."""
        with self._lock:
            self._asking, number = True, self.notes.number + 1
            asked = self.notes.asked | {name: Asked(number, self.notes.own)}
            self._note(number=number, asked=asked)

    def let_go(self) -> None:
        """Others may average with this peer's model."""
        self._asking = False

    def hear(self, name: str, model: Offer | None) -> bool:
        """Whether the open exchange with a neighbour was done; if so, it is now here as well.

        Raises:
            TacitError: that is not known.
        """
        open = self.notes.asked[name]
        request = Average(self.digest, self.software, open.number, model)
        reply = self._average(name, request)
        theirs = self._take(name, reply.model, self._replies) if reply.model else None
        with self._lock:
            asked = {other: last for other, last in self.notes.asked.items() if other != name}
            if theirs is None:
                self._note(asked=asked)
                return False
            then = self._load(open.model)
            # Exactly the mean, unless the model has changed since.
            self._note((then + theirs) / 2 + (self.model - then), asked=asked)
            return True

    def _settle(self, name: str) -> str:
        """What keeps this peer from asking a neighbour for a new exchange; mostly nothing."""
        try:
            if name in self.notes.asked:
                self.hear(name, None)
        except TacitError as error:
            return self.complain(name, error)
        return ""

    def complain(self, name: str, error: TacitError) -> str:
        """Log why an exchange was not done."""
        if isinstance(error, MessageError | Refused):
            _log.warning("not averaged: %s", error, extra={"site": name})
        else:
            _log.info("%s", error)
        return str(error)

    def ready(self, name: str) -> str:
        """Why a neighbour cannot be asked now; mostly nothing."""
        return self._settle(name) if self._seen({name}) else f"{name!r} is not here"

    def _note(self, model: Tensor | None = None, **changes: object) -> None:
        """Write down where the run is, then forget what is not needed any more; under the lock."""
        before = self.notes
        if model is not None:
            changes["own"] = self.tensors.put({"model": model})
        notes = msgspec.structs.replace(before, **changes)
        write(self.folder / NOTES, msgspec.json.encode(notes))
        self.notes = notes
        if model is not None:
            self.model = model
        old, new = before.shown(), notes.shown()
        for offer in old.keys() - new.keys():
            self.withdraw(offer)
        for offer, to in new.items():
            if to != old.get(offer):
                self.offer(self.tensors.path(offer.digest), to)
        for offer in {before.own, *old} - {notes.own, *new}:
            self.tensors.drop(offer.digest)

    def _load(self, model: Offer) -> Tensor:
        return self.tensors.get(model.digest)["model"]


class Pairing:
    """``PairExchange`` at one peer, to which row 0 is its own, and that of any neighbour.

    Attributes:
        partner: with whom it averaged.
        busy: how many were asked, and were busy.
    """

    def __init__(self, run: PairRun, round: int) -> None:
        self.run, self.round = run, round
        self.partner, self.busy = "", 0

    def partners(self, nodes: Ints) -> Ints:
        return nodes

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """The mean of a neighbour's model and this peer's, which stays fixed until it is changed.

        Others may have averaged with it since ``one`` was the model.

        Raises:
            Isolated: nobody could be averaged with for too long.
        """
        run, why, began = self.run, dict[str, str](), time.monotonic()
        draws = generator(run.peer.experiment.seed, "pair", self.round, run.node)
        pause = _SHORTEST
        while time.monotonic() - began < run.patience:
            for name in draws.permutation(run.neighbours).tolist():
                if reason := run.ready(name):
                    why[name] = reason
                    continue
                run.begin(name)
                try:
                    if run.hear(name, run.notes.asked[name].model):
                        self.partner = name
                        return run.model
                    why[name] = f"{name!r} is busy"
                    self.busy += 1
                except TacitError as error:
                    why[name] = run.complain(name, error)
                run.let_go()
                run.wake(float(draws.random()) * pause)
                pause = min(2 * pause, PAUSE)
            run.wake(PAUSE * float(draws.random()))
        raise Isolated(
            f"round {self.round + 1}: nobody could be averaged with for {run.patience:g} seconds:"
            f" {'; '.join(why[name] for name in sorted(why))}"
        )
