"""MoNNA: momentum that goes on from round to round, and a robust mix."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, PeerExchange, State, Train
from tacit.errors import require, require_whole
from tacit.layout import Layout
from tacit.training.optimizers import SGD, Training


@dataclass(frozen=True)
class MoNNA(Algorithm):
    """One gradient step a round along a momentum, then ``mixes`` robust mixes; a graph of peers.

    m_i <- beta m_i + (1 - beta) g_i(x_i), x_i <- x_i - lr m_i, then K times x_i <- the
    experiment's aggregation, ``NNA(f)`` in the paper: Farhadkhani et al., "Robust collaborative
    learning with linear gradient overhead", ICML 2023, algorithm 1. Momentum averages out the
    gradients' noise, in which lies could hide. A round takes one step, whatever the training says.

    Attributes:
        beta: weight of the past in the momentum, from 0 to below 1.
        mixes: K, how often a round mixes, at least 1.

    Raises:
        InputError: a setting out of its range.
    """

    beta: float = 0.99
    mixes: int = 1
    exchanges: ClassVar = "peers"

    def __post_init__(self) -> None:
        require(0 <= self.beta < 1, "algorithm.beta", self.beta, "a number from 0 to below 1")
        require_whole(1, "algorithm.mixes", self.mixes)

    def local(self, training: Training) -> Training:
        return replace(training, epochs=None, steps=1)

    def check(self, layout: Layout, training: Training) -> None:
        plain = isinstance(training, SGD) and training.momentum == 0
        require(plain, "training", training, "SGD(...) without momentum, for MoNNA has its own")

    def sends(self, layout: Layout) -> dict[str, int]:
        again = {f"model after mix {i}": layout.size for i in range(1, self.mixes)}
        return {"model": layout.size} | again

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        momentum = torch.zeros(nodes, layout.trained)
        return {"models": start.repeat(nodes, 1), "momentum": momentum}

    def round(self, state: State, train: Train, exchange: PeerExchange) -> tuple[State, Metrics]:
        require(train.lr > 0, "training.schedule", train.lr, "a learning rate above 0, for MoNNA")
        p = train.layout.trained
        start, models = state["models"][:, :p], train(state["models"]).matrix()
        gradient = (start - models[:, :p]) / train.lr
        momentum = state["momentum"].lerp(gradient, 1 - self.beta)
        models[:, :p] = start - train.lr * momentum
        for _ in range(self.mixes):
            models = exchange(models)
        return {"models": models, "momentum": momentum}, {}

    def model(self, state: State) -> Tensor:
        return state["models"].mean(0)

    def models(self, state: State, train: Train) -> Tensor:
        return state["models"]
