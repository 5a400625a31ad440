"""FedAvg and FedSGD: McMahan et al., "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017, algorithm 1."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, ServerExchange, State, Train
from tacit.layout import Layout
from tacit.training.optimizers import Training


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Nodes train from the shared model; the server takes the mean of the results.

    Attributes:
        uniform: count every node alike instead of by its rows.
    """

    uniform: bool = field(default=False, kw_only=True)
    exchanges: ClassVar = "server"

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"model": start}

    def round(self, state: State, train: Train, exchange: ServerExchange) -> tuple[State, Metrics]:
        model = state["model"]
        return {"model": exchange(model, train(model), train.weights(self.uniform))}, {}

    def model(self, state: State) -> Tensor:
        return state["model"]


@dataclass(frozen=True)
class FedSGD(FedAvg):
    """FedAvg with one step a round on all of a node's rows: gradient descent on the pooled loss."""

    def local(self, training: Training) -> Training:
        return replace(training, batch_size=None, epochs=None, steps=1)
