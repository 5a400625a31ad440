"""MDA and SMEA: the mean of the k - f vectors that lie closest together, of all such subsets."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from tacit.aggregation.gram import Geometry, GramRule, between
from tacit.aggregation.rule import Round, Tolerant
from tacit.errors import InputError

_MOST_SUBSETS = 200_000
# Float64 numbers of the submatrices that are looked at together.
_BLOCK = 2**22


@dataclass(frozen=True)
class _Subsets(Tolerant, GramRule):
    """The mean of the subset of k - f with the least spread."""

    def tolerates(self, k: int) -> str:
        return f"{self.f} of {k}, whatever they send, as far as the honest models agree"

    def check(self, k: int) -> None:
        super().check(k)
        if comb(k, self.f) > _MOST_SUBSETS:
            raise InputError(
                f"aggregation: {self} was given {k} received vectors, which have"
                f" {comb(k, self.f):,} subsets; it tries {_MOST_SUBSETS:,} at most"
            )

    @abstractmethod
    def spread(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        """Of (..., m, m) inner products of each subset: what is compared, and what among equals."""

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        k = weight.shape[-1]
        subsets = _subsets(k, k - self.f)
        together = max(1, _BLOCK // (weight[..., 0].numel() * (k - self.f) ** 2))
        spreads = [
            self.spread(geometry.gram[..., part.unsqueeze(-1), part.unsqueeze(-2)])
            for part in subsets.split(together)
        ]
        first, second = (torch.cat(column, -1) for column in zip(*spreads, strict=True))
        least = first == first.amin(-1, keepdim=True)
        best = second.masked_fill(~least, torch.inf).argmin(-1)
        chosen = torch.zeros_like(weight).scatter_(-1, subsets[best], 1)
        return chosen * (weight.sum(-1, keepdim=True) / (k - self.f)), chosen


@dataclass(frozen=True)
class MDA(_Subsets):
    """The mean of the k - f vectors with the least diameter (minimum-diameter averaging).

    El-Mhamdi et al., "Genuinely distributed Byzantine machine learning", PODC 2020, section 3.
    Where several subsets have it, the one with the least variance; ByzFL takes the first.

    Attributes:
        f: liars tolerated among the received, 0 or more; k >= 2 f + 1. All C(k, f)
            subsets are tried.

    Raises:
        InputError: ``f`` is negative, or not a whole number; when called, for more than 200,000
            subsets.
    """

    def spread(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        distances = between(inner)
        return distances.amax((-2, -1)), distances.sum((-2, -1))


@dataclass(frozen=True)
class SMEA(_Subsets):
    """The mean of the k - f vectors whose covariance has the least top eigenvalue.

    Allouah et al., "On the privacy-robustness-utility trilemma in distributed learning", ICML 2023,
    section 4. ByzFL takes one power step from a random vector for the eigenvalue; this is exact.

    Attributes:
        f: liars tolerated among the received, 0 or more; k >= 2 f + 1. All C(k, f)
            subsets are tried.

    Raises:
        InputError: ``f`` is negative, or not a whole number; when called, for more than 200,000
            subsets.
    """

    def spread(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        centred = inner - inner.mean(-1, keepdim=True)
        centred = centred - centred.mean(-2, keepdim=True)
        values = torch.linalg.eigvalsh(centred)
        return values[..., -1], values.sum(-1)


@lru_cache(maxsize=8)
def _subsets(k: int, m: int) -> Tensor:
    return torch.tensor(list(combinations(range(k), m)))
