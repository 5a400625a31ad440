"""SIGTERM and SIGINT: who is asked to stop ends soon, says so, and goes on when started again."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import network_stopping
import tacit
from network_parties import joined, listening, until
from network_stopping import SITES
from tacit.cli.source import load
from tacit.data import fill
from tacit.network.authority import Authority
from tacit.network.blobs import Blobs, Offer
from tacit.network.identity import Identity
from tacit.network.transport import Endpoint, Unreachable

Case = dict[str, Any]
Play = Callable[[Case], Case]


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    words = [sys.executable, network_stopping.__file__]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        reader, writer = driver.stdout, driver.stdin

        def play(case: Case) -> Case:
            print(json.dumps(case), file=writer, flush=True)
            line = reader.readline()
            assert line, f"the process that starts all others ended with {driver.wait(60)}"
            told: Case = json.loads(line)
            return told

        yield play
        writer.close()


TERM, INT = int(signal.SIGTERM), int(signal.SIGINT)
SERVER = {
    "coordinator: before the run": ("coordinator", "coordinator:Coordinator._begin", 1),
    "coordinator: waiting for updates": ("coordinator", "intake:Intake.gather", 2),
    "coordinator: a pull is under way": ("coordinator", "blobs:Blobs._fill", 5),
    "coordinator: closing a round": ("coordinator", "rounds:Server.close", 2),
    "node: pulling the model": ("b", "site:SiteRun._shared", 2),
    "node: training": ("b", "rounds:Site.take_part", 2),
    "node: sending its update": ("b", "blobs:Blobs._chunk", 2),
}
PEERS = {
    "peer: training": ("b", "gossip:Peer.carry_out", 2),
    "peer: gathering": ("b", "peer:PeerRun._gather", 2),
}
# Of each role one, by .ci/run; the others by hand.
OFTEN = {"coordinator: a pull is under way", "node: training", "peer: gathering"}


def in_one_process(folder: Path) -> dict[str, torch.Tensor]:
    experiment = load(folder / "file.py")
    data = fill(experiment.data, {site: folder / f"{site}.csv" for site in SITES})
    return tacit.run(experiment.replace(data=data)).model.state_dict()


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param(phase, marks=pytest.mark.slow if phase in OFTEN else pytest.mark.processes)
        for phase in SERVER | PEERS
    ],
)
def test_who_is_asked_to_stop_goes_on_when_started_again(
    phase: str, play: Play, tmp_path: Path
) -> None:
    role, point, nth = (SERVER | PEERS)[phase]
    kind = "server" if phase in SERVER else "peers"
    number = INT if phase == "node: training" else TERM
    told = play(
        {"folder": str(tmp_path), "kind": kind, "role": role, "point": point, "nth": nth,
         "when": "before", "signal": number}
    )  # fmt: skip
    assert not told["fault"], told["fault"]
    assert "stopped" in told, told
    assert told["stopped"]["code"] == (0 if number == TERM else 130), told
    assert told["stopped"]["said"]["outcome"] == "stopped"
    assert told[role]["log"].count('"stopped; ') == 1
    for name in SITES if kind == "peers" else ("coordinator", *SITES):
        assert told[name]["code"] == 0, (name, told)
        assert told[name]["said"]["outcome"] == "finished", (name, told)
    if role == "coordinator" and "before" not in phase:
        heard = [name for name in SITES if "the coordinator stops" in told[name]["log"]]
        assert heard == list(SITES)
    if kind == "server":
        rows = told["coordinator"]["said"]["rounds"]
        assert [(row["round"], row["cohort"]) for row in rows] == [(1, 3), (2, 3), (3, 3)]
        whole = in_one_process(tmp_path)
        for site in SITES:
            found = load_file(tmp_path / site / "model.safetensors")
            for name, tensor in whole.items():
                assert torch.allclose(found[name], tensor, atol=1e-5)


SCRIPT = """
import ctypes, threading, time
from tacit.network.stopping import stoppable

with stoppable({bound}):
{body}
"""
WAITS = """
    print("ready", flush=True)
    time.sleep(300)
"""
FAILS = """
    try:
        print("ready", flush=True)
        time.sleep(300)
    except KeyboardInterrupt:
        raise ValueError("half done")
"""
# In a library, which does not come back for Python's handlers: it joins a thread that sleeps.
HANGS = """
    thread = threading.Thread(target=time.sleep, args=(300,), daemon=True)
    thread.start()
    while True:
        try:
            print("ready", flush=True)
            ctypes.CDLL(None).pthread_join(ctypes.c_ulong(thread.ident), None)
        except KeyboardInterrupt:
            pass
"""


def ended(body: str, bound: float, number: int) -> tuple[int, str]:
    """Exit code and standard error of a process that is sent a signal once it is ready."""
    words = [sys.executable, "-c", SCRIPT.format(body=body, bound=bound)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
        return process.returncode, said


@pytest.mark.parametrize("body", [WAITS, FAILS])
def test_a_signal_ends_what_the_main_thread_does(body: str) -> None:
    code, said = ended(body, 120, TERM)
    assert code == 1
    assert said.splitlines()[-1].startswith("tacit.network.stopping.Stopped: ")


@pytest.mark.parametrize(("number", "code"), [(TERM, 0), (INT, 130)])
def test_what_hangs_ends_after_the_bound(number: int, code: int) -> None:
    assert ended(HANGS, 0.2, number) == (code, "")


def test_a_holder_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    authority = Authority.init("hearts", tmp_path / "coordinator", ["127.0.0.1:0"])
    joined(authority, tmp_path / "zurich", "zurich")
    asked, go = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def hang(_: str, __: bytes) -> bytes:
        asked.set()
        go.wait(300)
        return b""

    with listening(Identity.load(authority.home)) as coordinator:
        address = [coordinator.address]  # type: ignore[attr-defined]
        zurich = Endpoint(Identity.load(tmp_path / "zurich"), connect=address)
        zurich.serve_bytes("blob", hang)
        taker = Blobs(coordinator)
        offer = Offer(bytes(32), 5)

        def pull() -> None:
            try:
                taker.pull("zurich", offer, tmp_path / "received", most=5, stall=100_000)
            except Unreachable as error:
                failed.append(error)

        thread = threading.Thread(target=pull)
        thread.start()
        assert asked.wait(60)
        taker.close()
    until(lambda: not thread.is_alive())
    assert "given up" in str(failed)
    go.set()
    zurich.close()
