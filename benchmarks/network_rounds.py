"""What a round costs beside training, and how many nodes a coordinator has room for.

python benchmarks/network_rounds.py [--nodes 20] [--rounds 30] [--processes 1] [--json FILE]
python benchmarks/network_rounds.py --nodes 200 --rounds 5
python benchmarks/network_rounds.py --nodes 1 --rounds 2 --width 32768    # a model of 4 GiB

A coordinator runs FedAvg over a model of 1 KB, or of width x width numbers, with a file store on
the disk. Nodes are real members over mutual TLS, many in a process, which do all but train: they
get the model, and answer with an update that lies ready. So a round's time is its overhead.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

TIMEOUT = 120.0
PAUSE = 0.5  # as a site's


def memory(pid: int, field: str) -> float:
    """MiB of a process: VmRSS, now, or VmHWM, at most so far; 0 of one that has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0) / 1024


def plan(names: list[str], rounds: int, width: int = 15) -> Any:
    from torch import nn

    import tacit

    return tacit.Experiment(
        data=tacit.data.at_sites(names, target="y", columns=[f"x{k}" for k in range(width)]),
        model=lambda: nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1)),
        loss=nn.functional.mse_loss, training=tacit.SGD(lr=0.1), rounds=rounds,
        evaluate_every=rounds,
    )  # fmt: skip


def light(digest: str, rounds: int, update: Path, homes: list[Path]) -> None:
    """Nodes, to the run's end."""
    threads = [threading.Thread(target=take_part, args=(digest, update, home)) for home in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def take_part(digest: str, update: Path, home: Path, silent: float = math.inf) -> None:
    """A node, to the run's end; from a round on it takes work, says so, and never answers."""
    from tacit.network.blobs import Blobs
    from tacit.network.identity import Identity
    from tacit.network.protocol import (
        INSIDE,
        Ask,
        Deliver,
        Done,
        FromCoordinator,
        FromSite,
        Join,
        Leave,
        Measured,
        Train,
    )
    from tacit.network.software import software
    from tacit.network.transport import Endpoint, Unreachable

    identity, news = Identity.load(home), threading.Event()
    with Endpoint(identity, connect=identity.connect, wait=TIMEOUT) as endpoint:

        def heard(_: str, __: bytes) -> bytes:
            news.set()
            return b""

        endpoint.serve_bytes("news", heard)
        blobs = Blobs(endpoint)
        offer, inside = blobs.offer(update), b""
        if offer.size <= INSIDE:
            inside = update.read_bytes()

        def ask(request: Any) -> Any:
            while True:
                with suppress(Unreachable):
                    said = FromSite(request)
                    return endpoint.ask("coordinator", said, FromCoordinator, 30).reply

        reply = ask(Join(digest, software(), 10))
        while not isinstance(reply, Done):
            if isinstance(reply, Train):
                if reply.round >= silent:
                    print(reply.round, flush=True)
                    threading.Event().wait()
                if reply.measure:
                    ask(Measured(digest, reply.round, 1, {"loss": 0.1}))
                with suppress(Unreachable):
                    if reply.train:
                        if reply.inside:
                            reply.state.require(reply.inside, "the coordinator")
                        else:
                            blobs.pull("coordinator", reply.state, home / "state", most=1 << 40)
                        ask(Deliver(digest, reply.round, offer, 0.1, inside=inside))
            news.wait(PAUSE)
            news.clear()
            reply = ask(Ask(digest))
        with suppress(Unreachable):
            endpoint.ask("coordinator", FromSite(Leave(digest)), FromCoordinator, 5)


def members(folder: Path, names: list[str], address: str, hosts: tuple[str, ...] = ()) -> None:
    """Everybody's keys, in folders of their names."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from network_parties import joined
    from tacit.network.authority import Authority

    authority = Authority.init("benchmark", folder / "coordinator", [address])
    for name in names:
        joined(authority, folder / name, name, hosts)
        path = folder / name / "federation.json"
        told = json.loads(path.read_text()) | {"connect": [address]}
        path.write_text(json.dumps(told))
    for name in names:  # the newest list
        shutil.copy(folder / "coordinator" / "members.json", folder / name)


def federation(folder: Path, names: list[str]) -> str:
    """Everybody's keys, in folders of their names; the coordinator's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    members(folder, names, address)
    return address


def overhead(
    nodes: int, rounds: int, processes: int, folder: Path, width: int = 15
) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    from tacit.network.processes import coordinate

    names = [f"node-{k}" for k in range(nodes)]
    address = federation(folder, names)
    experiment = plan(names, rounds, width)
    update = folder / "update"
    save_file({"0": torch.zeros(experiment.layout.size)}, update)
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--light", experiment.digest(), str(rounds), str(update)]
            + [str(folder / name) for name in names[k::processes]]
        )
        for k in range(processes)
    ]
    ends: list[float] = []
    begun, cpu = time.monotonic(), time.process_time()
    kept, _ = coordinate(
        experiment, folder / "coordinator", folder / "run", listen=[address],
        on_round=lambda row: ends.append(time.monotonic()), quorum=nodes, grace=TIMEOUT,
    )  # fmt: skip
    assert kept.outcome == "finished", kept
    cpu = time.process_time() - cpu
    most = [memory(child.pid, "VmHWM") for child in children if child.poll() is None]
    for child in children:
        child.wait(TIMEOUT)
    took = [1e3 * (b - a) for a, b in itertools.pairwise(ends)]
    return {
        "nodes": nodes, "bytes": 4 * experiment.layout.size, "rounds": rounds,
        "joining_s": ends[0] - begun, "round_ms": statistics.median(took), "longest_ms": max(took),
        "coordinator_cpu_ms": 1e3 * cpu / rounds,
        "coordinator_MiB": memory(os.getpid(), "VmHWM"), "nodes_MiB": most,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--width", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--light", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.light:
        digest, rounds, update, *homes = options.light
        return light(digest, int(rounds), Path(update), [Path(home) for home in homes])
    with tempfile.TemporaryDirectory() as made:
        found = overhead(
            options.nodes, options.rounds, options.processes, Path(made), options.width
        )
    print(
        f"{found['nodes']} nodes, a model of {found['bytes']} bytes: {found['round_ms']:.0f} ms a"
        f" round (longest {found['longest_ms']:.0f} ms), {found['coordinator_cpu_ms']:.0f} ms of"
        f" the coordinator's CPU; all joined after {found['joining_s']:.1f} s; memory: coordinator"
        f" {found['coordinator_MiB']:.0f} MiB, nodes {sum(found['nodes_MiB']):.0f} MiB together"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
