"""Canary rows inside a node: what its private training (DP-SGD) gives away of them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tacit.auditing.leak import log_ratio
from tacit.auditing.nodes import LENGTH
from tacit.data.federation import Split
from tacit.engine.local import LocalTrain, Trainer
from tacit.engine.run import Row, Session
from tacit.experiment import Experiment
from tacit.layout import Layout
from tacit.protection.release import Poisson
from tacit.randomness import generator
from tacit.training.losses import Loss
from tacit.training.lowering import choose
from tacit.training.plan import Plan

# What a row is that is no canary: canaries are counted from 1.
_REAL, _ABSENT = 0, -1


class RowSession(Session):
    """A run beside which a node with canary rows trains, in every round, from the run's model.

    The node is a copy of the one whose rows lose most by the claim: with its rows, as many steps,
    and its sampling rate. Beside its rows it has canaries, each with a parameter of its own, in a
    table beside the model, along which alone its gradient lies: ten clipping norms long, forwards
    and backwards in turn, so that noise that repeats cancels; or zero, where its coin says no. So
    they are drawn, clipped and hidden by noise as rows are, by the code that trains nodes. Such
    gradients are the "Dirac canaries" of Steinke, Nasr, Jagielski, "Privacy auditing
    with one (1) training run", NeurIPS 2023.

    What is scored is the change of the table over a round, as the node would send it. The claim is
    about each of its steps.

    Attributes:
        included: (m,) the coins.
        scores: (m,) float64, summed over the rounds so far.
    """

    def __init__(self, experiment: Experiment, count: int) -> None:
        super().__init__(experiment, "auto", None)
        plain, guard, self.scores = self.trainer, self.guard, np.zeros(count)
        assert guard is not None
        assert plain.private is not None
        self.included = generator(experiment.seed, "canary coin").random(count) < 0.5
        x, y = plain.split.node(self._host())
        copies = 1 + -(-count // len(y))
        marks = torch.full((copies * len(y), 1), _ABSENT)
        marks[: len(y)] = _REAL
        numbers = torch.where(torch.from_numpy(self.included), torch.arange(count) + 1, _ABSENT)
        marks[len(y) :][:count, 0] = numbers
        rows = torch.cat([x] * copies).flatten(1)
        marked = torch.cat([marks.to(x.dtype), rows], 1), torch.cat([y] * copies)
        split = Split.pack([marked])

        with torch.no_grad():
            output = experiment.layout.module(experiment.template, experiment.start()).eval()(x[:2])
        module = _Marked(experiment.template, tuple(x.shape[1:]), count)
        self.loss = _MarkedLoss(experiment.loss, tuple(output.shape[1:]), plain.private.clip)
        layout = Layout.of(module)
        lowering = choose("auto", module, layout, self.loss, split, plain.private).lowering
        size = self.training.batch_size
        training = replace(
            self.training, batch_size=size and size * copies, steps=guard.releases, epochs=None
        )
        self.beside = Trainer(
            split, ("the audit's canary node",), layout, training, lowering, None,
            seed=plain.seed, rounds=plain.rounds, least=plain.least, private=plain.private,
        )  # fmt: skip

    def _host(self) -> int:
        """The first node whose rows lose as much as is claimed."""
        assert self.guard is not None
        split, release = self.trainer.split, self.guard.release
        seed, nodes = self.experiment.seed, np.arange(self.trainer.split.nodes)
        plan = Plan.of(split, nodes, self.training, seed, 0, poisson=True)
        assert isinstance(release.sampler, Poisson)
        rates = plan.batch_size / np.maximum(plan.sizes, 1)
        return int(
            np.flatnonzero((rates == release.sampler.q) & (plan.steps == self.guard.releases))[0]
        )

    def _round(self, round: int) -> Row:
        assert self.guard is not None
        assert self.beside.private is not None
        sign, count = 1 - 2 * (round % 2), len(self.included)
        p = self.experiment.layout.trained
        model = self.experiment.algorithm.model(self.state)
        start = torch.cat([model[:p], torch.zeros(1 + count), model[p:]])
        self.loss.length = sign * LENGTH * self.beside.private.clip
        train = LocalTrain(self.beside, np.array([0]), round)
        table = train(start).matrix()[0, p + 1 : p + 1 + count].double().numpy()
        step = sign * train.lr * self.beside.private.clip / train.plan.batch_size[0]
        self.scores += log_ratio(-table / step, self.guard.release, self.guard.releases)
        return super()._round(round)


class _Marked(nn.Module):
    """A model beside a table of canaries' parameters; rows begin with what they are."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.shape, self.model = shape, model
        self.table = nn.Embedding(1 + count, 1, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 + outputs): whether a row is real, its canary's parameter, the model's output."""
        mark, output = x[:, 0], self.model(x[:, 1:].reshape(-1, *self.shape))
        own = self.table(mark.clamp(min=0).long())
        return torch.cat([(mark == _REAL).unsqueeze(1), own, output.unsqueeze(-1).flatten(1)], 1)


@dataclass
class _MarkedLoss:
    """The loss of a real row; of a canary its parameter, times the length of its gradient."""

    loss: Loss
    shape: tuple[int, ...]
    length: float

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        real, own = output[:, 0].mean(), output[:, 1].mean()
        plain = self.loss(output[:, 2:].reshape(-1, *self.shape), target)
        return real * plain + self.length * own
