"""One run at a time writes a record: a second one is told so, and writes nothing."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

import tacit
from small import experiment
from tacit.cli import app
from tacit.errors import InputError
from tacit.ledger.log import Log
from tacit.ledger.recorder import LOG
from tacit.ledger.verify import verify
from tacit.network.recording import Recording

BUSY = "is being written by another run; let it end, or give another folder"
PLAN = """
from small import experiment as made
experiment = made(rounds=2)
"""
# Says so in each round, and waits for a line.
RUN = """
import sys
from pathlib import Path
import tacit
from small import experiment
def said(row):
    print("round", flush=True)
    sys.stdin.readline()
tacit.run(experiment(rounds=2), record=sys.argv[1], on_round=said)
"""
# Opens a log, forks, and waits; what was forked as well, in a process of its own.
FORKING = """
import os, signal, sys
from pathlib import Path
from tacit.ledger.log import Log
log = Log(Path(sys.argv[1]), "hearts")
child = os.fork()
if child:
    print(child, flush=True)
signal.pause()
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program with a pipe to it and from it."""
    started = list[subprocess.Popen[str]]()

    def starts(program: str, *words: object) -> "subprocess.Popen[str]":
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", program, *map(str, words)],
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path},
            )
        )
        return started[-1]

    yield starts
    for process in started:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def contents(folder: Path) -> dict[str, str]:
    """Of all files but the one with which SQLite finds its way."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.endswith("-shm")
    }


def test_a_second_run_into_a_record_is_told_so_and_writes_nothing(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, other = tmp_path / "record", tmp_path / "other"
    (tmp_path / "plan.py").write_text(PLAN)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    first = start(RUN, record)
    assert line(first) == "round"
    before = contents(record)
    words = ["run", tmp_path / "plan.py", "--record", record, "--folder", other]
    second = CliRunner().invoke(app, [str(word) for word in words])
    assert second.exit_code == 2
    assert second.stderr == f"tacit: record: {record} {BUSY} [TACIT-101]\n"
    assert (contents(record), other.exists()) == (before, False)
    first.communicate("\n\n")
    assert first.returncode == 0
    audit = verify(record)
    assert (audit.findings, dict(audit.checks)["rounds"]) == ((), "2 rounds")
    tacit.run(experiment(rounds=2), record=record)  # now it may: the same rounds once more
    assert verify(record).findings == ()


def test_of_a_killed_writer_no_lock_is_left_though_its_processes_live_on(
    tmp_path: Path, start: Start
) -> None:
    writer = start(FORKING, tmp_path / LOG)
    child = int(line(writer))
    try:
        with pytest.raises(InputError, match=BUSY):
            Log(tmp_path / LOG, "hearts")
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        os.kill(child, 0)
        with closing(Log(tmp_path / LOG, "hearts")) as log:
            assert log.append([b"one"]) == 0
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_second_coordinator_is_told_so_and_writes_nothing(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    keeper: Any = SimpleNamespace(name="hub", sign=key.sign)
    plan = experiment(
        data=tacit.data.at_sites(["a", "b"], target="y", columns=["x"], labels=[0, 1])
    )

    def recording(own: Path) -> Recording:
        own.mkdir(exist_ok=True)
        return Recording(tmp_path / "record", own, plan, keeper, lambda name: key.public_key())

    with closing(recording(tmp_path / "one")):
        before = contents(tmp_path / "record")
        with pytest.raises(InputError, match=BUSY):
            recording(tmp_path / "two")
        assert contents(tmp_path / "record") == before
        assert not list((tmp_path / "two").iterdir())
        with closing(Log(tmp_path / "record" / LOG, "", read_only=True)) as reader:
            assert len(reader) == 0
    recording(tmp_path / "one").close()


def test_what_is_refused_holds_no_record(tmp_path: Path) -> None:
    record = tmp_path / "record"
    tacit.run(experiment(rounds=1), record=record)
    # A notebook keeps the error, and with it all that was open.
    with pytest.raises(InputError, match="another experiment's record") as kept:
        tacit.run(experiment(rounds=2), record=record)
    with pytest.raises(InputError, match="engine") as also:
        tacit.run(experiment(rounds=1), record=record, engine="ray2")  # type: ignore[arg-type]
    tacit.run(experiment(rounds=1), record=record)
    assert kept
    assert also
