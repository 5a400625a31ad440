"""Records of asynchronous runs over real sockets: honest ones hold, and every crime is named."""

from pathlib import Path
from typing import Any

import pytest

import tacit
from tacit.ledger.verify import verify
from tacit.network import processes
from tacit.network.asynchronous import AsyncCoordinator, AsyncSiteRun
from test_network_records import NAMES, Careful, Ward, statements

STEPS, BUFFER = 6, 3


class CarefulAsync(Careful, AsyncSiteRun):
    """A site beside others in this process."""


class AsyncWard(Ward):
    """A ward whose coordinator waits for nobody."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)

        def make(*given: Any, **settings: Any) -> AsyncCoordinator:
            self.made.append(AsyncCoordinator(*given, **settings))
            return self.made[-1]

        monkeypatch.setattr(processes, "AsyncCoordinator", make)

    def carry_out(self, **changes: Any) -> dict[str, Any]:
        fields = {
            "algorithm": tacit.FedBuff(buffer=BUFFER),
            "rounds": STEPS,
            "evaluate_every": STEPS,
        }
        return super().carry_out(**fields | changes)

    def lies(self, liars: dict[str, type[AsyncSiteRun]]) -> None:
        def make(*given: Any, **settings: Any) -> AsyncSiteRun:
            return liars.get(given[2], CarefulAsync)(*given, **settings)

        self.patch.setattr(processes, "AsyncSiteRun", make)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncWard:
    return AsyncWard(tmp_path, monkeypatch)


def test_a_run_that_waits_for_nobody_leaves_a_record_that_holds(ward: AsyncWard) -> None:
    told = ward.carry_out()
    assert {getattr(end, "outcome", end) for end in told.values()} == {"finished"}, told
    one = ["round-open", *["contribution"] * BUFFER, "aggregate"]
    assert [said.kind for said in statements(ward.record)] == ["genesis", *one * STEPS]
    for audit in (verify(ward.record), *map(ward.against, NAMES)):
        assert audit.findings == ()
