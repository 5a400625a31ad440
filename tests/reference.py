"""What a good engineer writes without Tacit: one module, autograd, torch.optim, node after node."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tacit.data.federation import Split
from tacit.training.plan import Plan


def train_alone(
    module: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Callable[..., torch.optim.Optimizer],
    split: Split,
    plan: Plan,
    position: int,
    clip_norm: float | None = None,
) -> nn.Module:
    """A copy of ``module`` after the plan's steps of one node."""
    module = copy.deepcopy(module).train()
    optimiser = optimizer(module.parameters())
    for step in range(int(plan.steps[position])):
        at, size = plan.batch(np.array(position), np.array(step))
        rows = plan.rows[int(at) : int(at + size)]
        optimiser.zero_grad()
        loss(module(split.x[rows]), split.y[rows]).backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        optimiser.step()
    return module
