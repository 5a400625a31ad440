"""FedOpt: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2.

The cohort's mean change of the model is a negative gradient to the server, which takes a step with
an optimiser of its own. ``ServerMomentum`` makes FedAvgM, ``ServerAdagrad`` FedAdagrad,
``ServerAdam`` FedAdam, and ``ServerYogi`` FedYogi.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, ServerExchange, State, Train
from tacit.errors import require
from tacit.layout import Layout


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer:
    """How the server turns a cohort's mean change into its own step.

    Attributes:
        lr: server learning rate, above 0.

    Raises:
        InputError: a setting out of its range.
    """

    lr: float

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "algorithm.optimizer.lr", self.lr, "any number above 0")

    def init(self, size: int) -> State:
        """The state before the first step, for ``size`` trained coordinates p."""
        raise NotImplementedError

    def step(self, change: Tensor, state: State) -> tuple[Tensor, State]:
        """What to add to the model, and the new state, for a mean change (p,)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ServerMomentum(ServerOptimizer):
    """FedAvgM: Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for
    federated visual classification", 2019. Without momentum and with lr 1 it is FedAvg.

    Attributes:
        momentum: in [0, 1).
    """

    lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("momentum", self.momentum)

    def init(self, size: int) -> State:
        return {"velocity": torch.zeros(size)}

    def step(self, change: Tensor, state: State) -> tuple[Tensor, State]:
        velocity = self.momentum * state["velocity"] + change
        return self.lr * velocity, {"velocity": velocity}


@dataclass(frozen=True, kw_only=True)
class Adaptive(ServerOptimizer):
    """What FedAdagrad, FedAdam and FedYogi share; they differ in how squares accumulate.

    Attributes:
        beta1: decay of the mean change, in [0, 1).
        tau: degree of adaptivity, above 0: the smaller, the more a coordinate's step depends on
            its own past.
    """

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("beta1", self.beta1)
        require(0 < self.tau < math.inf, "algorithm.optimizer.tau", self.tau, "any number above 0")

    def init(self, size: int) -> State:
        return {"mean": torch.zeros(size), "square": torch.full((size,), self.tau**2)}

    def step(self, change: Tensor, state: State) -> tuple[Tensor, State]:
        mean = self.beta1 * state["mean"] + (1 - self.beta1) * change
        square = self.accumulate(state["square"], change.square())
        return self.lr * mean / (square.sqrt() + self.tau), {"mean": mean, "square": square}

    def accumulate(self, square: Tensor, new: Tensor) -> Tensor:
        """(p,) the squares so far and this round's, in one."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ServerAdagrad(Adaptive):
    """FedAdagrad; ``beta1`` is 0 as in the paper's experiments."""

    beta1: float = 0.0

    def accumulate(self, square: Tensor, new: Tensor) -> Tensor:
        return square + new


@dataclass(frozen=True, kw_only=True)
class ServerAdam(Adaptive):
    """FedAdam.

    Attributes:
        beta2: decay of the mean square, in [0, 1).
    """

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("beta2", self.beta2)

    def accumulate(self, square: Tensor, new: Tensor) -> Tensor:
        return self.beta2 * square + (1 - self.beta2) * new


@dataclass(frozen=True, kw_only=True)
class ServerYogi(ServerAdam):
    """FedYogi: as Adam, but a square changes by no more than the new one's share of 1 - beta2."""

    def accumulate(self, square: Tensor, new: Tensor) -> Tensor:
        return square - (1 - self.beta2) * new * torch.sign(square - new)


@dataclass(frozen=True)
class FedOpt(Algorithm):
    """FedAvg with an optimiser at the server: ``FedOpt(ServerAdam(lr=0.01))``.

    Buffers (BatchNorm statistics) take the plain mean. A round in which nobody trains changes
    nothing.

    Attributes:
        optimizer: of the server.
        uniform: count every node alike instead of by its rows.

    Raises:
        InputError: ``optimizer`` is none.
    """

    optimizer: ServerOptimizer
    uniform: bool = False
    exchanges: ClassVar = "server"

    def __post_init__(self) -> None:
        require(
            isinstance(self.optimizer, ServerOptimizer),
            "algorithm.optimizer",
            self.optimizer,
            "ServerMomentum(), ServerAdagrad(), ServerAdam() or ServerYogi()",
        )

    def server_only(self) -> frozenset[str]:
        return frozenset(self.optimizer.init(0))

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"model": start} | self.optimizer.init(layout.trained)

    def round(self, state: State, train: Train, exchange: ServerExchange) -> tuple[State, Metrics]:
        if not train.steps.any():
            return state, {}
        model, p = state["model"], train.layout.trained
        mean = exchange(model, train(model), train.weights(self.uniform))
        step, moments = self.optimizer.step((mean - model)[:p], state)
        return {"model": torch.cat([model[:p] + step, mean[p:]])} | moments, {}

    def model(self, state: State) -> Tensor:
        return state["model"]


def _check_decay(name: str, value: float) -> None:
    require(0 <= value < 1, f"algorithm.optimizer.{name}", value, "0 up to below 1")
