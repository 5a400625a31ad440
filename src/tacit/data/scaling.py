"""Standardisation without pooling a row: nodes tell counts and sums, never values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tacit.data.federation import Federation, Split
from tacit.errors import InputError

Scaling = Literal["federated", "node", "none"]

# Below this ratio of variance to mean square, a column is constant up to float64 rounding.
_CONSTANT = 1e-13


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a node tells about its training rows, column by column.

    Attributes:
        count: number of rows.
        sum: (...) float64 sum of each input column.
        square_sum: (...) float64 sum of each column's squares.
    """

    count: int
    sum: Tensor
    square_sum: Tensor

    def mean_and_scale(self) -> tuple[Tensor, Tensor]:
        """(...) float64 mean and standard deviation (over N); a constant column has scale 1."""
        count = max(self.count, 1)
        mean = self.sum / count
        mean_square = self.square_sum / count
        variance = mean_square - mean**2
        constant = variance <= _CONSTANT * mean_square
        return mean, torch.where(constant, 1.0, variance).sqrt()


def node_statistics(x: Tensor) -> Statistics:
    """The statistics of one node's training inputs, x (N, ...)."""
    wide = x.double()
    return Statistics(len(x), wide.sum(0), wide.square().sum(0))


def combine(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of all rows together, from each node's."""
    return Statistics(
        count=sum(part.count for part in parts),
        sum=torch.stack([part.sum for part in parts]).sum(0),
        square_sum=torch.stack([part.square_sum for part in parts]).sum(0),
    )


def standardise(federation: Federation, scaling: Scaling) -> Federation:
    """The federation with inputs shifted and scaled to mean 0 and standard deviation 1.

    Statistics come from training rows alone; targets stay as they are.

    Args:
        federation: float inputs; every node has its own test rows where ``scaling`` is "node".
        scaling: "federated" (one mean and scale, from the nodes' combined statistics), "node" (each
            node by its own) or "none".

    Raises:
        InputError: token inputs, a shared test set with "node", or another word.
    """
    if scaling == "none":
        return federation
    if scaling not in ("federated", "node"):
        raise InputError(
            f"scaling: {scaling!r} was given; 'federated', 'node' or 'none' is allowed"
        )
    if not federation.train.x.is_floating_point():
        raise InputError(f"scaling: {scaling!r} was given; token inputs allow 'none' alone")
    statistics = [node_statistics(x) for x, _ in federation.train.parts()]
    if scaling == "federated":
        mean, scale = combine(statistics).mean_and_scale()
        return federation.map(lambda x: _scaled(x, mean, scale))
    if federation.shared_test:
        raise InputError(
            "scaling: 'node' was given, but the test set is shared and no node's scale fits it;"
            " give test_fraction for test rows at each node, or use 'federated'"
        )
    return replace(
        federation,
        train=_node_scaled(federation.train, statistics),
        test=_node_scaled(federation.test, statistics),
    )


def _node_scaled(split: Split, statistics: list[Statistics]) -> Split:
    parts = zip(split.parts(), statistics, strict=True)
    return Split.pack([(_scaled(x, *own.mean_and_scale()), y) for (x, y), own in parts])


def _scaled(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return ((x - mean) / scale).float()
