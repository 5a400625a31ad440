"""Topologies with a server: which nodes it hears in a round."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.randomness import generator

Sampling = Literal["without-replacement", "with-replacement", "poisson", "cyclic"]


@dataclass(frozen=True)
class Star:
    """Every node talks to a server and to nobody else.

    Attributes:
        cohort: nodes per round, at least 1; their expected number under Poisson
            sampling. None: all.
        sampling: how a cohort is drawn, uniformly over the nodes and, but for "cyclic", afresh in
            every round.
            "without-replacement": distinct nodes.
            "with-replacement": independent draws, so that a node may appear more than once.
            "poisson": each node takes part by itself, with probability cohort / nodes; the round
            may be empty. Privacy amplification by Poisson sampling holds for this one alone.
            "cyclic": nodes take turns in an order that is drawn once, so that none comes back
            before floor(nodes / cohort) rounds, which is what correlated noise asks for.

    Raises:
        InputError: a cohort below 1, or an unknown way of sampling.
    """

    cohort: int | None = None
    sampling: Sampling = "without-replacement"

    def __post_init__(self) -> None:
        if self.cohort is not None and (not isinstance(self.cohort, int) or self.cohort < 1):
            raise InputError(
                f"topology.cohort: {self.cohort!r} was given; allowed is a whole number, 1 or more"
            )
        if self.sampling not in get_args(Sampling):
            raise InputError(
                f"topology.sampling: {self.sampling!r} was given;"
                f" allowed is one of {', '.join(get_args(Sampling))}"
            )

    def check(self, nodes: int) -> None:
        """Refuse a cohort that this number of nodes cannot fill.

        Raises:
            InputError: a cohort above the number of nodes, or a way of sampling without one.
        """
        if self.cohort is None:
            if self.sampling != "without-replacement":
                raise InputError(
                    f"topology.sampling: {self.sampling!r} was given without a cohort;"
                    f" give topology.cohort, from 1 to {nodes}"
                )
        elif self.cohort > nodes:
            raise InputError(
                f"topology.cohort: {self.cohort} was given;"
                f" allowed is 1 to {nodes}, the number of nodes"
            )

    def sample(self, nodes: int, seed: int, round: int) -> NDArray[np.int64]:
        """The cohort of a round as (k,) node ids, ascending."""
        if self.cohort is None:
            return np.arange(nodes)
        if self.sampling == "cyclic":
            turn = np.arange(round * self.cohort, (round + 1) * self.cohort) % nodes
            return np.sort(generator(seed, "cohort-order").permutation(nodes)[turn])
        draw = generator(seed, "cohort", round)
        match self.sampling:
            case "without-replacement":
                return np.sort(draw.choice(nodes, self.cohort, replace=False))
            case "with-replacement":
                return np.sort(draw.integers(nodes, size=self.cohort))
            case "poisson":
                return np.flatnonzero(draw.random(nodes) < self.cohort / nodes)

    def separation(self, nodes: int) -> int:
        """The fewest rounds from one in which a node takes part to its next."""
        if self.cohort is None or self.sampling != "cyclic":
            return 1
        return nodes // self.cohort


@dataclass(frozen=True)
class Hierarchical:
    """A star of stars: nodes talk to their group's aggregator, aggregators to one above them.

    Attributes:
        groups: number of groups, from 1 to the number of nodes.
        cohort: nodes per round over all groups, as in ``Star``.
        sampling: as in ``Star``.

    Raises:
        InputError: fewer than one group, or what ``Star`` refuses.

    References:
        Liu, Zhang, Song, Letaief, "Client-edge-cloud hierarchical federated learning", ICC 2020.
    """

    groups: int
    cohort: int | None = None
    sampling: Sampling = "without-replacement"

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise InputError(f"topology.groups: {self.groups} was given; allowed is 1 or more")
        Star(self.cohort, self.sampling)

    def check(self, nodes: int) -> None:
        """Refuse more groups than nodes, and the cohorts that ``Star.check`` refuses.

        Raises:
            InputError: with the reason.
        """
        if self.groups > nodes:
            raise InputError(
                f"topology.groups: {self.groups} was given;"
                f" allowed is 1 to {nodes}, the number of nodes"
            )
        Star(self.cohort, self.sampling).check(nodes)

    def sample(self, nodes: int, seed: int, round: int) -> NDArray[np.int64]:
        """The cohort of a round as (k,) node ids, ascending."""
        return Star(self.cohort, self.sampling).sample(nodes, seed, round)

    def separation(self, nodes: int) -> int:
        """The fewest rounds from one in which a node takes part to its next."""
        return Star(self.cohort, self.sampling).separation(nodes)

    def group_of(self, nodes: int) -> NDArray[np.int64]:
        """(n,) the group of each node: contiguous, with sizes that differ by at most one."""
        return np.arange(nodes) * self.groups // nodes
