"""A peer of a run without a coordinator: it trains, offers its model, and asks its neighbours."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import msgspec
from torch import Tensor

from tacit.data import Federation
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
from tacit.network.peer_record import PeerRecord
from tacit.network.protocol import Holds, Model, Seek
from tacit.network.rounds import pay
from tacit.network.tensors import Tensors
from tacit.protection.budget import PrivacyBudget
from tacit.training.plan import Ints

_log = logging.getLogger("tacit.network")

# Rounds whose models a peer keeps for those who are slower: on a graph that stays, a neighbour that
# is here can be one round behind; on one that changes, more.
_KEPT, _KEPT_CHANGING = 2, 16

# Seconds without anything new after which a peer says for whom it waits.
_SILENCE = 30.0


class Notes(Place, frozen=True):
    """What a peer must not forget; ``own`` is its row of the state before the round.

    Attributes:
        sent: models of the last rounds, ascending; of this one if it has trained.
        left_out: in how many rounds it went on without whom.
        out: whose models the round before did not count, and why; None where it was given up.
        led: what the neighbour has signed from whose model it goes on; empty where from its own.
    """

    sent: tuple[Model, ...]
    left_out: dict[str, int]
    out: dict[str, str] | None = None
    led: bytes = b""


class _Behind(Exception):
    """All neighbours that answer are past this round."""

    def __init__(self, name: str, holds: Holds) -> None:
        self.name, self.holds = name, holds


class PeerRun(Party):
    """One peer's run. ``answer`` and ``here`` may be called from many threads, ``run`` from one.

    A neighbour that is gone, or sends nothing for too long, is left out of a round and named in the
    log. A peer that finds all neighbours past its round goes on in the earliest of theirs: from
    the newest model of the neighbour that is there where the rule is a mean; else, since one
    neighbour alone is not to be trusted then, from its own.

    Args:
        experiment: as the file defines it, without rows.
        data: the same federation with the rows of this peer.
        name: of the peer.
        folder: of this run at this peer, where it goes on after the process was killed.
        ask: gets a peer's reply, or raises ``TacitError``.
        pull: brings what a peer offers to a path, or raises ``TacitError``.
        offer: lets the named peers pull a file.
        withdraw: ends that.
        tell: lets a peer know that there are news for it; may fail in silence.
        wake: returns after so many seconds, or earlier with news.
        patience: seconds without anything new after which a neighbour that is there, or was never
            seen, is left out; and after which the run fails where all are.
        grace: seconds for which a neighbour may be gone before it is left out.
        ledger: pays for each round before it begins.
        on_round: called after each round.
        record: that the peer leaves; None: none.

    Raises:
        InputError: a plan that cannot work among peers, a peer without rows, or one that the
            experiment does not have.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: Federation,
        name: str,
        folder: Path,
        ask: Callable[[str, Seek], Holds],
        pull: Callable[[str, Offer, Path], object],
        offer: Callable[[Path, Collection[str]], object],
        withdraw: Callable[[Offer], object],
        tell: Callable[[str], object] = lambda peer: None,
        wake: Callable[[float], None] = time.sleep,
        *,
        patience: float = 600.0,
        grace: float = GRACE,
        ledger: PrivacyBudget | None = None,
        on_round: Callable[[Row], None] = lambda row: None,
        record: PeerRecord | None = None,
    ) -> None:
        super().__init__(
            experiment, data, name, folder, ask, pull, offer, withdraw, wake, patience, ledger,
            on_round,
        )  # fmt: skip
        self.tell, self.grace, self.record = tell, grace, record
        self.received = Tensors(folder / "received")
        static = experiment.plan.static  # type: ignore[union-attr]  # a graph, by check
        self._kept = _KEPT if static else _KEPT_CHANGING
        found = read_notes(self.folder / NOTES, Notes, self.digest)
        self._expect(bool(found), grace)
        self.notes: Notes = found or Notes(self.digest, 0, self.tensors.put(self.peer.own), (), {})
        self.peer.own = self.tensors.get(self.notes.own.digest)
        for sent in self.notes.sent:
            self._offer(sent)

    # What others ask

    def answer(self, peer: str, request: Seek) -> Holds:
        """The reply to another peer, at once.

        Raises:
            MessageError: a peer, an experiment or a version that has no place in this run.
        """
        require_same_run(self, peer, request)
        if request.round >= self.rounds:
            self._done.add(peer)
        notes = self.notes
        theirs = tuple(m for m in notes.sent if peer in self._names(self.peer.hearers(m.round)))
        return Holds(notes.round, theirs)

    # What happens by itself

    def _run(self) -> Ended:
        try:
            self._recorded()
            while self.notes.round < self.rounds:
                try:
                    self._round(self.notes.round)
                except _Behind as behind:
                    self._catch_up(behind.name, behind.holds)
                self._recorded()
        except (Isolated, DivergenceError, InputError) as error:
            return Ended("failed", str(error))
        reason = f"all {self.rounds} rounds are done"
        if without := [f"{k} without {name}" for name, k in sorted(self.notes.left_out.items())]:
            reason += f", {', '.join(without)}"
        return Ended("finished", reason)

    def _round(self, round: int) -> None:
        began, left_out = time.monotonic(), list[str]()
        if self.ledger:
            pay(self.ledger, self.peer.experiment, round)

        def send(model: Tensor) -> Tensor:
            # Sent before the process was killed: noise that is drawn twice hides less.
            for sent in self.notes.sent:
                if sent.round == round:
                    self._sent(sent)
                    return self.tensors.get(sent.offer.digest)["model"]
            new = self._signed(round, self.tensors.put({"model": model}))
            self._offer(new)
            self._note(round, self.notes.own, (*self.notes.sent, new)[-self._kept :])
            self._sent(new)
            return model

        def gather(senders: Ints) -> Mapping[int, Tensor]:
            for name in self._names(self.peer.hearers(round)):
                self.tell(name)
            found = self._gather(round, self._names(senders))
            left_out.extend(name for name in self._names(senders) if name not in found)
            if self.record:
                self.record.take(round, {name: entry for name, (_, entry) in found.items()})
            return {self.names.index(name): model for name, (model, _) in found.items()}

        loss = self.peer.carry_out(round, send, gather)
        turned = {self.names[node]: why for node, why in self.peer.turned_away.items()}
        out = dict.fromkeys(left_out, "left out of the round") | turned
        own = self.tensors.put(self.peer.own)
        self._note(round + 1, own, self.notes.sent, left_out, out=out)
        for path in self.received.folder.iterdir():  # of pulls that were given up
            path.unlink()
        if left_out:
            about, names = {"round": round + 1}, ", ".join(left_out)
            _log.warning("round %d went on without %s", round + 1, names, extra=about)
        seconds = time.monotonic() - began
        self.row = {
            "round": round + 1, "train_loss": loss, "left_out": left_out, "seconds": seconds
        }  # fmt: skip
        if (guard := self.peer.experiment.guard) and guard.budget:
            self.row["epsilon"] = guard.epsilon(round + 1)
        self.on_round(self.row)

    def _gather(self, round: int, names: Collection[str]) -> dict[str, tuple[Tensor, bytes]]:
        """The models of the round of those who are there, and what each has signed of it."""
        found = dict[str, tuple[Tensor, bytes]]()
        refused, past = dict[str, str](), dict[str, Holds]()
        known, since, told = dict[str, int](), time.monotonic(), 0.0
        while True:
            for name in self._seen(set(names) - found.keys() - past.keys() - refused.keys()):
                try:
                    if self.record:
                        self.record.require(name)
                    holds = self.ask(name, self._seek())
                    theirs = {model.round: model for model in holds.models}
                    if round in theirs:
                        found[name] = self._have(name, theirs[round]), theirs[round].entry
                    elif round < holds.round <= self.rounds:
                        past[name] = holds
                    elif holds.round <= known.get(name, -1):
                        continue
                    known[name], since = holds.round, time.monotonic()
                except (MessageError, Refused) as error:
                    about = {"site": name, "round": round + 1}
                    _log.warning("left out of round %d: %s", round + 1, error, extra=about)
                    refused[name] = str(error)
                except TacitError as error:
                    _log.info("%s", error)
            waiting = (
                set(names) - found.keys() - past.keys() - refused.keys() - self._gone(self.grace)
            )
            if waiting and time.monotonic() - max(since, told) > _SILENCE:
                told = time.monotonic()
                _log.info("round %d waits for %s", round + 1, ", ".join(sorted(waiting)))
            late = time.monotonic() - since > self.patience
            if not waiting or late:
                if found or not names:
                    return found
                if past:
                    name = min(past, key=lambda name: past[name].round)
                    raise _Behind(name, past[name])
                if refused.keys() >= set(names):
                    raise Isolated(f"round {round + 1}: {'; '.join(refused.values())}")
                if late:
                    raise Isolated(
                        f"round {round + 1}: nothing was heard for {self.patience:g} seconds of any"
                        f" of {', '.join(names)}"
                    )
            self.wake(PAUSE)

    def _catch_up(self, name: str, holds: Holds) -> None:
        """Go on in a neighbour's round."""
        own, now, led = self.peer.own["models"].clone(), self._holds(name), b""
        if now and holds.round <= now.round <= self.rounds:
            holds = now
        if holds.models and self.peer.experiment.aggregation.streams:
            try:
                own[:, : self.size] = self._have(name, holds.models[-1])
                led = holds.models[-1].entry
            except TacitError as error:
                _log.warning("%s", error)
        _log.warning(
            "behind: from round %d to round %d of %s", self.notes.round + 1, holds.round + 1, name
        )
        self.peer.own = {"models": own}
        self._note(holds.round, self.tensors.put(self.peer.own), self.notes.sent, led=led)

    def _have(self, name: str, model: Model) -> Tensor:
        """A neighbour's model, which it has signed where the run leaves a record."""
        if (record := self.record) is None:
            return self._take(name, model.offer, self.received)
        record.require(name)
        look = partial(record.check, name, model)
        return self._take(name, model.offer, self.received, look)

    def _signed(self, round: int, offer: Offer) -> Model:
        if self.record is None:
            return Model(round, offer)
        entry, nonce = self.record.contribution(round, self.tensors.path(offer.digest))
        return Model(round, offer, entry, nonce)

    def _sent(self, model: Model) -> None:
        """Neighbours may have this from now on."""
        if self.record:
            self.record.sent(model.round, model.entry)

    def _recorded(self) -> None:
        """Bring the record to where the run is."""
        if self.record:
            notes, over = self.notes, self.notes.round >= self.rounds
            own = self.tensors.path(notes.own.digest)
            self.record.own.bring_to(notes.round, own, notes.out, notes.led, over)

    def _offer(self, model: Model) -> None:
        to = self._names(self.peer.hearers(model.round))
        self.offer(self.tensors.path(model.offer.digest), to)

    def _note(
        self,
        round: int,
        own: Offer,
        sent: tuple[Model, ...],
        left_out: Collection[str] = (),
        out: dict[str, str] | None = None,
        led: bytes = b"",
    ) -> None:
        """Write down where the run is, then forget what is not needed any more."""
        before = self.notes
        without = dict(Counter(before.left_out) + Counter(left_out))
        notes = Notes(self.digest, round, own, sent, without, out, led)
        write(self.folder / NOTES, msgspec.json.encode(notes), secret=True)
        self.notes = notes
        kept = {own, *(model.offer for model in sent)}
        for offer in {before.own, *(model.offer for model in before.sent)} - kept:
            self.withdraw(offer)
            self.tensors.drop(offer.digest)
