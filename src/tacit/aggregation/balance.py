"""BALANCE: each node judges what it receives against its own model."""

import math
from dataclasses import dataclass

from torch import Tensor

from tacit.aggregation.gram import Geometry, GramRule
from tacit.aggregation.rule import Round
from tacit.errors import require_number


@dataclass(frozen=True)
class Balance(GramRule):
    """Accept j where ||x_i - x_j|| <= gamma exp(-kappa t / T) ||x_i||; take the accepted's mean.

    x_i <- alpha x_i + (1 - alpha) mean(accepted), after the local step, with t the round and T the
    number of rounds: Fang et al., "Byzantine-robust decentralized federated learning", CCS 2024,
    equations 2 and 3. Where nothing is accepted the node keeps its own model; the paper leaves this
    open, and taking the nearest instead would hand an isolated node to its attackers.

    Attributes:
        gamma: radius of acceptance in the first round, as a share of the own model's norm; above 0.
        kappa: how fast the radius shrinks; 0 or more.
        alpha: share of the own model, from 0 to 1.

    Raises:
        InputError: a setting out of its range.
    """

    gamma: float = 0.3
    kappa: float = 1.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        require_number("aggregation.gamma", self.gamma, above=0)
        require_number("aggregation.kappa", self.kappa, least=0)
        require_number("aggregation.alpha", self.alpha, least=0, most=1)

    def tolerates(self, k: int) -> str:
        return (
            f"any number of the {k} whose models lie farther off than gamma exp(-kappa t/T) times"
            " the own model's norm; a liar who keeps just within that radius is let through"
        )

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        radius = self.gamma * math.exp(-self.kappa * round.index / round.total)
        accepted = (geometry.squares <= radius**2 * geometry.own.unsqueeze(-1)).double()
        share = (1 - self.alpha) / accepted.sum(-1, keepdim=True).clamp(min=1)
        return share * accepted, accepted
