"""Nodes of a graph that average with one neighbour at a time."""

import numpy as np
from torch import Tensor

from tacit.engine.exchange import Listener
from tacit.randomness import generator
from tacit.topology import Neighbours
from tacit.training.plan import Ints


class PairAveraging:
    """``PairExchange`` in this process.

    Attributes:
        bytes: sent by all parties so far.
        listener: is told what each node sends, for the run's record.
    """

    verdict = None
    listener: Listener | None = None

    def __init__(self, links: Neighbours, seed: int, round: int) -> None:
        self.links, self.seed, self.round = links, seed, round
        self.bytes = 0

    def partners(self, nodes: Ints) -> Ints:
        offsets, degree = self.links.offsets[nodes], self.links.degree[nodes]
        draws = [generator(self.seed, "pair", self.round, int(n)).random() for n in nodes]
        chosen = self.links.senders[offsets + (np.array(draws) * degree).astype(np.int64)]
        self._pairs = zip(nodes.tolist(), chosen.tolist(), strict=True)
        return chosen

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        self.bytes += one.nbytes + other.nbytes
        if self.listener:
            for node, sent in zip(next(self._pairs), (one, other), strict=True):
                self.listener(node, sent.numpy())
        return (one + other) / 2
