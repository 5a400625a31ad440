"""Clipping: no update is longer than a norm, so that one node moves a sum by no more than that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tacit.errors import require, require_number

if TYPE_CHECKING:  # so that sums can be taken where there is no torch
    from torch import Tensor

_LARGEST = float(np.finfo(np.float32).max)


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
        require_number("protection.norm", self.norm, above=0, most=_LARGEST)
        whole = type(self.order) is int
        require(whole and self.order in (1, 2), "protection.order", self.order, "1 or 2")


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
        require_number("protection.norm", self.norm, above=0, most=_LARGEST)
        require_number("protection.quantile", self.quantile, above=0, below=1)
        require_number("protection.lr", self.lr, above=0)

    order = 2


def clipped(updates: Tensor, norm: float, order: int = 2) -> tuple[Tensor, Tensor]:
    """(k, d) updates, none longer than ``norm`` in float64, and (k,) whether each was short enough.

    Rounding to float32 can lengthen a product, so longer rows end a little below the norm.
    """
    import torch

    lengths = torch.linalg.vector_norm(updates, order, dim=-1, dtype=torch.float64)
    short = lengths <= norm
    # In two products: a factor below 1e-38 has few digits in float32, its root has all.
    root = torch.where(short, 1, norm * (1 - 1e-6) / lengths).sqrt().unsqueeze(-1)
    root = root.to(updates.dtype)
    return (updates * root).mul_(root), short
