"""Canary updates, their coins, and how much a released aggregate looks like each of them.

A canary is a node whose update is a random direction of the largest norm that clipping allows.
Only what the receiver publishes is scored, so that the same audit works through masks, encryption
and noise. Source: Andrew et al., "One-shot empirical privacy estimation for federated learning",
ICLR 2024, algorithm 1. There directions are independent and interfere unless there are many more
coordinates than canaries; here they are orthogonal, so that as many as coordinates can be told
apart. Where the norm is that of order 1, a direction is one coordinate: spread over several, the
same length would be lost in Laplace noise.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.errors import require
from tacit.randomness import generator


@dataclass(frozen=True, eq=False)
class Canaries:
    """m orthogonal unit vectors of d numbers, each with a fair coin.

    Each has b = floor(d / m) coordinates of its own, or one, at random places, with random signs.

    Attributes:
        dimension: d.
        places: (m, b) int64, the coordinates of each.
        signs: (m, b) float32, -1 or 1.
        included: (m,) the coins, fixed for the run: whether each takes part.
    """

    dimension: int
    places: Tensor
    signs: Tensor
    included: NDArray[np.bool_]

    @classmethod
    def draw(cls, seed: int, count: int, dimension: int, order: int = 2) -> "Canaries":
        """Draw them.

        Args:
            count: m, from 1 to d.
            dimension: d, from 1.
            order: of the norm that bounds them: 1 for one coordinate each.

        Raises:
            InputError: a number out of its range.
        """
        require(dimension > 0, "dimension", dimension, "a number > 0")
        require(0 < count <= dimension, "count", count, f"1 to {dimension}, the dimension")
        random = generator(seed, "canary")
        size = dimension // count if order == 2 else 1
        places = random.permutation(dimension)[: count * size].reshape(count, size)
        signs = 2 * random.integers(2, size=places.shape).astype(np.float32) - 1
        included = generator(seed, "canary coin").random(count) < 0.5
        return cls(dimension, torch.from_numpy(places), torch.from_numpy(signs), included)

    def vectors(self, which: NDArray[np.int64]) -> Tensor:
        """(k, d) float32 the unit vectors of the (k,) canaries ``which``."""
        chosen = torch.from_numpy(which)
        values = self.signs[chosen] / self.signs.shape[1] ** 0.5
        return torch.zeros(len(which), self.dimension).scatter_(1, self.places[chosen], values)

    def scores(self, released: Tensor) -> NDArray[np.float64]:
        """(m,) inner products of each with a released (d,) vector, or with its row of (m, d)."""
        rows = released.double().expand(len(self.signs), -1)
        own = rows.gather(1, self.places) * self.signs
        return (own.sum(1) / self.signs.shape[1] ** 0.5).numpy()
