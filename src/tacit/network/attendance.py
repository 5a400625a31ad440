"""Who of a run is here, and what its threads wait for: news, or silence for too long."""

import math
import threading
import time
from collections.abc import Collection
from pathlib import Path

from tacit.errors import CheckpointError
from tacit.network.tensors import unwritable

# Seconds that all have to be seen by a process that begins, or comes back.
_RETURN = 10.0


class Attendance:
    """The parties of a run, as one of them sees them.

    Args:
        names: of those who may be here.
        folder: of which an operator is told when it cannot be written.
        patience: seconds without anything new after which a run fails.
        grace: seconds for which somebody may be away before a round goes on without it.

    Attributes:
        changed: the lock of all that the threads of a run share, which tells of its changes.
        away: since when.
        progress: when there was news last.
        broken: what ends the process.
    """

    def __init__(self, names: Collection[str], folder: Path, patience: float, grace: float) -> None:
        self.names, self.folder = frozenset(names), folder
        self.patience, self.grace = patience, grace
        self.changed = threading.Condition()
        self.away = dict.fromkeys(names, time.monotonic() + _RETURN)
        self.progress = time.monotonic()
        self.broken: CheckpointError | None = None

    def here(self, name: str, there: bool) -> bool:
        """Note that somebody came or went; whether that is new."""
        if name not in self.names or there == (name not in self.away):
            return False
        if there:
            del self.away[name]
        else:
            self.away[name] = time.monotonic()
        return True

    @property
    def connected(self) -> int:
        """How many are here."""
        return len(self.names) - len(self.away)

    def gone(self, name: str) -> bool:
        """Whether it has been away for too long."""
        return time.monotonic() - self.away.get(name, math.inf) > self.grace

    def news(self) -> None:
        """Something new was heard: whoever waits looks again."""
        self.progress = time.monotonic()
        self.changed.notify_all()

    def silent(self, since: float = 0.0) -> bool:
        """Whether nothing new was heard for too long, counted from ``since`` at the earliest."""
        return time.monotonic() - max(since, self.progress) > self.patience

    def wait(self, seconds: float) -> bool:
        """Wait for a change, holding the lock; whether there was one.

        Raises:
            CheckpointError: the process must end.
        """
        changed = self.changed.wait(seconds)
        if self.broken:
            raise self.broken
        return changed

    def end(self, error: CheckpointError | OSError) -> None:
        """End the process, not the run, for what only its operator can mend."""
        with self.changed:
            if not isinstance(error, CheckpointError):
                error = unwritable(self.folder, error)
            self.broken = error
            self.changed.notify_all()
