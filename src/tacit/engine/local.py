"""Local training in this process or its workers, as algorithms see it."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tacit.data.federation import Split
from tacit.engine.workers import Workers
from tacit.errors import DivergenceError
from tacit.layout import Layout
from tacit.protection.sampling import gaussian, secure
from tacit.randomness import key
from tacit.training.job import Collect, Job, Lowering
from tacit.training.optimizers import Training
from tacit.training.plan import Ints, Plan
from tacit.training.private import AddressedNoise, Noise, Private


class Trainer:
    """Carries out jobs on the federation's rows, whatever the round.

    Attributes:
        names: of the nodes, for error messages.
        least: rows of the smallest batch that the model can train on.
        workers: processes that train, or None to train in this one.
        honest: nodes whose losses must stay finite; None: all.
        private: how each row's gradient is clipped and noised, if it is.
        noise_seed: of that noise; None: it is secret.
    """

    def __init__(
        self,
        split: Split,
        names: tuple[str, ...],
        layout: Layout,
        training: Training,
        lowering: Lowering,
        workers: Workers | None,
        *,
        seed: int,
        rounds: int,
        least: int,
        honest: Ints | None = None,
        private: Private | None = None,
        noise_seed: int | None = 0,
    ) -> None:
        self.split, self.names, self.layout, self.training = split, names, layout, training
        self.lowering, self.workers = lowering, workers
        self.seed, self.rounds, self.least = seed, rounds, least
        self.honest, self.private, self.noise_seed = honest, private, noise_seed

    def again(self, times: int) -> Self:
        """The same, with draws of its own for whoever trains from the same model once more."""
        if not times:
            return self
        other = copy(self)
        other.seed = key(self.seed, "again", times)
        if self.noise_seed is not None:
            other.noise_seed = key(self.noise_seed, "again", times)
        return other

    def run(
        self, job: Job, weight: Tensor | None, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(k, d) end vectors, or their (d,) sum by ``weight``, and (k,) mean losses.

        ``memory`` (k, d) takes the end vectors; it may be the job's start, which a node reads once,
        before it is done.
        """
        if self.workers is not None and len(job.plan.nodes):
            return self.workers.run(job, weight, overwrite=memory is not None)
        count, size = len(job.plan.nodes), self.layout.size
        if weight is not None:
            result = torch.zeros(size)
        else:
            result = torch.empty(count, size) if memory is None else memory
        losses = torch.empty(count)
        job = replace(job, in_place=memory is not None)
        self.lowering.train(job, np.arange(count), Collect(result, losses, weight))
        return result, losses


class LocalTrain:
    """``Train`` for one round; see ``tacit.algorithms.base.Train``.

    Attributes:
        losses: (k,) mean training loss of each node in the last training, NaN for none.
        keeps_start: whether ``start`` must outlive a training that overwrites it.
        start: (d,) or (k, d) where the last training began.
    """

    def __init__(self, trainer: Trainer, nodes: Ints, round: int) -> None:
        self.trainer, self.nodes, self.round = trainer, nodes, round
        self.layout, self.training = trainer.layout, trainer.training
        self.lr = self.training.lr_at(round, trainer.rounds)
        self.rows = trainer.split.sizes[nodes]
        self.losses = torch.full((len(nodes),), torch.nan)
        self.keeps_start = False
        self.start: Tensor | None = None

    @cached_property
    def plan(self) -> Plan:
        """Which rows each node sees in this round."""
        trainer = self.trainer
        return Plan.of(
            trainer.split, self.nodes, self.training, trainer.seed, self.round, trainer.least,
            poisson=trainer.private is not None,
        )  # fmt: skip

    @property
    def steps(self) -> Ints:
        return self.plan.steps

    def __call__(
        self,
        start: Tensor,
        *,
        prox: float = 0.0,
        anchor: Tensor | None = None,
        correction: Tensor | None = None,
        frozen: Tensor | None = None,
        overwrite: bool = False,
    ) -> "LocalUpdates":
        self.start = start.clone() if self.keeps_start and overwrite else start
        seed, private = self.trainer.seed, self.trainer.private
        stream = key(seed, "dropout", self.round)
        noise: Noise | None = None
        if private and self.trainer.noise_seed is None:
            noise = SecretNoise()
        elif private:
            noise = AddressedNoise(key(self.trainer.noise_seed or 0, "dp-sgd", self.round))
        job = Job(
            self.trainer.split, self.plan, self.training, self.lr, stream, start,
            prox, anchor, correction, frozen, private, noise,
        )  # fmt: skip
        return LocalUpdates(self, job, start if overwrite else None)

    def mean_loss(self) -> float:
        """The honest nodes' training losses, weighted by their rows; NaN if nobody trained."""
        return mean_loss(self.trainer, self.nodes, self.losses)

    def weights(self, uniform: bool = False) -> Tensor:
        share = np.ones(len(self.nodes)) if uniform else self.rows.astype(np.float64)
        return torch.from_numpy(share / max(share.sum(), 1)).float()


def mean_loss(trainer: Trainer, nodes: Ints, losses: Tensor) -> float:
    """Of the honest among (k,) nodes, weighted by their rows; NaN where all (k,) losses are."""
    known = ~losses.isnan()
    if trainer.honest is not None:
        known &= torch.from_numpy(np.isin(nodes, trainer.honest))
    rows = torch.from_numpy(trainer.split.sizes[nodes])[known]
    return float((losses[known] * rows).sum() / rows.sum()) if len(rows) else float("nan")


class LocalUpdates:
    """``Updates``: the training runs when its results are asked for."""

    def __init__(self, train: LocalTrain, job: Job, memory: Tensor | None) -> None:
        self.train, self.job, self.memory, self.nodes = train, job, memory, train.nodes

    def sum(self, weight: Tensor) -> Tensor:
        return self._run(weight)

    def matrix(self) -> Tensor:
        return self._run(None)

    def _run(self, weight: Tensor | None) -> Tensor:
        vectors, losses = self.train.trainer.run(self.job, weight, self.memory)
        self.train.losses = losses
        busy = torch.from_numpy(self.train.steps > 0)
        if (honest := self.train.trainer.honest) is not None:
            busy &= torch.from_numpy(np.isin(self.nodes, honest))
        wrong = torch.nonzero(busy & ~losses.isfinite())
        if len(wrong):
            node = int(self.nodes[int(wrong[0])])
            raise DivergenceError(self.train.trainer.names[node], self.train.round + 1)
        return vectors


class SecretNoise:
    """Noise of a deployment: from the operating system, in double precision, never twice."""

    def __init__(self) -> None:
        self._source = secure()

    def __call__(self, parts: Sequence[Tensor], std: Tensor, nodes: Ints, steps: Ints) -> None:
        for part in parts:
            part.addcmul_(gaussian(self._source, 1.0, tuple(part.shape)), std)
