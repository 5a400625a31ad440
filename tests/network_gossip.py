"""A peer in a process of its own, to be killed by tests.

python network_gossip.py FILE TABLE HOME FOLDER LISTEN CONNECT GATE ROUND GRACE RECORD

A line for each round, then the outcome. From ROUND on it goes on once there is a file GATE.
"""

import sys
import time
from pathlib import Path

from tacit.cli.source import load
from tacit.data import fill
from tacit.network.identity import Identity
from tacit.network.processes import gossip

EXPERIMENT = """
import torch
from torch import nn
import tacit

experiment = tacit.Experiment(
    data=tacit.data.at_sites(
        ("a", "b", "c"), target="y", columns=["u", "v"], labels=[0, 1], scaling="none"
    ),
    model=lambda: nn.Linear(2, 2), loss=nn.functional.cross_entropy,
    training=tacit.SGD(lr=0.1, batch_size=8, epochs=1), algorithm=tacit.Gossip(),
    topology=tacit.Ring(), rounds=12,
)
"""


if __name__ == "__main__":
    file, table, home, folder, listen, connect, gate, closed, grace, record = sys.argv[1:]

    def told(row: dict[str, object]) -> None:
        print("round", row["round"], *row["left_out"], flush=True)
        while row["round"] >= int(closed) and not Path(gate).exists():
            time.sleep(0.01)

    experiment, name = load(Path(file)), Identity.load(Path(home)).name
    taken = gossip(
        experiment, fill(experiment.data, {name: table}), Path(home), Path(folder),
        listen=[listen] if listen else [], connect=[connect] if connect else [], patience=120,
        grace=float(grace), on_round=told, record=Path(record) if record else None,
    )  # fmt: skip
    print(taken.outcome, taken.reason, flush=True)
