"""Who receives what in a round, aggregated; and how many bytes that takes."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.aggregation.rule import Aggregation
from tacit.algorithms.base import Updates
from tacit.topology import Hierarchical, Neighbours, Star
from tacit.training.plan import Ints

FLOAT_BYTES = 4
_CACHE_FLOATS = 2**18


class StarExchange:
    """``ServerExchange``: the cohort sends to the server (or to its group's), which sends back.

    Attributes:
        bytes: sent by all parties so far.
    """

    def __init__(
        self,
        topology: Star | Hierarchical,
        aggregation: Aggregation,
        nodes: Ints,
        round: int,
        n: int,
    ) -> None:
        self.aggregation, self.round, self.nodes = aggregation, round, nodes
        self.groups = topology.group_of(n)[nodes] if isinstance(topology, Hierarchical) else None
        self.bytes = 0

    def __call__(self, own: Tensor, received: Updates | Tensor, weight: Tensor) -> Tensor:
        links = len(self.nodes)
        if self.groups is not None:
            links += len(np.unique(self.groups))
        self.bytes += 2 * links * FLOAT_BYTES * own.shape[-1]
        if not len(self.nodes):
            return own
        if self.aggregation.streams and not isinstance(received, Tensor):
            # A streaming rule is (1 - sum(w)) own + sum(w_i received_i); groups do not change it.
            return own * (1 - weight.sum()) + received.sum(weight)
        matrix = received if isinstance(received, Tensor) else received.matrix()
        if self.groups is None or self.aggregation.streams:
            return self.aggregation(own, matrix, weight, self.round)
        return self._by_group(self.groups, own, matrix, weight)

    def _by_group(self, groups: Ints, own: Tensor, matrix: Tensor, weight: Tensor) -> Tensor:
        heads, shares = [], []
        for group in np.unique(groups):
            member = torch.from_numpy(np.flatnonzero(groups == group))
            share = weight[member].sum()
            if share == 0:  # a group without rows
                continue
            heads.append(self.aggregation(own, matrix[member], weight[member] / share, self.round))
            shares.append(share)
        return self.aggregation(own, torch.stack(heads), torch.stack(shares), self.round)


class GraphExchange:
    """``PeerExchange``: every node sends to its neighbours and aggregates what it receives.

    Weights are Metropolis-Hastings where links go both ways, else uniform over the received.
    """

    def __init__(self, neighbours: Neighbours, aggregation: Aggregation, round: int) -> None:
        self.neighbours, self.aggregation, self.round = neighbours, aggregation, round
        self.bytes = 0
        self.pushed = False

    def __call__(self, models: Tensor, *, push: bool = False) -> Tensor:
        links = self.neighbours
        self.bytes += links.edges * FLOAT_BYTES * models.shape[-1]
        self.pushed = push
        if push:
            return mix(models, links, links.push(), links.push_own())
        weight = self.weight()
        if self.aggregation.streams:
            return mix(models, links, weight, links.own(weight))
        result = torch.empty_like(models)
        for receivers, senders, weights in _by_degree(links, weight):
            result[receivers] = self.aggregation(
                models[receivers], models[senders], weights, self.round
            )
        return result

    def spectral_gap(self) -> float:
        """1 - |lambda_2| of the mixing matrix that was used last."""
        links = self.neighbours
        if self.pushed:
            return links.spectral_gap(links.push(), links.push_own())
        return links.spectral_gap(self.weight())

    def weight(self) -> np.ndarray:
        """(e,) mixing weight of each link."""
        return (
            self.neighbours.metropolis() if self.neighbours.symmetric else self.neighbours.uniform()
        )


def mix(models: Tensor, links: Neighbours, weight: np.ndarray, own: np.ndarray) -> Tensor:
    """W X for (n, d) models, in place and in O(e d): each node's own row and its neighbours'.

    Some columns at a time, so that they stay in the cache and no second matrix is needed.
    """
    n = links.nodes
    offsets = torch.from_numpy((links.offsets + np.arange(n + 1))[:-1])
    rows = torch.from_numpy(np.insert(links.senders, links.offsets[:-1], np.arange(n)))
    weights = np.insert(weight, links.offsets[:-1], own).astype(np.float32)
    for columns in models.split(max(64, _CACHE_FLOATS // n), dim=1):
        columns.copy_(
            F.embedding_bag(
                rows,
                columns.contiguous(),
                offsets,
                mode="sum",
                per_sample_weights=torch.from_numpy(weights),
            )
        )
    return models


def _by_degree(links: Neighbours, weight: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Receivers (m,), their senders (m, k) and weights (m, k), for each degree k."""
    degree = np.diff(links.offsets)
    for k in np.unique(degree):
        receivers = np.flatnonzero(degree == k)
        at = links.offsets[receivers][:, None] + np.arange(k)
        yield (
            torch.from_numpy(receivers),
            torch.from_numpy(links.senders[at]),
            torch.from_numpy(weight[at].astype(np.float32)),
        )
