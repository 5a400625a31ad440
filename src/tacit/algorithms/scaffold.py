"""SCAFFOLD: Karimireddy et al., "SCAFFOLD: stochastic controlled averaging for federated learning",
ICML 2020, algorithm 1 with option II."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, ServerExchange, State, Train
from tacit.errors import InputError, require
from tacit.layout import Layout
from tacit.training.optimizers import Training
from tacit.training.plan import Ints


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Nodes follow their gradient - c_i + c, which keeps them from drifting to their own optimum.

    A control c_i estimates the node's gradient, c their mean over all nodes. Every node counts
    alike, however many rows it has: the optimum is that of the mean of the nodes' losses. Controls
    travel beside the models, so that a round takes about twice the bytes of FedAvg's. A node that
    takes no step keeps its control; one that is drawn twice in a round counts once. A round in
    which nobody trains changes nothing.

    Attributes:
        server_lr: the server's step towards the cohort's mean, above 0; 1 takes the mean.

    Raises:
        InputError: ``server_lr`` out of its range.
    """

    server_lr: float = 1.0
    exchanges: ClassVar = "server"

    def __post_init__(self) -> None:
        allowed = "any number above 0"
        require(0 < self.server_lr < math.inf, "algorithm.server_lr", self.server_lr, allowed)

    def check(self, layout: Layout, training: Training) -> None:
        if training.fused_decay is None:  # a step is more than lr times the gradient
            raise InputError(
                f"training: {training!r} was given; Scaffold needs SGD without momentum and"
                " clip_norm, because it reads gradients off the steps that nodes took"
            )

    def sends(self, layout: Layout) -> dict[str, int]:
        return {"model": layout.size, "control": layout.trained}

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {
            "model": start,
            "control": torch.zeros(layout.trained),
            "node_controls": torch.zeros(nodes, layout.trained),
        }

    def round(self, state: State, train: Train, exchange: ServerExchange) -> tuple[State, Metrics]:
        if not train.steps.any():
            return state, {}
        model, control, node_controls = state["model"], state["control"], state["node_controls"]
        p, nodes = train.layout.trained, torch.from_numpy(train.nodes)
        first, weight = distinct(train.nodes)

        ends = train(model, correction=control - node_controls[nodes]).matrix()
        path = torch.from_numpy(train.steps).unsqueeze(1) * train.lr
        change = torch.where(path > 0, (model - ends)[:, :p] / path - control, 0)  # c_i+ - c_i

        mean = exchange(model, ends, weight)
        mean_change = exchange(torch.zeros_like(control), change, weight)
        step = self.server_lr * (mean - model)[:p]
        return {
            "model": torch.cat([model[:p] + step, mean[p:]]),
            "control": control + len(first) / len(node_controls) * mean_change,
            "node_controls": node_controls.index_add(0, nodes[first], change[first]),
        }, {}

    def model(self, state: State) -> Tensor:
        return state["model"]


def distinct(nodes: Ints) -> tuple[Tensor, Tensor]:
    """A cohort (k,) as a set, for algorithms whose nodes keep something between rounds.

    Returns:
        Where each of the m >= 1 distinct nodes occurs first, (m,); and (k,) weights, 1/m there and
        0 where a node is repeated.
    """
    first = torch.from_numpy(np.unique(nodes, return_index=True)[1])
    return first, torch.zeros(len(nodes)).index_fill(0, first, 1 / len(first))
