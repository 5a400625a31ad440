"""One node after another, through the user's module and autograd, where batching does not help."""

import contextlib

import numpy as np
import torch
from torch import Tensor, nn

from tacit.layout import Layout
from tacit.randomness import words
from tacit.training.dropout import Address, AddressedDropout
from tacit.training.job import Emit, Job, descend, emit_idle, split_idle
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
        self.module = layout.module(template, self.vector)
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
            with self._dropout(job, node, step):
                loss = self.loss(self.module(job.split.x[rows]), job.split.y[rows])
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            total += loss.detach()
            with torch.no_grad():
                if fused:
                    self._fused_step(gradients, job.lr, job.training.weight_decay)
                else:
                    descend(job, weight, self._flat(gradients), state, inputs)
        return float(total) / steps

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

    def _dropout(self, job: Job, node: int, step: int) -> contextlib.AbstractContextManager:
        if not self.random:
            return contextlib.nullcontext()
        return AddressedDropout(Address(job.stream, np.array([node]), np.array([step])))
