"""Krum and Multi-Krum: the vectors that lie closest to their nearest others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tacit.aggregation.gram import Geometry, GramRule
from tacit.aggregation.rule import Round, Tolerant
from tacit.errors import require_whole


def scores(between: Tensor, f: int) -> Tensor:
    """(..., k) Krum scores of (..., k, k) squared distances: the sum of the k - f - 2 smallest."""
    others = between.clone()
    others.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    return others.sort(-1).values[..., : between.shape[-1] - f - 2].sum(-1)


@dataclass(frozen=True)
class MultiKrum(Tolerant, GramRule):
    """The mean of the m vectors with the smallest sums of squared distances to k - f - 2 others.

    Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent",
    NeurIPS 2017, sections 3 and 4. ByzFL's code takes k - f - 1 others, and their mean.

    Attributes:
        f: liars tolerated among the received, 0 or more; k >= 2 f + 3.
        m: how many are averaged, k at most; k - f if None.

    Raises:
        InputError: a setting out of its range.
    """

    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m is not None:
            require_whole(1, "aggregation.m", self.m)

    @property
    def least(self) -> int:
        return max(2 * self.f + 3, self.m or 0)

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k}, whatever they send; honest models that differ much from each other"
            " hide a liar among them"
        )

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        score = scores(geometry.between, self.f)
        # Fewer than m are left where some of the received were no numbers.
        m = min(self.m or score.shape[-1] - self.f, score.shape[-1])
        best = score.topk(m, largest=False).indices
        chosen = torch.zeros_like(score).scatter_(-1, best, 1)
        return chosen * (weight.sum(-1, keepdim=True) / m), chosen


@dataclass(frozen=True)
class Krum(Tolerant, GramRule):
    """The one vector with the smallest sum of squared distances to its k - f - 2 nearest others.

    Blanchard et al., NeurIPS 2017, section 3; see ``MultiKrum``.

    Attributes:
        f: liars tolerated among the received, 0 or more; k >= 2 f + 3.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    @property
    def least(self) -> int:
        return 2 * self.f + 3

    def tolerates(self, k: int) -> str:
        return MultiKrum(self.f).tolerates(k)

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        return MultiKrum(self.f, m=1).combine(geometry, weight, round)
