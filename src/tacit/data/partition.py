"""How the rows of one source are dealt out to nodes.

Every partition has one method, ``assign``: from rows, a number of nodes and a seed to the row
indices of each node, by the node's name, in ascending order.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.data.names import unknown
from tacit.data.rows import Rows
from tacit.errors import InputError
from tacit.randomness import generator

Indices = NDArray[np.int64]


class Partition(Protocol):
    """Deals rows out to nodes."""

    def assign(self, rows: Rows, nodes: int | None, seed: int) -> dict[str, Indices]:
        """The ascending row indices of each node, by name.

        Raises:
            InputError: more nodes than rows, or rows that this partition cannot deal out.
        """


@dataclass(frozen=True)
class IID:
    """Uniformly at random, in equal numbers (they differ by one row at most)."""

    def assign(self, rows: Rows, nodes: int | None, seed: int) -> dict[str, Indices]:
        nodes = _count(rows, nodes)
        owner = np.empty(len(rows.y), np.int64)
        order = generator(seed, "partition").permutation(len(owner))
        owner[order] = np.arange(len(owner)) % nodes
        return _numbered(owner, nodes)


@dataclass(frozen=True)
class Dirichlet:
    """Skewed labels: the rows of each label are shared out by a draw from Dir(alpha, ..., alpha).

    The whole draw is repeated until every node has ``min_rows`` rows.

    Source: Yurochkin et al., "Bayesian nonparametric federated learning of neural networks", ICML
    2019, section 4; Li et al., "Federated learning on non-IID data silos", ICDE 2022, section IV-A.

    Attributes:
        alpha: concentration, above 0; 0.1 is strongly skewed, 100 nearly IID.
        min_rows: fewest rows a node may have; 0 accepts nodes without rows.
    """

    alpha: float
    min_rows: int = 1

    def __post_init__(self) -> None:
        _require_positive("Dirichlet.alpha", self.alpha)
        if self.min_rows < 0:
            raise InputError(f"Dirichlet.min_rows: {self.min_rows} was given; 0 or more is allowed")

    def assign(self, rows: Rows, nodes: int | None, seed: int) -> dict[str, Indices]:
        nodes = _count(rows, nodes)
        labels = _labels(rows, "Dirichlet")
        attempts = 100
        for attempt in range(attempts):
            random = generator(seed, "partition", attempt)
            owner = np.empty(len(labels), np.int64)
            for label in range(rows.classes):
                own = random.permutation(np.flatnonzero(labels == label))
                shares = random.dirichlet(np.full(nodes, self.alpha))
                cuts = np.round(np.cumsum(shares[:-1]) * len(own))
                owner[own] = np.searchsorted(cuts, np.arange(len(own)), side="right")
            if np.bincount(owner, minlength=nodes).min() >= self.min_rows:
                return _numbered(owner, nodes)
        raise InputError(
            f"Dirichlet: none of {attempts} draws with alpha {self.alpha:g} gave each of {nodes}"
            f" nodes {self.min_rows} rows; raise alpha, or lower min_rows (0 accepts empty nodes)"
        )


@dataclass(frozen=True)
class Shards:
    """Few labels per node: rows sorted by label are cut into equal shards, ``per_node`` for each.

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized
    data", AISTATS 2017, section 3.

    Attributes:
        per_node: shards that each node gets, 1 or more.
    """

    per_node: int = 2

    def __post_init__(self) -> None:
        if self.per_node < 1:
            raise InputError(f"Shards.per_node: {self.per_node} was given; 1 or more is allowed")

    def assign(self, rows: Rows, nodes: int | None, seed: int) -> dict[str, Indices]:
        nodes = _count(rows, nodes)
        labels = _labels(rows, "Shards")
        shards = nodes * self.per_node
        if shards > len(labels):
            raise InputError(
                f"Shards: {nodes} nodes with {self.per_node} shards each need {shards} rows;"
                f" there are {len(labels)}"
            )
        random = generator(seed, "partition")
        order = random.permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        receiver = random.permutation(shards) // self.per_node
        shard = np.arange(len(labels)) * shards // len(labels)
        owner = np.empty(len(labels), np.int64)
        owner[order] = receiver[shard]
        return _numbered(owner, nodes)


@dataclass(frozen=True)
class QuantitySkew:
    """Unequal sizes: log-normal shares of randomly drawn rows; every node has one row or more.

    Attributes:
        sigma: standard deviation of the logarithm of a node's share, above 0.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("QuantitySkew.sigma", self.sigma)

    def assign(self, rows: Rows, nodes: int | None, seed: int) -> dict[str, Indices]:
        nodes = _count(rows, nodes)
        random = generator(seed, "partition")
        shares = random.lognormal(0.0, self.sigma, nodes)
        spare = len(rows.y) - nodes
        cuts = np.round(np.cumsum(shares) / shares.sum() * spare).astype(np.int64)
        sizes = 1 + np.diff(cuts, prepend=0)
        owner = np.empty(len(rows.y), np.int64)
        owner[random.permutation(len(owner))] = np.repeat(np.arange(nodes), sizes)
        return _numbered(owner, nodes)


@dataclass(frozen=True)
class ByKey:
    """The natural nodes: one for each value of a key, in sorted order.

    With ``nodes`` given, the largest ones are kept.

    Attributes:
        column: the key's name, for instance "hospital".
        min_rows: values with fewer rows are left out; 1 or more.
    """

    column: str
    min_rows: int = 1

    def __post_init__(self) -> None:
        if self.min_rows < 1:
            raise InputError(f"ByKey.min_rows: {self.min_rows} was given; 1 or more is allowed")

    def assign(self, rows: Rows, nodes: int | None, seed: int) -> dict[str, Indices]:
        if self.column not in rows.keys:
            raise unknown("natural key", self.column, rows.keys)
        values, owner = np.unique(rows.keys[self.column], return_inverse=True)
        sizes = np.bincount(owner)
        kept = np.flatnonzero(sizes >= self.min_rows)
        if nodes is not None:
            if not 1 <= nodes <= len(kept):
                raise InputError(
                    f"nodes: {nodes} was given; {self.column} has {len(kept)} values with"
                    f" {self.min_rows} or more rows, so 1 to {len(kept)} is allowed"
                )
            kept = np.sort(kept[np.argsort(-sizes[kept], kind="stable")[:nodes]])
        groups = _groups(owner, len(values))
        text = values.dtype.kind in "UO"
        return {
            str(values[i]) if text else f"{self.column}={values[i]}": groups[i]
            for i in kept.tolist()
        }


def _count(rows: Rows, nodes: int | None) -> int:
    if nodes is None:
        raise InputError("nodes: none was given; say how many nodes the rows are dealt out to")
    if not 1 <= nodes <= len(rows.y):
        raise InputError(
            f"nodes: {nodes} was given; there are {len(rows.y)} rows, so 1 to {len(rows.y)} is"
            " allowed"
        )
    return nodes


def _labels(rows: Rows, partition: str) -> NDArray[np.int64]:
    if rows.task != "classification":
        raise InputError(
            f"{partition}: it deals rows out by their label, and a {rows.task} task has none;"
            " use IID, QuantitySkew or ByKey"
        )
    return rows.y.numpy()


def _require_positive(field: str, value: float) -> None:
    if not (value > 0 and isfinite(value)):
        raise InputError(f"{field}: {value} was given; a finite number above 0 is allowed")


def _groups(owner: Indices, nodes: int) -> list[Indices]:
    sizes = np.bincount(owner, minlength=nodes)
    return np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])


def _numbered(owner: Indices, nodes: int) -> dict[str, Indices]:
    return {str(node): rows for node, rows in enumerate(_groups(owner, nodes))}
