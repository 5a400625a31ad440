"""How fast example-level DP-SGD is, beside Opacus on the same rows; that both agree is checked.

python benchmarks/private.py [--only NAME] [--repeats N] [--json FILE]

Needs opacus. One thread on every side, and seconds of that thread alone, so that other programs
disturb less.
"""

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn

from simulation import batches, machine
from tacit import SGD, models
from tacit.data.federation import Split
from tacit.engine.local import LocalTrain, Trainer
from tacit.layout import Layout, template
from tacit.training.lowering import choose
from tacit.training.private import Private
from works import labelled

TOLERANCE = 1e-4
CLIP = 1.0


@dataclass(frozen=True)
class Work:
    """One row of the table.

    Attributes:
        name: for ``--only``.
        title: what it is.
        model, data: what is trained on what, by batches of 10.
        multiplier: of the noise.
        required: times the speed of each of Opacus's modes.
        most: times the seconds of plain batched SGD, at most; None where that is not asked.
    """

    name: str
    title: str
    model: Callable[[], nn.Module]
    data: Callable[[], Split]
    multiplier: float
    required: dict[str, float]
    most: float | None = None


def cifar_cnn() -> nn.Module:
    """The CNN on which pfl-research compares frameworks (1,626,442 parameters)."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.25), nn.Flatten(), nn.Linear(12544, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    )  # fmt: skip


def _digits() -> Split:
    return labelled(10, 600, (784,), 10).train


WORKS = (
    Work(
        "2nn", "2NN, 10 nodes x 600, with noise", models.two_nn, _digits, 1.0,
        {"hooks": 8, "ghost": 3}, 5,
    ),
    Work(
        "2nn-silent", "the same without noise", models.two_nn, _digits, 0.0,
        {"hooks": 8, "ghost": 3},
    ),
    Work(
        "cnn", "CIFAR CNN, 1 node x 50, with noise", cifar_cnn,
        lambda: labelled(1, 50, (3, 32, 32), 10).train, 1.0,
        {"hooks": 1, "fast": 1, "ghost": 1},
    ),
)  # fmt: skip


class Opacus:
    """One wrapped module that is every node in turn; modes are Opacus's names for them."""

    def __init__(self, mode: str, module: nn.Module, lr: float, multiplier: float) -> None:
        self.mode, module = mode, copy.deepcopy(module).train()
        settings = {
            "noise_multiplier": multiplier, "max_grad_norm": CLIP, "expected_batch_size": 10,
        }  # fmt: skip
        if mode == "hooks":
            self.module = GradSampleModule(module)
            plain = torch.optim.SGD(self.module.parameters(), lr=lr)
            self.optimizer = DPOptimizer(plain, **settings)
            self.loss = F.cross_entropy
        else:
            self.module = GradSampleModuleFastGradientClipping(
                module, max_grad_norm=CLIP, use_ghost_clipping=mode == "ghost"
            )
            plain = torch.optim.SGD(self.module.parameters(), lr=lr)
            self.optimizer = DPOptimizerFastGradientClipping(plain, **settings)
            self.loss = DPLossFastGradientClipping(
                self.module, self.optimizer, nn.CrossEntropyLoss()
            )

    def mean(self, start: Tensor, split: Split, nodes: list) -> Tensor:
        """The (d,) mean of what the nodes make of ``start`` (d,)."""
        total = torch.zeros_like(start)
        parameters = list(self.module.parameters())
        for steps in nodes:
            with torch.no_grad():
                nn.utils.vector_to_parameters(start.clone(), parameters)
            for rows in steps:
                if len(rows):
                    self.optimizer.zero_grad()
                    self.loss(self.module(split.x[rows]), split.y[rows]).backward()
                    self.optimizer.step()
            total += nn.utils.parameters_to_vector(parameters).detach()
        return total / len(nodes)


@dataclass(frozen=True)
class Measured:
    """Median seconds a round: ours, plain batched SGD's, and Opacus's by mode."""

    name: str
    engine: str
    ours: float
    plain: float
    opacus: dict[str, float]
    difference: float


def trainer(module: nn.Module, split: Split, private: Private | None) -> tuple[Trainer, str]:
    layout, training = Layout.of(module), SGD(lr=0.05, batch_size=10)
    choice = choose("batched", module, layout, F.cross_entropy, split, private)
    names = tuple(map(str, range(split.nodes)))
    made = Trainer(
        split, names, layout, training, choice.lowering, None,
        seed=0, rounds=1, least=1, private=private,
    )  # fmt: skip
    return made, choice.engine


def ours(trainer: Trainer, start: Tensor, round: int) -> Tensor:
    train = LocalTrain(trainer, np.arange(trainer.split.nodes), round)
    return train(start).sum(train.weights(uniform=True))


def agreement(work: Work, module: nn.Module, split: Split) -> float:
    """Largest difference of a parameter over the largest move, after a round without noise or
    dropout."""
    silent = copy.deepcopy(module)
    for layer in silent.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    made, _ = trainer(silent, split, Private(CLIP, 0.0))
    start = made.layout.vector(silent)
    found = ours(made, start, 0)
    plan = LocalTrain(made, np.arange(split.nodes), 0).plan
    nodes = [batches(plan, position) for position in range(split.nodes)]
    expected = [Opacus(mode, silent, 0.05, 0.0).mean(start, split, nodes) for mode in work.required]
    moved = (found - start).abs().max()
    return max(float((found - other).abs().max() / moved) for other in expected)


def measure(work: Work, repeats: int) -> Measured:
    """Time a round of each in turn, ``repeats`` times, after one to warm up.

    Raises:
        AssertionError: they do not agree.
    """
    torch.set_num_threads(1)
    module, split = template(work.model, 0), work.data()
    difference = agreement(work, module, split)
    assert difference < TOLERANCE, (
        f"{work.name}: parameters differ by {difference:.1e} of their move"
    )
    private, engine = trainer(module, split, Private(CLIP, work.multiplier))
    plain, _ = trainer(module, split, None)
    start = private.layout.vector(module)
    others = {mode: Opacus(mode, module, 0.05, work.multiplier) for mode in work.required}
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", "plain", *others)}
    for round in range(repeats + 1):
        plan = LocalTrain(private, np.arange(split.nodes), round).plan
        nodes = [batches(plan, position) for position in range(split.nodes)]
        calls: dict[str, Callable[[], Tensor]] = {
            "ours": lambda round=round: ours(private, start, round),
            "plain": lambda round=round: ours(plain, start, round),
        }
        for mode, other in others.items():
            calls[mode] = lambda other=other, nodes=nodes: other.mean(start, split, nodes)
        for name, call in calls.items():
            began = time.thread_time()
            call()
            if round:
                seconds[name].append(time.thread_time() - began)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return Measured(work.name, engine, median.pop("ours"), median.pop("plain"), median, difference)


def show(work: Work, row: Measured) -> None:
    print(f"{work.title:38} {row.engine:10} {row.ours:8.4f}   differ by {row.difference:.0e}")
    for mode, seconds in row.opacus.items():
        ratio, least = seconds / row.ours, work.required[mode]
        verdict = "ok" if ratio >= least else "MISSED"
        print(f"    Opacus, {mode:26} {seconds:20.4f} {ratio:6.1f} x, required {least:4} {verdict}")
    ratio = row.ours / row.plain
    limit = f", at most {work.most} {'ok' if ratio <= work.most else 'MISSED'}" if work.most else ""
    print(
        f"    plain batched SGD takes {row.plain:30.4f}: {ratio:.1f} x as long{limit}", flush=True
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[work.name for work in WORKS], action="append")
    parser.add_argument("--repeats", type=int, default=5, help="rounds timed")
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # Opacus's hooks warn in every step
    print(machine())
    rows = []
    for work in WORKS:
        if not chosen.only or work.name in chosen.only:
            rows.append(measure(work, chosen.repeats))
            show(work, rows[-1])
    if chosen.json:
        found = {"machine": machine(), "rows": [asdict(row) for row in rows]}
        chosen.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
