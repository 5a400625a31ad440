"""The weighted mean."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """``(1 - sum(w)) * own + sum(w_i * received_i)``.

    A server's weights sum to one, so that its own vector drops out (McMahan et al. 2017, algorithm
    1); a gossip neighbour keeps itself with what the mixing weights leave (Lian et al. 2017).
    """

    streams: ClassVar[bool] = True

    def __call__(self, own: Tensor, received: Tensor, weight: Tensor, round: int) -> Tensor:
        total = (weight.unsqueeze(-2) @ received).squeeze(-2)
        return own * (1 - weight.sum(-1, keepdim=True)) + total
