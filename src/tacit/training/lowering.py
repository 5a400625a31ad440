"""How a model is trained: batched over nodes, or node after node in worker processes."""

import copy
import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tacit.data.federation import Split
from tacit.errors import InputError
from tacit.layout import Layout
from tacit.training.batched import Batched
from tacit.training.job import Collect, Job, Lowering
from tacit.training.losses import Loss
from tacit.training.optimizers import SGD
from tacit.training.plan import Plan
from tacit.training.private import Private
from tacit.training.sequential import Sequential

Engine = Literal["auto", "batched", "sequential"]
log = logging.getLogger("tacit")

# On a CPU these are faster node after node: grouped convolutions lose to plain ones, recurrences to
# torch's fused kernels, and attention gains nothing.
_HEAVY = (nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer)
_HEAVY_FUNCTIONS = {F.scaled_dot_product_attention, F.conv1d, F.conv2d, F.conv3d}


@dataclass(frozen=True)
class Choice:
    """A way of training, and why it was chosen.

    Attributes:
        engine: "batched" or "sequential".
        reason: half a sentence.
        lowering: what carries jobs out.
    """

    engine: Literal["batched", "sequential"]
    reason: str
    lowering: Lowering


def choose(
    engine: Engine,
    template: nn.Module,
    layout: Layout,
    loss: Loss,
    split: Split,
    private: Private | None = None,
) -> Choice:
    """The fastest way of training this model that gives the same result as node after node.

    Args:
        engine: "auto", or the way to take.
        private: how rows' gradients will be clipped, if they will.

    Raises:
        InputError: "batched" was asked for and this model cannot be batched, or it mixes rows that
            are to be clipped one by one.
    """
    if private:
        private.check(template)
    random = _draws(template, loss, split)
    if engine == "sequential":
        random |= Batched(template, layout, loss).program.random
        sequential = Sequential(template, layout, loss, random)
        return Choice("sequential", "it was asked for", sequential)
    batched = Batched(template, layout, loss)
    sequential = Sequential(template, layout, loss, batched.program.random or random)
    if engine == "auto" and not private:  # rows that are clipped would be taken one by one
        heavy = _heavy(batched, template)
        if heavy:
            return Choice("sequential", f"{heavy} runs faster node after node on a CPU", sequential)
    problem = _compare(batched, sequential, template, layout, split, private)
    if not problem:
        return Choice("batched", "it agrees with training node after node", batched)
    if engine == "batched":
        raise InputError(f"engine: 'batched' was given, but {problem}; use 'auto' or 'sequential'")
    log.warning("training node after node: %s", problem)
    return Choice("sequential", problem, sequential)


def least_batch(template: nn.Module) -> int:
    """The fewest rows the model can train on: BatchNorm needs two to have a variance."""
    norm = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in template.modules())
    return 2 if norm else 1


def _draws(template: nn.Module, loss: Loss, split: Split) -> bool:
    """Whether a training step takes numbers from torch's global stream (noise, LSTM dropout)."""
    rows = torch.arange(2) % len(split.y)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        loss(copy.deepcopy(template).train()(split.x[rows]), split.y[rows])
        return not torch.equal(before, torch.get_rng_state())


def _heavy(batched: Batched, template: nn.Module) -> str | None:
    for part in template.modules():
        if isinstance(part, _HEAVY):
            return type(part).__name__
    for function in batched.program.functions & _HEAVY_FUNCTIONS:
        return str(function.__name__)
    return None


def _compare(
    batched: Batched,
    sequential: Sequential,
    template: nn.Module,
    layout: Layout,
    split: Split,
    private: Private | None,
) -> str | None:
    """What is wrong with batching this model, found by training two small nodes both ways."""
    largest = int(np.argmax(split.sizes))
    x, y = split.node(largest)
    # Two nodes of unequal size, so that one step has a full batch beside a smaller one.
    parts = [torch.arange(5) % len(y), torch.arange(2) % len(y)]
    probe = Split.pack([(x[rows], y[rows]) for rows in parts])
    training = SGD(lr=0.01, batch_size=3)
    plan = Plan.of(probe, np.arange(2), training, 0, 0, least_batch(template))
    start = layout.vector(template)
    silent = replace(private, multiplier=0.0) if private else None
    job = Job(probe, plan, training, training.lr, 0, start, private=silent)
    ends = []
    for lowering in (batched, sequential):
        end = torch.empty(2, layout.size)
        try:
            lowering.train(job, np.arange(2), Collect(end, torch.empty(2), None))
        except Exception as error:
            if lowering is sequential:
                raise
            first_line = str(error).strip().split("\n")[0]
            return f"the model cannot be batched ({type(error).__name__}: {first_line})"
        ends.append(end)
    # Entry by entry: BatchNorm's count of batches moves by whole numbers, weights by thousandths.
    for entry in layout.entries:
        batch, plain = (end[:, entry.slice] for end in ends)
        difference = (batch - plain).abs().max()
        rounding = 5e-7 * max(1.0, float(plain.abs().max()))
        if not difference <= 1e-3 * (plain - start[entry.slice]).abs().max() + rounding:
            return f"a batched step changes {entry.name} otherwise than a plain one"
    return None
