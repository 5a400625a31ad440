"""Runs among real processes, over real sockets, that are killed at stated points.

    python network_killing.py < CASES > RESULTS

A line of JSON each. This process loads what a run needs once and forks every coordinator and site,
so that a case costs no imports. It has no threads of its own; thus it may fork.
"""

import faulthandler
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import wraps
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tacit
from network_parties import joined
from tacit.network.authority import Authority
from tacit.network.processes import coordinate, take_part
from tacit.network.store import Store
from test_network_rounds import alone, empty

SITES = ("north", "south")
ROUNDS = 2
# Seconds after which a case is given up: many times what it takes.
_BOUND = 150.0


def plan(**changes: Any) -> tacit.Experiment:
    """What the processes train: two hospitals with a few rows each."""
    random, nodes = np.random.default_rng(5), []
    for rows in (24, 40):
        x = random.normal(size=(rows, 4)).astype(np.float32)
        nodes.append((x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)))
    fields = {
        "data": tacit.data.from_arrays(nodes, names=SITES),
        "model": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
        "loss": nn.functional.cross_entropy, "rounds": ROUNDS, "algorithm": tacit.Scaffold(),
        "training": tacit.SGD(lr=0.1, batch_size=8, epochs=1),
    }  # fmt: skip
    return tacit.Experiment(**fields | changes)


def _arm(kill: dict[str, Any], folder: Path) -> None:
    """Make this process die of SIGKILL before or after the n-th call of a function, once."""
    where, name = kill["point"].split(":")
    holder = import_module(f"tacit.network.{where}")
    *outer, last = name.split(".")
    for part in outer:
        holder = getattr(holder, part)
    function, calls = getattr(holder, last), count(1)

    def die(call: int) -> None:
        if call == kill["nth"]:
            try:
                os.close(os.open(folder / "killed", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    @wraps(function)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        if kill["when"] == "before":
            die(call)
        result = function(*args, **kwargs)
        if kill["when"] == "after":
            die(call)
        return result

    setattr(holder, last, deadly)


def _play(role: str, case: dict[str, Any], folder: Path, port: int) -> None:
    """One role, to its end, in a process of its own."""
    log = os.open(folder / f"{role}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, force=True)
    faulthandler.dump_traceback_later(_BOUND - 5, file=log)
    if case["role"] == role:
        _arm(case, folder)
    whole, address = plan(), [f"127.0.0.1:{port}"]
    public, home = whole.replace(data=empty(whole.data)), folder / "keys" / role
    if role == "coordinator":
        kept, rows = coordinate(
            public, home, folder / role, listen=address, quorum=len(SITES), grace=_BOUND,
            patience=_BOUND,
        )  # fmt: skip
        told = {"outcome": kept.outcome, "reason": kept.reason, "rows": rows}
    else:
        data = alone(whole.data, SITES.index(role))
        taken = take_part(public, data, home, folder / role, connect=address)
        told = {"outcome": taken.outcome, "reason": taken.reason, "scores": taken.scores}
    (folder / f"{role}.json").write_text(json.dumps(told))


def _fork(role: str, case: dict[str, Any], folder: Path, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _play(role, case, folder, port)
        os._exit(0)
    except BaseException:
        logging.exception("%s failed", role)
        os._exit(1)


def _port() -> int:
    """A free port below those of outgoing connections, which would take it between two lives."""
    while True:
        port = secrets.randbelow(12000) + 20000
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def play(case: dict[str, Any]) -> dict[str, Any]:
    """A whole case: whoever is killed is started again. How it ended for all."""
    folder, port = Path(case["folder"]), _port()
    address = f"127.0.0.1:{port}"
    authority = Authority.init("hearts", folder / "keys" / "coordinator", [address])
    for site in SITES:
        joined(authority, folder / "keys" / site, site)
    began, killed = time.monotonic(), 0
    (folder / "coordinator").mkdir()
    running = {_fork(r, case, folder, port): r for r in ("coordinator", *SITES)}
    while running and time.monotonic() - began < _BOUND:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.01)
            continue
        role = running.pop(pid)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed += 1
            running[_fork(role, case, folder, port)] = role
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return _told(folder) | {"killed": killed, "seconds": time.monotonic() - began}


def _told(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for role in ("coordinator", *SITES):
        path, log = folder / f"{role}.json", (folder / f"{role}.log").read_text()
        told[role] = json.loads(path.read_text()) if path.exists() else {"log": log[-3000:]}
    whole = plan()
    store = Store(folder / "coordinator", whole.replace(data=empty(whole.data)).digest())
    kept = store.read()
    store.close()
    if kept is not None:
        told["model"] = store.tensors.get(kept.state.digest)["model"].tolist()
        told["control"] = store.tensors.get(kept.state.digest)["control"].tolist()
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(play(json.loads(line))), flush=True)
