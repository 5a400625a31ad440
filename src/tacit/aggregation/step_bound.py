"""StepBound: nobody counts for more than the receiver's own local step."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.aggregation.before import NNM
from tacit.aggregation.centered_clipping import clip_factors
from tacit.aggregation.coordinates import by_tiles, require_count, screened, trimmed_mean
from tacit.aggregation.gram import Seen, combinations
from tacit.aggregation.rule import Aggregated, Aggregation, Round
from tacit.errors import InputError, require


@dataclass(frozen=True)
class StepBound(Aggregation):
    """Clip each update to the own step's length, mix each with its nearest, take a trimmed mean.

    With s the receiver's model before its local step, r = c ||own - s||, and the receiver's own
    vector among n = k + 1:

        d_j = (x_j - s) min(1, r / ||x_j - s||)        own step as it is
        y_j = mean of the n - f nearest to d_j         nearest-neighbour mixing
        result = s + trimmed mean of the y, f off either end of each coordinate

    Made here, of centered clipping (Karimireddy, He, Jaggi, ICML 2021) and NNM (Allouah et al.,
    AISTATS 2023). All inputs count alike, whatever their mixing weights.

    BALANCE takes its radius from the norm of the model, SCClip and CS+-RG from the distances to the
    neighbours. Here it is how far the node itself just went, which no lie of the round can change:
    ||result - s|| <= sqrt(n / (n - 2 f)) max(1, c) ||own - s||, whatever is received, and as
    training comes to rest, so do the lies. (Lies of earlier rounds are in s, and a node that they
    led astray takes longer steps, mostly back.) Within that ball f liars still move a coordinate as
    far as honest *updates of one round* disagree, so that the rule is as strong as the nodes' local
    gradients are alike: with skewed labels, a loss that is corrected for each node's label counts,
    cross-entropy of logits + log(share of each label), is half of the defence.

    Measured in a prototype (20 nodes, a random 10-regular graph, 4 malicious, labels by Dir(0.5),
    f = 4, a small MLP, 40 rounds, that loss): testing error of the worst honest node, mean of 5
    seeds, on digits 0.070 without attack and 0.105 under the worst of the oracle attacks tried, on
    MNIST (14 x 14 pixels) 0.086 and 0.118; in the worst seed they cost 0.055 and 0.060. With plain
    cross-entropy on digits they cost 0.06 to 0.08. Clipping alone, or NNM and trimming alone, lost
    0.5 and more in one of two seeds. Weakest is a node 4 of whose 10 neighbours lie; training that
    ends early leaves a larger gap; and nothing bounds what lies add up to over rounds but the
    node's own gradient.

    It is for gossip that mixes after the local step: a server takes no step, and would stand still.

    Attributes:
        f: liars tolerated among a node's inputs, 0 or more; k >= 2 f.
        c: radius in lengths of the own step; above 0.

    Raises:
        InputError: a setting out of its range.
    """

    f: int
    c: float = 1.0
    uses: ClassVar = frozenset({"start"})

    def __post_init__(self) -> None:
        require_count(self.f)
        require(self.c > 0, "aggregation.c", self.c, "a number above 0")

    @property
    def least(self) -> int:
        return max(1, 2 * self.f)

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k}, whose pull is at most that of the receiver's own local step; they"
            " still move the result as far as honest updates of one round disagree"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        if round.start is None:
            raise InputError(
                "aggregation: StepBound needs each receiver's model before its local step"
            )
        start, vectors = round.start, torch.cat([own.unsqueeze(-2), received], -2)
        geometry = Seen(vectors, start)
        step = geometry.distances[..., :1]
        kept = clip_factors(geometry.squares[..., 1:], self.c * step)
        kept = torch.cat([torch.ones_like(step), kept], -1)
        share, _ = NNM(self.f).mixing(geometry.mixed(torch.diag_embed(kept)), round)
        mixtures = combinations(start, vectors, share * kept.unsqueeze(-2))
        result, _ = by_tiles(start, mixtures, screened(lambda y: trimmed_mean(y, self.f)))
        accepted = kept * (share > 0).double().mean(-2)
        return Aggregated(result, accepted[..., 1:].to(weight.dtype))
