"""Three peers on real sockets, each a process, with nobody else there."""

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import tacit
from network_gossip import EXPERIMENT
from network_parties import free_port, joined, until
from tacit.cli import app
from tacit.cli.source import load
from tacit.data import fill
from tacit.ledger.verify import verify
from tacit.network.approval import approve
from tacit.network.authority import Authority
from tacit.network.identity import MEMBERS

pytestmark = pytest.mark.processes

NAMES = ("a", "b", "c")
BOUND = 300.0  # seconds; a loaded machine may need them


def address() -> str:
    return f"127.0.0.1:{free_port()}"


class Peers:
    """A federation of three, whose coordinator has gone, and their processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, list[subprocess.Popen[str]]()
        authority = Authority.init("hearts", folder / "coordinator", ["127.0.0.1:1"])
        for name in NAMES:
            joined(authority, folder / name, name, ("127.0.0.1",))
        for name in NAMES:
            shutil.copy(folder / "coordinator" / MEMBERS, folder / name / MEMBERS)
        draw = np.random.default_rng(7)
        for name, rows in zip(NAMES, (40, 28, 33), strict=True):
            x = draw.normal(size=(rows, 2))
            lines = [f"{u},{v},{int(u + v > 0)}" for u, v in x]
            (folder / f"{name}.csv").write_text("\n".join(["u,v,y", *lines]))
        self.file = folder / "pulse.py"
        self.file.write_text(EXPERIMENT)
        self.seed = address()

    def start(self, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, cwd=self.folder
        )
        self.running.append(process)
        return process

    def gated(
        self, name: str, closed: int, grace: float = 2.0, record: bool = False
    ) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("network_gossip.py")
        here, to = (self.seed, "") if name == "a" else (address(), self.seed)
        return self.start(
            script, self.file, self.folder / f"{name}.csv", self.folder / name,
            self.folder / "runs" / name, here, to, self.folder / "gate", closed, grace,
            self.record(name) if record else "",
        )  # fmt: skip

    def record(self, name: str) -> Path:
        return self.folder / f"record-{name}"

    def round(self, name: str) -> int:
        """That a peer carries out, as its notes say."""
        return int(json.loads((self.folder / "runs" / name / "peer.json").read_bytes())["round"])


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    made = Peers(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.communicate()


def test_three_processes_learn_what_one_does(peers: Peers) -> None:
    (peers.folder / "gate").touch()
    started = [peers.gated(name, 12, grace=60) for name in NAMES]
    for process in started:
        *_, last = process.communicate(timeout=BOUND)[0].splitlines()
        assert last == "finished all 12 rounds are done"
    tables = {name: peers.folder / f"{name}.csv" for name in NAMES}
    experiment = load(peers.file)
    whole = tacit.run(experiment.replace(data=fill(experiment.data, tables)))
    assert whole.vectors is not None
    for name, vector in zip(NAMES, whole.vectors, strict=True):
        found = load_file(peers.folder / "runs" / name / "model.safetensors")
        wanted = experiment.layout.module(experiment.template, vector).state_dict()
        for key, tensor in wanted.items():
            assert torch.allclose(found[key], tensor, atol=1e-5)


def test_the_command_runs_what_was_approved_and_says_how_it_ended(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # it would outlive this test
    home, digest = peers.folder / "a", load(peers.file).digest()
    words = [
        "peer", str(peers.file), "--home", str(home), "--data", str(peers.folder / "a.csv"),
        "--listen", peers.seed, "--patience", "0.5", "--folder", str(peers.folder / "run"),
        "--json",
    ]  # fmt: skip
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert f"tacit node approve {digest}" in refused.stderr
    approve(home, digest)
    alone = CliRunner().invoke(app, words)
    assert alone.exit_code == 1
    told = json.loads(alone.stdout)
    assert told["outcome"] == "failed"
    assert told["reason"].startswith("round 1: nothing was heard for 0.5 seconds of any of b, c")
    assert Path(told["model"]).exists()


@pytest.mark.parametrize("record", [False, True])
def test_a_killed_peer_comes_back_and_the_run_ends_for_all(record: bool, peers: Peers) -> None:
    a, b = peers.gated("a", 6, record=record), peers.gated("b", 6, record=record)
    c = peers.gated("c", 3, record=record)
    for _ in range(3):
        assert next(iter(c.stdout or ())).startswith("round")
    c.kill()
    for process in (a, b):  # up to the gate: the last three without c
        lines = [next(iter(process.stdout or ())).split() for _ in range(6)]
        assert [words[1] for words in lines] == ["1", "2", "3", "4", "5", "6"]
        assert all("c" in words[2:] for words in lines[3:])
    again = peers.gated("c", 6, record=record)
    until(lambda: peers.round("c") == 6, BOUND)  # it is where they are
    (peers.folder / "gate").touch()
    for process in (a, b, again):
        *_, last = process.communicate(timeout=BOUND)[0].splitlines()
        assert process.returncode == 0
        # In a round right after the gate another may not have seen c yet.
        assert re.fullmatch(r"finished all 12 rounds are done(, \d+ without \w)*", last)
    if record:
        for name in NAMES:
            for other in set(NAMES) - {name}:
                audit = verify(peers.record(name), against=peers.record(other))
                assert audit.findings == ()
        assert (
            dict(verify(peers.record("c")).checks)["rounds"] == "9 rounds of c, a peer, 3 left out"
        )
