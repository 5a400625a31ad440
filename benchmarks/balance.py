"""BALANCE's main setting, shortened: the worst honest node's error.

python benchmarks/balance.py [--rounds N] [--seed N] [--only RULE]

20 nodes on a random 10-regular graph, a fifth of them malicious, MNIST dealt out by the label with
degree 0.5: Fang et al., "Byzantine-robust decentralized federated learning", CCS 2024.
"""

import argparse
from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tacit import SGD, DivergenceError, Experiment, Gossip, RandomRegular, models, run
from tacit.aggregation.balance import Balance
from tacit.aggregation.coordinates import Median, TrimmedMean
from tacit.aggregation.fltrust import FLTrust
from tacit.aggregation.krum import Krum
from tacit.aggregation.mean import Mean
from tacit.aggregation.robust_gossip import ClippedGossip
from tacit.aggregation.rule import Aggregated, Aggregation, Aid, Round
from tacit.aggregation.ubar import UBAR
from tacit.attacks.base import Attack
from tacit.attacks.fang import FangKrum, FangTrim
from tacit.attacks.labels import LabelFlip
from tacit.attacks.oracle import OracleBoundary
from tacit.attacks.simple import Gaussian
from tacit.data import Federation, Rows, Split, load
from tacit.data.partition import Indices
from tacit.randomness import generator
from tacit.robustness.cells import Defence, fitted, inputs, malicious


@dataclass(frozen=True)
class LabelGroups:
    """Each label has a group of nodes, which gets a row of it with probability ``degree``.

    The other groups share the rest equally; within a group all nodes are alike. A degree of one
    over the number of labels is IID. Source: Fang, Cao, Jia, Gong, "Local model poisoning attacks
    to Byzantine-robust federated learning", USENIX Security 2020, section 5.1.

    Attributes:
        degree: from 0 to 1.
        per_node: rows drawn for the federation, divided by the number of nodes.
    """

    degree: float
    per_node: int

    def assign(self, rows: Rows, nodes: int | None, seed: int) -> dict[str, Indices]:
        assert nodes is not None
        draw = generator(seed, "partition")
        drawn = np.sort(draw.choice(len(rows.y), nodes * self.per_node, replace=False))
        label = rows.y.numpy()[drawn]
        elsewhere = (label + draw.integers(1, rows.classes, len(label))) % rows.classes
        group = np.where(draw.random(len(label)) < self.degree, label, elsewhere)
        owner = ((group + draw.random(len(label))) * nodes / rows.classes).astype(np.int64)
        return {str(node): drawn[owner == node] for node in range(nodes)}


@dataclass(frozen=True, eq=False)
class Half(Aggregation):
    """x_i <- alpha x_i + (1 - alpha) AGG with alpha 0.5, neighbours alike, for any rule AGG."""

    rule: Aggregation

    @property
    def uses(self) -> frozenset[Aid]:
        return self.rule.uses

    @property
    def least(self) -> int:
        return self.rule.least

    def without(self, liars: int) -> "Half":
        return Half(self.rule.without(liars))

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        half = weight.new_full(weight.shape, 0.5 / weight.shape[-1])
        return self.rule.aggregate(own, received, half, round)


RULES: dict[str, Defence] = {
    "mean": Half(Mean()),
    "Krum": lambda k, f: Half(Krum(f)),
    "trimmed mean": lambda k, f: Half(TrimmedMean(f)),
    "median": Half(Median()),
    "FLTrust": Half(FLTrust()),
    "UBAR": lambda k, f: UBAR(rho=1 - f / k, alpha=0.5),
    "ClippedGossip": lambda k, f: Half(ClippedGossip(f)),
    "BALANCE": Balance(gamma=0.3, kappa=1, alpha=0.5),
}

ATTACKS: dict[str, tuple[Attack, ...]] = {
    "none": (),
    "label flip": (LabelFlip(),),
    "Gaussian": (Gaussian(variance=200),),
    "Krum": (FangKrum(),),
    "Trim": (FangTrim(),),
    "oracle": (OracleBoundary(),),
}


def mnist(seed: int) -> Federation:
    """20 nodes of some 300 rows, and 2,000 test rows for all of them."""
    data = load("mnist", 20, LabelGroups(degree=0.5, per_node=300), seed=seed)
    rows = generator(seed, "test rows").choice(len(data.test.y), 2000, replace=False)
    test = Split.pack([(data.test.x[rows], data.test.y[rows])])
    return replace(data, test=test)


def experiment(rounds: int, seed: int) -> Experiment:
    return Experiment(
        data=mnist(seed),
        model=lambda: models.logistic(784, 10),
        loss=F.cross_entropy,
        training=SGD(lr=0.03, batch_size=32, steps=1),
        algorithm=Gossip(),
        topology=RandomRegular(10),
        rounds=rounds,
        seed=seed,
        evaluate_every=rounds,
    )


def error(plan: Experiment) -> float:
    """The largest testing error of an honest node after the last round; 1 where it diverged."""
    try:
        return 1 - run(plan).metrics[-1]["worst_accuracy"]
    except DivergenceError:
        return 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=RULES, help="one rule")
    options = parser.parse_args()
    plan = experiment(options.rounds, options.seed)
    k, liars = inputs(plan, [malicious(plan, Attack())])
    print(f"largest testing error of an honest node, of whose {k} neighbours up to {liars} lie")
    print(f"{'':15}" + "".join(f"{attack:>12}" for attack in ATTACKS))
    for name in [options.only] if options.only else RULES:
        rule, note = fitted(RULES[name], k, liars)
        print(f"{name:15}", end="", flush=True)
        for attack in ATTACKS.values():
            reached = error(plan.replace(aggregation=rule, attack=attack))
            print(f"{reached:12.3f}", end="", flush=True)
        print(f"   {note}")


if __name__ == "__main__":
    main()
