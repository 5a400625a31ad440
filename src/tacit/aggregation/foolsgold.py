"""FoolsGold: senders whose updates have always pointed the same way count as one."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.aggregation.gram import combination, gram
from tacit.aggregation.rule import Aggregated, Aggregation, Aid, Round

_EPSILON = 1e-5
_ROUNDING = 1e-9


@dataclass(frozen=True)
class FoolsGold(Aggregation):
    """The mean of updates, weighed down by how alike the sums of all their senders' updates are.

    Fung, Yoon, Beschastnikh, "The limitations of federated learning in Sybil settings", RAID 2020,
    algorithm 1, with the constants of the authors' code and without its feature importance. Their
    result is the sum of the weighted updates, which suits single gradients; here it is divided by
    the sum of the weights. Where every weight is 0 the receiver keeps its own.
    """

    uses: ClassVar[frozenset[Aid]] = frozenset({"memory"})

    def tolerates(self, k: int) -> str:
        return (
            f"any number of {k} who send alike, and nobody who lies alone; honest nodes with"
            " alike data are weighed down as well"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        trust = _trust(_history(received - own.unsqueeze(-2), round))
        total = weight.double().sum(-1, keepdim=True)
        share = trust * total / trust.sum(-1, keepdim=True).clamp(min=_EPSILON)
        highest = trust.amax(-1, keepdim=True).clamp(min=_EPSILON)
        return Aggregated(combination(own, received, share), (trust / highest).to(weight.dtype))


def _history(updates: Tensor, round: Round) -> Tensor:
    """(..., k, d) sums of each sender's updates over the rounds, in the memory of this one's."""
    if round.links is None:
        return updates
    before = round.memory.get("history")
    if before is None:
        before = updates.new_zeros(round.all_links, updates.shape[-1])
    limit = torch.finfo(updates.dtype).max
    history = updates.add_(before[round.links]).clamp_(-limit, limit)
    round.memory["history"] = before.index_put((round.links,), history)
    return history


def _trust(history: Tensor) -> Tensor:
    """(..., k) learning rates of the senders, from 0 to 1."""
    products = gram(history, torch.zeros_like(history[..., 0, :]))
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    alike = products / (lengths.unsqueeze(-1) * lengths.unsqueeze(-2))
    alike = alike.nan_to_num(nan=0)
    alike.diagonal(dim1=-2, dim2=-1).zero_()
    most = alike.amax(-1) + _EPSILON
    # Pardoning: an honest sender may resemble a Sybil, but not as much as Sybils each other.
    pardon = most.unsqueeze(-1) / most.unsqueeze(-2)
    alike = torch.where(pardon < 1, alike * pardon, alike)
    trust = (1 - alike.amax(-1)).clamp(0, 1)
    # Of identical senders rounding alone would leave something, which the maximum would magnify.
    trust = trust.masked_fill(trust < _ROUNDING, 0)
    trust = trust / trust.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return ((trust / (1 - trust) + _EPSILON).log() + 0.5).clamp(0, 1)
