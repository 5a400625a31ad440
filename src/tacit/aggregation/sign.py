"""Majority vote over the signs of the updates."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tacit.aggregation.coordinates import Array, Counts, by_tiles, mixed
from tacit.aggregation.rule import Aggregated, Aggregation, Round
from tacit.errors import require_number


@dataclass(frozen=True)
class SignMajority(Aggregation):
    """Move each coordinate by ``step`` in the direction that most received vectors moved it.

    own + step * sign(sum_j sign(x_j - own)), and no move on a tie: Bernstein et al., "signSGD with
    majority vote is communication efficient and fault tolerant", ICLR 2019, algorithm 1. There the
    nodes take the signs, of gradients with momentum, to send one bit a coordinate; here the
    receiver takes them, of updates. All inputs count alike. An input is accepted in the share of
    coordinates where it sided with the outcome.

    Attributes:
        step: how far a coordinate moves in a round, above 0; in a gossip times sum(w).

    Raises:
        InputError: ``step`` is not above 0.
    """

    step: float = 1e-3

    def __post_init__(self) -> None:
        require_number("aggregation.step", self.step, above=0)

    def tolerates(self, k: int) -> str:
        return (
            f"{(k - 1) // 2} of {k} where the honest agree on a sign; no coordinate moves by more"
            f" than {self.step:g} whatever is received"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        def kernel(own: Array, received: Array, rows: slice) -> tuple[Array, Counts]:
            middle = own[:, None]
            votes = (received > middle).astype(np.int8) - (received < middle)
            outcome = np.sign(votes.sum(axis=1, dtype=np.int32))
            sided = (votes == outcome[:, None]).sum(axis=-1, dtype=np.int32)
            return own + (self.step * outcome).astype(own.dtype), sided

        return mixed(own, weight, *by_tiles(own, received, kernel))
