"""Push-sum: gossip over directed graphs, where nobody needs to know who listens to whom.

Assran, Loizou, Ballas, Rabbat, "Stochastic gradient push for distributed deep learning", ICML 2019,
algorithm 1, after Kempe, Dobra, Gehrke, "Gossip-based computation of aggregate information", 2003.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, PeerExchange, State, Train
from tacit.layout import Layout


@dataclass(frozen=True)
class PushSum(Algorithm):
    """Stochastic gradient push: a node's model is z = x / w, where both x and w are passed on.

    Each node splits x and w evenly among itself and those that it sends to (column-stochastic P):
    x <- P (x + T(z) - z) and w <- P w, with T the local training. The sums over the nodes of x and
    of w (which is n) are kept by P, so that all z come to agree on the mean over any sequence of
    graphs whose union is strongly connected, the undirected ones included. The averaging is always
    this one; ``aggregation`` has no part in it.
    """

    exchanges: ClassVar = "peers"

    def sends(self, layout: Layout) -> dict[str, int]:
        return {"model": layout.size, "push-sum weight": 1}

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"numerator": start.repeat(nodes, 1), "weight": torch.ones(nodes, 1)}

    def round(self, state: State, train: Train, exchange: PeerExchange) -> tuple[State, Metrics]:
        numerator, weight = state["numerator"], state["weight"]
        models = numerator / weight
        step = train(models).matrix().sub_(models)
        # Buffers are averages and not sums of steps: their numerator becomes weight * trained, so
        # that z stays between the values that nodes have (a variance never turns negative).
        step[:, train.layout.trained :] *= weight
        mixed = exchange(torch.cat([step.add_(numerator), weight], 1), push=True)
        return {"numerator": mixed[:, :-1].clone(), "weight": mixed[:, -1:].clone()}, {}

    def model(self, state: State) -> Tensor:
        """(d,) sum(x) / sum(w): what all nodes come to agree on if no one trained any more."""
        return state["numerator"].sum(0) / state["weight"].sum()

    def models(self, state: State, train: Train) -> Tensor:
        return state["numerator"] / state["weight"]
