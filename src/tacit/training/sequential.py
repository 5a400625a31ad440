"""One node after another, through the user's module and autograd, where batching does not help."""

import contextlib
import copy

import numpy as np
import torch
from torch import Tensor, nn

from tacit.layout import Layout
from tacit.randomness import words
from tacit.training.dropout import Address, AddressedDropout
from tacit.training.job import (
    Emit,
    Job,
    add_job_noise,
    descend,
    emit_idle,
    row_dropout,
    split_idle,
)
from tacit.training.losses import Loss
from tacit.training.plan import Ints


class Sequential:
    """Trains and evaluates one model at a time.

    Attributes:
        random: whether a step may draw random numbers; they are then addressed by the node.
    """

    def __init__(self, template: nn.Module, layout: Layout, loss: Loss, random: bool) -> None:
        self.layout, self.loss, self.random = layout, loss, random
        self.vector = layout.vector(template)
        self.module = copy.deepcopy(template)
        layout.bind(self.module, self.vector)
        tensors = dict(self.module.named_parameters())
        self.parameters = [tensors[e.name] for e in layout.entries if e.trained]

    def train(self, job: Job, positions: Ints, emit: Emit) -> None:
        """Carry out a job for the given positions of its plan; see ``Job`` and ``Emit``."""
        busy, idle = split_idle(job.plan, positions)
        emit_idle(job, idle, emit)
        self.module.train()
        with torch.random.fork_rng(devices=[], enabled=self.random):
            for position in busy:
                loss = self._node(job, int(position))
                emit(np.array([position]), [self.vector.unsqueeze(0)], torch.tensor([loss]))

    def predict(self, vectors: Tensor, x: Tensor) -> Tensor:
        """Outputs (C, B, ...) of C models (C, d) in evaluation mode on their inputs (C, B, ...)."""
        self.module.eval()
        outputs = []
        with torch.no_grad():
            for vector, inputs in zip(vectors, x, strict=True):
                self.vector.copy_(vector)
                outputs.append(self.module(inputs))
        return torch.stack(outputs)

    def _node(self, job: Job, position: int) -> float:
        """Train the node at ``position`` into ``self.vector``; returns its mean loss."""
        plan, trained = job.plan, self.layout.trained
        node, steps = plan.nodes[position], int(plan.steps[position])
        self.vector.copy_(job.start[position] if job.start.dim() == 2 else job.start)
        weight = self.vector[:trained].unsqueeze(0)
        state = job.training.init(weight)
        inputs = {
            name: value[position] if value.dim() == 2 else value
            for name, value in job.row_inputs(trained).items()
        }
        fused = job.plain and job.training.fused_decay is not None
        if self.random:
            torch.manual_seed(int(words(job.stream, node)) >> 1)
        total = torch.zeros(())
        for step in range(steps):
            at, size = plan.batch(np.array(position), np.array(step))
            rows = plan.rows[int(at) : int(at + size)]
            if job.private:
                loss, gradient = self._clipped(job, position, step, rows)
                total += loss
                with torch.no_grad():
                    descend(job, weight, gradient, state, inputs)
                continue
            with self._dropout(Address(job.stream, np.array([node]), np.array([step]))):
                loss = self.loss(self.module(job.split.x[rows]), job.split.y[rows])
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            total += loss.detach()
            with torch.no_grad():
                if fused:
                    self._fused_step(gradients, job.lr, job.training.weight_decay)
                else:
                    descend(job, weight, self._flat(gradients), state, inputs)
        return float(total) / steps

    def _clipped(self, job: Job, position: int, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of clipped gradients (1, p) with noise, row after row, and the mean loss."""
        assert job.private is not None
        at, steps = np.array([position]), np.array([step])
        address = row_dropout(job, at, steps, len(rows))
        total, gradient = torch.zeros(()), torch.zeros(1, self.layout.trained)
        expected = float(job.plan.batch_size[position])
        for index, row in enumerate(rows):
            buffers = self.vector[self.layout.trained :].clone()
            row_address = Address(
                job.stream, address.nodes[index, None], address.steps[index, None]
            )
            with self._dropout(row_address):
                loss = self.loss(self.module(job.split.x[row, None]), job.split.y[row, None])
            own = self._flat(torch.autograd.grad(loss, self.parameters, allow_unused=True))
            gradient += own * (job.private.clip / own.norm().clamp(min=job.private.clip))
            total += loss.detach()
            self.vector[self.layout.trained :] = buffers  # statistics of rows would have no noise
        gradient /= expected
        add_job_noise(job, at, steps, [gradient], 1.0)
        return total / expected, gradient

    def _fused_step(self, gradients: tuple[Tensor | None, ...], lr: float, decay: float) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if decay:
                parameter.mul_(1 - lr * decay)
            if gradient is not None:
                parameter.sub_(gradient, alpha=lr)

    def _flat(self, gradients: tuple[Tensor | None, ...]) -> Tensor:
        """The gradients as one (1, p) row."""
        parts = [
            torch.zeros(parameter.numel()) if gradient is None else gradient.reshape(-1)
            for parameter, gradient in zip(self.parameters, gradients, strict=True)
        ]
        return torch.cat(parts).unsqueeze(0)

    def _dropout(self, address: Address) -> contextlib.AbstractContextManager:
        return AddressedDropout(address) if self.random else contextlib.nullcontext()
