"""The coordinator's part in the record of an asynchronous run.

What a site signed is kept with its update, in the order in which they came. That order alone says
in which step an update counts; the contributions to a step and its end are written together. So
whoever is killed writes the same entries as before, and none twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tacit.errors import MessageError
from tacit.ledger import records
from tacit.ledger.statement import Envelope, Statement
from tacit.network.recording import Recording


class AsyncRecording(Recording):
    """The ``Recording`` of an asynchronous run.

    Attributes:
        step: gives the signed contributions to a step, in the order in which they came.
    """

    step: Callable[[int], Sequence[bytes]]

    def __init__(self, *given: Any) -> None:
        self._bases = dict[int, bytes]()  # the model that each round began with
        self._taken = set[bytes]()  # commitments
        super().__init__(*given)

    def check(self, site: str, round: int, entry: bytes, rows: int) -> Statement:
        said = super().check(site, round, entry, rows)
        with self._lock:
            if said.subjects["commitment"] in self._taken:
                raise MessageError(f"{site!r} has signed this contribution before")
        return said

    def take(self, entry: bytes) -> None:
        """A contribution was accepted, and no other may repeat it."""
        with self._lock:
            self._taken.add(Envelope.from_bytes(entry).statement.subjects["commitment"])

    def contributed(self, site: str, round: int, entry: bytes) -> None:
        """Nothing so far: it is written once it counts."""

    def _base(self, round: int) -> bytes:
        return self._bases.get(round, b"")

    def _closing(self, round: int, model: bytes, row: Mapping[str, Any]) -> list[bytes]:
        entries, first = self.step(round), len(self.log)
        why = {first + int(i): reason for i, reason in row["turned_away"].items()}
        counted = [place for place in range(first, first + len(entries)) if place not in why]
        return [*entries, self._signed(records.aggregate(round, model, counted, why))]

    def _read(self, place: int, entry: bytes) -> None:
        super()._read(place, entry)
        said = Envelope.from_bytes(entry).statement
        match said.kind:
            case "round-open":
                self._bases[said.says["round"]] = said.subjects["base"]
            case "contribution":
                self._taken.add(said.subjects["commitment"])
