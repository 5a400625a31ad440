"""Which serverless rule withstands lies made for it: rules x oracle attacks, worst honest node.

python benchmarks/frontier.py [--data digits|mnist] [--seeds N] [--only RULE] [--folder FOLDER]
python benchmarks/frontier.py --quick

20 nodes on a random 10-regular graph, labels dealt out by Dir(0.5), a fifth of the nodes malicious.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit import SGD, Experiment, Gossip, RandomRegular, models
from tacit.aggregation.balance import Balance
from tacit.aggregation.before import NNM
from tacit.aggregation.coordinates import TrimmedMean
from tacit.aggregation.mean import Mean
from tacit.aggregation.robust_gossip import GTSRG, CSPlusRG
from tacit.aggregation.step_bound import StepBound
from tacit.attacks.base import Attack
from tacit.attacks.oracle import OracleBoundary, Uphill
from tacit.attacks.view import View
from tacit.data import Federation, Split, load
from tacit.data.partition import Dirichlet
from tacit.randomness import generator
from tacit.robustness.arena import arena
from tacit.robustness.cells import NO_ATTACK, Defence


def calibrated(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits that are raised by the log share of each label in the batch.

    A label that a batch lacks is then pushed nowhere, and nodes with different labels pull towards
    the same model: Ren et al., "Balanced meta-softmax for long-tailed visual recognition", NeurIPS
    2020, equation 3, with the batch's counts for a node's.
    """
    labels = torch.arange(output.shape[-1], device=output.device)
    share = (target.unsqueeze(-1) == labels).to(output.dtype).mean(0)
    return F.cross_entropy(output + share.clamp(min=1e-6).log(), target)


@dataclass(frozen=True, kw_only=True)
class Patient(OracleBoundary):
    """Tells the honest mean, and the farthest lie in the last rounds: made against a memory.

    Attributes:
        strike: how many rounds are the last.
    """

    strike: int = 5

    def lie(self, view: View) -> Tensor:
        if view.round < view.rounds - self.strike:
            return view.secrets.vectors.mean(0).expand(len(view.receivers), -1)
        return super().lie(view)


RULES: dict[str, Defence] = {
    "mean": Mean(),
    "BALANCE": Balance(),
    "CS+-RG": lambda k, f: CSPlusRG(f),
    "GTS-RG": lambda k, f: GTSRG(f),
    "NNM | trimmed mean": lambda k, f: NNM(f) | TrimmedMean(f),
    "StepBound, memory 0": lambda k, f: StepBound(f, memory=0),
    "StepBound": lambda k, f: StepBound(f),
}


def attacks(experiment: Experiment) -> dict[str, Attack]:
    train, draw = experiment.data.train, generator(experiment.seed, "adversary's rows")
    rows = torch.from_numpy(draw.choice(len(train.y), 512, replace=False))
    uphill = Uphill(experiment.template, F.cross_entropy, train.x[rows], train.y[rows])
    return {
        "ascent": OracleBoundary(anchor="mean"),
        "gradient": OracleBoundary(direction=uphill, anchor="start"),
        "away": OracleBoundary(direction="away"),
        "patient": Patient(direction=uphill, anchor="start"),
    }


def small_mnist(seed: int) -> Federation:
    """14 x 14 pixels, each the mean of four."""
    data = load("mnist", 20, Dirichlet(0.5, min_rows=10), seed=seed)

    def halved(split: Split) -> Split:
        return replace(split, x=F.avg_pool2d(split.x.view(-1, 1, 28, 28), 2).flatten(1))

    return replace(data, train=halved(data.train), test=halved(data.test))


def decay(round: int, rounds: int) -> float:
    return 1 - 0.9 * round / rounds


def experiment(data: str, loss: Callable[[Tensor, Tensor], Tensor], seed: int) -> Experiment:
    if data == "digits":
        rows = load("digits", 20, Dirichlet(0.5, min_rows=10), seed=seed)
        training = SGD(lr=0.6, batch_size=16, steps=8, schedule=decay)
    else:
        rows = small_mnist(seed)
        training = SGD(lr=0.5, batch_size=32, steps=50, schedule=decay)
    return Experiment(
        data=rows,
        model=lambda: models.mlp(rows.train.x[0].numel(), 32, 10),
        loss=loss,
        training=training,
        algorithm=Gossip(),
        topology=RandomRegular(10),
        rounds=40,
        seed=seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=RULES, help="one rule")
    parser.add_argument("--folder", type=Path, help="keeps what is done")
    parser.add_argument("--quick", action="store_true", help="one seed, four rounds")
    options = parser.parse_args()
    rules = {options.only: RULES[options.only]} if options.only else RULES
    errors: dict[tuple[str, str], list[float]] = {}
    for seed in range(1 if options.quick else options.seeds):
        plan = experiment(options.data, calibrated, seed)
        if options.quick:
            plan = plan.replace(rounds=4)
        found = arena(
            plan, attacks(plan), rules, {"regular": RandomRegular(10)}, folder=options.folder
        )
        for row in found.table():
            error = 1.0 if row["worst_accuracy"] is None else 1 - row["worst_accuracy"]
            errors.setdefault((row["defence"], row["attack"]), []).append(error)
    columns = (NO_ATTACK, *attacks(plan))
    print("testing error of the worst honest node after the last round: mean over seeds (largest)")
    print("largest gap: of a single seed, between its worst attack and none")
    print(f"{'':20}" + "".join(f"{column:>15}" for column in columns) + f"{'largest gap':>15}")
    for rule in rules:
        each = np.array([errors[rule, column] for column in columns])
        cells = "".join(f"{fmean(row):8.3f} ({max(row):.3f})" for row in each)
        print(f"{rule:20}{cells}{(each.max(0) - each[0]).max():15.3f}")


if __name__ == "__main__":
    main()
