"""Topologies without a server that are drawn: once for all rounds, or afresh in each of them."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tacit.errors import InputError
from tacit.randomness import generator, key
from tacit.topology.fixed import Complete
from tacit.topology.graph import Graph, Links, both, parts
from tacit.topology.neighbours import Neighbours

_DRAWS = 100


class Drawn(Graph):
    """A random graph of the seed alone, undirected, drawn again until it is connected."""

    @abstractmethod
    def draw(self, nodes: int, seed: int) -> Links:
        """One graph, connected or not, as the two ends of each undirected link."""

    @abstractmethod
    def remedy(self, nodes: int) -> str:
        """The nearest plan that is likely to be connected, in words."""

    def links(self, nodes: int, seed: int, round: int) -> Links:
        for draw in range(_DRAWS):
            links = both(*self.draw(nodes, key(seed, "topology", draw)))
            if Neighbours.of(nodes, *links).connected:
                return links
        raise InputError(
            f"topology: {self} leaves {parts(nodes, *links)}, and so in {_DRAWS} draws;"
            f" {self.remedy(nodes)}"
        )


@dataclass(frozen=True)
class RandomRegular(Drawn):
    """A random graph in which every node has the same degree.

    Attributes:
        degree: links of each node, from 1 to n - 1; nodes x degree is even.

    Raises:
        InputError: a degree below 1.

    References:
        Steger, Wormald, "Generating random regular graphs quickly", Combinatorics, Probability and
        Computing 1999.
    """

    degree: int

    def __post_init__(self) -> None:
        _at_least("degree", self.degree, 1)

    def fit(self, nodes: int) -> None:
        _below_nodes("degree", self.degree, nodes)
        if nodes * self.degree % 2:
            raise InputError(
                f"topology.degree: {self.degree} was given for {nodes} nodes, but nodes x degree"
                f" must be even; use {self.degree + 1}"
            )

    def draw(self, nodes: int, seed: int) -> Links:
        import networkx as nx

        if 2 * self.degree < nodes:
            return _ends(nx.random_regular_graph(self.degree, nodes, seed))
        # The pairing rarely succeeds on dense graphs, whose complements are just as regular.
        return _ends(nx.complement(nx.random_regular_graph(nodes - 1 - self.degree, nodes, seed)))

    def remedy(self, nodes: int) -> str:
        return f"use RandomRegular(degree={self.degree + 1 + nodes * (self.degree + 1) % 2})"


@dataclass(frozen=True)
class ErdosRenyi(Drawn):
    """A random graph in which each pair is linked by itself with the same probability.

    Attributes:
        probability: of each link, above 0 and up to 1. Connected graphs come up from about
            ln(n) / n on.

    Raises:
        InputError: a probability out of range.
    """

    probability: float

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise InputError(
                f"topology.probability: {self.probability!r} was given;"
                " allowed is above 0 and up to 1"
            )

    def draw(self, nodes: int, seed: int) -> Links:
        random = generator(seed, "pairs")
        pairs = nodes * (nodes - 1) // 2
        drawn = random.choice(pairs, random.binomial(pairs, self.probability), replace=False)
        # Pair k of (1, 0), (2, 0), (2, 1), (3, 0), ...
        larger = ((np.sqrt(8 * drawn + 1) + 1) / 2).astype(np.int64)
        return larger, drawn - larger * (larger - 1) // 2

    def remedy(self, nodes: int) -> str:
        # At (ln n + c) / n a draw is connected with probability exp(-exp(-c)) for large n: Erdos,
        # Renyi, "On random graphs I", 1959, theorem 1.
        probability = min(1.0, math.ceil(1000 * (math.log(nodes) + 1) / nodes) / 1000)
        return f"use ErdosRenyi(probability={probability}) or RandomRegular"


@dataclass(frozen=True)
class SmallWorld(Drawn):
    """A ring of near neighbours, some of whose links are rewired to random nodes (Watts-Strogatz).

    Attributes:
        degree: links of each node before the rewiring, half of them to each side: even, from 2 to
            n - 1.
        rewire: probability of each link to be rewired, from 0 to 1.

    Raises:
        InputError: a field out of range.

    References:
        Watts, Strogatz, "Collective dynamics of small-world networks", Nature 1998.
    """

    degree: int
    rewire: float

    def __post_init__(self) -> None:
        _at_least("degree", self.degree, 2)
        if self.degree % 2:
            raise InputError(f"topology.degree: {self.degree} was given; allowed are even numbers")
        if not 0 <= self.rewire <= 1:
            raise InputError(f"topology.rewire: {self.rewire!r} was given; allowed is 0 to 1")

    def fit(self, nodes: int) -> None:
        _below_nodes("degree", self.degree, nodes)

    def draw(self, nodes: int, seed: int) -> Links:
        import networkx as nx

        return _ends(nx.watts_strogatz_graph(nodes, self.degree, self.rewire, seed))

    def remedy(self, nodes: int) -> str:
        return f"use SmallWorld(degree={self.degree + 2}, rewire={self.rewire})"


@dataclass(frozen=True)
class Epidemic(Graph):
    """In every round each node sends to ``fanout`` others that it draws by itself (directed).

    Attributes:
        fanout: receivers of each node, from 1 to n - 1; about log2(n) is usual.

    Raises:
        InputError: a fanout below 1.

    References:
        De Vos, Farhadkhani, Guerraoui, Kermarrec, Pires, Sharma, "Epidemic learning: boosting
        decentralized learning with randomized communication", NeurIPS 2023, algorithm 1, EL-Local.
    """

    static: ClassVar[bool] = False

    fanout: int

    def __post_init__(self) -> None:
        _at_least("fanout", self.fanout, 1)

    def fit(self, nodes: int) -> None:
        _below_nodes("fanout", self.fanout, nodes)

    def links(self, nodes: int, seed: int, round: int) -> Links:
        draw = generator(seed, "topology", round)
        # Floyd's sampling without replacement, for all nodes at once: Bentley, Floyd, "A sample of
        # brilliance", CACM 1987. Position p stands for node p, counted without the sender itself.
        chosen = np.empty((nodes, self.fanout), dtype=np.int64)
        for k, last in enumerate(range(nodes - 1 - self.fanout, nodes - 1)):
            candidate = draw.integers(last + 1, size=nodes)
            taken = (chosen[:, :k] == candidate[:, None]).any(axis=1)
            chosen[:, k] = np.where(taken, last, candidate)
        sender = np.arange(nodes)
        receivers = chosen + (chosen >= sender[:, None])
        return np.repeat(sender, self.fanout), receivers.ravel()

    def union(self, nodes: int, seed: int) -> Links:
        return Complete().links(nodes, seed, 0)


@dataclass(frozen=True)
class Pairwise(Graph):
    """In every round the nodes are paired at random and each pair exchanges; an odd one rests.

    A synchronous form of Boyd, Ghosh, Prabhakar, Shah, "Randomized gossip algorithms", IEEE
    Transactions on Information Theory 2006.
    """

    static: ClassVar[bool] = False

    def links(self, nodes: int, seed: int, round: int) -> Links:
        order = generator(seed, "topology", round).permutation(nodes)
        half = nodes // 2
        return both(order[:half], order[half : 2 * half])

    def union(self, nodes: int, seed: int) -> Links:
        return Complete().links(nodes, seed, 0)


def _ends(graph: Any) -> Links:
    edges = np.array(list(graph.edges), dtype=np.int64).reshape(-1, 2)
    return edges[:, 0], edges[:, 1]


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"topology.{name}: {value} was given; allowed is {least} or more")


def _below_nodes(name: str, value: int, nodes: int) -> None:
    if value >= nodes:
        raise InputError(
            f"topology.{name}: {value} was given for {nodes} nodes;"
            f" allowed is at most {nodes - 1}, the number of other nodes"
        )
