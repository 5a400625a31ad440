"""Norm bounding: the weighted mean of updates that are shortened to a norm."""

from dataclasses import dataclass

from torch import Tensor

from tacit.aggregation.centered_clipping import clip_factors
from tacit.aggregation.gram import Geometry, GramRule
from tacit.aggregation.rule import Round
from tacit.errors import require_number


@dataclass(frozen=True)
class NormBound(GramRule):
    """own + sum_i w_i (x_i - own) / max(1, ||x_i - own|| / norm).

    Sun et al., "Can you really backdoor federated learning?", 2019, section 4, without the noise
    that the paper may add.

    Attributes:
        norm: the largest norm of an update, in the units of the parameters; above 0.

    Raises:
        InputError: norm is not above 0.
    """

    norm: float = 3.0

    def __post_init__(self) -> None:
        require_number("aggregation.norm", self.norm, above=0)

    def tolerates(self, k: int) -> str:
        return (
            f"any number of {k}, as far as one that has the weight w moves the result by at"
            f" most {self.norm:g} w in a round; they add up if they agree"
        )

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        factor = clip_factors(geometry.squares, self.norm)
        return weight * factor, factor
