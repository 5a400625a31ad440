"""Many nodes at once: C slots, each training one node; a node that is done makes room for the next.

Slots and not padding: a node takes exactly the steps that it would take alone, so that nodes of
very unequal size cost nothing extra. C is chosen so that the slots' weights stay in the cache.
"""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.layout import Layout
from tacit.training.dropout import Address
from tacit.training.ghost import ClippedProgram
from tacit.training.job import (
    Emit,
    Job,
    add_job_noise,
    descend,
    emit_idle,
    row_dropout,
    split_idle,
)
from tacit.training.losses import Loss, stacked
from tacit.training.plan import Ints, span
from tacit.training.program import Program, Stack
from tacit.training.rules import Context

_CACHE_BYTES = 4 * 2**20
_MOST_SLOTS = 1024


class Batched:
    """Trains and evaluates stacks of models, all steps of C nodes in one call of a ``Program``."""

    def __init__(self, template: nn.Module, layout: Layout, loss: Loss) -> None:
        self.template, self.layout = template, layout
        self.loss = stacked(loss)
        self.program = Program(template, layout, training=True)
        self.evaluation = Program(template, layout, training=False)
        self.slots = max(4, min(_MOST_SLOTS, _CACHE_BYTES // (4 * layout.size)))

    @cached_property
    def clipped(self) -> ClippedProgram:
        """The program for jobs that clip every row's gradient."""
        return ClippedProgram(self.template, self.layout)

    def train(self, job: Job, positions: Ints, emit: Emit) -> None:
        """Carry out a job for the given positions of its plan; see ``Job`` and ``Emit``."""
        with torch.no_grad():
            busy, idle = split_idle(job.plan, positions)
            emit_idle(job, idle, emit)
            if not len(busy):
                return
            waves = -(-len(busy) // self.slots)
            steps = job.plan.steps[busy]
            if job.in_place and steps[0] == steps[-1]:
                for wave in np.array_split(busy, waves):
                    _Slots(self, job, len(wave), span(wave)).work(wave, emit)
            else:
                _Slots(self, job, -(-len(busy) // waves)).work(busy, emit)

    def predict(self, vectors: Tensor, x: Tensor) -> Tensor:
        """Outputs (C, B, ...) of C models (C, d) in evaluation mode on their inputs (C, B, ...)."""
        with torch.no_grad():
            stack = Stack(self.layout.views(vectors), {})
            return self.evaluation.forward(stack, Context(training=False), x)


class _Slots:
    """C models in training, and how far each has come.

    Nodes that all take the same steps are trained where their start lies, at its rows ``place``.
    """

    def __init__(
        self, owner: Batched, job: Job, count: int, place: slice | Tensor | None = None
    ) -> None:
        self.owner, self.job = owner, job
        self.in_place = isinstance(place, slice)
        self.trained = owner.layout.trained
        start, entries = job.start, owner.layout.entries
        decay = job.training.fused_decay
        single_use = owner.program.single_use or job.private is not None
        self.fused = job.plain and single_use and decay is not None
        if self.fused and not self.in_place:
            # Each entry's stack is contiguous: torch accumulates a batched product into anything
            # else by one product per node.
            self.parts = [start.new_empty(count, e.size) for e in entries]
        else:
            self.weight = start[place] if self.in_place else start.new_empty(count, start.shape[-1])
            self.parts = [self.weight[:, e.slice] for e in entries]
        if self.fused:
            self.state = {}
            self.scale, self.decay = -job.lr, 1 - job.lr * (decay or 0.0)
        else:
            # An entry that several operations use gathers their gradients, from zero.
            self.gradient = torch.zeros_like(self.weight)
            self.state = job.training.init(self.weight[:, : self.trained])
            self.scale, self.decay = 1.0, 0.0 if single_use else 1.0
        inputs = job.row_inputs(self.trained)
        self.shared_inputs = {k: t for k, t in inputs.items() if t.dim() == 1}
        self.row_inputs = {k: t for k, t in inputs.items() if t.dim() == 2}
        self.inputs = {k: start.new_empty(count, t.shape[1]) for k, t in self.row_inputs.items()}
        self.loss = start.new_zeros(count)
        self.position = np.zeros(count, dtype=np.int64)
        self.step = np.zeros(count, dtype=np.int64)
        self.stacks: dict[int, Stack] = {}

    def work(self, positions: Ints, emit: Emit) -> None:
        """Train the nodes at ``positions`` (longest first) and emit each when it is done."""
        active = len(self.position)
        self._load(np.arange(active), positions[:active])
        waiting = positions[active:]
        total = self.job.plan.steps
        while active:
            self._tick(active)
            self.step[:active] += 1
            done = np.flatnonzero(self.step[:active] == total[self.position[:active]])
            if not len(done):
                continue
            rows = span(done)
            losses = self.loss[rows] / torch.from_numpy(self.step[done])
            emit(self.position[done], [part[rows] for part in self.parts], losses)
            refill = min(len(done), len(waiting))
            self._load(done[:refill], waiting[:refill])
            waiting = waiting[refill:]
            for slot in done[refill:][::-1]:
                active -= 1
                self._move(active, int(slot))

    def _load(self, slots: Ints, positions: Ints) -> None:
        if not len(slots):
            return
        rows, at = span(slots), span(positions)
        start = self.job.start
        if not self.in_place:
            for part, entry in zip(self.parts, self.owner.layout.entries, strict=True):
                part[rows] = start[at, entry.slice] if start.dim() == 2 else start[entry.slice]
        for name, source in self.row_inputs.items():
            self.inputs[name][rows] = source[at]
        for state in self.state.values():
            state[rows] = 0
        self.loss[rows] = 0
        self.position[slots], self.step[slots] = positions, 0

    def _move(self, source: int, target: int) -> None:
        if source == target:
            return
        for tensor in (*self.parts, self.loss, *self.state.values(), *self.inputs.values()):
            tensor[target] = tensor[source]
        self.position[target], self.step[target] = self.position[source], self.step[source]

    def _stack(self, active: int) -> Stack:
        if active not in self.stacks:
            views = {
                e.name: part[:active].view(active, *e.shape)
                for part, e in zip(self.parts, self.owner.layout.entries, strict=True)
            }
            targets = views if self.fused else self.owner.layout.views(self.gradient[:active])
            self.stacks[active] = Stack(views, targets, self.decay, self.scale)
        return self.stacks[active]

    def _tick(self, active: int) -> None:
        """One step of the first ``active`` slots."""
        job, plan, program = self.job, self.job.plan, self.owner.program
        position, step = self.position[:active], self.step[:active]
        at, size = plan.batch(position, step)
        width = max(1, int(size.max()))
        within = np.minimum(np.arange(width), np.maximum(size, 1)[:, None] - 1)
        rows = plan.rows.index_select(0, torch.from_numpy((at[:, None] + within).ravel()))
        x = job.split.x.index_select(0, rows).unflatten(0, (active, width))
        y = job.split.y.index_select(0, rows).unflatten(0, (active, width))
        valid = np.arange(width) < size[:, None]
        stack = self._stack(active)
        if not self.fused and self.decay:
            self.gradient[:active].zero_()
        if job.private:
            self.loss[:active] += self._clipped_step(job, stack, x, y, valid)
        else:
            context = Context(training=True)
            if int(size.min()) < width:
                context.valid = torch.from_numpy(valid.astype(np.float32))
            if program.random:
                context.dropout = Address(job.stream, plan.nodes[position], step)
            self.loss[:active] += program.step(stack, context, self.owner.loss, x, y)
        if not self.fused:
            weight = self.weight[:active, : self.trained]
            state = {name: tensor[:active] for name, tensor in self.state.items()}
            inputs = {name: tensor[:active] for name, tensor in self.inputs.items()}
            gradient = self.gradient[:active, : self.trained]
            descend(job, weight, gradient, state, inputs | self.shared_inputs)

    def _clipped_step(
        self, job: Job, stack: Stack, x: Tensor, y: Tensor, valid: NDArray[np.bool_]
    ) -> Tensor:
        """One step with clipped rows and noise; (C,) sums of losses over the expected batch."""
        active, width = valid.shape
        position, step = self.position[:active], self.step[:active]
        program, private = self.owner.clipped, job.private
        assert private is not None
        context = Context(training=True)
        if program.random:
            context.dropout = row_dropout(job, position, step, width)
        share = (valid / job.plan.batch_size[position][:, None]).astype(np.float32)
        losses = program.clipped_step(
            stack, context, self.owner.loss, x, y, private.clip, torch.from_numpy(share)
        )
        entries = self.owner.layout.entries
        if self.fused:
            targets = [p for p, e in zip(self.parts, entries, strict=True) if e.trained]
        else:
            targets = [self.gradient[:, : self.trained]]
        parts = [part[:active] for part in targets]
        add_job_noise(job, position, step, parts, self.scale)
        return losses
