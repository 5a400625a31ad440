"""What is made of the received vectors before a rule: ``Bucketing(2) | NNM(f=2) | Krum(f=2)``."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Self, overload

import numpy as np
import torch
from torch import Tensor

from tacit.aggregation.gram import Geometry, GramRule, Seen, combinations
from tacit.aggregation.rule import Aggregated, Aggregation, Aid, Round, Tolerant
from tacit.errors import InputError, require_whole
from tacit.randomness import key, words


class PreAggregation(ABC):
    """Turns k received vectors into m: y_j = own + sum_i share_ji kept_i (x_i - own).

    ``pre | rule`` is a rule, ``pre | pre`` a longer pre-aggregation. Before a rule that looks at
    distances alone the y are never made: their Gram matrix follows from that of the x.

    Attributes:
        one_to_one: whether y_j stands for x_j: it has its weight, and a rule may keep a memory of
            its sender. Otherwise each x is part of one y.
    """

    one_to_one: ClassVar[bool] = True

    @property
    def least(self) -> int:
        """The fewest received vectors that it can be given."""
        return 1

    def outputs(self, k: int) -> int:
        """How many vectors it makes of k."""
        return k

    @abstractmethod
    def mixing(self, geometry: Geometry, round: Round) -> tuple[Tensor, Tensor]:
        """Decide.

        Args:
            geometry: of k vectors, at least ``least``.
            round: what else the receiver knows.

        Returns:
            (..., m, k) shares, rows that sum to one; and (..., k) from 0 to 1, to what length each
            difference to own is cut.
        """

    def without(self, liars: int) -> Self:
        """What is left to do when so many liars have been found and turned away."""
        return self

    @overload
    def __or__(self, then: Aggregation) -> Aggregation: ...
    @overload
    def __or__(self, then: "PreAggregation | Chain") -> "Chain": ...
    def __or__(self, then: "Aggregation | PreAggregation | Chain") -> "Aggregation | Chain":
        if isinstance(then, GramRule):
            return _BeforeGram(self, then)
        return _Before(self, then) if isinstance(then, Aggregation) else Chain(self, then)


@dataclass(frozen=True)
class Chain:
    """Pre-aggregations one after another, waiting for a rule."""

    first: PreAggregation
    second: "PreAggregation | Chain"

    @overload
    def __or__(self, then: Aggregation) -> Aggregation: ...
    @overload
    def __or__(self, then: "PreAggregation | Chain") -> "Chain": ...
    def __or__(self, then: "Aggregation | PreAggregation | Chain") -> "Aggregation | Chain":
        return self.first | (self.second | then)


@dataclass(frozen=True, repr=False)
class _Before(Aggregation):
    """A pre-aggregation and the rule for what it makes."""

    first: PreAggregation
    rule: Aggregation

    def __post_init__(self) -> None:
        if "memory" in self.rule.uses and not self.first.one_to_one:
            raise InputError(
                f"aggregation: {self} was given, where the rule remembers each sender and"
                f" {type(self.first).__name__} mixes them; allowed is a rule without memory"
            )

    def __repr__(self) -> str:
        return f"{self.first} | {self.rule}"

    @property
    def uses(self) -> frozenset[Aid]:  # type: ignore[override]
        return self.rule.uses

    @property
    def root(self) -> tuple[Tensor, Tensor] | None:
        return self.rule.root

    def traffic(self, links: int, accepted: int, size: int) -> int:
        return self.rule.traffic(links, accepted, size)

    @property
    def least(self) -> int:
        return next(k for k in count(self.first.least) if self.first.outputs(k) >= self.rule.least)

    def tolerates(self, k: int) -> str:
        m = self.first.outputs(k)
        return f"{self.rule.tolerates(m)}; {m} being what {self.first} makes of {k}"

    def without(self, liars: int) -> Self:
        return type(self)(self.first.without(liars), self.rule.without(liars))

    def check(self, k: int) -> None:
        super().check(k)
        self.rule.check(self.first.outputs(k))

    def weigh(self, share: Tensor, weight: Tensor) -> Tensor:
        """(..., m) weights of the y: of the x that each stands for, or of all those in it."""
        if self.first.one_to_one:
            return weight
        return _through(weight, (share > 0).to(weight.dtype).mT)

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        share, kept = self.first.mixing(Seen(received, own), round)
        made = combinations(own, received, share * kept.unsqueeze(-2))
        result, accepted = self.rule.aggregate(own, made, self.weigh(share, weight), round)
        return Aggregated(result, _traced(accepted, share, kept))


class _BeforeGram(_Before, GramRule):
    """Before a rule that looks at distances alone."""

    rule: GramRule

    aggregate = GramRule.aggregate

    @property
    def whole(self) -> bool:
        return self.rule.whole

    def view(self, vectors: Tensor, round: Round) -> Tensor:
        return self.rule.view(vectors, round)

    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        share, kept = self.first.mixing(geometry, round)
        matrix = share * kept.unsqueeze(-2)
        coefficients, accepted = self.rule.combine(
            geometry.mixed(matrix), self.weigh(share, weight), round
        )
        return _through(coefficients, matrix), _traced(accepted, share, kept)


def _through(row: Tensor, matrix: Tensor) -> Tensor:
    """(..., m) times (..., m, k)."""
    return (row.unsqueeze(-2) @ matrix).squeeze(-2)


def _traced(accepted: Tensor, share: Tensor, kept: Tensor) -> Tensor:
    """(..., k) acceptances of the x: by how much of the accepted y each is part of, relative to the
    one that is part of most, times how it was cut."""
    part = _through(accepted, (share > 0).to(accepted.dtype))
    most = part.amax(-1, keepdim=True)
    scale = accepted.amax(-1, keepdim=True) / most.masked_fill(most == 0, 1)
    return part * scale * kept.to(accepted.dtype)


@dataclass(frozen=True)
class NNM(Tolerant, PreAggregation):
    """Nearest-neighbour mixing: y_j is the mean of the k - f nearest to x_j, itself included.

    Allouah et al., "Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity",
    AISTATS 2023, algorithm 2.

    Attributes:
        f: liars tolerated among the received, 0 or more; k >= 2 f + 1.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    def mixing(self, geometry: Geometry, round: Round) -> tuple[Tensor, Tensor]:
        between = geometry.between
        near = between.shape[-1] - self.f
        nearest = between.topk(near, largest=False).indices
        share = torch.zeros_like(between).scatter_(-1, nearest, 1 / near)
        return share, torch.ones_like(geometry.squares)


@dataclass(frozen=True)
class Bucketing(PreAggregation):
    """The vectors in random order, s at a time (the last bucket may have fewer): y_j is a mean.

    Karimireddy, He, Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing",
    ICLR 2022, algorithm 1. Every receiver draws an order of its own in every round.

    Attributes:
        s: vectors in a bucket; 1 or more.

    Raises:
        InputError: s below 1.
    """

    s: int = 2
    one_to_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_whole(1, "aggregation.s", self.s)

    def outputs(self, k: int) -> int:
        return -(-k // self.s)

    def mixing(self, geometry: Geometry, round: Round) -> tuple[Tensor, Tensor]:
        kept = torch.ones_like(geometry.squares)
        *batch, k = kept.shape
        receivers = np.full(batch, -1) if round.receivers is None else round.receivers.numpy()
        stream = key(round.seed, "bucketing", round.index)
        drawn = words(stream, receivers[..., np.newaxis], np.arange(k))
        bucket = torch.from_numpy(drawn.argsort(-1).argsort(-1) // self.s)
        members = (bucket.unsqueeze(-2) == torch.arange(self.outputs(k)).unsqueeze(-1)).double()
        return members / members.sum(-1, keepdim=True), kept
