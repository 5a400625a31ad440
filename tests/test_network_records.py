"""Records of networked runs, over real sockets: honest ones hold, and every crime is named."""

import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from network_parties import free_port, joined
from tacit.cli import app
from tacit.errors import CheckpointError, TacitError
from tacit.ledger.recorder import LOG, OPENINGS, POLICY
from tacit.ledger.statement import Envelope, Statement
from tacit.ledger.verify import Audit, verify
from tacit.network import processes
from tacit.network.authority import Authority
from tacit.network.coordinator import Coordinator
from tacit.network.recording import Recording
from tacit.network.rounds import Site
from tacit.network.site import Notes, SiteRun
from test_network_rounds import alone, experiment
from test_network_run import told_nothing

NAMES = ("0", "1", "2", "3", "4")
ROUNDS = 2


class Over(TacitError):
    """The coordinator has ended, and nobody waits for it."""

    code = "TEST"


# Models are traced by one thread at a time; sites are processes.
ONE_AT_A_TIME = threading.RLock()


class Careful(SiteRun):
    """A site beside others in this process."""

    def _site(self, rows: tuple[int, ...]) -> Site:
        with ONE_AT_A_TIME:
            fresh, site = self.site is None, super()._site(rows)
            if fresh:
                site.measure = one_at_a_time(site.measure)  # type: ignore[method-assign]
            return site

    def _train(self, *given: Any) -> Notes:
        with ONE_AT_A_TIME:
            return super()._train(*given)

    def home(self, *given: Any) -> Any:
        with ONE_AT_A_TIME:
            return super().home(*given)


def one_at_a_time(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def locked(*given: Any) -> Any:
        with ONE_AT_A_TIME:
            return call(*given)

    return locked


class Ward:
    """A coordinator and five sites, each with its keys and folders, over real sockets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.record = folder / "record"
        self.address = f"127.0.0.1:{free_port()}"
        authority = Authority.init("hearts", folder / "hub", [self.address])
        for name in NAMES:
            joined(authority, folder / f"keys-{name}", name)
        (folder / "run").mkdir()
        self.made: list[Coordinator] = []

        def make(*given: Any, **settings: Any) -> Coordinator:
            self.made.append(Coordinator(*given, **settings))
            return self.made[-1]

        monkeypatch.setattr(processes, "Coordinator", make)
        self.lies({})

    def carry_out(self, *, record: bool = True, **changes: Any) -> dict[str, Any]:
        """The whole run; how it ended for each, or its error.

        Of sites that refuse the coordinator takes leave, as of dead ones; without a quorum it ends.
        """
        plan = experiment(rounds=ROUNDS, **changes)
        public = plan.replace(data=told_nothing(plan.data))
        told: dict[str, Any] = {}
        over = threading.Event()

        def wait(reason: str) -> None:
            if over.is_set():
                raise Over(reason)

        def take_part(name: str) -> None:
            try:
                told[name] = processes.take_part(
                    public, alone(plan.data, NAMES.index(name)), self.folder / f"keys-{name}",
                    self.site(name), connect=[self.address], patience=120, on_wait=wait,
                )  # fmt: skip
            except Exception as error:
                told[name] = error
                coordinator = self.made[-1]
                coordinator.grace = 0.0
                coordinator._left.add(name)
                refused = sum(isinstance(end, TacitError) for end in told.values())
                if refused == 3 or not isinstance(error, TacitError):
                    coordinator._break(CheckpointError("the operator ends it"))

        with ThreadPoolExecutor(len(NAMES)) as pool:
            parts = [pool.submit(take_part, name) for name in NAMES]
            try:
                told["coordinator"], _ = processes.coordinate(
                    public, self.folder / "hub", self.folder / "run", listen=[self.address],
                    patience=120, grace=120, record=self.record if record else None,
                )  # fmt: skip
            except CheckpointError as error:
                told["coordinator"] = error
            finally:
                over.set()
            for part in parts:
                part.result()
        return told

    def site(self, name: str) -> Path:
        return self.folder / f"run-{name}"

    def against(self, name: str) -> Audit:
        """The audit with what a site has kept."""
        part = self.site(name) / processes.RECORD
        return verify(self.record, policy=part / POLICY, against=part)

    def commits(self, crime: type[Recording]) -> None:
        """From now on the coordinator keeps its record in another way."""
        self.patch.setattr(processes, "Recording", crime)

    def lies(self, liars: dict[str, type[SiteRun]]) -> None:
        """From now on some sites are others."""

        def make(*given: Any, **settings: Any) -> SiteRun:
            return liars.get(given[2], Careful)(*given, **settings)

        self.patch.setattr(processes, "SiteRun", make)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    return Ward(tmp_path, monkeypatch)


def entries(folder: Path) -> list[bytes]:
    with sqlite3.connect(folder / LOG) as db:
        return [row[0] for row in db.execute("SELECT entry FROM entries ORDER BY place")]


def statements(folder: Path) -> list[Statement]:
    return [Envelope.from_bytes(entry).statement for entry in entries(folder)]


def refusals(told: dict[str, Any]) -> dict[str, TacitError]:
    """Whose run ended with an error of its own."""
    return {
        name: end
        for name, end in told.items()
        if isinstance(end, TacitError) and not isinstance(end, Over | CheckpointError)
    }


# Honest


def test_a_networked_run_leaves_a_record_that_holds(ward: Ward) -> None:
    told = ward.carry_out()
    assert {end.outcome for end in told.values()} == {"finished"}
    one = ["round-open", *["contribution"] * 5, "aggregate"]
    assert [said.kind for said in statements(ward.record)] == ["genesis", *one, *one]
    audit = verify(ward.record)
    assert audit.findings == ()
    assert audit.head is not None
    assert audit.head.size == 1 + 2 * 7
    genesis = Envelope.from_bytes(entries(ward.record)[0])
    assert sorted(genesis.signatures) == [*NAMES, "coordinator"]
    for name in NAMES:
        assert ward.against(name).findings == ()
        part = ward.site(name) / processes.RECORD
        for secret in (OPENINGS, "witness.key"):
            assert (part / secret).stat().st_mode & 0o077 == 0
    assert (ward.folder / "run" / "log.key").stat().st_mode & 0o077 == 0
    # A site opens its commitments, and nobody else's, to whoever has a copy.
    shutil.copy(ward.site("3") / processes.RECORD / OPENINGS, ward.record / OPENINGS)
    opened = verify(ward.record)
    assert opened.findings == ()
    assert dict(opened.checks)["openings"] == "2 commitments opened"
    words = ["verify", str(ward.record), "--against", str(ward.site("1") / processes.RECORD)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "other head" in done.stdout


def test_a_run_without_a_record_writes_none(ward: Ward) -> None:
    told = ward.carry_out(record=False)
    assert {end.outcome for end in told.values()} == {"finished"}
    assert not ward.record.exists()
    assert not (ward.folder / "run" / "log.key").exists()
    assert not any((ward.site(name) / processes.RECORD).exists() for name in NAMES)
