"""Who is malicious: a share of the nodes, some by name, or by their place in the graph."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np

from tacit.errors import InputError, require, require_number, require_whole
from tacit.randomness import generator
from tacit.topology.neighbours import Ints, Neighbours

_SHARE = "a share above 0 and below 1"
_SHOWN = 20


class Placement(ABC):
    """Chooses the malicious nodes; a subclass is a frozen dataclass of its settings."""

    @abstractmethod
    def choose(self, names: Sequence[str], graph: Neighbours | None, seed: int) -> Ints:
        """(b,) ids of the malicious nodes, in any order; ``chosen`` sorts and checks them.

        Args:
            names: of all nodes.
            graph: who sends to whom; None under a server.
            seed: the experiment's.
        """

    def rows_from(self, names: Sequence[str]) -> int | None:
        """The node whose training rows all chosen nodes hold copies of; None: each its own."""
        return None


@dataclass(frozen=True)
class Hubs(Placement):
    """The nodes that most others hear; the seed draws among equals.

    Attributes:
        share: of the nodes, above 0 and below 1.

    Raises:
        InputError: a share out of its range.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        require_number("attack.nodes.share", self.share, above=0, below=1)

    def choose(self, names: Sequence[str], graph: Neighbours | None, seed: int) -> Ints:
        order = _drawn(len(names), seed)
        heard = _needed(graph, self).out_degree[order]
        return order[np.argsort(-heard, kind="stable")[: _count(self.share, len(names))]]


@dataclass(frozen=True)
class Around(Placement):
    """Eclipse: malicious neighbours surround an honest victim, which hears little or nothing else.

    Source: Heilman, Kendler, Zohar, Goldberg, "Eclipse attacks on Bitcoin's peer-to-peer network",
    USENIX Security 2015.

    Attributes:
        victim: the name of the surrounded node.
        count: how many of the nodes that it hears are malicious, drawn by the seed; None: all.

    Raises:
        InputError: a count below 1.
    """

    victim: str
    count: int | None = None

    def __post_init__(self) -> None:
        require_whole(1, "attack.nodes.count", self.count, none=True)

    def choose(self, names: Sequence[str], graph: Neighbours | None, seed: int) -> Ints:
        graph, victim = _needed(graph, self), _id(self.victim, names)
        heard = graph.senders[graph.offsets[victim] : graph.offsets[victim + 1]]
        if not 1 <= (self.count or 1) <= len(heard):
            raise InputError(
                f"attack.nodes: {self} was given, but node {self.victim!r} hears"
                f" {len(heard)} nodes; give a count up to that, or another victim"
            )
        order = _drawn(len(names), seed)
        return order[np.isin(order, heard)][: self.count]


@dataclass(frozen=True)
class Sybils(Placement):
    """One party that takes part as many nodes, all of which hold copies of its training rows.

    The party's further identities take the places of nodes that the seed draws, with their links;
    the rows that those nodes held are lost to the federation.

    Source: Douceur, "The Sybil attack", IPTPS 2002.

    Attributes:
        party: the name of the node whose rows are copied; one of the identities.
        identities: how many nodes the party appears as, itself included; 2 or more.

    Raises:
        InputError: fewer than 2 identities.
    """

    party: str
    identities: int

    def __post_init__(self) -> None:
        require_whole(2, "attack.nodes.identities", self.identities)

    def choose(self, names: Sequence[str], graph: Neighbours | None, seed: int) -> Ints:
        allowed = f"2 to {len(names) - 1}, as at least one of {len(names)} nodes must be honest"
        few = self.identities < len(names)
        require(few, "attack.nodes.identities", self.identities, allowed)
        party, order = _id(self.party, names), _drawn(len(names), seed)
        return np.append(party, order[order != party][: self.identities - 1])

    def rows_from(self, names: Sequence[str]) -> int:
        return _id(self.party, names)


Who = float | tuple[str, ...] | Placement


def chosen(who: Who, names: Sequence[str], graph: Neighbours | None, seed: int) -> Ints:
    """The malicious nodes.

    A share s of n nodes is floor(s n + 0.5) of them, but at least one and never all. It depends on
    the seed alone, so that equal shares choose the same nodes and a larger one only adds to them.

    Args:
        who: a share, names, or a ``Placement``.
        names: of all nodes.
        graph: who sends to whom, in the first round where it changes; None under a server.
        seed: the experiment's.

    Returns:
        (b,) ids, ascending.

    Raises:
        InputError: a share out of its range, an unknown name, a graph placement under a server, or
            no honest node is left.
    """
    if isinstance(who, Placement):
        nodes = who.choose(names, graph, seed)
    elif isinstance(who, tuple | list) and who:
        nodes = np.array([_id(name, names) for name in who])
    elif isinstance(who, float) and 0 < who < 1:
        nodes = _drawn(len(names), seed)[: _count(who, len(names))]
    else:
        raise InputError(
            f"attack.nodes: {who!r} was given; allowed is {_SHARE}, a tuple of names,"
            " or a placement"
        )
    nodes = np.unique(nodes)
    if not 0 < len(nodes) < len(names):
        raise InputError(
            f"attack.nodes: {who!r} makes {len(nodes)} of {len(names)} nodes malicious;"
            " allowed is one or more, with at least one honest node left"
        )
    return nodes


def _drawn(nodes: int, seed: int) -> Ints:
    """All nodes in the order in which they turn malicious."""
    return generator(seed, "malicious").permutation(nodes)


def _count(share: float, nodes: int) -> int:
    return min(max(floor(share * nodes + 0.5), 1), nodes - 1)


def _id(name: str, names: Sequence[str]) -> int:
    if name in names:
        return list(names).index(name)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise InputError(
        f"attack.nodes: there is no node {name!r}; there are {', '.join(names[:_SHOWN])}{more}"
    )


def _needed(graph: Neighbours | None, placement: Placement) -> Neighbours:
    if graph is None:
        raise InputError(
            f"attack.nodes: {placement} was given, but under a server no node has neighbours;"
            " use a share or names, or a topology without a server"
        )
    return graph
