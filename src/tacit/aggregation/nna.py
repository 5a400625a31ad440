"""NNA: the mean of the models nearest to one's own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tacit.aggregation.gram import Geometry, GramRule
from tacit.aggregation.rule import Round, Tolerant


@dataclass(frozen=True)
class NNA(Tolerant, GramRule):
    """Nearest-neighbour averaging: the mean of the k + 1 - f nearest to own, own included.

    The rule of ``MoNNA``: Farhadkhani et al., "Robust collaborative learning with linear gradient
    overhead", ICML 2023, algorithm 1. All inputs count alike, own as much as any other: at a
    server, the last global model then is one input of k + 1.

    Attributes:
        f: liars tolerated among the received, 0 or more.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    @property
    def least(self) -> int:
        return max(1, 2 * self.f)

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k}, on a complete graph whose nodes are honest by far the most; a liar"
            " who lies nearer than an honest model is let through"
        )

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        kept = weight.shape[-1] - self.f
        nearest = geometry.squares.argsort(stable=True)[..., :kept]
        accepted = torch.zeros_like(weight).scatter(-1, nearest, 1.0)
        return accepted / (kept + 1), accepted
