"""AD-PSGD: Lian, Zhang, Zhang, Liu, "Asynchronous decentralized parallel stochastic gradient
descent", ICML 2018, algorithm 1."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.algorithms.arrivals import Arrivals, one_after_another
from tacit.algorithms.base import Algorithm, Metrics, PairExchange, State, Train
from tacit.errors import require
from tacit.layout import Layout


@dataclass(frozen=True)
class ADPSGD(Algorithm):
    """Nodes train at their own pace, and average with one random neighbour each time.

    Whoever has trained averages its model with that of a neighbour that is drawn uniformly, so that
    both have the mean, and then adds the step T(x') - x' that it learned from its model x' as it
    was when it began: others may have averaged with it in the meantime. Buffers (BatchNorm
    statistics) become those that it learned.

    Time is simulated by ``spread`` and the experiment's seed. A round is as many trainings as end
    before any node ends its second one: where all are equally fast, one of each node.

    Attributes:
        spread: of simulated durations, 1 + spread |z| with z standard normal; 0: all nodes are
            equally fast.

    Raises:
        InputError: a spread below 0.
    """

    spread: float = 1.0
    exchanges: ClassVar = "peers"

    def __post_init__(self) -> None:
        require(0 <= self.spread < math.inf, "algorithm.spread", self.spread, "any number from 0")

    def arrivals(self, nodes: int, seed: int, rounds: int) -> tuple[Arrivals, ...]:
        return one_after_another(nodes, seed, rounds, self.spread)

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"models": start.repeat(nodes, 1), "begun": start.repeat(nodes, 1)}

    def round(self, state: State, train: Train, exchange: PairExchange) -> tuple[State, Metrics]:
        models, begun, p = state["models"].clone(), state["begun"].clone(), train.layout.trained
        done = torch.from_numpy(train.nodes)
        ends = train(begun[done]).matrix()
        steps = (ends - begun[done])[:, :p]
        for node, neighbour, end, step in zip(
            train.nodes, exchange.partners(train.nodes), ends, steps, strict=True
        ):
            models[[node, neighbour]] = exchange(models[node], models[neighbour])
            models[node, :p] += step
            models[node, p:] = end[p:]
            begun[node] = models[node]
        return {"models": models, "begun": begun}, {}

    def model(self, state: State) -> Tensor:
        return state["models"].mean(0)

    def models(self, state: State, train: Train) -> Tensor:
        return state["models"]
