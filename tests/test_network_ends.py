"""Sites and clocks that are wrong: each ends in a sentence that says why, over real sockets."""

import ast
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tacit
from network_parties import free_port, joined, until
from tacit.errors import CheckpointError, InputError
from tacit.network import processes, site
from tacit.network.authority import Authority
from tacit.network.coordinator import Coordinator
from tacit.network.messages import Refused
from tacit.network.store import Store
from test_network_rounds import alone, experiment
from test_network_run import told_nothing


class Hall:
    """A coordinator that waits for its sites."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.plan = folder, experiment()
        self.public = self.plan.replace(data=told_nothing(self.plan.data))
        self.name = self.plan.data.names[0]
        authority = Authority.init("hearts", folder / "hub", ["127.0.0.1:0"])
        joined(authority, folder / self.name, self.name)
        self.made: list[Coordinator] = []

        def make(*given: Any, **settings: Any) -> Coordinator:
            self.made.append(Coordinator(*given, **settings))
            return self.made[0]

        monkeypatch.setattr(processes, "Coordinator", make)
        self.address = f"127.0.0.1:{free_port()}"
        (folder / "run").mkdir()

    def start(self) -> None:
        self.running = ThreadPoolExecutor(1).submit(
            processes.coordinate, self.public, self.folder / "hub", self.folder / "run",
            listen=[self.address], patience=60,
        )  # fmt: skip

    def take_part(self, **changes: Any) -> object:
        public = self.public.replace(**changes)
        return processes.take_part(
            public, alone(self.plan.data, 0), self.folder / self.name, self.folder / "site",
            connect=[self.address], patience=60,
        )  # fmt: skip


@pytest.fixture
def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    made = Hall(tmp_path, monkeypatch)
    yield made
    until(lambda: bool(made.made))
    made.made[0].attendance.end(CheckpointError("the test is over"))
    with suppress(CheckpointError):
        made.running.result(60)


def test_a_site_of_another_version_ends_with_the_reason(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "software", lambda: "0.0.1")
    hall.start()
    with pytest.raises(Refused, match=r"runs tacit 0\.0\.1.*install the same version"):
        hall.take_part()


def test_a_site_with_other_code_ends_with_the_reason(hall: Hall) -> None:
    hall.start()
    with pytest.raises(Refused, match="give both the same file and settings"):
        hall.take_part(loss=nn.functional.multi_margin_loss)


def test_a_site_with_other_rows_than_it_joined_with_ends_with_the_reason(hall: Hall) -> None:
    before = Store(hall.folder / "run", hall.public.digest())
    before.join(hall.name, 9)
    before.close()
    hall.start()
    with pytest.raises(Refused, match="joined with 9 rows and now has 18"):
        hall.take_part()


def test_a_site_that_never_joins_ends_the_run_with_its_name(tmp_path: Path) -> None:
    plan = experiment()
    public = plan.replace(data=told_nothing(plan.data))
    store = Store(tmp_path, public.digest())
    coordinator = Coordinator(public, store, print, print, patience=0.05)
    with pytest.raises(InputError, match=r"sites: .* did not join within 0\.05 seconds"):
        coordinator.run()
    coordinator.stop()
    store.close()


# Clocks

NETWORK = Path(tacit.__file__).parent / "network"
# For certificates and invitations alone.
DATED = {"authority.py", "certificates.py", "doctor.py", "identity.py", "joining.py"}


def clocks(text: str) -> set[str]:
    """Clocks that someone can set which a module reads."""
    found = set[str]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow"):
                found.add(name)
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{each.name}" for each in node.names} - {"time.monotonic"}
    return found


def test_nothing_waits_by_a_clock_that_jumps() -> None:
    assert clocks("import time\ntime.time()") == {"time.time"}
    assert clocks("from time import time") == {"time.time"}
    read = {path.name: clocks(path.read_text()) for path in NETWORK.glob("*.py")}
    assert len(read) > 20
    assert {name for name, found in read.items() if found} <= DATED
    assert set().union(*read.values()) == {"datetime.now"}
