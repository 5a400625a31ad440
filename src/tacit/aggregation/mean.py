"""The weighted mean."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.aggregation.gram import combination
from tacit.aggregation.rule import Aggregated, Aggregation, Round


@dataclass(frozen=True)
class Mean(Aggregation):
    """``(1 - sum(w)) * own + sum(w_i * received_i)``.

    A server's weights sum to one, so that its own vector drops out (McMahan et al. 2017, algorithm
    1); a gossip neighbour keeps itself with what the mixing weights leave (Lian et al. 2017).
    """

    streams: ClassVar[bool] = True

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        return Aggregated(combination(own, received, weight), torch.ones_like(weight))
