"""What sites measure of a run's models, which becomes part of the rows of its rounds."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tacit.errors import MessageError
from tacit.experiment import Experiment
from tacit.network.attendance import Attendance
from tacit.network.protocol import MOST_ROWS, Measured
from tacit.network.store import Store
from tacit.training.metrics import HIGHER_IS_BETTER, summary

# Sites whose mean others may learn: of two, each would know the other's.
_FEWEST = 3
# Of a float32; what a loss may be.
_LARGEST = 3.4e38


class Scores:
    """Scores of the models that rounds begin with.

    Attributes:
        tables: test rows and what was measured on them, by round and site.
        late: scores count that come when the round is over; rows tell of how many sites they are.
    """

    def __init__(self, experiment: Experiment, store: Store, attendance: Attendance) -> None:
        self.every, self.last = experiment.evaluate_every, experiment.rounds
        self.store, self.attendance, self.late = store, attendance, False
        self.tables: dict[int, dict[str, tuple[int, dict[str, float]]]] = {}
        self._reported: Counter[int] = Counter()

    def open(self, round: int) -> None:
        """A round begins, and the model that it begins with may be measured."""
        if not self.late:
            self.tables.clear()
        if round > 0 and (round % self.every == 0 or round == self.last):
            self.tables[round] = {}

    def wanted(self, site: str, round: int) -> bool:
        """Whether a site is to measure the model that a round begins with."""
        return round in self.tables and site not in self.tables[round]

    def take(self, site: str, request: Measured) -> bool:
        """Keep a site's scores, the first that it sends; whether there is a place for them.

        Raises:
            MessageError: scores of names that nobody knows.
        """
        if not request.scores.keys() <= HIGHER_IS_BETTER.keys():
            raise MessageError(f"{site!r} sent scores that are not known by name")
        table = self.tables.get(request.round)
        if table is not None and site not in table:
            found = {name: real(score) for name, score in request.scores.items()}
            known = {name: score for name, score in found.items() if score is not None}
            table[site] = (min(request.rows, MOST_ROWS), known)
            self.attendance.news()
        return table is not None

    def report(self) -> list[dict[str, Any]]:
        """Add what has come of a round's model to the row of the round that made it; these rows."""
        described = []
        with self.attendance.changed:
            tables = {round: dict(table) for round, table in self.tables.items()}
        for round, table in tables.items():
            if len(table) == self._reported[round]:
                continue
            self._reported[round] = len(table)
            row = dict(self.store.metrics()[round - 1])
            rows = np.array([count for count, _ in table.values()])
            for name in sorted({name for _, found in table.values() for name in found}):
                values = np.array([found.get(name, math.nan) for _, found in table.values()])
                over = summary(name, values, rows)
                row |= {name: over.mean, f"worst_{name}": over.worst_value}
            if self.late:
                row["measured"] = len(table)
            self.store.describe(round - 1, row)
            described.append(row)
        return described

    def told(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Scores of a reported row that others than the coordinator may learn, by name."""
        if self._reported[row["round"]] < _FEWEST:
            return {}
        return {name: row[name] for name in HIGHER_IS_BETTER if name in row}


def real(value: float) -> float | None:
    """What a site measured, or None where that is no number of float32."""
    return value if abs(value) <= _LARGEST else None
