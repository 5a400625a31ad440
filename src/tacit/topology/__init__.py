"""Who talks to whom in a round: with a server (``Star``, ``Hierarchical``) or without one."""

from tacit.topology.drawn import Epidemic, ErdosRenyi, Pairwise, RandomRegular, SmallWorld
from tacit.topology.fixed import (
    Complete,
    Custom,
    DirectedExponential,
    DirectedRing,
    Exponential,
    Hypercube,
    Ring,
    Torus,
)
from tacit.topology.graph import Graph, TimeVarying
from tacit.topology.neighbours import Neighbours
from tacit.topology.star import Hierarchical, Star
from tacit.topology.swarm import Swarm

__all__ = [
    "Complete",
    "Custom",
    "DirectedExponential",
    "DirectedRing",
    "Epidemic",
    "ErdosRenyi",
    "Exponential",
    "Graph",
    "Hierarchical",
    "Hypercube",
    "Neighbours",
    "Pairwise",
    "RandomRegular",
    "Ring",
    "SmallWorld",
    "Star",
    "Swarm",
    "TimeVarying",
    "Torus",
]
