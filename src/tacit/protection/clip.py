"""Clipping: no update is longer than a norm, so that one node moves a sum by no more than that."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tacit.errors import require


@dataclass(frozen=True)
class Clip:
    """u <- u min(1, norm / ||u||), at the node, before anything leaves it.

    McMahan, Ramage, Talwar, Zhang, "Learning differentially private recurrent language models",
    ICLR 2018, section 3.

    Attributes:
        norm: the longest that an update may be, in the units of the parameters; above 0.
        order: of the norm: 2, or 1 for Laplace noise.

    Raises:
        InputError: a setting out of its range.
    """

    norm: float
    order: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        require(self.norm > 0, "protection.norm", self.norm, "a number above 0")
        require(self.order in (1, 2), "protection.order", self.order, "1 or 2")


@dataclass(frozen=True)
class AdaptiveClip:
    """``Clip`` with a norm that follows a quantile of the updates' lengths.

    In each round every node tells, by one bit, whether its update was at most the norm C; then
    C <- C exp(-lr (share - quantile)), with share the noised mean of the bits: Andrew, Thakkar,
    McMahan, Ramaswamy, "Differentially private learning with adaptive clipping", NeurIPS 2021,
    algorithm 1. The bits travel in the same sum as the updates and cost a part of its budget
    (theorem 1).

    Attributes:
        norm: the first C, in the units of the parameters; above 0.
        quantile: of the updates that should fit, between 0 and 1.
        lr: how fast C follows; above 0.

    Raises:
        InputError: a setting out of its range.
    """

    norm: float = 0.1
    quantile: float = 0.5
    lr: float = 0.2

    def __post_init__(self) -> None:
        require(self.norm > 0, "protection.norm", self.norm, "a number above 0")
        require(0 < self.quantile < 1, "protection.quantile", self.quantile, "between 0 and 1")
        require(self.lr > 0, "protection.lr", self.lr, "a number above 0")

    order = 2


def clipped(updates: Tensor, norm: float, order: int = 2) -> tuple[Tensor, Tensor]:
    """(k, d) updates, none longer than ``norm`` in float64, and (k,) whether each was short enough.

    A float32 product can round upwards, so the factor aims a little below the norm.
    """
    lengths = torch.linalg.vector_norm(updates, order, dim=-1, dtype=torch.float64)
    factor = (norm * (1 - 1e-6) / lengths).clamp(max=1).nan_to_num(nan=1.0)
    return updates * factor.unsqueeze(-1).to(updates.dtype), lengths <= norm
