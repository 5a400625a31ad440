"""WFAgg: three filters vote on each neighbour."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.aggregation.coordinates import by_tiles, screened
from tacit.aggregation.coordinates import median as middle
from tacit.aggregation.gram import combination, squares
from tacit.aggregation.rule import Aggregated, Aggregation, Round, Tolerant
from tacit.errors import InputError, require_number

# What each filter has to say.
_DISTANCE, _ANGLE, _TIME = 0.4, 0.4, 0.2
# Columns multiplied at a time, so that their float64 copies stay in the cache.
_BLOCK = 512
# Earlier changes of a neighbour that its present one is held against.
_PAST = 2


@dataclass(frozen=True)
class WFAgg(Tolerant, Aggregation):
    """Weigh each neighbour by the filters that it passed, if at least two; mix with own by alpha.

    x_i <- (1 - alpha) x_i + alpha sum_j w_j x_j / sum_j w_j, w_j = 0.4 + 0.4 + 0.2 over the passed:

    - distance: among the k - f - 1 nearest to the coordinate-wise median of the received;
    - angle: among the k - f - 1 with the smallest angle to that median;
    - time: how far this neighbour moved since its last model, and by which angle, both lie within
      one standard deviation of its two earlier changes. It first passes anybody in a neighbour's
      fourth round.

    Where nobody passes two filters the node keeps its own model. Cajaraville-Aboy et al.,
    "Byzantine-robust aggregation for securing decentralized federated learning", 2024. The counts,
    the two earlier changes and what happens before there are any follow the authors' code, which
    weighs the later change 1 % more than the earlier one (an exponential average with a factor of
    0.01); here both count alike. It also clips what it takes the angle of, which changes no angle.

    Attributes:
        f: liars tolerated among the received, 0 or more.
        alpha: share of the neighbours, from 0 to 1.

    Raises:
        InputError: a setting out of its range.
    """

    alpha: float = 0.8
    uses: ClassVar = frozenset({"memory"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("aggregation.alpha", self.alpha, least=0, most=1)

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k} whose models lie farther from the median of the received, or at a"
            " wider angle, than those of honest nodes; nothing is proved"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        kept = max(1, received.shape[-2] - self.f - 1)
        median, _ = by_tiles(own, received, screened(middle))
        near = _smallest(squares(received, median), kept)
        aligned = _smallest(_angle(received, median.unsqueeze(-2)), kept)
        steady = _steady(received, round)
        score = _DISTANCE * near + _ANGLE * aligned + _TIME * steady
        score = torch.where(near + aligned + steady >= 2, score, 0)
        # Dividing by the largest first keeps 0 / 0 out where nobody passed.
        accepted = score / score.amax(-1, keepdim=True).clamp(min=_TIME)
        share = self.alpha / accepted.sum(-1, keepdim=True).clamp(min=1)
        result = combination(own, received, share * accepted)
        return Aggregated(result, accepted.to(weight.dtype))


def _steady(received: Tensor, round: Round) -> Tensor:
    """(..., k) 1 for senders that changed as they did before; remembers what they sent.

    Memory begins as NaN, with which no comparison holds.
    """
    if round.links is None:
        raise InputError("aggregation: WFAgg needs the links over which models are received")
    memory, links, d = round.memory, round.links, received.shape[-1]
    if "models" not in memory:
        memory["models"] = received.new_full((round.all_links, d), torch.nan)
        changes = torch.full((round.all_links, 2, _PAST), torch.nan, dtype=torch.float64)
        memory["changes"] = changes
    before, past = memory["models"][links], memory["changes"][links]
    length = squares(received.unsqueeze(-2), before).squeeze(-1).sqrt()
    change = torch.stack([length, _angle(received, before)], -1)
    latest = torch.cat([past[..., 1:], change.unsqueeze(-1)], -1)
    memory["models"] = memory["models"].index_put((links,), received)
    memory["changes"] = memory["changes"].index_put((links,), latest)
    return ((change - past.mean(-1)).abs() <= past.std(-1)).all(-1).double()


def _smallest(values: Tensor, count: int) -> Tensor:
    """(..., k) 1 for the ``count`` smallest."""
    at = values.argsort(stable=True)[..., :count]
    return torch.zeros_like(values).scatter(-1, at, 1.0)


def _angle(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of the angle between (..., d) vectors, in float64; NaN for a zero vector."""
    lengths = _inner(one, one).sqrt() * _inner(other, other).sqrt()
    return 1 - _inner(one, other) / lengths


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """(...,) inner products of (..., d) vectors in float64: angles of honest models are tiny."""
    blocks = zip(one.split(_BLOCK, -1), other.split(_BLOCK, -1), strict=True)
    return torch.stack([(a.double() * b).sum(-1) for a, b in blocks]).sum(0)
