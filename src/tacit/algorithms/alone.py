"""The two ends to compare with: no exchange at all, and all data in one place."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, State, Train
from tacit.layout import Layout


@dataclass(frozen=True)
class Alone(Algorithm):
    """Every node trains a model on its own rows, from the same start."""

    exchanges: ClassVar = "nobody"

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"models": start.repeat(nodes, 1)}

    def round(self, state: State, train: Train, exchange: None) -> tuple[State, Metrics]:
        return {"models": train(state["models"], overwrite=True).matrix()}, {}

    def model(self, state: State) -> Tensor:
        return state["models"].mean(0)

    def models(self, state: State, train: Train) -> Tensor:
        return state["models"]


@dataclass(frozen=True)
class Pooled(Algorithm):
    """One model on all nodes' rows laid together: what a federation hopes to reach without it."""

    exchanges: ClassVar = "nobody"
    pools: ClassVar = True

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"model": start}

    def round(self, state: State, train: Train, exchange: None) -> tuple[State, Metrics]:
        return {"model": train(state["model"]).matrix()[0]}, {}

    def model(self, state: State) -> Tensor:
        return state["model"]
