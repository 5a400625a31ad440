"""What all peers of a run without a coordinator have in common: who is there, and who is done."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from torch import Tensor

from tacit.data import Federation
from tacit.errors import InputError, MessageError, TacitError
from tacit.experiment import Experiment
from tacit.network.blobs import Offer
from tacit.network.gossip import Peer, check
from tacit.network.labels import answered
from tacit.network.protocol import Average, Holds, Seek, Talk
from tacit.network.software import software
from tacit.network.tensors import HEADER, Tensors, finite
from tacit.protection.budget import PrivacyBudget
from tacit.training.plan import Ints

_log = logging.getLogger("tacit.network")

Row = dict[str, object]

PAUSE = 0.5
NOTES = "peer.json"
# Seconds that neighbours have to be seen by a peer that was killed, and by one that stays.
_RETURN, GRACE = 10.0, 2.0
# Seconds that a peer that was lost has to come back for what it still needs of the others.
_FAREWELL = 30.0


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a peer is.

    Attributes:
        round: that it carries out.
        own: what it goes on from.
    """

    experiment: str
    round: int
    own: Offer


@dataclass(frozen=True)
class Ended:
    """How a run ended for a peer: "finished" or "failed", and why in one sentence."""

    outcome: str
    reason: str


class Isolated(Exception):
    """Nobody was heard for too long."""


class _Run(Protocol):
    """Somebody's part of a run: its name, and what all in the run have in common."""

    name: str
    names: tuple[str, ...]
    digest: str
    software: str


def require_same_run(me: _Run, other: str, said: Seek | Average | Talk) -> None:
    """Refuse what another member says that is not in the same run.

    Raises:
        MessageError: no site of it, another experiment, or another version.
    """
    if other not in me.names:
        raise MessageError(f"{other!r} is no site of this experiment")
    if said.experiment != me.digest:
        raise MessageError(
            f"{other!r} has experiment {said.experiment[:12]}, {me.name!r} {me.digest[:12]}: give"
            " both the same file and settings"
        )
    if said.software != me.software:
        raise MessageError(
            f"{other!r} runs tacit {said.software}, {me.name!r} {me.software}: install the same"
            " version"
        )


class Party(ABC):
    """A peer's part of a run; see ``PeerRun`` for its arguments."""

    notes: Place

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
        wake: Callable[[float], None],
        patience: float,
        ledger: PrivacyBudget | None,
        on_round: Callable[[Row], None],
    ) -> None:
        if name not in experiment.data.names:
            raise InputError(
                f"site: {name!r} was given; the experiment has {', '.join(experiment.data.names)}"
            )
        check(experiment)
        self.names, self.name, self.rounds = experiment.data.names, name, experiment.rounds
        self.node = self.names.index(name)
        if not data.train.sizes[self.node]:
            raise InputError(f"data: {name!r} has no rows to train on")
        self.peer = Peer(experiment, answered(experiment, data, self.node, folder), self.node)
        self.digest, self.software, self.folder = experiment.digest(), software(), folder
        self.ask, self.pull, self.offer, self.withdraw = ask, pull, offer, withdraw
        self.wake, self.patience = wake, patience
        self.ledger, self.on_round = ledger, on_round
        self.tensors = Tensors(folder / "tensors")
        (self.size,) = experiment.algorithm.sends(experiment.layout).values()
        self.ended: Ended | None = None
        self.row: Row = {}  # of the last round here
        self._done = set[str]()
        self._presence = threading.Lock()
        self._away = dict.fromkeys(self.names, 0.0)

    # What others ask

    def here(self, peer: str, there: bool) -> None:
        """A member came or went."""
        with self._presence:
            if there:
                self._away.pop(peer, None)
            elif peer in self.names:
                self._away.setdefault(peer, time.monotonic())

    @property
    def connected(self) -> int:
        """How many other peers are here."""
        return len(self._seen(set(self.names) - {self.name}))

    # What happens by itself

    def run(self) -> Ended:
        """Carry out the rounds that are left."""
        try:
            self.ended = self._run()
        except (TacitError, OSError):
            raise  # for the operator, who can mend it
        except Exception as error:  # of the experiment's own code
            _log.exception("training failed")
            self.ended = Ended("failed", f"training failed: {error!r}")
        return self.ended

    @abstractmethod
    def _run(self) -> Ended: ...

    def stay(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Serve on until all are done who are here, or were not long ago.

        Nor longer than nothing is new of them for too long.

        Args:
            meanwhile: called again and again.
        """
        known, since = dict[str, int](), time.monotonic()
        while time.monotonic() - since < self.patience:
            meanwhile()
            others = self._seen(set(self.names) - {self.name})
            now = {name: holds.round for name in others if (holds := self._holds(name))}
            self._done |= {name for name, round in now.items() if round >= self.rounds}
            if self._done | self.lost() >= set(self.names) - {self.name}:
                return
            if now != known:
                known, since = now, time.monotonic()
            self.wake(PAUSE)

    def _take(
        self,
        name: str,
        offer: Offer,
        received: Tensors,
        look: Callable[[Path], object] = lambda path: None,
    ) -> Tensor:
        """A peer's model, if it is what it should be.

        Args:
            received: where it is put.
            look: is shown the file.
        """
        most = HEADER + 4 * self.size
        if offer.size > most:
            raise MessageError(f"{name!r} offers a model of {offer.size} bytes; {most} is the most")
        path = received.path(offer.digest)
        self.pull(name, offer, path)
        try:
            look(path)
            try:
                tensors = received.get(offer.digest)
            except MessageError as error:
                raise MessageError(f"{name!r} sent a model that is none: {error}") from None
        finally:
            received.drop(offer.digest)
        model = tensors.get("model")
        if model is None or len(tensors) > 1 or model.shape != (self.size,):
            raise MessageError(f"{name!r} sent another thing than one model of {self.size} numbers")
        if model.dtype != torch.float32 or not finite(model):
            raise MessageError(
                f"{name!r} sent a model that is not float32, or holds NaN or infinity"
            )
        return model

    def _expect(self, again: bool, grace: float) -> None:
        """Nobody was seen yet; they have long to come, but for a process that was killed."""
        until = time.monotonic() + (_RETURN if again else self.patience)
        self._away = dict.fromkeys(self.names, until - grace)

    def _seek(self) -> Seek:
        return Seek(self.digest, self.software, self.notes.round)

    def _holds(self, name: str) -> Holds | None:
        try:
            return self.ask(name, self._seek())
        except TacitError as error:
            _log.info("%s", error)
            return None

    def _names(self, nodes: Ints) -> list[str]:
        return [self.names[int(node)] for node in nodes]

    def _seen(self, names: Collection[str]) -> list[str]:
        """Those that are here."""
        with self._presence:
            return sorted(set(names) - self._away.keys())

    def lost(self) -> set[str]:
        """Those that had long enough to come back."""
        return self._gone(_FAREWELL)

    def _gone(self, seconds: float) -> set[str]:
        """Those that have not been here for so long."""
        now = time.monotonic()
        with self._presence:
            return {name for name, since in self._away.items() if now - since > seconds}
