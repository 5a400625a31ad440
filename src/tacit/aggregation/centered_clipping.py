"""Centered clipping: differences to the last output, shortened to a radius and averaged."""

from dataclasses import dataclass

from torch import Tensor

from tacit.aggregation.gram import Geometry, GramRule
from tacit.aggregation.rule import Round
from tacit.errors import require_number, require_whole


def clip_factors(squares: Tensor, radius: float | Tensor) -> Tensor:
    """min(1, radius / distance) of squared distances; 1 at distance 0."""
    return (radius / squares.sqrt()).nan_to_num(nan=1.0).clamp(max=1)


@dataclass(frozen=True)
class CenteredClipping(GramRule):
    """v <- v + (1/k) sum_i (x_i - v) min(1, tau / ||x_i - v||), ``steps`` times from v = own.

    Karimireddy, He, Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021,
    algorithm 2. There v begins at the previous output of the rule, which a server's own model is
    (a gossip node begins at its own). The paper and ByzFL clip momenta, with tau = 10 / (1 - beta)
    and tau = 100; here the updates of whole models are clipped, which are of another size.

    Attributes:
        tau: the farthest that one vector can count, in the units of the parameters; above 0.
        steps: 1 or more; the paper takes 1 to 3.

    Raises:
        InputError: a setting out of its range.
    """

    tau: float = 10.0
    steps: int = 1

    def __post_init__(self) -> None:
        require_number("aggregation.tau", self.tau, above=0)
        require_whole(1, "aggregation.steps", self.steps)

    def tolerates(self, k: int) -> str:
        return (
            f"any number of {k}, as far as each moves the result by at most"
            f" {self.steps * self.tau / k:g} in a round; they add up if they agree"
        )

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        k = weight.shape[-1]
        factor = clip_factors(geometry.squares, self.tau)
        share = factor / k
        for _ in range(self.steps - 1):
            factor = clip_factors(geometry.squares_to(share), self.tau)
            share = share * (1 - factor.mean(-1, keepdim=True)) + factor / k
        return share * weight.sum(-1, keepdim=True), factor
