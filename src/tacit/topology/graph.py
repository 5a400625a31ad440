"""What all topologies without a server share, and those that take turns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tacit.errors import InputError
from tacit.randomness import key
from tacit.topology.neighbours import Ints, Neighbours

# (senders, receivers), in any order; repetitions and self loops do not count.
Links = tuple[Ints, Ints]


class Graph(ABC):
    """Who sends to whom, round by round; a pure function of (nodes, seed, round).

    A new topology gives ``links`` and, where it does not suit every number of nodes, ``fit``.

    Attributes:
        static: whether every round has the same graph, so that drawing it once is enough.
    """

    static: ClassVar[bool] = True

    @abstractmethod
    def links(self, nodes: int, seed: int, round: int) -> Links:
        """The links of a round, for a number of nodes that ``fit`` let pass."""

    def fit(self, nodes: int) -> None:  # noqa: B027
        """Refuse a number of nodes that this topology cannot link (InputError)."""

    def union(self, nodes: int, seed: int) -> Links:
        """Every link that occurs in some round; for random rounds, with positive probability."""
        return self.links(nodes, seed, 0)

    def check(self, nodes: int, seed: int = 0) -> None:
        """Refuse a plan under which some node never learns from some other one.

        Args:
            nodes: number of nodes, at least 1.
            seed: the experiment's; it decides about the graphs that are drawn once.

        Raises:
            InputError: with the reason, and the nearest plan that works.
        """
        self.fit(nodes)
        if not Neighbours.of(nodes, *self.union(nodes, seed)).connected:
            raise InputError(
                f"topology: {self} leaves {parts(nodes, *self.union(nodes, seed))}"
                " that do not all hear of each other; add links between them, or use Ring()"
            )

    def graph(self, nodes: int, seed: int, round: int) -> Neighbours:
        """The graph of a round.

        Raises:
            InputError: what ``fit`` refuses, or no connected graph came up in 100 draws.
        """
        self.fit(nodes)
        return Neighbours.of(nodes, *self.links(nodes, seed, round))


def parts(nodes: int, senders: Ints, receivers: Ints) -> str:
    """How many parts the links leave, in words: "8 nodes in 3 parts"."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(zip(senders.tolist(), receivers.tolist(), strict=True))
    return f"{nodes} nodes in {nx.number_strongly_connected_components(graph)} parts"


def both(one: Ints, other: Ints) -> Links:
    """Links in both directions between ``one[k]`` and ``other[k]``, for every k."""
    return np.concatenate([one, other]), np.concatenate([other, one])


@dataclass(frozen=True)
class TimeVarying(Graph):
    """Topologies that take turns: round t has number t mod k, which counts its own rounds.

    Single ones may leave the nodes in parts, as long as all of them together connect the nodes.

    Attributes:
        topologies: at least one. Random ones draw from seeds of their own, so that
            ``(RandomRegular(3), RandomRegular(3))`` are two different graphs.

    Raises:
        InputError: no topology, or something else.
    """

    static: ClassVar[bool] = False

    topologies: tuple[Graph, ...]

    def __post_init__(self) -> None:
        if not self.topologies or not all(isinstance(t, Graph) for t in self.topologies):
            raise InputError(
                f"topology.topologies: {self.topologies!r} was given;"
                " allowed are one or more topologies without a server"
            )

    def fit(self, nodes: int) -> None:
        for topology in self.topologies:
            topology.fit(nodes)

    def links(self, nodes: int, seed: int, round: int) -> Links:
        turn, member = divmod(round, len(self.topologies))
        return self.topologies[member].links(nodes, _member_seed(seed, member), turn)

    def union(self, nodes: int, seed: int) -> Links:
        unions = [t.union(nodes, _member_seed(seed, i)) for i, t in enumerate(self.topologies)]
        senders, receivers = zip(*unions, strict=True)
        return np.concatenate(senders), np.concatenate(receivers)


def _member_seed(seed: int, member: int) -> int:
    return key(seed, "topology-member", member)
