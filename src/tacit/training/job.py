"""One round of local training, as data, and the arithmetic of a step that every lowering shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tacit.data.federation import Split
from tacit.training.dropout import Address
from tacit.training.optimizers import State, Training, clip_rows
from tacit.training.plan import Ints, Plan, span
from tacit.training.private import Noise, Private


@dataclass(frozen=True, eq=False)
class Job:
    """What some nodes do in a round.

    A node minimises its loss plus ``prox / 2 * ||w - anchor||^2 + <correction, w>``.

    Attributes:
        split: the rows of all nodes.
        plan: who takes which steps.
        training: optimiser and its settings.
        lr: learning rate of this round.
        stream: key of this round's dropout masks.
        start: (d,) or (k, d) where nodes begin.
        prox: weight of the proximal term, 0 for none.
        anchor: (d,) or (k, d) centre of the proximal term; ``start`` if None.
        correction: (p,) or (k, p) added to the gradient of the p trained coordinates.
        frozen: (p,) bool, trained coordinates that stay as they are in this job.
        private: how much of each row's gradient a step takes, with a ``plan`` by Poisson sampling.
            The proximal term, the correction and weight decay come on top, since no single row
            decides about them.
        noise: where the noise of ``private`` comes from.
        in_place: the end vectors go where the start (k, d) lies, and may be trained there.
    """

    split: Split
    plan: Plan
    training: Training
    lr: float
    stream: int
    start: Tensor
    prox: float = 0.0
    anchor: Tensor | None = None
    correction: Tensor | None = None
    frozen: Tensor | None = None
    private: Private | None = None
    noise: Noise | None = None
    in_place: bool = False

    @property
    def plain(self) -> bool:
        """Whether a step follows the loss's gradient alone."""
        return not self.prox and self.correction is None and self.frozen is None

    def row_inputs(self, trained: int) -> dict[str, Tensor]:
        """The inputs that a step needs beside weights and gradient, by name."""
        inputs = {}
        if self.prox:
            inputs["anchor"] = (self.start if self.anchor is None else self.anchor)[..., :trained]
        if self.correction is not None:
            inputs["correction"] = self.correction
        return inputs


class Emit(Protocol):
    """Takes finished nodes: their positions in the plan, end vectors, and (c,) mean losses.

    The vectors come as blocks (c, d_1), (c, d_2), ... of their columns, valid during the call only.
    """

    def __call__(self, positions: Ints, blocks: list[Tensor], losses: Tensor) -> None: ...


@dataclass(frozen=True, eq=False)
class Collect:
    """An ``Emit`` that keeps what it is given.

    Attributes:
        result: (k, d) for end vectors, or (d,) for their sum by ``weight``, to which it is added.
        losses: (k,); NaN for a node whose last step left a vector that is not finite.
        weight: (k,), or None for end vectors.
    """

    result: Tensor
    losses: Tensor
    weight: Tensor | None

    def __call__(self, positions: Ints, blocks: list[Tensor], losses: Tensor) -> None:
        at, first, total = span(positions), 0, torch.zeros(())
        for block in blocks:
            columns = slice(first, first := first + block.shape[1])
            if self.weight is not None:
                self.result[columns] += self.weight[at] @ block
            elif block.data_ptr() != self.result[at, columns].data_ptr():  # trained in place
                self.result[at, columns] = block
            total = total + block.sum(1)
        self.losses[at] = torch.where(total.isfinite(), losses, torch.nan)


class Lowering(Protocol):
    """A way to carry out a job."""

    def train(self, job: Job, positions: Ints, emit: Emit) -> None: ...

    def predict(self, vectors: Tensor, x: Tensor) -> Tensor:
        """Outputs (C, B, ...) of C models (C, d) in evaluation mode on their inputs (C, B, ...)."""
        ...


def descend(
    job: Job, weight: Tensor, gradient: Tensor, state: State, inputs: dict[str, Tensor]
) -> None:
    """One step of C models from their loss gradients, in place.

    Args:
        weight, gradient: (C, p); the gradient may be overwritten.
        state: the optimiser's, (C, ...) each.
        inputs: "anchor" and "correction" as in ``Job.row_inputs``, (p,) or (C, p).
    """
    if "anchor" in inputs:
        gradient.add_(weight - inputs["anchor"], alpha=job.prox)
    if "correction" in inputs:
        gradient.add_(inputs["correction"])
    if job.frozen is not None:
        gradient = gradient.masked_fill(job.frozen, 0)
        kept = weight[:, job.frozen]
    if job.training.clip_norm is not None:
        clip_rows(gradient, job.training.clip_norm)
    job.training.step(weight, gradient, state, job.lr)
    if job.frozen is not None:  # weight decay, or an optimiser's moments, may have moved them
        weight[:, job.frozen] = kept


def row_dropout(job: Job, position: Ints, step: Ints, rows: int) -> Address:
    """The address of (C * rows,) dropout masks, one for each of the first rows of a batch."""
    row = np.arange(rows, dtype=np.int64) << 32  # beside the step, which is smaller
    address = (step[:, None] + row).ravel()
    return Address(job.stream, np.repeat(job.plan.nodes[position], rows), address)


def add_job_noise(
    job: Job, position: Ints, step: Ints, parts: Sequence[Tensor], scale: float
) -> None:
    """Add the noise of the steps at (C,) ``position`` to blocks (C, w) of gradients' columns.

    ``scale`` is what the gradients were multiplied by already.
    """
    private = job.private
    assert private is not None
    if not private.multiplier:
        return
    assert job.noise is not None
    expected = torch.from_numpy(job.plan.batch_size[position]).float().unsqueeze(1)
    std = scale * private.multiplier * private.clip / expected
    job.noise(parts, std, job.plan.nodes[position], step)


def split_idle(plan: Plan, positions: Ints) -> tuple[Ints, Ints]:
    """Positions with steps to take, most steps first, and those without."""
    steps = plan.steps[positions]
    busy = positions[steps > 0]
    return busy[np.argsort(-plan.steps[busy], kind="stable")], positions[steps == 0]


def emit_idle(job: Job, positions: Ints, emit: Emit) -> None:
    """Nodes without rows keep their start and have no loss."""
    if len(positions):
        at = torch.from_numpy(positions)
        start = job.start[at] if job.start.dim() == 2 else job.start.expand(len(at), -1)
        emit(positions, [start], torch.full((len(at),), torch.nan))
