"""Runs among real processes, over real sockets, that are killed at stated points.

    python network_killing.py < CASES > RESULTS

A line of JSON each. This process loads what a run needs once and forks every coordinator and site,
so that a case costs no imports. It has no threads of its own; thus it may fork.
"""

import json
import logging
import os
import random
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import partial, wraps
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from blake3 import blake3
from safetensors.torch import load_file
from torch import Tensor, nn

import tacit
from network_links import Links, enter
from network_parties import free_port, joined, until
from network_watching import forked, watch
from tacit.ledger.recorder import OPENINGS, POLICY, kept
from tacit.ledger.statement import Envelope, Statement
from tacit.ledger.verify import verify
from tacit.network import authority, certificates, identity, joining, party, processes
from tacit.network.authority import Authority
from tacit.network.blobs import TOPIC, Blobs, Offer
from tacit.network.configuration import CHUNK, host
from tacit.network.identity import MEMBERS, Identity
from tacit.network.processes import coordinate, gossip, take_part
from tacit.network.store import Store
from tacit.network.transport import Endpoint
from test_network_rounds import alone, empty

SITES = ("north", "south")
PEERS = ("a", "b", "c")
ROUNDS = 2
LARGE = 10 * CHUNK + 99  # bytes
# Seconds after which a case is given up: many times what it takes.
_BOUND = 150.0
# Whoever comes back is waited for, however long it takes on a loaded machine.
processes._FAREWELL = 60.0
party._RETURN = _BOUND
# A peer that comes back when all others have ended waits for them in vain; they wait for it, too.
party._FAREWELL = 60.0


def plan(**changes: Any) -> tacit.Experiment:
    """What coordinator and sites train: two hospitals with a few rows each."""
    fields = {
        "data": _data(SITES), "model": _model, "loss": nn.functional.cross_entropy,
        "rounds": ROUNDS, "algorithm": tacit.Scaffold(),
        "training": tacit.SGD(lr=0.1, batch_size=8, epochs=1),
    }  # fmt: skip
    return tacit.Experiment(**fields | changes)


def peer_plan() -> tacit.Experiment:
    """What peers train."""
    return plan(data=_data(PEERS), algorithm=tacit.Gossip(), topology=tacit.Ring())


def small_plan() -> tacit.Experiment:
    """What is small enough to travel in messages."""
    return plan(model=_small)


def late_plan() -> tacit.Experiment:
    """What is trained without waiting for anybody."""
    return plan(algorithm=tacit.FedBuff(buffer=2), rounds=3, evaluate_every=3)


def _small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 800), nn.ReLU(), nn.Linear(800, 2))


def _data(names: tuple[str, ...]) -> tacit.data.Federation:
    draw, nodes = np.random.default_rng(5), []
    for rows in (24, 40, 33)[: len(names)]:
        x = draw.normal(size=(rows, 4)).astype(np.float32)
        nodes.append((x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)))
    return tacit.data.from_arrays(nodes, names=names)


Addresses = dict[str, str]
Plan = Callable[[], tacit.Experiment]


@dataclass(frozen=True)
class Cast:
    """Who plays in a run, and how.

    Attributes:
        roles: who are started, in this order.
        set_up: makes their keys, given the folder and each role's address.
        act: carries out one role to its end, given that, too; what it tells.
        kept: what the folder holds at the end.
    """

    roles: tuple[str, ...]
    set_up: Callable[[Path, Addresses], None]
    act: Callable[[str, Path, Addresses], dict[str, Any]]
    kept: Callable[[Path], dict[str, Any]] = lambda folder: {}


def _server_set_up(folder: Path, at: Addresses) -> None:
    hearts = Authority.init("hearts", folder / "keys" / "coordinator", [at["coordinator"]])
    for site in SITES:
        joined(hearts, folder / "keys" / site, site)


def _server_act(
    role: str,
    folder: Path,
    at: Addresses,
    plan: Plan = plan,
    record: Path | None = None,
    quorum: int | None = len(SITES),
    release: Path | None = None,
) -> dict[str, Any]:
    whole = plan()
    public, home = whole.replace(data=empty(whole.data)), folder / "keys" / role
    if role == "coordinator":
        ended, rows = coordinate(
            public, home, folder / role, listen=[at[role]], quorum=quorum, grace=_BOUND,
            patience=_BOUND, record=record, release=release,
        )  # fmt: skip
        return {"outcome": ended.outcome, "reason": ended.reason, "rows": rows}
    data = alone(whole.data, SITES.index(role))
    taken = take_part(public, data, home, folder / role, connect=[at["coordinator"]])
    return {"outcome": taken.outcome, "reason": taken.reason, "scores": taken.scores}


def _server_kept(folder: Path, plan: Plan = plan) -> dict[str, Any]:
    whole = plan()
    store = Store(folder / "coordinator", whole.replace(data=empty(whole.data)).digest())
    run = store.read()
    store.close()
    if run is None:
        return {}
    state = store.tensors.get(run.state.digest)
    return {name: state[name].tolist() for name in ("model", "control")}


def _recorded_act(role: str, folder: Path, at: Addresses) -> dict[str, Any]:
    return _server_act(role, folder, at, record=folder / "record")


def _released_act(role: str, folder: Path, at: Addresses) -> dict[str, Any]:
    return _server_act(role, folder, at, record=folder / "record", release=folder / "out")


def _recorded_kept(folder: Path) -> dict[str, Any]:
    found, log = _audited(folder)
    return _server_kept(folder) | {"findings": found, "kinds": [said.kind for said in log]}


def _audited(folder: Path) -> tuple[list[str], list[Statement]]:
    """What an auditor finds, with the policy and the head of each site, and what is in the log."""
    found: list[str] = []
    for site in SITES:
        part, out = folder / site / processes.RECORD, folder / "out"
        audit = verify(
            folder / "record", policy=part / POLICY, against=part,
            release=out if out.exists() else None,
        )  # fmt: skip
        found += map(str, audit.findings)
        if audit.beyond:
            found.append(f"nobody vouches for {audit.beyond} entries")
    _, log = kept(folder / "record")
    said = [Envelope.from_bytes(entry).statement for entry in log]
    log.close()
    return found, said


def _late_act(role: str, folder: Path, at: Addresses) -> dict[str, Any]:
    return _server_act(role, folder, at, late_plan, folder / "record", None)


def _late_kept(folder: Path) -> dict[str, Any]:
    """What an auditor finds, what came and counted, and what sites can open and report."""
    found, log = _audited(folder)
    whole = late_plan()
    store = Store(folder / "coordinator", whole.replace(data=empty(whole.data)).digest())
    came = [[arrival.site, arrival.round] for arrival in store.arrivals()]
    store.close()
    parts, opened = [folder / site / processes.RECORD for site in SITES], 0
    for part in parts:
        with closing(sqlite3.connect(part / OPENINGS)) as db:
            opened += db.execute("SELECT count(*) FROM openings").fetchone()[0]
    included = [place for said in log for place in said.says.get("included", ())]
    return {
        "findings": found, "kinds": [said.kind for said in log], "came": came, "opened": opened,
        "counted": [[log[place].says["site"], log[place].says["round"]] for place in included],
        "reports": [path.name for part in parts for path in part.glob("incident-*")],
    }  # fmt: skip


def _peers_set_up(folder: Path, at: Addresses) -> None:
    keys = folder / "keys"
    hearts = Authority.init("hearts", keys / "coordinator", ["127.0.0.1:1"])
    for name in PEERS:
        joined(hearts, keys / name, name, (host(at[name]),))
    for name in PEERS:
        shutil.copy(keys / "coordinator" / MEMBERS, keys / name / MEMBERS)


def _peer_act(role: str, folder: Path, at: Addresses, record: Path | None = None) -> dict[str, Any]:
    whole, first = peer_plan(), PEERS[0]
    taken = gossip(
        whole.replace(data=empty(whole.data)), alone(whole.data, PEERS.index(role)),
        folder / "keys" / role, folder / role, listen=[at[role]],
        connect=[at[first]] * (role != first), patience=_BOUND, grace=_BOUND, record=record,
    )  # fmt: skip
    model = flat(load_file(taken.model)) if taken.model else None
    return {"outcome": taken.outcome, "reason": taken.reason, "model": model}


def _recorded_peer_act(role: str, folder: Path, at: Addresses) -> dict[str, Any]:
    return _peer_act(role, folder, at, _peer_record(folder, role))


def _peer_record(folder: Path, role: str) -> Path:
    return folder / f"record-{role}"


def _recorded_peers_kept(folder: Path) -> dict[str, Any]:
    """What an auditor finds, with what the other peers have, and what is in each log."""
    found, kinds = list[str](), dict[str, list[str]]()
    for name in PEERS:
        record = _peer_record(folder, name)
        for other in set(PEERS) - {name}:
            part = folder / other / processes.RECORD / "of" / name
            for against in (part, _peer_record(folder, other)):
                audit = verify(record, policy=part / POLICY, against=against)
                found += [f"{name}, {other}: {finding}" for finding in audit.findings]
        _, log = kept(record)
        kinds[name] = [Envelope.from_bytes(entry).statement.kind for entry in log]
        log.close()
    return {"findings": found, "kinds": kinds}


def flat(state: dict[str, Tensor]) -> list[float]:
    """A model's numbers."""
    numbers: list[float] = torch.cat([state[name].flatten() for name in sorted(state)]).tolist()
    return numbers


def _transfer_act(role: str, folder: Path, at: Addresses) -> dict[str, Any]:
    """A site has a large file, which the coordinator pulls."""
    to = {"listen": [at[role]]} if role == "coordinator" else {"connect": [at["coordinator"]]}
    data, asked = random.Random(3).randbytes(LARGE), list[int]()
    told: dict[str, Any] = {"outcome": "finished"}
    with Endpoint(Identity.load(folder / "keys" / role), **to) as endpoint:
        blobs = Blobs(endpoint)
        if role == "north":
            blobs.offer(data)

            def counted(sender: str, payload: bytes) -> bytes:
                asked.append(msgspec.msgpack.decode(payload)[1])
                return blobs._chunk(sender, payload)

            endpoint.serve_bytes(TOPIC, counted)
            until(lambda: (folder / "north" / "done").exists(), _BOUND)
            told["asked"] = asked
        elif role == "coordinator":
            until(lambda: "north" in endpoint.alive())
            offer = Offer(blake3(data).digest(), LARGE)
            found = blobs.pull("north", offer, folder / role / "it", most=LARGE, stall=_BOUND)
            told["same"] = found.read_bytes() == data
            (folder / "north" / "done").touch()
    return told


CASTS = {
    "server": Cast(("coordinator", *SITES), _server_set_up, _server_act, _server_kept),
    "recorded": Cast(("coordinator", *SITES), _server_set_up, _recorded_act, _recorded_kept),
    "released": Cast(("coordinator", *SITES), _server_set_up, _released_act, _recorded_kept),
    "late": Cast(("coordinator", *SITES), _server_set_up, _late_act, _late_kept),
    "small": Cast(
        ("coordinator", *SITES),
        _server_set_up,
        partial(_server_act, plan=small_plan),
        partial(_server_kept, plan=small_plan),
    ),
    "gossip": Cast(PEERS, _peers_set_up, _peer_act),
    "recorded peers": Cast(PEERS, _peers_set_up, _recorded_peer_act, _recorded_peers_kept),
    "transfer": Cast(("coordinator", *SITES), _server_set_up, _transfer_act),
}


def _jump(seconds: float) -> None:
    """From now on this process's clock is wrong; zenoh's own stays right."""
    now, real = time.time, datetime

    class Wrong(datetime):
        @classmethod
        def now(cls, zone: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return real.now(zone) + timedelta(seconds=seconds)

    time.time = lambda: now() + seconds
    for module in (authority, certificates, identity, joining):
        module.datetime = Wrong  # type: ignore[attr-defined]


def _arm(kill: dict[str, Any], folder: Path) -> None:
    """Make this process die of SIGKILL before or after the n-th call of a function, once.

    Or its clock jump.
    """
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
            if "jump" in kill:
                _jump(kill["jump"])
            else:
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


def _play(role: str, case: dict[str, Any], folder: Path, at: Addresses) -> None:
    """One role, to its end, in a process of its own."""
    logging.basicConfig(level=logging.INFO, force=True, format="%(asctime)s %(message)s")
    if case.get("role") == role:
        _arm(case, folder)
    told = CASTS[case["cast"]].act(role, folder, at)
    (folder / f"{role}.json").write_text(json.dumps(told))


def _fork(role: str, case: dict[str, Any], folder: Path, at: Addresses, links: Links | None) -> int:
    mine, its = socket.socketpair()

    def begin() -> None:
        if links:
            socket.send_fds(its, [b"t"], [enter(host(at[role]))])
        _play(role, case, folder, at)

    with mine, its:
        pid = forked(begin, folder / f"{role}.log", _BOUND)
        if links:
            links.add(host(at[role]), socket.recv_fds(mine, 1, 1)[1][0])
        return pid


def play(case: dict[str, Any]) -> dict[str, Any]:
    """A whole case: whoever is killed is started again. How it ended for all."""
    folder, cast = Path(case["folder"]), CASTS[case["cast"]]
    links = Links(**case["links"]) if "links" in case else None
    hosts = [f"10.9.0.{i}" if links else "127.0.0.1" for i, _ in enumerate(cast.roles, 1)]
    at = {role: f"{where}:{free_port()}" for role, where in zip(cast.roles, hosts, strict=True)}
    cast.set_up(folder, at)
    began, killed, fatal = time.monotonic(), list[str](), "role" in case and "jump" not in case
    for role in cast.roles:
        (folder / role).mkdir()
    running = {_fork(role, case, folder, at, links): role for role in cast.roles}

    def foreseen(role: str, code: int) -> bool:
        if code == -signal.SIGKILL and fatal and role == case["role"] and not killed:
            killed.append(role)
            running[_fork(role, case, folder, at, links)] = role
            return True
        return code == 0

    step = links.step if links else lambda: time.sleep(0.01)
    told: dict[str, Any] = {
        "fault": watch(running, folder, _BOUND, foreseen, step),
        "killed": len(killed), "seconds": time.monotonic() - began,
    }  # fmt: skip
    if links:
        told["passed"], told["uncut"] = links.passed, links.cuts
        links.close()
    for role in cast.roles:
        path = folder / f"{role}.json"
        told[role] = json.loads(path.read_text()) if path.exists() else {}
    return told if told["fault"] else told | cast.kept(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(play(json.loads(line))), flush=True)
