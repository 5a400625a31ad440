"""The links of one round, and the mixing matrices that live on them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.randomness import generator

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

# Up to here a dense solver takes less than a second.
_DENSE = 1024
# Bounds time and memory beyond. It suffices where nodes mix well; elsewhere the gap comes out too
# large, by about 1e-3 at most: Kuczynski, Wozniakowski, SIAM J. Matrix Anal. Appl. 1992.
_STEPS = 512


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Who sends to whom in one round: the links grouped by receiver (CSR), without self loops.

    A weight below is an (e,) array that follows ``senders``: W[receiver, sender] of each link.

    Attributes:
        offsets: (n + 1,) int64; the links of receiver i lie from offsets[i] up to offsets[i + 1].
        senders: (e,) int64 senders, ascending within each receiver.
    """

    offsets: Ints
    senders: Ints

    @classmethod
    def of(cls, nodes: int, senders: Ints, receivers: Ints) -> Self:
        """From a list of directed links, in any order; repetitions and self loops are dropped."""
        link = senders != receivers
        codes = np.sort(receivers[link] * nodes + senders[link])
        codes = codes[np.diff(codes, prepend=-1) > 0]
        degree = np.bincount(codes // nodes, minlength=nodes)
        return cls(np.concatenate([[0], np.cumsum(degree)]), codes % nodes)

    @property
    def nodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def edges(self) -> int:
        """Number of directed links: messages in the round."""
        return len(self.senders)

    @property
    def degree(self) -> Ints:
        """(n,) how many nodes each one hears."""
        return np.diff(self.offsets)

    @property
    def out_degree(self) -> Ints:
        """(n,) to how many nodes each one sends."""
        return np.bincount(self.senders, minlength=self.nodes)

    @cached_property
    def receivers(self) -> Ints:
        """(e,) the receiver of each link."""
        return np.repeat(np.arange(self.nodes), self.degree)

    @cached_property
    def symmetric(self) -> bool:
        """Whether every link has its reverse."""
        return np.array_equal(
            self.receivers * self.nodes + self.senders,
            np.sort(self.senders * self.nodes + self.receivers),
        )

    @cached_property
    def connected(self) -> bool:
        """Whether what any node knows can reach every other one (strong connectivity)."""
        return bool(
            _reached(self.nodes, self.senders, self.receivers).all()
            and _reached(self.nodes, self.receivers, self.senders).all()
        )

    def metropolis(self) -> Floats:
        """(e,) symmetric, doubly stochastic weights 1 / (1 + max(degree_i, degree_j)).

        Source: Xiao, Boyd, Lall, "Distributed average consensus with time-varying Metropolis
        weights", 2006.

        Raises:
            InputError: a link without its reverse.
        """
        if not self.symmetric:
            raise InputError(
                "topology: Metropolis weights need links in both directions;"
                " use push-sum on a directed topology, or an undirected one"
            )
        degree = self.degree
        larger = np.maximum(degree[self.receivers], degree[self.senders])
        return (1 / (1 + larger)).astype(np.float32)

    def uniform(self) -> Floats:
        """(e,) row-stochastic weights: the plain mean of a receiver and all that it hears."""
        return (1 / (1 + self.degree[self.receivers])).astype(np.float32)

    def push(self) -> Floats:
        """(e,) column-stochastic weights 1 / (1 + out_degree of the sender); see ``push_own``.

        Source: Assran, Loizou, Ballas, Rabbat, "Stochastic gradient push", ICML 2019, section 2.
        """
        return self.push_own()[self.senders]

    def push_own(self) -> Floats:
        """(n,) the share that each node keeps when it sends by ``push``: 1 / (1 + out_degree)."""
        return (1 / (1 + self.out_degree)).astype(np.float32)

    def own(self, weight: Floats) -> Floats:
        """(n,) what the received weights of each node leave to itself: 1 minus their sum."""
        total = np.bincount(self.receivers, weights=weight, minlength=self.nodes)
        return (1 - total).astype(np.float32)

    def matrix(self, weight: Floats, own: Floats | None = None) -> NDArray[np.float64]:
        """The dense (n, n) mixing matrix W, x' = W x; for small n.

        Args:
            weight: (e,) of the links.
            own: (n,) of the diagonal; ``own(weight)`` where not given.
        """
        result = np.diag(self.own(weight) if own is None else own).astype(np.float64)
        result[self.receivers, self.senders] = weight
        return result

    def spectral_gap(self, weight: Floats, own: Floats | None = None) -> float:
        """1 - |lambda_2| of W, in [0, 1]: the larger, the faster the nodes come to agree.

        A symmetric W of more than 1,024 nodes takes the Lanczos method on the links, any other one
        a dense solver. A single node has gap 1; a W that leaves parts apart has gap 0.

        Args:
            weight: (e,) of the links.
            own: (n,) of the diagonal; ``own(weight)`` where not given.
        """
        if self.nodes == 1:
            return 1.0
        reverse = np.lexsort((self.receivers, self.senders))
        symmetric = self.symmetric and np.array_equal(weight, weight[reverse])
        if symmetric and self.nodes > _DENSE:
            second = self._lanczos(weight, self.own(weight) if own is None else own)
        else:
            dense = self.matrix(weight, own)
            values = np.linalg.eigvalsh(dense) if symmetric else np.linalg.eigvals(dense)
            second = float(np.sort(np.abs(values))[-2])
        return float(np.clip(1 - second, 0, 1))

    def _lanczos(self, weight: Floats, own: Floats) -> float:
        """The largest |eigenvalue| of a symmetric W off the all-ones direction.

        Source: Golub, Van Loan, "Matrix computations", 4th edition, section 10.1, with full
        reorthogonalisation; the all-ones direction is the first of the vectors kept out.
        """
        n = self.nodes
        steps = min(n - 1, _STEPS)
        basis = np.empty((steps + 1, n))
        basis[0] = n**-0.5
        diagonal, beside = np.empty(steps), np.empty(steps)
        vector = generator(0, "lanczos").standard_normal(n)
        vector -= vector.mean()
        norm = float(np.linalg.norm(vector))
        for k in range(1, steps + 1):
            basis[k] = vector / norm
            pulled = np.bincount(self.receivers, weight * basis[k, self.senders], minlength=n)
            vector = own * basis[k] + pulled
            diagonal[k - 1] = vector @ basis[k]
            for _ in range(2):  # once leaves a trace of the kept directions, which then grows
                vector -= (basis[: k + 1] @ vector) @ basis[: k + 1]
            norm = float(np.linalg.norm(vector))
            beside[k - 1] = norm
            last = k == steps or norm < 1e-12
            if last or k & (k - 1) == 0:
                off = beside[: k - 1]
                values, vectors = np.linalg.eigh(
                    np.diag(diagonal[:k]) + np.diag(off, 1) + np.diag(off, -1)
                )
                best = int(np.argmax(np.abs(values)))
                second = abs(float(values[best]))
                if last or norm * abs(float(vectors[-1, best])) <= 1e-4 * (1 - second):
                    break
        return second


def _reached(nodes: int, senders: Ints, receivers: Ints) -> NDArray[np.bool_]:
    """(n,) whom a message from node 0 reaches in the end."""
    reached = np.zeros(nodes, dtype=bool)
    reached[0] = True
    before = 0
    while before < (now := int(reached.sum())):
        before = now
        reached[receivers[reached[senders]]] = True
    return reached
