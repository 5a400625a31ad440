"""Bulyan: Krum again and again, then the middle of what it chose."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tacit.aggregation.coordinates import (
    Array,
    Counts,
    by_tiles,
    mixed,
    nearest_mean,
    within,
)
from tacit.aggregation.gram import between, gram
from tacit.aggregation.rule import Aggregated, Aggregation, Round, Tolerant


@dataclass(frozen=True)
class Bulyan(Tolerant, Aggregation):
    """Per coordinate, the mean of the k - 4f values nearest to the median of Krum's k - 2f choices.

    Krum chooses one vector after another, each from what is left: El Mhamdi, Guerraoui, Rouault,
    "The hidden vulnerability of distributed learning in Byzantium", ICML 2018, section 4. Towards
    the end its score would count fewer than one neighbour; here it counts one. All inputs count
    alike. In a gossip the node keeps what the mixing weights leave of its own.

    Attributes:
        f: liars tolerated among the received, 0 or more.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    @property
    def least(self) -> int:
        return 4 * self.f + 3

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k}: each coordinate stays in the range of the honest, widened on"
            " either side by its own width"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        k = received.shape[-2]
        chosen = krum_choices(between(gram(received, own)), self.f, k - 2 * self.f)
        index = chosen.reshape(-1, chosen.shape[-1], 1).numpy()

        def kernel(own: Array, received: Array, rows: slice) -> tuple[Array, Counts]:
            ordered = np.sort(np.take_along_axis(received, index[rows], axis=1), axis=1)
            result, low, high = nearest_mean(ordered, k - 4 * self.f)
            return result, within(received, low, high)

        result, share = by_tiles(own, received, kernel)
        accepted = torch.zeros_like(share).scatter(-1, chosen, share.gather(-1, chosen))
        return mixed(own, weight, result, accepted)


def krum_choices(distances: Tensor, f: int, count: int) -> Tensor:
    """The vectors that Krum chooses one after another, each taken away before the next.

    Args:
        distances: (..., k, k) squared distances.
        f: liars that Krum's score allows for.
        count: how many to choose, at most k.

    Returns:
        (..., count) indices, in the order of choice; of two with the same score the first.
    """
    k = distances.shape[-1]
    distances = distances + torch.full((k,), torch.inf, dtype=distances.dtype).diag()
    taken = torch.zeros(distances.shape[:-1], dtype=torch.bool)
    choices = []
    for left in range(k, k - count, -1):
        neighbours = max(min(1, left - 1), left - f - 2)
        score = distances.sort(-1).values[..., :neighbours].sum(-1).masked_fill(taken, torch.inf)
        choice = score.argmin(-1, keepdim=True)
        taken = taken.scatter(-1, choice, True)
        distances = distances.masked_fill(taken.unsqueeze(-2), torch.inf)
        choices.append(choice)
    return torch.cat(choices, -1)
