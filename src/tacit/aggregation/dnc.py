"""DnC (divide and conquer): dropping what lies far out along the direction of most variance."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tacit.aggregation.gram import combination, gram
from tacit.aggregation.rule import Aggregated, Aggregation, Round, Tolerant
from tacit.errors import require_number, require_whole
from tacit.randomness import generator


@dataclass(frozen=True)
class DnC(Tolerant, Aggregation):
    """Of some drawn coordinates, drop the c f with the largest projection on the top direction.

    v is the top right singular vector of the centred (k, dimensions) matrix and the score of i
    <x_i - mu, v>^2; ``iterations`` times over, each with coordinates of its own, and the mean of
    those that were never dropped: Shejwalkar, Houmansadr, "Manipulating the Byzantine", NDSS 2021,
    algorithm 2. The authors published no code. c f is rounded down, and every receiver of a round
    looks at the same coordinates.

    Attributes:
        f: liars tolerated among the received, 0 or more; k >= 2 f + 1, and k > iterations c f, so
            that some are never dropped.
        c: how many are dropped for each liar; above 0.
        iterations: 1 or more.
        dimensions: coordinates drawn in each; 1 or more.

    Raises:
        InputError: a setting out of its range.
    """

    c: float = 1.0
    iterations: int = 1
    dimensions: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("aggregation.c", self.c, above=0)
        require_whole(1, "aggregation.iterations", self.iterations)
        require_whole(1, "aggregation.dimensions", self.dimensions)

    @property
    def dropped(self) -> int:
        """How many are dropped in an iteration."""
        return math.floor(self.c * self.f)

    @property
    def least(self) -> int:
        return max(2 * self.f, self.iterations * self.dropped) + 1

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k} that together pull the mean away; liars who add little to the"
            " variance are let through"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        kept = torch.ones(weight.shape, dtype=torch.float64)
        d = own.shape[-1]
        for iteration in range(self.iterations):
            random = generator(round.seed, "dnc", round.index, iteration)
            columns = random.choice(d, min(d, self.dimensions), replace=False)
            products = gram(received[..., columns], own[..., columns])
            far = _scores(products).topk(self.dropped).indices
            kept.scatter_(-1, far, 0)
        total = weight.double().sum(-1, keepdim=True)
        coefficients = kept * (total / kept.sum(-1, keepdim=True))
        return Aggregated(combination(own, received, coefficients), kept.to(weight.dtype))


def _scores(products: Tensor) -> Tensor:
    """(..., k) squared projections on the top direction, from (..., k, k) inner products."""
    centred = products - products.mean(-1, keepdim=True)
    centred = centred - centred.mean(-2, keepdim=True)
    # The projections on a right singular vector are the left one's entries, times the value.
    return torch.linalg.eigh(centred).eigenvectors[..., -1].square()
