"""UBAR: near enough, and no worse on one's own rows."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.aggregation.gram import combination, squares
from tacit.aggregation.rule import Aggregated, Aggregation, Round
from tacit.errors import InputError, require_number


@dataclass(frozen=True)
class UBAR(Aggregation):
    """Of the floor(rho k) nearest, the mean of those whose loss on a fresh batch is at most own's.

    x_i <- alpha x_i + (1 - alpha) mean, and where no candidate passes the nearest takes the mean's
    place: Guo et al., "Byzantine-resilient decentralized stochastic gradient descent" (first called
    MOZI), IEEE TCSVT 2021. The paper adds the local step afterwards, as
    ``Gossip(mix="before")`` does.

    He, Karimireddy and Jaggi's code falls back on the nearest as here, that of Rangwala et al. on
    the candidate with the least loss; both have a rho of 0.4. At least one is a candidate, however
    few are received.

    Attributes:
        rho: share of the received that is honest, above 0 and at most 1.
        alpha: share of the own model, from 0 to 1.

    Raises:
        InputError: a setting out of its range.
    """

    rho: float = 0.4
    alpha: float = 0.5
    uses: ClassVar = frozenset({"loss"})

    def __post_init__(self) -> None:
        require_number("aggregation.rho", self.rho, above=0, most=1)
        require_number("aggregation.alpha", self.alpha, least=0, most=1)

    def tolerates(self, k: int) -> str:
        return (
            f"{k - self._candidates(k)} of {k}, if their models are farther off than honest ones or"
            " do worse on the receiver's own rows"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        if round.loss is None or round.receivers is None:
            raise InputError("aggregation: UBAR needs the loss on rows of each receiver's own")
        order = squares(received, own).argsort(stable=True)
        nearest = order[..., : self._candidates(received.shape[-2])]
        rows = nearest.unsqueeze(-1).expand(*nearest.shape, received.shape[-1])
        candidates = received.gather(-2, rows)
        losses = round.loss(round.receivers, torch.cat([own.unsqueeze(-2), candidates], -2))
        passed = losses[..., 1:] <= losses[..., :1]
        passed[..., 0] |= ~passed.any(-1)
        accepted = torch.zeros_like(weight).scatter(-1, nearest, passed.to(weight.dtype))
        share = (1 - self.alpha) / accepted.sum(-1, keepdim=True)
        return Aggregated(combination(own, received, share * accepted), accepted)

    def _candidates(self, k: int) -> int:
        # A share such as 0.29 of 100 is 29, although the product is a little below.
        return max(1, math.floor(self.rho * k + 1e-9))
