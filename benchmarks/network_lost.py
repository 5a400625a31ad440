"""How long a round waits for a node that was killed, or hangs, until it is left out and named.

python benchmarks/network_lost.py [--repeats 3] [--json FILE]

Two nodes answer every round. In each round another one, a process of its own, takes its work and
is killed (SIGKILL) or stopped (SIGSTOP) while it has it. The clock runs from the signal to the end
of the round, whose row names it. Everything is a coordinator's default but the quorum, two.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from network_rounds import TIMEOUT, federation, plan, take_part

STEADY = 2


def lost(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Seconds, for each signal."""
    import torch
    from safetensors.torch import save_file

    from tacit.network.processes import coordinate

    signals = [signal.SIGKILL, signal.SIGSTOP] * repeats
    names = [f"node-{k}" for k in range(STEADY + len(signals))]
    address = federation(folder, names)
    experiment = plan(names, len(signals))
    update = folder / "update"
    save_file({"0": torch.zeros(experiment.layout.size)}, update)

    def start(name: str, silent: float) -> subprocess.Popen[str]:
        words = [experiment.digest(), str(update), str(folder / name), str(silent)]
        command = [sys.executable, __file__, "--node", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    steady = [start(name, math.inf) for name in names[:STEADY]]
    victims = [start(name, k) for k, name in enumerate(names[STEADY:])]
    struck: list[float] = []
    took: dict[str, list[float]] = {"killed": [], "hung": []}

    def strike() -> None:
        for victim, number in zip(victims, signals, strict=True):
            assert victim.stdout is not None
            victim.stdout.readline()
            struck.append(time.monotonic())
            os.kill(victim.pid, number)

    def closed(row: dict[str, Any]) -> None:
        k = row["round"] - 1
        assert names[STEADY + k] in row["left_out"], row
        what = "killed" if signals[k] == signal.SIGKILL else "hung"
        took[what].append(time.monotonic() - struck[k])

    striking = threading.Thread(target=strike, daemon=True)
    striking.start()
    try:
        kept, _ = coordinate(
            experiment, folder / "coordinator", folder / "run", listen=[address],
            on_round=closed, quorum=STEADY, patience=TIMEOUT,
        )  # fmt: skip
        assert kept.outcome == "finished", kept
    finally:
        for child in (*victims, *steady):
            child.kill()
            child.wait()
    return took


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--node", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.node:
        digest, update, home, silent = options.node
        return take_part(digest, Path(update), Path(home), float(silent))
    with tempfile.TemporaryDirectory() as made:
        took = lost(options.repeats, Path(made))
    for what, seconds in took.items():
        middle, most = statistics.median(seconds), max(seconds)
        print(f"{what}: left out and named after {middle:.2f} s (longest {most:.2f} s)")
    if options.json:
        options.json.write_text(json.dumps(took, indent=2))


if __name__ == "__main__":
    main()
