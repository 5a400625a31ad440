"""FLTrust: updates weighed by their angle to one that the receiver trusts."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tacit.aggregation.gram import combination, gram
from tacit.aggregation.rule import Aggregated, Aggregation, Aid, Round
from tacit.errors import InputError, require


@dataclass(frozen=True, eq=False)
class FLTrust(Aggregation):
    """sum_i TS_i (||g_0|| / ||g_i||) g_i / sum_i TS_i with the trust TS_i = ReLU(cos(g_i, g_0)).

    Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust federated learning via trust bootstrapping",
    NDSS 2021, algorithm 2. A server trains its model on clean ``root`` rows for g_0, and g_i is
    what a node's training changed. Without a server, a node's own training is what it trusts: g_0
    and the g_i are differences to its model before. Where nobody is trusted, which the paper leaves
    open, the receiver keeps its own.

    Attributes:
        root: clean rows (x (N, ...), y (N, ...)), arrays or tensors; the paper takes 100. A server
            cannot do without.

    Raises:
        InputError: root rows that are none, no pair, or not as many inputs as targets;
            ``Experiment.check`` refuses those that do not fit the data.
    """

    root: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    uses: ClassVar[frozenset[Aid]] = frozenset({"start", "root"})

    def __post_init__(self) -> None:
        if self.root is not None:
            allowed = "a pair (x, y) of arrays or tensors, as many inputs as targets, not 0"
            try:
                x, y = (torch.as_tensor(part) for part in self.root)
            except (TypeError, ValueError, RuntimeError) as error:
                given = type(self.root).__name__
                raise InputError(
                    f"aggregation.root: a {given} was given; it must be {allowed}"
                ) from error
            shapes = (tuple(x.shape), tuple(y.shape))
            pair = x.dim() > 0 < y.dim() and 0 < len(x) == len(y)
            require(pair, "aggregation.root", shapes, allowed)
            object.__setattr__(self, "root", (x, y))

    def tolerates(self, k: int) -> str:
        trusted = "the node's own training" if self.root is None else "training on the root rows"
        return (
            f"any number of {k}, as far as no update counts that points away from {trusted},"
            " and none is longer; the rows behind it must be clean and like the others'"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        if round.root is not None:
            start, trusted = own, round.root(own)
        elif round.start is not None:
            start, trusted = round.start, own
        else:
            raise InputError("aggregation.root: None was given; allowed is (x, y), clean rows")
        products = gram(torch.cat([received, trusted.unsqueeze(-2)], -2), start)
        lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
        cosine = products[..., -1] / (lengths * lengths[..., -1:])
        trust = cosine[..., :-1].nan_to_num(nan=0).clamp(min=0)
        total = trust.sum(-1, keepdim=True)
        share = torch.where(
            trust > 0, trust / total * (lengths[..., -1:] / lengths[..., :-1]), trust
        )
        moved = combination(start, received, share)
        mixed = torch.lerp(own, moved, weight.sum(-1, keepdim=True))
        highest = trust.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        accepted = (trust / highest).to(weight.dtype)
        return Aggregated(torch.where(total > 0, mixed, own), accepted)
