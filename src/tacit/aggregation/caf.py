"""CAF: weighing down what lies far out along the direction in which the vectors vary most."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tacit.aggregation.gram import Geometry, GramRule
from tacit.aggregation.rule import Round, Tolerant


@dataclass(frozen=True)
class CAF(Tolerant, GramRule):
    """The covariance-bound agnostic filter.

    From c_i = 1, while sum c > k - 2 f: mu is the mean weighted by c, v the top eigenvector of the
    weighted covariance, tau_i = <x_i - mu, v>^2, and c_i <- c_i (1 - tau_i / max tau). The result
    is the mu whose covariance had the least top eigenvalue: Allouah, Guerraoui, Stephan, "Towards
    trustworthy federated learning with untrusted participants", ICML 2025.

    The maximum is taken of those that still count (c_i > 0), so that each turn drops one and 2 f
    turns do. ByzFL takes it of all, where an outlier that was dropped can hold up the others for
    ever, takes one power step from a random vector for v, and returns None for f = 0 (here: the
    mean).

    Attributes:
        f: liars tolerated among the received, 0 or more; k >= 2 f + 1.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    def tolerates(self, k: int) -> str:
        return f"{self.f} of {k}, whatever they send, as far as the honest models agree"

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        k = weight.shape[-1]
        identity = torch.eye(k, dtype=torch.float64)
        count = torch.ones_like(weight)
        best, least = count, torch.full_like(weight[..., :1], torch.inf)
        for _ in range(max(1, 2 * self.f)):
            total = count.sum(-1, keepdim=True)
            inner = geometry.mixed(identity - (count / total).unsqueeze(-2)).gram
            root = count.sqrt()
            values, vectors = torch.linalg.eigh(
                root.unsqueeze(-1) * inner * root.unsqueeze(-2) / total.unsqueeze(-1)
            )
            top = values[..., -1:]
            better = (top < least) & (total > k - 2 * self.f)
            best, least = torch.where(better, count, best), torch.where(better, top, least)
            along = (inner @ (root * vectors[..., -1]).unsqueeze(-1)).squeeze(-1).square()
            farthest = along.masked_fill(count == 0, 0).amax(-1, keepdim=True)
            # Where all that count agree, farthest is 0 and nothing changes.
            farthest = farthest.clamp(min=torch.finfo(torch.float64).tiny)
            count = count * (1 - along / farthest).clamp(min=0)
        share = best / best.sum(-1, keepdim=True)
        return share * weight.sum(-1, keepdim=True), best / best.amax(-1, keepdim=True)
