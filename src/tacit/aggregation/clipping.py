"""Differences to own that are shortened before a rule: to a norm, or to that of the others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tacit.aggregation.before import PreAggregation
from tacit.aggregation.centered_clipping import clip_factors
from tacit.aggregation.gram import Geometry
from tacit.aggregation.rule import Round, Tolerant
from tacit.errors import require_number


@dataclass(frozen=True)
class StaticClipping(PreAggregation):
    """Static clipping: no difference to own is longer than a norm.

    Attributes:
        norm: the largest norm of an update, in the units of the parameters; above 0.

    Raises:
        InputError: norm is not above 0.
    """

    norm: float = 2.0

    def __post_init__(self) -> None:
        require_number("aggregation.norm", self.norm, above=0)

    def mixing(self, geometry: Geometry, round: Round) -> tuple[Tensor, Tensor]:
        kept = clip_factors(geometry.squares, self.norm)
        return torch.eye(kept.shape[-1], dtype=kept.dtype).expand(*kept.shape, -1), kept


@dataclass(frozen=True)
class ARC(Tolerant, PreAggregation):
    """Adaptive robust clipping: the floor(2 (f/k) (k - f)) longest updates, to the next norm.

    Allouah et al., "Adaptive gradient clipping for robust federated learning", 2024, algorithm 2.

    Attributes:
        f: liars tolerated among the received, 0 or more; k >= 2 f + 1.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    def mixing(self, geometry: Geometry, round: Round) -> tuple[Tensor, Tensor]:
        k = geometry.squares.shape[-1]
        clipped = 2 * self.f * (k - self.f) // k
        longest = geometry.distances.sort(-1).values[..., k - clipped - 1].unsqueeze(-1)
        kept = clip_factors(geometry.squares, longest)
        return torch.eye(k, dtype=kept.dtype).expand(*kept.shape, -1), kept
