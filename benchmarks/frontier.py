"""Which serverless rule withstands lies made for it: rules x losses x oracle attacks, worst node.

python benchmarks/frontier.py [--data digits|mnist] [--seeds N] [--only NAME] [--folder FOLDER]

20 nodes on a random 10-regular graph, labels dealt out by Dir(0.5), a fifth of the nodes malicious.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from tacit import SGD, Experiment, Gossip, RandomRegular, models
from tacit.aggregation.balance import Balance
from tacit.aggregation.before import NNM
from tacit.aggregation.coordinates import TrimmedMean
from tacit.aggregation.mean import Mean
from tacit.aggregation.robust_gossip import GTSRG, ClippedGossip, CSPlusRG
from tacit.aggregation.step_bound import StepBound
from tacit.aggregation.ubar import UBAR
from tacit.attacks.base import Attack, UpdateAttack
from tacit.attacks.oracle import OracleBoundary
from tacit.attacks.search import strongest
from tacit.attacks.view import Knowledge, View
from tacit.data import load
from tacit.data.partition import Dirichlet
from tacit.layout import Layout
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


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientBoundary(UpdateAttack):
    """Tell each victim s + u m: s its model before training, u the gradient of everybody's loss.

    m is found by asking the victim's rule, as ``OracleBoundary`` does. Made against ``StepBound``,
    whose ball lies around s.

    Attributes:
        module: the model.
        x, y: rows on which the loss is taken.
    """

    module: nn.Module
    x: Tensor
    y: Tensor
    knowledge: Knowledge = "defence"
    least_knowledge: ClassVar[Knowledge] = "defence"
    equivocates: ClassVar[bool] = True
    needs_graph: ClassVar[bool] = True

    def lie(self, view: View) -> Tensor:
        secrets = view.secrets
        victim = secrets.targets
        start = secrets.starts[np.searchsorted(secrets.nodes, secrets.victims)]
        layout = Layout.of(self.module)

        def loss(model: Tensor) -> Tensor:
            return F.cross_entropy(
                functional_call(self.module, layout.views(model), self.x), self.y
            )

        uphill = F.normalize(vmap(grad(loss))(victim), dim=-1)
        size = (victim - start).norm(dim=-1).clamp(min=1e-6)
        return strongest(
            view,
            start,
            uphill,
            lambda result: ((result - victim) * uphill).sum(-1, dtype=torch.float64),
            0.01 * size,
            100 * size,
        )


LOSSES = {"cross-entropy": F.cross_entropy, "calibrated": calibrated}

RULES: dict[str, Defence] = {
    "mean": Mean(),
    "BALANCE": Balance(),
    "UBAR": UBAR(),
    "ClippedGossip": lambda k, f: ClippedGossip(f),
    "CS+-RG": lambda k, f: CSPlusRG(f),
    "GTS-RG": lambda k, f: GTSRG(f),
    "trimmed mean": lambda k, f: TrimmedMean(f),
    "NNM | trimmed mean": lambda k, f: NNM(f) | TrimmedMean(f),
    "step bound, mean": StepBound(0),
    "StepBound": lambda k, f: StepBound(f),
}


def attacks(experiment: Experiment) -> dict[str, Attack]:
    train, draw = experiment.data.train, np.random.default_rng(experiment.seed)
    rows = torch.from_numpy(draw.choice(len(train.y), min(512, len(train.y)), replace=False))
    gradient = GradientBoundary(module=experiment.template, x=train.x[rows], y=train.y[rows])
    return {
        "ascent": OracleBoundary(direction="ascent"),
        "shrink": OracleBoundary(direction="shrink"),
        "common": OracleBoundary(direction="common"),
        "away": OracleBoundary(direction="away"),
        "gradient": gradient,
    }


def decay(round: int, rounds: int) -> float:
    return 1 - 0.9 * round / rounds


def experiment(data: str, loss: Callable[[Tensor, Tensor], Tensor], seed: int) -> Experiment:
    features, lr, batch, steps = {
        "digits": (64, 0.6, 16, 8), "mnist": (784, 0.3, 32, 50),
    }[data]  # fmt: skip
    return Experiment(
        data=load(data, 20, Dirichlet(0.5, min_rows=10), seed=seed),
        model=lambda: models.mlp(features, 32, 10),
        loss=loss,
        training=SGD(lr=lr, batch_size=batch, steps=steps, schedule=decay),
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
    options = parser.parse_args()
    rules = {options.only: RULES[options.only]} if options.only else RULES
    print("testing error of the worst honest node: mean over seeds (largest)")
    for name, loss in LOSSES.items():
        errors: dict[tuple[str, str], list[float]] = {}
        for seed in range(options.seeds):
            plan = experiment(options.data, loss, seed)
            found = arena(
                plan, attacks(plan), rules, {"regular": RandomRegular(10)}, folder=options.folder
            )
            for row in found.table():
                error = 1.0 if row["worst_accuracy"] is None else 1 - row["worst_accuracy"]
                errors.setdefault((row["defence"], row["attack"]), []).append(error)
        columns = (NO_ATTACK, *attacks(plan))
        print(f"\n{name:20}" + "".join(f"{column:>15}" for column in columns))
        for rule in rules:
            each = [errors[rule, column] for column in columns]
            print(f"{rule:20}" + "".join(f"{fmean(e):8.3f} ({max(e):.2f})" for e in each))


if __name__ == "__main__":
    main()
