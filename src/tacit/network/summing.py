"""The secure sums of a coordinator's rounds, among the sites that are left."""

import logging
import time
from collections.abc import Callable

from tacit.engine.secure_sum import Opened
from tacit.errors import CheckpointError, MessageError, TacitError
from tacit.experiment import Experiment
from tacit.network.attendance import Attendance
from tacit.network.blobs import Offer
from tacit.network.intake import Intake
from tacit.network.masked import Masked, signs_masked
from tacit.network.protocol import Answer, Enter, Go, Reply, Stage, Taken, Wait
from tacit.network.recording import Recording
from tacit.network.stages import kind_of
from tacit.network.store import Kept
from tacit.network.sums import CoordinatorSum, KeyOf, Parcels, directory, session_of
from tacit.protection.secagg.session import Aborted

_log = logging.getLogger("tacit.network")

_TICK = 0.02
# Secure sums of a round that may end without one.
_TRIES = 5


class Summing:
    """Opens sums of the updates that sites keep, with what they answer.

    Args:
        experiment: with everybody's row counts.
        key_of: tells a site's long-term key.
        parcels: of the messages to sites.
        tell: lets a site know that there are news for it.
        record: that the run leaves; None: none.

    Attributes:
        sum: the present one.
        sessions: of the round, so far; no two have a number in common.
    """

    def __init__(
        self,
        experiment: Experiment,
        attendance: Attendance,
        intake: Intake,
        key_of: KeyOf,
        parcels: Parcels,
        tell: Callable[[str], object],
        record: Recording | None = None,
    ) -> None:
        self.experiment, self.attendance, self.intake = experiment, attendance, intake
        self.key_of, self.parcels, self.tell, self.record = key_of, parcels, tell, record
        self.rows = experiment.data.train.sizes.tolist()
        self.digest, self.names = experiment.digest(), experiment.data.names
        self.sum: CoordinatorSum | None = None
        self.sessions = 0

    # What sites ask

    def order(self, site: str) -> Reply | None:
        """What the present sum waits for at a site that keeps its update."""
        sum, node = self.sum, self.names.index(site)
        if sum is None or site in self.intake.pulling or node not in sum.awaited:
            return None
        round = sum.session.round
        if sum.stage == sum.kind.first:
            return Enter(self.digest, round, sum.number, sum.exchange, sum.session.nodes)
        return Go(self.digest, round, sum.number, sum.stage, sum.asked[node])

    def answer(self, site: str, request: Answer) -> Reply:
        """Take a site's message, or have it pulled.

        Raises:
            MessageError: it is too large.
        """
        sum, node = self.sum, self.names.index(site)
        if sum is None or not sum.is_(request.round, request.session) or node not in sum.awaited:
            return Taken(self.digest, False)
        if isinstance(request.body, bytes):
            sum.check(node, request, request.body, self.rows[node])
            used = self._add(node, request.stage, request.body, sum)
            self.attendance.news()
            return Taken(self.digest, used)
        if request.body.size > sum.most:
            raise MessageError(
                f"{site!r} offers a message of {request.body.size} bytes; {sum.most} is the most"
            )
        self.intake.start(site, self._fetch, request, request.body, sum)
        return Wait(self.digest, "your message is being pulled")

    def _fetch(self, site: str, request: Answer, body: Offer, sum: CoordinatorSum) -> None:
        """Pull a site's message."""
        message: bytes | None = None
        node = self.names.index(site)
        try:
            path = self.intake.receive(site, body)
            message = path.read_bytes()
            path.unlink()
            sum.check(node, request, message, self.rows[node])
        except MessageError as error:
            _log.warning("left out of a secure sum: %s", error, extra={"site": site})
            message = b""
        except (CheckpointError, OSError) as error:
            self.attendance.end(error)
        except TacitError as error:
            _log.warning("%s's message did not arrive: %s", site, error, extra={"site": site})
        finally:
            with self.attendance.changed:
                self.intake.pulling.discard(site)
                if message is not None:
                    self._add(node, request.stage, message, sum)
                self.attendance.news()

    def _add(self, node: int, stage: Stage, message: bytes, sum: CoordinatorSum) -> bool:
        """Take a site's message; whether it was awaited."""
        try:
            return sum.take(node, stage, message)
        except CheckpointError as error:
            self.attendance.end(error)
            return False

    # What happens by itself

    def open(self, kept: Kept, least: int) -> list[Opened]:
        """The sum of each of the algorithm's exchanges in a round.

        Raises:
            Aborted: no sum was opened, and none will be.
            SumError: one that no honest sites can have sent.
        """
        opened: list[Opened] = []
        failed = 0
        while len(opened) < len(self.experiment.algorithm.sends(self.experiment.layout)):
            try:
                opened.append(self._open(kept, len(opened), least))
            except Aborted as error:
                failed += 1
                _log.warning("a secure sum of round %d ended: %s", kept.round + 1, error)
                if failed == _TRIES:
                    raise Aborted(f"{failed} secure sums ended, the last as {error}") from None
                if reason := self.intake.gather(least):
                    raise Aborted(f"a secure sum ended as {error}; then {reason}") from None
        return opened

    def _open(self, kept: Kept, exchange: int, least: int) -> Opened:
        """One sum, of all who are ready."""
        experiment, changed = self.experiment, self.attendance.changed
        with changed:
            number, self.sessions = self.sessions, self.sessions + 1
            nodes = [self.names.index(name) for name in self.intake.ready()]
        if len(nodes) < least:
            raise Aborted(f"{len(nodes)} sites are left; it takes {least}")
        session = session_of(experiment, kept.round, number, exchange, nodes, kept.state.digest)
        keys = directory(experiment, nodes, self.key_of)
        assert experiment.guard is not None
        kind = kind_of(experiment.guard)
        masked = None
        if self.record and signs_masked(experiment):
            masked = Masked(self.record, session, self.names)
        sum = CoordinatorSum(kind, session, number, exchange, keys, self.parcels.pack, masked)
        opened: Opened | None = None
        try:
            while opened is None:
                with changed:
                    self.sum, since = sum, time.monotonic()
                    self.attendance.news()
                for node in sum.asked:
                    self.tell(self.names[node])
                with changed:
                    while not self._complete(sum, since):
                        self.attendance.wait(_TICK)
                    answers = sum.close()
                opened = sum.advance(answers)
            return opened
        finally:
            with changed:
                self.sum = None
            self.parcels.clear()

    def _complete(self, sum: CoordinatorSum, since: float) -> bool:
        """Whether the stage that began at ``since`` has all the answers that it will have."""
        deadline = self.intake.deadline
        late = deadline is not None and time.monotonic() - since > deadline
        silent, ready = self.attendance.silent(since), self.intake.ready()
        for name in (self.names[node] for node in sum.awaited):
            lost = silent or name not in ready
            if not (lost or (late and sum.enough and name not in self.intake.pulling)):
                return False
        return True
