"""How much memory a run takes beside its model, with a coordinator and a site in real processes.

    python network_memory.py FOLDER WIDTH [ROUNDS]

The model has WIDTH * (WIDTH + 3) + 2 numbers. This process loads what a run needs and forks both
roles. It prints, in MiB: the model, and for each role the most memory that it had above what the
loaded libraries take, pages of mapped files included.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import tacit
from network_parties import joined
from tacit.network.authority import Authority
from tacit.network.processes import coordinate, take_part
from test_network_rounds import empty

SITE = "north"


def status(field: str) -> int:
    """MiB of this process: VmRSS, now, or VmHWM, at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) // 1024


def plan(width: int, rounds: int) -> tacit.Experiment:
    x = np.random.default_rng(1).normal(size=(4, width)).astype(np.float32)
    return tacit.Experiment(
        data=tacit.data.from_arrays([(x, np.arange(4) % 2)], names=(SITE,)),
        model=lambda: nn.Sequential(nn.Linear(width, width), nn.Linear(width, 2)),
        loss=nn.functional.cross_entropy,
        training=tacit.SGD(lr=0.1, batch_size=4, epochs=1), rounds=rounds,
    )  # fmt: skip


def play(role: str, whole: tacit.Experiment, folder: Path, port: int) -> dict[str, float]:
    began, before = time.monotonic(), status("VmRSS")
    public, address = whole.replace(data=empty(whole.data)), [f"127.0.0.1:{port}"]
    home = folder / "keys" / role
    if role == "coordinator":
        kept, _ = coordinate(public, home, folder / role, listen=address)
        assert kept.outcome == "finished", kept
    else:
        taken = take_part(public, whole.data, home, folder / role, connect=address)
        assert taken.outcome == "finished", taken
    return {role: status("VmHWM") - before, f"{role}_seconds": time.monotonic() - began}


def main(folder: Path, width: int, rounds: int = 2) -> dict[str, float]:
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    authority = Authority.init("hearts", folder / "keys" / "coordinator", [f"127.0.0.1:{port}"])
    joined(authority, folder / "keys" / SITE, SITE)
    whole, children = plan(width, rounds), {}
    for role in ("coordinator", SITE):
        if not (child := os.fork()):
            try:
                (folder / f"{role}.json").write_text(json.dumps(play(role, whole, folder, port)))
                os._exit(0)
            finally:
                os._exit(1)
        children[role] = child
    for role, child in children.items():
        assert os.waitpid(child, 0)[1] == 0, role
    found = [json.loads((folder / f"{role}.json").read_text()) for role in children]
    return {"model": (width * (width + 3) + 2) / 2**18, **found[0], **found[1]}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
