"""FedDyn: Acar et al., "Federated learning based on dynamic regularization", ICLR 2021,
algorithm 1."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, ServerExchange, State, Train
from tacit.algorithms.scaffold import distinct
from tacit.errors import require
from tacit.layout import Layout


@dataclass(frozen=True)
class FedDyn(Algorithm):
    """Nodes minimise loss - <g_i, w> + alpha/2 ||w - model||^2, so that all agree at the optimum.

    g_i is what the node knows of its own gradient; the server keeps h, the mean of all g_i, without
    seeing any. Every node counts alike, however many rows it has: the optimum is that of the mean
    of the nodes' losses. A node that is drawn twice in a round counts once; a round in which nobody
    trains changes nothing.

    Attributes:
        alpha: strength of the regulariser, above 0; the smaller, the more local steps it needs.

    Raises:
        InputError: ``alpha`` out of its range.
    """

    alpha: float = 0.01
    exchanges: ClassVar = "server"

    def __post_init__(self) -> None:
        allowed = "any number above 0"
        require(0 < self.alpha < math.inf, "algorithm.alpha", self.alpha, allowed)

    def keeps(self, layout: Layout) -> tuple[str, ...]:
        return ("what it knows of its own gradient",)

    def server_only(self) -> frozenset[str]:
        return frozenset({"h"})

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {
            "model": start,
            "h": torch.zeros(layout.trained),
            "node_gradients": torch.zeros(nodes, layout.trained),
        }

    def round(self, state: State, train: Train, exchange: ServerExchange) -> tuple[State, Metrics]:
        if not train.steps.any():
            return state, {}
        model, gradients = state["model"], state["node_gradients"]
        p, nodes = train.layout.trained, torch.from_numpy(train.nodes)
        first, weight = distinct(train.nodes)

        ends = train(model, prox=self.alpha, correction=-gradients[nodes]).matrix()
        moved = ends[first, :p] - model[:p]
        gradients = gradients.index_add(0, nodes[first], moved, alpha=-self.alpha)

        mean = exchange(model, ends, weight)
        share = len(first) / len(gradients)
        h = state["h"] - self.alpha * share * (mean - model)[:p]
        model = torch.cat([mean[:p] - h / self.alpha, mean[p:]])
        return {"model": model, "h": h, "node_gradients": gradients}, {}

    def model(self, state: State) -> Tensor:
        return state["model"]
