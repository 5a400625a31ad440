"""Gossip with a robust sum: x_i <- x_i - F(W_ij (x_i - x_j)), where F tames what lies far away.

Gaucher, Dieuleveut, Hendrikx, "Unified breakdown analysis for Byzantine robust gossip", ICML 2025,
call this F-RG; ClippedGossip, CS+-RG and GTS-RG differ in F. W are the mixing weights, of which a
node's own is the one at distance 0; they already are a step, so that the paper's eta is 1. Under a
server the own vector is the last global model, with no weight.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from tacit.aggregation.centered_clipping import clip_factors
from tacit.aggregation.gram import Geometry, GramRule
from tacit.aggregation.rule import Round, Tolerant

# What rounding may leave of a weight that is zero on paper.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RobustGossip(Tolerant, GramRule):
    """Base of the three rules; b is the weight of the f heaviest inputs, the most f liars can have.

    Attributes:
        f: liars tolerated among a node's inputs, 0 or more.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    @abstractmethod
    def pass_through(self, distances: Tensor, weight: Tensor, b: Tensor) -> Tensor:
        """(..., k) the share of each difference that is let through.

        Args:
            distances: (..., k) to own.
            weight: (..., k), of which own has the rest to 1.
            b: (..., 1).
        """

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        b = weight.topk(self.f, -1).values.sum(-1, keepdim=True)
        accepted = self.pass_through(geometry.distances, weight, b)
        return weight * accepted, accepted


@dataclass(frozen=True)
class ClippedGossip(RobustGossip):
    """Clip each difference to tau, tau^2 = 1/b times the sum of W_ij D_ij^2 over the nearest 1 - b.

    Also called self-centred clipping (SCClip). He, Karimireddy, Jaggi, "Byzantine-robust
    decentralized learning via ClippedGossip", 2022, with the adaptive radius. The input at the
    border of the nearest 1 - b counts with the part of its weight that lies within; Gaucher et
    al.'s code leaves it out. The authors' own has a fixed radius or, without one, takes the second
    largest distance.
    """

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k}, if the honest nodes' graph is well connected for their weight; every"
            " liar moves the result by at most its weight times a radius, which grows with how far"
            " honest models lie apart"
        )

    def pass_through(self, distances: Tensor, weight: Tensor, b: Tensor) -> Tensor:
        near = _nearest_weight(distances, weight, 1 - b)
        spread = (near * distances**2).sum(-1, keepdim=True)
        # 0 / 0, of vectors that all are own and no liars, shortens nothing.
        return clip_factors(distances**2, (spread / b).sqrt())


@dataclass(frozen=True)
class CSPlusRG(RobustGossip):
    """CS+-RG: clip each difference to the largest distance within the nearest 1 - 2b of the weight.

    Gaucher, Dieuleveut, Hendrikx 2025: sorted ascending, with the own vector at 0, the
    radius is the largest distance whose cumulative weight is at most 1 - 2b; 0 if there is none.
    """

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k}, if the honest nodes' graph is well connected for their weight; every"
            " liar moves the result by at most its weight times an honest model's distance"
        )

    def pass_through(self, distances: Tensor, weight: Tensor, b: Tensor) -> Tensor:
        ordered, order = distances.sort(stable=True)
        own = 1 - weight.sum(-1, keepdim=True)
        cumulative = own + weight.gather(-1, order).cumsum(-1)
        within = cumulative <= 1 - 2 * b + _ROUNDING
        return clip_factors(distances**2, (ordered * within).amax(-1, keepdim=True))


@dataclass(frozen=True)
class GTSRG(RobustGossip):
    """GTS-RG: drop the farthest inputs up to a weight of b, which is left to own.

    With equal weights it is a step towards ``NNA``, which divides by the weight that is kept.
    Gaucher, Dieuleveut, Hendrikx 2025. The input at the border loses the part of its
    weight that lies beyond. The authors' code keeps that part instead of the other one, and drops
    the input whole where the weights add up to the border exactly.
    """

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k}, if the honest nodes' graph is well connected for their weight; a"
            " liar who lies nearer than an honest model is let through"
        )

    def pass_through(self, distances: Tensor, weight: Tensor, b: Tensor) -> Tensor:
        near = _nearest_weight(distances, weight, 1 - b)
        return torch.where(near > _ROUNDING, near / weight, 0)


def _nearest_weight(distances: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    """(..., k) what of each weight lies within the nearest ``share`` (..., 1) of all, own first."""
    order = distances.argsort(stable=True)
    ordered = weight.gather(-1, order)
    nearer = 1 - weight.sum(-1, keepdim=True) + ordered.cumsum(-1) - ordered
    within = (share - nearer).clamp(min=0).minimum(ordered)
    return torch.zeros_like(weight).scatter(-1, order, within)
