"""What all parties of one secure sum agree on beforehand."""

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tacit.errors import TacitError, require


class Aborted(TacitError):
    """A secure sum that ended without one: too few are left, or somebody breaks the protocol."""

    code = "TACIT-107"


@dataclass(frozen=True)
class Session:
    """One secure sum. A node enters a session once: with fresh keys, and never again.

    In the complete graph a receiver learns no more than the sum even together with threshold - 1
    nodes if it only looks, and fewer than 2 threshold - n if it lies. In a sparse one, with fewer
    than a third of the nodes, no ``threshold`` of which one node drew (``neighbours.degree``).

    Attributes:
        experiment, model: 32-byte digests of the experiment and of the model the round starts from.
        round: from 0 to 2^32 - 1.
        nodes: the cohort's numbers, ascending, each below 2^32.
        threshold: shares that open a secret. In the complete graph also the fewest nodes that may
            be left, more than half of them; with half, a lying receiver alone opens every input.
        length: coordinates of a vector.
        dtype: uint32 or uint64; sums wrap modulo 2^32 or 2^64.
        minimum: the smallest sum this party takes part in, by its own policy; others' may differ.
        degree: neighbours that a node draws to hold its shares; None is the complete graph.
    """

    experiment: bytes
    model: bytes
    round: int
    nodes: tuple[int, ...]
    threshold: int
    length: int
    dtype: np.dtype[Any]
    minimum: int
    degree: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        n, nodes = len(self.nodes), self.nodes
        require(len(self.experiment) == 32, "experiment", self.experiment, "a digest of 32 bytes")
        require(len(self.model) == 32, "model", self.model, "a digest of 32 bytes")
        require(0 <= self.round < 2**32, "round", self.round, "from 0 to 2^32 - 1")
        ascending = nodes == tuple(sorted(set(nodes)))
        require(
            n > 1 and ascending and nodes[0] >= 0 and nodes[-1] < 2**32,
            "nodes", nodes, "two or more ascending numbers below 2^32",
        )  # fmt: skip
        require(1 <= self.length < 2**32, "length", self.length, "from 1 to 2^32 - 1")
        require(self.dtype in (np.uint32, np.uint64), "dtype", self.dtype, "uint32 or uint64")
        require(2 <= self.minimum <= n, "minimum", self.minimum, f"from 2 to {n}, the cohort")
        if self.degree is None:
            require(
                n < 2 * self.threshold <= 2 * n,
                "threshold", self.threshold, f"more than half of {n} nodes and at most all",
            )  # fmt: skip
        else:
            require(2 <= self.degree < n, "degree", self.degree, f"from 2 to {n - 1}")
            require(
                2 <= self.threshold <= self.degree,
                "threshold", self.threshold, f"from 2 to the degree, {self.degree}",
            )  # fmt: skip

    @cached_property
    def context(self) -> bytes:
        """(32,) bytes that bind every key, message and signature to this session."""
        degree = 0 if self.degree is None else self.degree
        numbers = (self.round, self.threshold, self.length, self.dtype.itemsize, degree)
        nodes = np.asarray(self.nodes, "<u4").tobytes()
        packed = b"tacit secagg 1" + self.experiment + self.model + struct.pack("<5I", *numbers)
        return hashlib.sha256(packed + nodes).digest()

    @cached_property
    def members(self) -> frozenset[int]:
        """The cohort."""
        return frozenset(self.nodes)

    @cached_property
    def quorum(self) -> int:
        """Nodes that must sign a survivor set: no two sets can have as many honest signers."""
        return self.threshold if self.degree is None else 2 * len(self.nodes) // 3 + 1

    @cached_property
    def fewest(self) -> int:
        """The fewest nodes that this party goes on with."""
        return max(self.quorum, self.minimum)
