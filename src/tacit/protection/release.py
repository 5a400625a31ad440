"""Releases: what one round lets out, stated fully enough to be accounted for."""

import math
from dataclasses import dataclass

from tacit.errors import require

PURE = "randomised_response"
MECHANISMS = ("gaussian", "laplace", "discrete_gaussian", "skellam", PURE)
ADJACENCIES = ("add-or-remove", "replace")


@dataclass(frozen=True)
class Poisson:
    """Every unit takes part in a round by a coin of its own, with probability ``q`` in (0, 1]."""

    q: float

    def __post_init__(self) -> None:
        require(0 < self.q <= 1, "sampler.q", self.q, "a probability in (0, 1]")


@dataclass(frozen=True)
class WithoutReplacement:
    """A round takes ``k`` of ``n`` units, each set of k equally likely."""

    k: int
    n: int

    def __post_init__(self) -> None:
        require(self.n >= 1, "sampler.n", self.n, "a whole number from 1")
        require(1 <= self.k <= self.n, "sampler.k", self.k, f"a whole number from 1 to {self.n}")


Sampler = Poisson | WithoutReplacement | None


@dataclass(frozen=True)
class Grid:
    """Where an integer mechanism works.

    Attributes:
        dimension: values in the vector.
        norm: L2 bound of one unit's *rounded* integer vector, in grid steps.
        shares: how many parties add a share of the noise (counting only those sure to survive).
    """

    dimension: int
    norm: float
    shares: int = 1

    def __post_init__(self) -> None:
        require(self.dimension >= 1, "grid.dimension", self.dimension, "a whole number from 1")
        require(
            self.norm >= 1 and math.isfinite(self.norm), "grid.norm", self.norm, "a number from 1"
        )
        require(self.shares >= 1, "grid.shares", self.shares, "a whole number from 1")

    @property
    def norm_l1(self) -> float:
        """Bound of the L1 norm: integers have |x| <= x^2, and Cauchy-Schwarz."""
        return self.norm * min(math.sqrt(self.dimension), self.norm)


@dataclass(frozen=True)
class Release:
    """What one round lets out.

    Attributes:
        mechanism: "gaussian", "laplace", "discrete_gaussian", "skellam" (noise on a sum) or
            "randomised_response" (any mechanism with a pure epsilon).
        multiplier: the noise in units of the bound C on **one unit's contribution** (the clip
            norm): standard deviation / L2 bound; for Laplace its scale / L1 bound; for randomised
            response 1 / epsilon. It is dp-accounting's ``noise_multiplier``.
        sampler: None when everyone takes part, or when the one against whom the guarantee is
            stated knows who does.
        adjacency: "add-or-remove" one unit (the sum moves by C) or "replace" it (it moves by 2C;
            the account doubles, ``multiplier`` stays in units of C).
        grid: for the two integer mechanisms, and only for them.

    Two Gaussian sums over the *same* sample (an update and a clipping indicator) are one release
    with multiplier (a^-2 + b^-2)^(-1/2).

    Raises:
        InputError: a combination for which no bound is known here.
    """

    mechanism: str
    multiplier: float
    sampler: Sampler = None
    adjacency: str = "add-or-remove"
    grid: Grid | None = None

    def __post_init__(self) -> None:
        require(self.mechanism in MECHANISMS, "mechanism", self.mechanism, ", ".join(MECHANISMS))
        require(self.adjacency in ADJACENCIES, "adjacency", self.adjacency, ", ".join(ADJACENCIES))
        positive = 0 < self.multiplier < math.inf
        require(positive, "multiplier", self.multiplier, "a finite number above 0")
        if self.mechanism in ("discrete_gaussian", "skellam"):
            require(self.grid is not None, "grid", self.grid, f"a Grid with {self.mechanism}")
        else:
            require(self.grid is None, "grid", self.grid, f"None with {self.mechanism}")
        if isinstance(self.sampler, Poisson):
            known = self.mechanism in ("gaussian", "laplace") and self.adjacency == "add-or-remove"
            allowed = "Poisson with gaussian or laplace noise and adjacency 'add-or-remove'"
            require(known, "sampler", self.sampler, allowed)
        if isinstance(self.sampler, WithoutReplacement):
            known = self.mechanism == "gaussian" and self.adjacency == "replace"
            allowed = "WithoutReplacement with gaussian noise and adjacency 'replace'"
            require(known, "sampler", self.sampler, allowed)
        if self.mechanism == "discrete_gaussian":
            # Kairouz et al. 2021, Proposition 14 asks for a share of at least half a grid step.
            local = self.std / math.sqrt(self.grid.shares)  # type: ignore[union-attr]
            require(local >= 0.5, "multiplier", self.multiplier, "noise of 0.5 grid steps a share")

    @property
    def sensitivity(self) -> int:
        """How far one unit moves the sum, in units of C: 1 to add or remove it, 2 to replace it."""
        return 1 if self.adjacency == "add-or-remove" or self.mechanism == PURE else 2

    @property
    def relative(self) -> float:
        """The noise in units of the sensitivity."""
        return self.multiplier / self.sensitivity

    @property
    def std(self) -> float:
        """Standard deviation of an integer mechanism's summed noise, in grid steps."""
        assert self.grid is not None
        return self.multiplier * self.grid.norm
