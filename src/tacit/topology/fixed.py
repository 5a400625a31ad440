"""Topologies without a server that are the same for every seed."""

from dataclasses import InitVar, dataclass, field
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from tacit.errors import InputError
from tacit.topology.graph import Graph, Links, both
from tacit.topology.neighbours import Ints


def _hops(nodes: int) -> Ints:
    """The powers of two below the number of nodes."""
    return 2 ** np.arange((nodes - 1).bit_length())


@dataclass(frozen=True)
class Ring(Graph):
    """Node i linked to i - 1 and i + 1 modulo n."""

    def links(self, nodes: int, seed: int, round: int) -> Links:
        node = np.arange(nodes)
        return both(node, (node + 1) % nodes)


@dataclass(frozen=True)
class Torus(Graph):
    """A grid whose opposite edges meet, as close to a square as the number of nodes allows."""

    def fit(self, nodes: int) -> None:
        if nodes > 1 and _rows(nodes) == 1:
            near = [n for n in range(max(nodes - 1, 4), nodes + 3) if _rows(n) > 1][:2]
            raise InputError(
                f"topology: Torus() cannot link {nodes} nodes, which is a prime number;"
                f" use {' or '.join(map(str, near))} nodes, or Ring()"
            )

    def links(self, nodes: int, seed: int, round: int) -> Links:
        grid = np.arange(nodes).reshape(_rows(nodes), -1)
        near = np.stack([np.roll(grid, -1, axis=0), np.roll(grid, -1, axis=1)])
        return both(np.broadcast_to(grid, near.shape).ravel(), near.ravel())


def _rows(nodes: int) -> int:
    """The largest divisor up to the square root."""
    return next(rows for rows in range(int(nodes**0.5), 0, -1) if nodes % rows == 0)


@dataclass(frozen=True)
class Hypercube(Graph):
    """Nodes linked whose numbers differ in one bit; the number of nodes is a power of two."""

    def fit(self, nodes: int) -> None:
        if nodes & (nodes - 1):
            below = 2 ** (nodes.bit_length() - 1)
            raise InputError(
                f"topology: Hypercube() cannot link {nodes} nodes, which is not a power of two;"
                f" use {below} or {2 * below} nodes, or Exponential()"
            )

    def links(self, nodes: int, seed: int, round: int) -> Links:
        node, bit = np.meshgrid(np.arange(nodes), _hops(nodes))
        return node.ravel(), (node ^ bit).ravel()


@dataclass(frozen=True)
class Exponential(Graph):
    """Node i linked to i - 2^k and i + 2^k modulo n, for every 2^k below n.

    The undirected form of the static exponential graph of Ying, Yuan, Chen, Hu, Pan, Yin,
    "Exponential graph is provably efficient for decentralized deep training", NeurIPS 2021.
    """

    def links(self, nodes: int, seed: int, round: int) -> Links:
        node, hop = np.meshgrid(np.arange(nodes), _hops(nodes))
        return both(node.ravel(), ((node + hop) % nodes).ravel())


@dataclass(frozen=True)
class Complete(Graph):
    """Every node linked to every other one."""

    def links(self, nodes: int, seed: int, round: int) -> Links:
        senders, receivers = np.divmod(np.arange(nodes * nodes), nodes)
        return senders, receivers


@dataclass(frozen=True)
class DirectedRing(Graph):
    """Node i sends to i + 1 modulo n; for push-sum."""

    def links(self, nodes: int, seed: int, round: int) -> Links:
        node = np.arange(nodes)
        return node, (node + 1) % nodes


@dataclass(frozen=True)
class DirectedExponential(Graph):
    """In round t node i sends to i + 2^(t mod L) modulo n, L = ceil(log2 n); for push-sum.

    Source: Assran, Loizou, Ballas, Rabbat, "Stochastic gradient push", ICML 2019, appendix A.
    """

    static: ClassVar[bool] = False

    def links(self, nodes: int, seed: int, round: int) -> Links:
        node, hops = np.arange(nodes), _hops(max(nodes, 2))
        return node, (node + hops[round % len(hops)]) % nodes

    def union(self, nodes: int, seed: int) -> Links:
        node, hop = np.meshgrid(np.arange(nodes), _hops(nodes))
        return node.ravel(), ((node + hop) % nodes).ravel()


@dataclass(frozen=True)
class Custom(Graph):
    """A graph of one's own; its weights and self loops do not count.

    Args:
        network: a ``networkx`` graph whose nodes are 0 to n - 1. Each edge carries messages in both
            directions; in a DiGraph, from its first node to its second.

    Attributes:
        senders: for each node the ones that it hears, ascending. Unlike the graph that it was read
            from, it cannot change and compares by value.

    Raises:
        InputError: another type, or other labels.
    """

    network: InitVar[Any]
    senders: tuple[tuple[int, ...], ...] = field(init=False)

    def __post_init__(self, network: Any) -> None:
        if not all(hasattr(network, name) for name in ("nodes", "edges", "is_directed")):
            raise InputError(
                f"topology.network: an object of type {type(network).__name__} was given;"
                " allowed is a networkx graph"
            )
        labels = set(network.nodes)
        missing = [label for label in range(len(labels)) if label not in labels]
        if missing:
            raise InputError(
                f"topology.network: its {len(labels)} nodes must have the labels 0 to"
                f" {len(labels) - 1}, but {missing[0]} is not among them;"
                " networkx.convert_node_labels_to_integers renumbers them"
            )
        heard: list[set[int]] = [set() for _ in labels]
        for one, other in network.edges():
            heard[other].add(int(one))
            if not network.is_directed():
                heard[one].add(int(other))
        senders = tuple(tuple(sorted(others - {node})) for node, others in enumerate(heard))
        object.__setattr__(self, "senders", senders)

    def __repr__(self) -> str:
        return f"Custom({len(self.senders)} nodes, {sum(map(len, self.senders))} links)"

    def fit(self, nodes: int) -> None:
        if len(self.senders) != nodes:
            raise InputError(
                f"topology.network: a graph of {len(self.senders)} nodes was given;"
                f" allowed is one of {nodes}, the number of nodes with data"
            )

    def links(self, nodes: int, seed: int, round: int) -> Links:
        senders = np.fromiter(chain.from_iterable(self.senders), dtype=np.int64)
        return senders, np.repeat(np.arange(nodes), [len(heard) for heard in self.senders])
