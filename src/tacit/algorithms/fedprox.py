"""FedProx: Li et al., "Federated optimization in heterogeneous networks", MLSys 2020,
algorithm 2."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, ServerExchange, State, Train
from tacit.errors import require
from tacit.layout import Layout


@dataclass(frozen=True)
class FedProx(Algorithm):
    """FedAvg whose nodes are held near the shared model: they minimise loss + mu/2 ||w - model||^2.

    Attributes:
        mu: weight of the proximal term, 0 or more; 0 is FedAvg. Local steps are stable only where
            ``training.lr * mu`` is below 2.
        uniform: count every node alike instead of by its rows.

    Raises:
        InputError: a negative or infinite ``mu``.
    """

    mu: float = 0.01
    uniform: bool = False
    exchanges: ClassVar = "server"

    def __post_init__(self) -> None:
        require(0 <= self.mu < math.inf, "algorithm.mu", self.mu, "0 or more")

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"model": start}

    def round(self, state: State, train: Train, exchange: ServerExchange) -> tuple[State, Metrics]:
        model = state["model"]
        updates = train(model, prox=self.mu)
        return {"model": exchange(model, updates, train.weights(self.uniform))}, {}

    def model(self, state: State) -> Tensor:
        return state["model"]
