"""Local training: which steps a node takes in a round, and by which rule.

An optimiser here updates a stack of models at once: weights and gradients are (C, p) matrices, one
row a node. The arithmetic of a row is that of ``torch.optim``.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tacit.errors import InputError

State = dict[str, Tensor]


class Schedule(Protocol):
    """The factor on the learning rate in a round (counted from 0) of a run of ``rounds``."""

    def __call__(self, round: int, rounds: int) -> float: ...


@dataclass(frozen=True)
class Cosine:
    """From 1 down to ``final`` along half a cosine (Loshchilov and Hutter 2017, eq. 5)."""

    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1:
            raise InputError(f"schedule.final: {self.final!r} was given; allowed is 0 to 1")

    def __call__(self, round: int, rounds: int) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * round / rounds)) / 2


@dataclass(frozen=True)
class StepDecay:
    """Times ``factor`` after every ``every`` rounds."""

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"schedule.every: {self.every!r} was given; allowed is 1 or more")
        if not self.factor > 0:
            raise InputError(f"schedule.factor: {self.factor!r} was given; allowed is above 0")

    def __call__(self, round: int, rounds: int) -> float:
        return self.factor ** (round // self.every)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every optimiser has in common.

    Attributes:
        lr: learning rate, above 0.
        batch_size: rows a step; None takes all of a node's rows at once.
        epochs: passes over a node's rows in a round (1 unless ``steps`` is given).
        steps: instead of ``epochs``, the number of steps in a round, going over the rows as often
            as needed.
        shuffle: draw a new order of the rows for each epoch.
        weight_decay: L2 penalty, added to the gradient.
        clip_norm: scale a step's gradient down to this L2 norm where it is longer.
        schedule: factor on ``lr`` over the rounds, for instance ``Cosine()``.
    """

    lr: float
    batch_size: int | None = 32
    epochs: int | None = None
    steps: int | None = None
    shuffle: bool = True
    weight_decay: float = 0.0
    clip_norm: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _above_zero(self, "lr")
        for name in ("batch_size", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(
                    f"training.{name}: {value!r} was given; allowed is a whole number, 1 or more"
                )
        if self.epochs is not None and self.steps is not None:
            raise InputError(
                f"training.steps: epochs={self.epochs} and steps={self.steps} were both given;"
                " give one of them"
            )
        if not self.weight_decay >= 0:
            raise InputError(
                f"training.weight_decay: {self.weight_decay!r} was given; allowed is 0 or more"
            )
        if self.clip_norm is not None:
            _above_zero(self, "clip_norm")
        if self.schedule is not None and not callable(self.schedule):
            raise InputError(
                f"training.schedule: {self.schedule!r} was given; allowed is Cosine(), StepDecay()"
                " or a function of (round, rounds)"
            )

    def lr_at(self, round: int, rounds: int) -> float:
        """The learning rate of a round."""
        return self.lr * (self.schedule(round, rounds) if self.schedule else 1.0)

    @property
    def fused_decay(self) -> float | None:
        """Weight decay if a step is ``w - lr * (g + decay * w)`` and nothing else, or None."""
        return None

    def init(self, weight: Tensor) -> State:
        """The state before the first step: (C, ...) tensors, zero for a node that begins."""
        raise NotImplementedError

    def step(self, weight: Tensor, gradient: Tensor, state: State, lr: float) -> None:
        """Update (C, p) weights in place; may overwrite the gradient."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SGD(Training):
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    Attributes:
        momentum: in [0, 1); starts from zero in each round.
        nesterov: Nesterov's form of momentum; needs ``momentum`` above 0.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"training.momentum: {self.momentum!r} was given; allowed is 0 up to below 1"
            )
        if self.nesterov and self.momentum == 0:
            raise InputError(
                "training.nesterov: True was given; it needs training.momentum above 0"
            )

    @property
    def fused_decay(self) -> float | None:
        return self.weight_decay if self.momentum == 0 and self.clip_norm is None else None

    def init(self, weight: Tensor) -> State:
        return {"momentum": torch.zeros_like(weight)} if self.momentum else {}

    def step(self, weight: Tensor, gradient: Tensor, state: State, lr: float) -> None:
        if self.weight_decay:
            gradient.add_(weight, alpha=self.weight_decay)
        if self.momentum:
            velocity = state["momentum"].mul_(self.momentum).add_(gradient)
            gradient = gradient.add_(velocity, alpha=self.momentum) if self.nesterov else velocity
        weight.sub_(gradient, alpha=lr)


@dataclass(frozen=True, kw_only=True)
class Adam(Training):
    """Adam (Kingma and Ba 2015, algorithm 1), as ``torch.optim.Adam``; fresh moments each round."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"training.{name}: {getattr(self, name)!r} was given;"
                    " allowed is 0 up to below 1"
                )
        _above_zero(self, "eps")

    def init(self, weight: Tensor) -> State:
        return {
            "mean": torch.zeros_like(weight),
            "square": torch.zeros_like(weight),
            "count": weight.new_zeros(len(weight), 1),
        }

    def step(self, weight: Tensor, gradient: Tensor, state: State, lr: float) -> None:
        if self.weight_decay:
            gradient.add_(weight, alpha=self.weight_decay)
        count = state["count"].add_(1)
        mean = state["mean"].lerp_(gradient, 1 - self.beta1)
        square = state["square"].mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        scale = lr / (1 - self.beta1**count)
        bias = (1 - self.beta2**count).sqrt_()
        weight.sub_(scale * mean / (square.sqrt() / bias + self.eps))


def _above_zero(training: Training, name: str) -> None:
    value = getattr(training, name)
    number = isinstance(value, int | float)
    if not number or not 0 < value <= torch.finfo(torch.float32).max:
        raise InputError(f"training.{name}: {value!r} was given; allowed is any number above 0")


def clip_rows(gradient: Tensor, norm: float) -> None:
    """Scale each row of (C, p) in place to at most ``norm``, as torch's ``clip_grad_norm_``."""
    length = gradient.norm(dim=1, keepdim=True)
    gradient.mul_((norm / (length + 1e-6)).clamp_(max=1.0))
