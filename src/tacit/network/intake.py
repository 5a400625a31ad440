"""The updates of a round as they come in, and whether they are enough.

What sites offer is pulled by other threads, one thing of a site at a time.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tacit.errors import CheckpointError, MessageError, TacitError
from tacit.network.attendance import Attendance
from tacit.network.blobs import Offer
from tacit.network.protocol import Deliver
from tacit.network.store import Update

_log = logging.getLogger("tacit.network")

_TICK = 0.02
# Pulls of an update that fail although its sender is there, before the round goes on without it.
_PULLS = 3


class Intake:
    """Brings what sites offer, and knows what has come.

    Args:
        names: of all sites, in order.
        folder: for what is being pulled.
        pull: brings what a site offers to a path, or raises ``TacitError``; may take long.
        keep: looks at an update that is here, and keeps it; whether the round takes it.
        measured: whether all scores have come that the round waits for.
        deadline: seconds after which a round is late.

    Attributes:
        cohort: sites of whom the round takes updates.
        updates: that it has taken.
        hidden: whether sites keep theirs, for secure sums.
        pulling: sites of which something is under way.
        declined: sites that have no part in the round any more, and why.
        accepted, refused: updates since the process began, for whoever watches.
    """

    def __init__(
        self,
        attendance: Attendance,
        names: tuple[str, ...],
        folder: Path,
        pull: Callable[[str, Offer, Path], object],
        keep: Callable[[str, Deliver, Path | bytes], bool],
        measured: Callable[[], bool],
        deadline: float | None,
    ) -> None:
        self.attendance, self.names, self.folder = attendance, names, folder
        self.pull, self.keep, self.measured, self.deadline = pull, keep, measured, deadline
        self.hidden = False
        self.pulling: set[str] = set()
        self.accepted = self.refused = 0
        self._begun: dict[str, Path] = {}
        self._pool = ThreadPoolExecutor(8, "tacit-pull")
        self.open((), {})

    def open(self, cohort: tuple[str, ...], updates: dict[str, Update]) -> None:
        """A round begins, of which some updates may be here already."""
        self.cohort, self.updates = cohort, updates
        self.declined: dict[str, str] = {}
        self._failed: Counter[str] = Counter()
        self.opened = time.monotonic()

    def open_to(self, site: str) -> bool:
        """Whether the round takes something of a site."""
        return site in self.cohort and site not in self.declined

    def ready(self) -> list[str]:
        """Whose update counts, in order: one that a site keeps goes with it."""
        return [
            name
            for name in self.names
            if name in self.updates and not (self.hidden and self.attendance.gone(name))
        ]

    def gather(self, least: int) -> str:
        """Wait for the updates of a round; why there will not be enough of them, or nothing."""
        attendance = self.attendance
        with attendance.changed:
            while not self._complete(least):
                some = attendance.away or self.deadline
                attendance.wait(_TICK if some else attendance.patience)
                ready = self.ready()
                came = f"{len(ready)} of {len(self.cohort)} updates came, {least} are needed, and"
                if len(self.cohort) - len(self.declined) < least:
                    return f"{came} too many sites declined: {self.reasons()}"
                if attendance.silent():
                    silent = ", ".join(name for name in self.cohort if name not in ready)
                    return (
                        f"{came} nothing was heard for {attendance.patience:g} seconds of {silent}"
                    )
        return ""

    def reasons(self) -> str:
        """Why sites declined."""
        return "; ".join(f"{name}: {said}" for name, said in self.declined.items())

    def _complete(self, least: int) -> bool:
        if len(self.ready()) < least:
            return False
        late = self.deadline is not None and time.monotonic() - self.opened > self.deadline
        for name in self.cohort:
            lost = self.attendance.gone(name) or name in self.declined
            if name not in self.updates and not (lost or (late and name not in self.pulling)):
                return False
        return late or self.measured()

    def start(self, site: str, work: Callable[..., object], *given: object) -> None:
        """Have another thread pull and use what a site offers, unless one does."""
        if site not in self.pulling:
            self.pulling.add(site)
            self._pool.submit(work, site, *given)

    def stop(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def take(self, site: str, request: Deliver) -> bool:
        """Pull an update, look at it, and keep it; whether the round takes it."""
        about = {"site": site, "round": request.round + 1}
        attendance = self.attendance
        try:
            if request.inside:
                request.update.require(request.inside, repr(site))
            return self.keep(site, request, request.inside or self.receive(site, request.update))
        except MessageError as error:
            _log.warning("left out of round %d: %s", request.round + 1, error, extra=about)
            with attendance.changed:
                self.declined[site] = str(error)
                self.refused += 1
        except (CheckpointError, OSError) as error:
            attendance.end(error)
        except TacitError as error:
            _log.warning("%s's update did not arrive: %s", site, error, extra=about)
            with attendance.changed:
                self._failed[site] += site not in attendance.away
                if self._failed[site] >= _PULLS:
                    _log.warning("left out of round %d: %s", request.round + 1, site, extra=about)
                    self.declined[site] = f"its update did not arrive ({error})"
        except Exception:  # which would vanish with its thread
            _log.exception("%s's update could not be taken", site, extra=about)
            with attendance.changed:
                self.declined[site] = "the coordinator failed; its log says why"
        finally:
            with attendance.changed:
                self.pulling.discard(site)
                attendance.news()
        return False

    def receive(self, site: str, offer: Offer) -> Path:
        """Pull what a site offers to a path of its own, whatever bytes others have or send."""
        path = self.folder / f".{site}"
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
