"""Swarms of real processes, over real sockets, one of which is killed at a stated point.

    python network_swarm.py < CASES > RESULTS

A line of JSON each. As network_killing.py, this process loads what a run needs once and forks.
"""

import json
import logging
import os
import shutil
import signal
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import tacit
from network_killing import plan
from network_parties import free_port, joined
from network_watching import forked, watch
from tacit.ledger.agreement import Agreement
from tacit.ledger.votes import Committee, Vote
from tacit.network.authority import Authority
from tacit.network.collecting import Collecting
from tacit.network.identity import MEMBERS, Identity
from tacit.network.processes import swarm
from tacit.network.replica import Replica
from tacit.network.swarm import SwarmRun
from test_network_rounds import alone, empty

NAMES = ("a", "b", "c", "d")
ROUNDS = 6
KILLED_IN = 1  # round, from 0; the victim leads it
_BOUND = 200.0


def experiment() -> tacit.Experiment:
    """Four hospitals; two of them have the rows of the other two."""
    whole = plan()
    (x0, y0), (x1, y1) = whole.data.train.parts()
    nodes = [(x.numpy(), y.numpy()) for x, y in ((x0, y0), (x1, y1), (x1 + 1, y1), (x0 - 1, y0))]
    data = tacit.data.from_arrays(nodes, names=NAMES)
    return whole.replace(data=data, topology=tacit.Swarm(), rounds=ROUNDS)


def _vote(phase: str) -> Any:
    return lambda _, message: isinstance(message, Vote) and message.phase == phase


# What a leader is about to do, or has done, when it is killed: of which class, before or after
# which call of which method, and whether that call is meant.
POINTS: dict[str, tuple[Any, str, str, int, Any]] = {
    "before collecting": (SwarmRun, "_fetch", "before", 1, lambda *_: True),
    "while collecting": (Collecting, "_receive", "after", 2, lambda *_: True),
    "before proposing": (SwarmRun, "_close", "before", 1, lambda *_: True),
    "after proposing": (SwarmRun, "_close", "after", 1, lambda *_: True),
    "while voting": (Agreement, "receive", "before", 1, _vote("prevote")),
    "while deciding": (Agreement, "receive", "before", 1, _vote("precommit")),
    "after deciding": (SwarmRun, "_settle", "after", 1, lambda *_: True),
    "before recording": (Replica, "decided", "before", 1, lambda *_: True),
    "before cosigning": (Replica, "_head", "before", 1, lambda *_: True),
    "after recording": (Replica, "decided", "after", 1, lambda *_: True),
}
# Of which there is nothing without a record.
OF_RECORD = {point for point, (holder, *_) in POINTS.items() if holder is Replica}


def _arm(point: str) -> None:
    holder, name, when, nth, meant = POINTS[point]
    function, calls = getattr(holder, name), count(1)

    def deadly(self: Any, *given: Any) -> Any:
        match self:
            case SwarmRun():
                round = self.notes.round
            case Replica():  # a head is cosigned once the round's entries are there
                round = self.closed - (name == "_head")
            case _:
                round = self.round
        due = round == KILLED_IN and meant(self, *given) and next(calls) == nth
        if due and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(self, *given)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, deadly)


def _play(name: str, case: dict[str, Any], folder: Path, ports: dict[str, int]) -> None:
    logging.basicConfig(level=logging.INFO, force=True, format="%(asctime)s %(message)s")
    whole = experiment()
    public, home = whole.replace(data=empty(whole.data)), folder / "keys" / name
    address = {other: f"127.0.0.1:{port}" for other, port in ports.items()}
    taken = swarm(
        public, alone(whole.data, NAMES.index(name)), home, folder / name,
        listen=[address[name]], connect=[address[other] for other in NAMES if other < name],
        patience=_BOUND, stall=_BOUND, grace=0.5 if case["point"] else _BOUND,
        on_round=lambda row: logging.info("closed %s", row),
        record=folder / "records" / name if case["record"] else None,
    )  # fmt: skip
    (folder / f"{name}.json").write_text(
        json.dumps({"outcome": taken.outcome, "reason": taken.reason, "model": str(taken.model)})
    )


def _fork(name: str, case: dict[str, Any], armed: bool, folder: Path, ports: Any) -> int:
    def begin() -> None:
        if armed:
            _arm(case["point"])
        _play(name, case, folder, ports)

    return forked(begin, folder / f"{name}.log", _BOUND)


def play(case: dict[str, Any]) -> dict[str, Any]:
    """A whole case; who is killed is started again where the case says so."""
    folder, ports = Path(case["folder"]), {name: free_port() for name in NAMES}
    authority = Authority.init("hearts", folder / "keys" / "coordinator", ["127.0.0.1:1"])
    for name in NAMES:
        joined(authority, folder / "keys" / name, name, ("127.0.0.1",))
    for name in NAMES:
        shutil.copy(folder / "keys" / "coordinator" / MEMBERS, folder / "keys" / name / MEMBERS)
    whole = experiment()
    digest = bytes.fromhex(whole.replace(data=empty(whole.data)).digest())
    members = Identity.load(folder / "keys" / "a").members
    keys = {name: members.key(name).public_bytes_raw() for name in NAMES}
    victim = Committee.of(digest, digest, keys, lambda *_: True).leader(KILLED_IN, 0)
    began, killed = time.monotonic(), list[str]()
    running = {}
    for name in NAMES:
        armed = bool(case["point"]) and name == victim
        running[_fork(name, case, armed, folder, ports)] = name

    def foreseen(name: str, code: int) -> bool:
        if code == -signal.SIGKILL and case["point"] and name == victim and not killed:
            killed.append(name)
            if case["again"]:
                running[_fork(name, case, False, folder, ports)] = name
            return True
        return code == 0

    fault = watch(running, folder, _BOUND, foreseen)
    told: dict[str, Any] = {"victim": victim, "killed": len(killed), "fault": fault}
    for name in NAMES:
        path = folder / f"{name}.json"
        told[name] = json.loads(path.read_text()) if path.exists() else {}
        if told[name].get("outcome") == "finished":
            tensors = load_file(told[name].pop("model"))
            told[name]["model"] = torch.cat(
                [tensors[k].flatten() for k in sorted(tensors)]
            ).tolist()
    return told | {"seconds": time.monotonic() - began}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(play(json.loads(line))), flush=True)
