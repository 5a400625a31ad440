"""LEARN: collaborative learning in the jungle, where all nodes hear each other and some lie."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, PeerExchange, State, Train
from tacit.layout import Layout


@dataclass(frozen=True)
class LEARN(Algorithm):
    """Agree on the gradient, make a step, agree on the model; over a complete graph.

    In round t (from 1) the nodes exchange their gradients ceil(log2 t) times, each time taking the
    experiment's aggregation of them (an averaging agreement: ``MDA(f)`` in the paper, with
    n >= 6f + 1), make the step, and exchange the models once: El-Mhamdi et al., "Collaborative
    learning in the jungle", NeurIPS 2021, for nodes with unequal data.

    What is agreed on is the local training's step, lr times the gradient if that is one step of
    ``SGD``. The paper lets batches grow with t; here their size is the training's. The authors'
    code aggregates the gradients once more in each round, before the agreement.
    """

    exchanges: ClassVar = "peers"

    def sends(self, layout: Layout) -> dict[str, int]:
        """A gradient as often as ``agreements`` says, a model once."""
        return {"gradient": layout.trained, "model": layout.size}

    def agreements(self, round: int) -> int:
        """How often gradients are exchanged in a round, counted from 0: ceil(log2(round + 1))."""
        return round.bit_length()

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"models": start.repeat(nodes, 1), "rounds": torch.zeros(1, dtype=torch.int64)}

    def round(self, state: State, train: Train, exchange: PeerExchange) -> tuple[State, Metrics]:
        rounds, p = state["rounds"], train.layout.trained
        start, models = state["models"][:, :p], train(state["models"]).matrix()
        step = models[:, :p] - start
        for _ in range(self.agreements(int(rounds))):
            step = exchange(step, start=torch.zeros(p))
        models[:, :p] = start + step
        return {"models": exchange(models), "rounds": rounds + 1}, {}

    def model(self, state: State) -> Tensor:
        return state["models"].mean(0)

    def models(self, state: State, train: Train) -> Tensor:
        return state["models"]
