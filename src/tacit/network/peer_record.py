"""A peer's record of a run: it keeps a log of its own, and witnesses the logs of the others.

Neither holds the training up. What a peer signs and has from its neighbours is written to its log
as it comes; whom the others ask to cosign, and what, is looked after by a thread of its own.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from tacit.engine.recording import claim, rules
from tacit.errors import InputError, MessageError, TacitError
from tacit.experiment import Experiment
from tacit.ledger import records
from tacit.ledger.peers import RULE
from tacit.ledger.recorder import POLICY
from tacit.ledger.witness import Forked
from tacit.network.forgetting import RECORD
from tacit.network.identity import Identity, write
from tacit.network.protocol import (
    Ask,
    Cosign,
    Found,
    FromCoordinator,
    FromSite,
    Introduce,
    Model,
    OfRecord,
    Release,
    Reply,
    Request,
    ToRecord,
    Wait,
)
from tacit.network.receipts import Receipts
from tacit.network.recording import Recording
from tacit.network.sums import KeyOf
from tacit.network.witnessing import Unrecorded, Where, Witnessing

_log = logging.getLogger("tacit.network")

# Seconds between looks at what the others ask for.
_PAUSE = 0.5
# The head of a log that was rewritten, as the log signed it.
_FORKED = "forked.txt"


class PeerLog(Recording):
    """The log of what one peer goes on from, which the other peers witness."""

    @property
    def policy(self) -> bytes:
        """Digest of whose signatures make its heads count, which tells this log from all others."""
        return hashlib.sha256(str(self._policy).encode()).digest()

    @property
    def base(self) -> bytes:
        """Digest of what the open round began with."""
        return self._model

    def bring_to(
        self, round: int, own: Path, out: Mapping[str, str] | None, led: bytes, over: bool
    ) -> None:
        """Bring the log to where the peer is: at the beginning of a round, or at its end.

        Args:
            own: what the peer goes on from.
            out: who was left out or turned away in the round before, and why; None: that round was
                given up, or there was none.
            led: contribution of the neighbour from whose model the peer goes on; empty: its own.
            over: whether no more rounds come.

        Raises:
            InputError: the log is not where the peer was.
            CheckpointError: it cannot be written.
        """
        found = records.file_digest(own)
        with self._lock:
            last, unfinished = self._open, self._closed <= self._open
            if out is not None and unfinished and round == last + 1:
                row = {"left_out": (), "turned_away": out}
                self._append([self._signed(self._aggregate(last, found, row))])
                unfinished = False
            goes_on = last == round or (out is None and round > last) or round == self._closed
            if not goes_on or (last < 0 < round):
                raise InputError(
                    f"record: {self.folder} ends in round {last + 1}, and round {round + 1} is to"
                    " be recorded; give the folder that this run began with"
                )
            if (last == round or not (unfinished and led)) and self._model not in (b"", found):
                raise InputError(f"record: {self.folder} holds another model of round {round}")
            if last < round and not (over and not unfinished):
                if led and self.log[len(self.log) - 1] != led:
                    self._append([led])
                self._model = found
                self._append([self._opening(round, 0)])
            self._propose(len(self.log) if over else self._last + 1)

    def take(self, round: int, entries: Mapping[str, bytes]) -> None:
        """Contributions to the open round, by site.

        Raises:
            CheckpointError: the log cannot be written.
        """
        with self._lock:
            there = self._places.get(round, {})
            if new := [entry for site, entry in entries.items() if site not in there]:
                self._append(new)

    def place(self, site: str, round: int) -> int:
        """Where a contribution to the open round stands."""
        with self._lock:
            return self._places[round][site]

    def require_one(self, site: str, round: int, entry: bytes) -> None:
        """Report whoever has signed two contributions to the open round.

        Raises:
            MessageError: the site has.
        """
        with self._lock:
            place = self._places.get(round, {}).get(site)
            if place is None or (before := self.log[place]) == entry:
                return
            self._append([self._signed(records.incident(site, [before, entry]))])
        raise MessageError(f"{site!r} has signed two models of one round: {self.folder} has both")

    def _origin(self) -> str:
        return f"{super()._origin()}/{self.keeper.name}"[:60]

    def _rules(self) -> dict[str, str]:
        return super()._rules() | RULE


class PeerWitnessing(Witnessing):
    """A peer's part in the record of another one, which may go on without this peer's models."""

    def _released(self, order: Release) -> bytes:
        raise Unrecorded(f"{self.coordinator!r} hands a model out; of a peer's own none is signed")

    def _waiting(self) -> list[tuple[int, int]]:
        return []


class PeerRecord:
    """What a peer has to do with records: its own, and those of the others.

    Args:
        folder: of its own record.
        run: of the run at this peer.
        experiment: as the file defines it, without rows.
        rows: that the peer trains on.
        identity: the peer's.
        key_of: tells the others' long-term keys.
        ask: gets another peer's reply.
        here: tells who is there.

    Raises:
        InputError: a folder with another run's record.
        CheckpointError: a folder that cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        run: Path,
        experiment: Experiment,
        rows: int,
        identity: Identity,
        key_of: KeyOf,
        ask: Callable[[str, Request], Reply],
        here: Callable[[], Collection[str]],
    ) -> None:
        self.own = PeerLog(folder, run, experiment, identity, key_of)
        self.name, self.digest, self.rows = identity.name, experiment.digest(), rows
        self.ask, self.here, self._claim = ask, here, claim(experiment)
        self.receipts = Receipts(run / RECORD, identity.name, identity, key_of)
        self.others = {
            name: PeerWitnessing(
                run / RECORD / "of" / name, self.digest, experiment.rounds, identity.name,
                identity, name, key_of, partial(ask, name), rules=rules(experiment) | RULE,
            )
            for name in self.own.names
        }  # fmt: skip
        self._end = Where(experiment.rounds - 1, True)
        self._ended = set[str]()  # whose record has been followed to its end
        self._told = dict[str, str]()  # what each was last said to have failed in
        self._refused = {
            name: f"{name!r} has rewritten its record"
            for name, other in self.others.items()
            if (other.folder / _FORKED).exists()
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._attend, daemon=True)

    # What others ask

    def answer(self, peer: str, said: FromSite) -> FromCoordinator:
        """The reply to another peer.

        Raises:
            MessageError: who is no peer of this run, or asks for what is not of the record.
        """
        request = said.request
        if peer not in self.others or request.experiment != self.digest:
            raise MessageError(f"{peer!r} is in another run")
        if isinstance(request, ToRecord):
            return FromCoordinator(self.own.answer(peer, request))
        if not isinstance(request, Ask):
            raise MessageError(f"{peer!r} takes this peer for a coordinator")
        return FromCoordinator(self.own.order(peer) or Wait(self.digest, ""))

    # What happens in the run

    def begin(self, patience: float) -> None:
        """Wait until all have signed the beginning of this peer's log.

        Args:
            patience: seconds.

        Raises:
            InputError: somebody has not.
        """
        self._thread.start()
        until, told = time.monotonic() + patience, list[str]()
        while absent := self.own.absent:
            if absent != told:
                told = absent
                _log.info(
                    "the record waits for %s to sign its beginning; all peers are to be started"
                    " with --record", ", ".join(absent),
                )  # fmt: skip
            if time.monotonic() > until:
                raise InputError(
                    f"record: {', '.join(absent)} did not sign its beginning within {patience:g}"
                    " seconds; all peers are to be started with a record"
                )
            self._stop.wait(0.05)

    def contribution(self, round: int, sent: Path) -> tuple[bytes, bytes]:
        """The signed entry for this peer's model of the open round, and its nonce."""
        own = self.own
        return self.receipts.contribution(
            round, own.base, sent, self.rows, self._claim, policy=own.policy
        )

    def sent(self, round: int, entry: bytes) -> None:
        """This peer's own contribution, which neighbours may have from now on."""
        self.own.take(round, {self.name: entry})
        self.receipts.found(round, self.own.place(self.name, round))

    def take(self, round: int, entries: Mapping[str, bytes]) -> None:
        """What neighbours have signed of the models that were had from them, by site."""
        self.own.take(round, entries)

    def require(self, name: str) -> None:
        """Refuse a neighbour whose log was rewritten.

        Raises:
            MessageError: it was.
        """
        if name in self._refused:
            raise MessageError(self._refused[name])

    def check(self, name: str, model: Model, path: Path) -> None:
        """Refuse a neighbour's model that is not what it has signed for the record.

        Raises:
            MessageError: it is not; with what is wrong.
        """
        if not model.entry:
            raise MessageError(f"{name!r} sends its model unsigned: it was started without record")
        said, by = self.own.apart(name, model.entry)
        key, digest = self.own.public(name), records.file_digest(path)
        subjects = {
            "base": said.subjects["base"],
            "commitment": records.commitment(key, model.round, model.nonce, digest),
            "policy": self._policy(name),
        }
        says = {"round": model.round, "site": name, "rows": said.says["rows"], "claim": self._claim}
        if by != [name] or said.subjects != subjects or said.says != says:
            raise MessageError(f"{name!r} has signed a contribution to something else")
        self.own.require_one(name, model.round, model.entry)

    def _policy(self, name: str) -> bytes:
        """Digest of the policy of another peer's log, whose beginning this one has signed."""
        path = self.others[name].folder / POLICY
        return records.file_digest(path) if path.exists() else b""

    # What happens beside it

    def farewell(self, most: float, lost: Callable[[], Collection[str]] | None) -> None:
        """Wait until the others have cosigned all of this peer's log, and it all of theirs.

        Args:
            most: seconds.
            lost: tells who is not waited for; None: the run has failed here, and whoever is there
                goes on without this peer.
        """
        self.own.end()
        until = time.monotonic() + most
        while time.monotonic() < until:
            due = self.own.uncosigned - self._refused.keys()
            if lost is None:
                due &= set(self.here())
            else:
                due |= self.others.keys() - self._ended - self._refused.keys()
                due -= set(lost())
            if not due:
                return
            self._stop.wait(0.05)

    def close(self) -> None:
        """Close the files; says in the log if the last head does not count."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for other in self.others.values():
            other.close()
        self.own.close()

    def _attend(self) -> None:
        while not self._stop.is_set():
            again = [self._followed(name) for name in sorted(self.others.keys() & self.here())]
            self._stop.wait(0.02 if any(again) else _PAUSE)

    def _followed(self, name: str) -> bool:
        """Do what another peer asks for; whether it has more to ask for at once."""
        other = self.others[name]
        if name in self._refused:
            return False
        try:
            order = self.ask(name, Ask(self.digest))
            if isinstance(order, OfRecord):
                other.follow(order)
            elif other.records and other.where.round < 0:  # this process was killed before
                other.follow(Cosign(self.digest))
            if other.where >= self._end:
                self._ended.add(name)
            return isinstance(order, Introduce | Found)
        except (Forked, Unrecorded) as error:
            _log.warning("nothing is taken from %s any more: %s", name, error)
            if isinstance(error, Forked):
                write(other.folder / _FORKED, error.note.encode())
            self._refused[name] = f"{name!r}: {error}"
        except TacitError as error:
            if self._told.get(name) != str(error):  # twice a second it would be
                self._told[name] = str(error)
                _log.info("%s", error)
        except Exception:  # whatever one of them sends, the others are waiting
            _log.exception("%s's record cannot be followed", name)
        return False
