"""Runs by commands, in real processes that are sent a signal at stated points.

    python network_stopping.py < CASES > RESULTS

A line of JSON each. As in network_killing, this process loads everything once and forks the others.
Whoever was asked to stop is started again by the same command, once all the same are waiting.
"""

import json
import logging
import os
import signal
import sys
import time
from functools import wraps
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from network_parties import free_port, joined
from network_watching import told_on_signal, watch
from tacit.cli import app
from tacit.cli.source import load
from tacit.network import processes, stopping
from tacit.network.approval import approve
from tacit.network.authority import Authority
from tacit.network.peer import Ended, PeerRun
from tacit.settings import apply

SITES = ("a", "b", "c")
_BOUND = 300.0  # seconds after which a case is given up
EXPERIMENT = """
from torch import nn
import tacit

experiment = tacit.Experiment(
    data=tacit.data.at_sites(
        ("a", "b", "c"), target="y", columns=["u", "v"], labels=[0, 1], scaling="none"
    ),
    model=lambda: nn.Sequential(nn.Linear(2, 1500), nn.Linear(1500, 2)),
    loss=nn.functional.cross_entropy,
    training=tacit.SGD(lr=0.1, batch_size=8, epochs=1), rounds=3,
)
"""
GOSSIP = ["--set", "algorithm=Gossip", "--set", "topology=Ring"]


def _arm(case: dict[str, Any], folder: Path) -> None:
    """Send this process a signal before or after the n-th call of a function, once."""
    where, name = case["point"].split(":")
    holder = import_module(f"tacit.network.{where}")
    *outer, last = name.split(".")
    for part in outer:
        holder = getattr(holder, part)
    function, calls = getattr(holder, last), count(1)

    def ask_to_stop() -> None:
        try:
            file = os.open(folder / "asked", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(file, str(time.monotonic()).encode())
        os.close(file)
        os.kill(os.getpid(), case["signal"])

    @wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        mine = next(calls) == case["nth"]
        if mine and case["when"] == "before":
            ask_to_stop()
        result = function(*args, **kwargs)
        if mine and case["when"] == "after":
            ask_to_stop()
        return result

    setattr(holder, last, asked)


def _hold(role: str, case: dict[str, Any], folder: Path) -> None:
    """Keep peers from the last round until who was asked to stop is back, and they see it."""
    run, begin = PeerRun.run, PeerRun._round
    asked, back = case["role"], folder / "back"

    def run_again(self: PeerRun) -> Ended:
        if role == asked and (folder / "asked").exists():
            back.touch()
        return run(self)

    def begin_later(self: PeerRun, round: int) -> None:
        while role != asked and round == 2 and not (back.exists() and self._seen({asked})):
            time.sleep(0.01)
        begin(self, round)

    PeerRun.run, PeerRun._round = run_again, begin_later  # type: ignore[method-assign]


def _words(role: str, case: dict[str, Any], folder: Path, ports: dict[str, int]) -> list[str]:
    """The command of a role."""
    file, home = str(folder / "file.py"), str(folder / "keys" / role)
    words = [file, "--home", home, "--folder", str(folder / role), "--json", "--log-format", "json"]
    if role == "coordinator":
        listen = f"127.0.0.1:{ports[role]}"
        return ["coordinator", *words, "--listen", listen, "--quorum", "3", "--patience", "250"]
    words += ["--data", str(folder / f"{role}.csv")]
    if "coordinator" in ports:
        return ["node", *words, "--connect", f"127.0.0.1:{ports['coordinator']}"]
    words += ["--listen", f"127.0.0.1:{ports[role]}", *GOSSIP, "--patience", "250"]
    others = [f"127.0.0.1:{port}" for name, port in ports.items() if name != role]
    return ["peer", *words, *(word for other in others for word in ("--connect", other))]


def _fork(role: str, case: dict[str, Any], folder: Path, ports: dict[str, int]) -> int:
    """A role as a process of its own, which ends as one does that a shell started."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(int(_BOUND) + 30)  # if the driver is killed
    for stream, name in ((1, "out"), (2, "log")):
        file = os.open(folder / f"{role}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
    told_on_signal()
    try:
        if case["role"] == role:
            _arm(case, folder)
        _hold(role, case, folder)
        app(_words(role, case, folder, ports))
    except Exception:
        logging.exception("%s failed", role)
        sys.exit(1)
    sys.exit(0)


def _prepare(case: dict[str, Any], folder: Path) -> dict[str, int]:
    """The files of all parties, and where they listen."""
    (folder / "file.py").write_text(EXPERIMENT)
    server = case["kind"] == "server"
    roles = ("coordinator", *SITES) if server else SITES
    ports = {role: free_port() for role in roles}
    authority = Authority.init("hearts", folder / "keys" / "coordinator", ["127.0.0.1:1"])
    experiment = load(folder / "file.py")
    if not server:
        experiment = apply(experiment, [word for word in GOSSIP if word != "--set"])
    random = np.random.default_rng(8)
    for name in SITES:
        joined(authority, folder / "keys" / name, name, ("127.0.0.1",))
        approve(folder / "keys" / name, experiment.digest())
        rows = [f"{u},{v},{int(u + v > 0)}" for u, v in random.normal(size=(30, 2))]
        (folder / f"{name}.csv").write_text("\n".join(["u,v,y", *rows]) + "\n")
    members = (folder / "keys" / SITES[-1] / "members.json").read_bytes()  # of all
    for name in SITES:
        (folder / "keys" / name / "members.json").write_bytes(members)
    (folder / "coordinator").mkdir()
    return ports


def play(case: dict[str, Any]) -> dict[str, Any]:
    """A whole case. How it ended for all, and how for whom it was asked to stop."""
    folder = Path(case["folder"])
    ports, told = _prepare(case, folder), dict[str, Any]()
    running = {_fork(role, case, folder, ports): role for role in ports}

    def foreseen(role: str, code: int) -> bool:
        said = (folder / f"{role}.out").read_text()
        asked = role == case["role"] and (folder / "asked").exists() and "stopped" not in told
        if asked and code >= 0:
            seconds = time.monotonic() - float((folder / "asked").read_text())
            told["stopped"] = {"code": code, "said": json.loads(said), "seconds": seconds}
            (folder / f"{role}.out").unlink()
            running[_fork(role, case, folder, ports)] = role
            return True
        told[role] = {"code": code, "said": json.loads(said) if said else None}
        return code == 0

    told["fault"] = watch(running, folder, _BOUND, foreseen)
    for role in ports:
        told.setdefault(role, {"code": None})["log"] = (folder / f"{role}.log").read_text()
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Nothing depends on how fast this machine is; the bound has a test of its own.
    stopping.stoppable.__wrapped__.__defaults__ = (_BOUND,)  # type: ignore[attr-defined]
    processes._TELL = 60.0
    for line in sys.stdin:
        print(json.dumps(play(json.loads(line))), flush=True)
