"""The updates of one round of a swarm, as its leader collects them."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from tacit.errors import MessageError, TacitError
from tacit.network.attendance import Attendance
from tacit.network.blobs import Offer
from tacit.network.protocol import Trained
from tacit.network.tensors import HEADER
from tacit.network.wire import Wire

_log = logging.getLogger("tacit.network")

_PAUSE = 0.5  # seconds after a pull that failed


class Collecting:
    """What the members of a round's cohort have for it.

    Args:
        round: from 0.
        folder: for what is pulled.
        pull: brings what a member offers to a path, or raises ``TacitError``.
        tell: lets the others know that there is more.

    Attributes:
        parts: what members say that they have; without an update, they have no part in the round.
        updates: those that have come.
    """

    def __init__(
        self,
        attendance: Attendance,
        wire: Wire,
        round: int,
        cohort: Sequence[str],
        folder: Path,
        pull: Callable[[str, Offer, Path], object],
        tell: Callable[[], object],
    ) -> None:
        self.attendance, self.wire, self.round, self.cohort = attendance, wire, round, cohort
        self.folder, self.pull, self.tell = folder, pull, tell
        self.parts: dict[str, Trained] = {}
        self.updates: dict[str, Path] = {}
        self._pulling: set[str] = set()

    def fetch(self, me: str, own: Callable[[bytes], Path], pool: Executor) -> None:
        """Have those updates pulled that can be; one's own is here already."""
        for member in self.cohort:
            part = self.parts.get(member)
            known = member in self.updates or member in self._pulling
            if part and part.update and not known:
                self._pulling.add(member)
                here = own(part.update.digest) if member == me else None
                pool.submit(self._receive, member, part.update, here)

    def _receive(self, member: str, update: Offer, here: Path | None) -> None:
        """Pull an update, and look at it."""
        try:
            if update.size > self.wire.bytes + HEADER:
                raise MessageError(f"{member!r} offers an update of {update.size} bytes")
            path = here or self.folder / f"{self.round}-{member}"
            if here is None:
                self.pull(member, update, path)
            self.wire.examine(member, path, self.round)
            with self.attendance.changed:
                self.updates[member] = path
                self.attendance.progress = time.monotonic()
        except MessageError as error:
            _log.warning("left out of round %d: %s", self.round + 1, error)
            with self.attendance.changed:
                self.parts[member] = Trained(None, None)
        except OSError as error:
            self.attendance.end(error)
        except TacitError as error:
            _log.info("%s's update did not arrive: %s", member, error)
            time.sleep(_PAUSE)
        finally:
            with self.attendance.changed:
                self._pulling.discard(member)
                self.tell()

    def complete(self, least: int, late: bool) -> bool:
        """Whether the round can be closed.

        Args:
            late: those who are late and send nothing are not waited for.
        """
        if len(self.updates) < least:
            return False
        for member in self.cohort:
            part = self.parts.get(member)
            declined = part is not None and part.update is None
            gone = declined or self.attendance.gone(member)
            lost = gone or (late and member not in self._pulling)
            if member not in self.updates and not lost:
                return False
        return True
