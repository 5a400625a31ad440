"""Records of peers, over real sockets: each keeps its own, and every crime is named."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import tacit
from network_parties import free_port, joined
from tacit.errors import TacitError
from tacit.ledger.recorder import LOG, OPENINGS, POLICY
from tacit.ledger.statement import Envelope, Statement
from tacit.ledger.verify import Audit, verify
from tacit.network import processes
from tacit.network.authority import Authority
from tacit.network.forgetting import RECORD
from tacit.network.identity import MEMBERS
from tacit.network.peer import PeerRun
from test_network_records import ONE_AT_A_TIME, one_at_a_time
from test_network_rounds import alone, experiment
from test_network_run import told_nothing

NAMES = ("0", "1", "2", "3", "4")
ROUNDS = 3


class Careful(PeerRun):
    """A peer beside others in this process."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        with ONE_AT_A_TIME:
            super().__init__(*given, **settings)
        self.peer.trainer.run = one_at_a_time(self.peer.trainer.run)  # type: ignore[method-assign]
        self.peer.measure = one_at_a_time(self.peer.measure)  # type: ignore[method-assign]


class Crowd:
    """Five peers on a ring, each with its keys and folders, over real sockets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        authority = Authority.init("hearts", folder / "hub", ["127.0.0.1:1"])
        for name in NAMES:
            joined(authority, folder / f"keys-{name}", name, ("127.0.0.1",))
        for name in NAMES:
            shutil.copy(folder / "hub" / MEMBERS, folder / f"keys-{name}" / MEMBERS)
        self.address = {name: f"127.0.0.1:{free_port()}" for name in NAMES}
        self.lies({})

    def lies(self, liars: dict[str, type[PeerRun]]) -> None:
        """From now on some peers are others."""

        def make(*given: Any, **settings: Any) -> PeerRun:
            return liars.get(given[2], Careful)(*given, **settings)

        self.patch.setattr(processes, "PeerRun", make)

    def record(self, name: str) -> Path:
        return self.folder / f"record-{name}"

    def run(self, name: str) -> Path:
        return self.folder / f"run-{name}"

    def part(self, name: str, changes: dict[str, Any], **settings: Any) -> Any:
        """One peer's whole run; how it ended, or its error."""
        plan = experiment(
            **{"algorithm": tacit.Gossip(), "topology": tacit.Ring(), "rounds": ROUNDS} | changes
        )
        public, first = plan.replace(data=told_nothing(plan.data)), NAMES[0]
        try:
            return processes.gossip(
                public, alone(plan.data, NAMES.index(name)), self.folder / f"keys-{name}",
                self.run(name), listen=[self.address[name]],
                connect=[self.address[first]] * (name != first), record=self.record(name),
                **{"patience": 120, "grace": 120} | settings,
            )  # fmt: skip
        except TacitError as error:
            return error

    def carry_out(self, **changes: Any) -> dict[str, Any]:
        """The whole run."""
        with ThreadPoolExecutor(len(NAMES)) as pool:
            ended = pool.map(lambda name: self.part(name, changes), NAMES)
            return dict(zip(NAMES, ended, strict=True))


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    return Crowd(tmp_path, monkeypatch)


def entries(folder: Path) -> list[bytes]:
    with sqlite3.connect(folder / LOG) as db:
        return [row[0] for row in db.execute("SELECT entry FROM entries ORDER BY place")]


def statements(folder: Path) -> list[Statement]:
    return [Envelope.from_bytes(entry).statement for entry in entries(folder)]


def holds(audit: Audit) -> None:
    assert audit.findings == ()


def test_every_peer_leaves_a_record_that_holds(crowd: Crowd) -> None:
    told = crowd.carry_out()
    assert [end.outcome for end in told.values()] == ["finished"] * 5, told
    one = ["round-open", *["contribution"] * 3, "aggregate"]  # a peer and its two neighbours
    for name in NAMES:
        said = statements(crowd.record(name))
        assert [each.kind for each in said] == ["genesis", *one * ROUNDS]
        audit = verify(crowd.record(name))
        holds(audit)
        assert audit.head is not None
        assert audit.head.size == 1 + 5 * ROUNDS
        assert dict(audit.checks)["rounds"] == f"3 rounds of {name}, a peer"
        for other in NAMES:
            if other != name:
                holds(verify(crowd.record(name), against=crowd.record(other)))
                part = crowd.run(other) / RECORD / "of" / name
                holds(verify(crowd.record(name), policy=part / POLICY, against=part))
        shutil.copy(crowd.run(name) / RECORD / OPENINGS, crowd.record(name) / OPENINGS)
        opened = verify(crowd.record(name))
        holds(opened)
        assert dict(opened.checks)["openings"] == f"{ROUNDS} commitments opened"
