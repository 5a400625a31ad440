"""Gossip: every node keeps a model of its own and averages it with its neighbours'."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, PeerExchange, State, Train
from tacit.layout import Layout


@dataclass(frozen=True)
class Gossip(Algorithm):
    """D-PSGD: Lian et al., "Can decentralized algorithms outperform centralized algorithms?",
    NeurIPS 2017, algorithm 1. With momentum in the local training it is DFedAvgM: Sun et al. 2021,
    algorithm 1.

    Attributes:
        mix: "after" local training (train, then average), or "before" it (average, then train).
    """

    mix: Literal["after", "before"] = "after"
    exchanges: ClassVar = "peers"

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"models": start.repeat(nodes, 1)}

    def round(self, state: State, train: Train, exchange: PeerExchange) -> tuple[State, Metrics]:
        models = state["models"]
        if self.mix == "before":
            return {"models": train(exchange(models)).matrix()}, {}
        return {"models": exchange(train(models).matrix())}, {}

    def model(self, state: State) -> Tensor:
        return state["models"].mean(0)

    def models(self, state: State, train: Train) -> Tensor:
        return state["models"]
