"""What an aggregation rule is, and what a receiver knows in a round."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, NoReturn, Self

import torch
from torch import Tensor

from tacit.errors import InputError, require_whole

Aid = Literal["start", "loss", "root", "memory"]


class Aggregated(NamedTuple):
    """What a receiver made of a round.

    Attributes:
        result: (..., d) its new vector.
        accepted: (..., k) from 0 to 1, how far each input was let through: 1 as it was sent, 0
            turned away, between them clipped, weighed down, or kept in that share of coordinates.
    """

    result: Tensor
    accepted: Tensor


@dataclass(frozen=True, eq=False)
class Round:
    """What a receiver knows in a round beside the vectors; a rule says which aids it ``uses``.

    Attributes:
        index: of the round, from 0.
        total: rounds in the run.
        seed: the experiment's, for addressed randomness.
        receivers: (...,) node ids; -1 is the server.
        links: (..., k) which link each vector came over: its position among all ``all_links`` of a
            graph; under a server, the sender's node id.
        all_links: number of links.
        start: (..., d) the receiver's model before its local training; a server's is ``own``.
        loss: (receivers (...,), models (..., j, d)) to (..., j) losses, on a fresh batch of each
            receiver's own rows.
        root: (d,) a server's model to what training on its clean root rows makes of it.
        memory: tensors that the rule keeps from round to round, by names of its choice, with a row
            for every link. It replaces them and never writes into them, so that an adversary can
            ask the rule what it would do.
    """

    index: int = 0
    total: int = 1
    seed: int = 0
    receivers: Tensor | None = None
    links: Tensor | None = None
    all_links: int = 0
    start: Tensor | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    root: Callable[[Tensor], Tensor] | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)


class Aggregation(ABC):
    """How a receiver combines what it received with what it had.

    The server of a star and a neighbour in a gossip make the same call: ``own`` is the last global
    model, or the node's own. A rule is a frozen dataclass of its settings, and writes ``aggregate``
    for finite vectors; calling the rule turns away what is not finite first.

    Attributes:
        streams: whether the result is a weighted sum, so that partial sums do and no more than one
            vector has to be kept; otherwise the rule needs every received vector at once.
        uses: what it needs of ``Round`` beside the vectors.
    """

    streams: ClassVar[bool] = False
    uses: ClassVar[frozenset[Aid]] = frozenset()

    @property
    def root(self) -> tuple[Tensor, Tensor] | None:
        """Clean rows (x (N, ...), y (N, ...)) for a server's ``Round.root``, or None."""
        return None

    @property
    def least(self) -> int:
        """The fewest received vectors with which the rule keeps its promise."""
        return 1

    def tolerates(self, k: int) -> str:
        """What the rule withstands among k received vectors, and what it assumes, in words."""
        return "no liar at all: one vector can move the result anywhere"

    @abstractmethod
    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        """``__call__`` for finite vectors, of which there are enough."""

    def __or__(self, then: object) -> NoReturn:
        """``pre | rule`` has a pre-aggregation on the left; a rule is refused there."""
        raise InputError(
            f"aggregation: {self} | {then} was given; allowed left of | is a pre-aggregation, such"
            " as NNM or Clip"
        )

    def __call__(
        self, own: Tensor, received: Tensor, weight: Tensor, round: Round | None = None
    ) -> Aggregated:
        """Combine k received vectors, for one receiver or a leading batch of receivers.

        A vector with an entry that is not finite is turned away before the rule: the others share
        its weight, and a rule that tolerates f liars has found one of them.

        Args:
            own: (..., d).
            received: (..., k, d); neither is changed.
            weight: (..., k), at most 1 in sum; the rest is the share of ``own``.
            round: what else the receiver knows.

        Raises:
            InputError: fewer than ``least`` received vectors.
        """
        round = round or Round()
        self.check(received.shape[-2])
        # A sum is finite only if all of its terms are (and may overflow although they are).
        if received.sum(-1).isfinite().all() or (finite := received.isfinite().all(-1)).all():
            return self.aggregate(own, received, weight, round)
        if received.dim() == 2:
            return self._of_finite(own, received, weight, round, finite)
        parts = [
            self._of_finite(own[i], received[i], weight[i], _at(round, i), finite[i])
            for i in range(len(received))
        ]
        return Aggregated(*(torch.stack(column) for column in zip(*parts, strict=True)))

    def _of_finite(
        self, own: Tensor, received: Tensor, weight: Tensor, round: Round, finite: Tensor
    ) -> Aggregated:
        accepted = finite.to(weight.dtype)
        if not weight[finite].any():
            return Aggregated(own.clone(), accepted)
        share = weight[finite] * (weight.sum() / weight[finite].sum())
        if round.links is not None:
            round = replace(round, links=round.links[finite])
        rule = self.without(int((~finite).sum()))
        result, accepted[finite] = rule.aggregate(own, received[finite], share, round)
        return Aggregated(result, accepted)

    def traffic(self, links: int, accepted: int, size: int) -> int:
        """Numbers sent in a round over so many links, for vectors of ``size`` numbers."""
        return links * size

    def without(self, liars: int) -> Self:
        """The rule for what is left when so many liars have been found and turned away."""
        return self

    def check(self, k: int) -> None:
        """Refuse fewer received vectors than the rule needs.

        Raises:
            InputError: with the smallest number that works.
        """
        if k < self.least:
            raise InputError(
                f"aggregation: {self} was given {k} received vector{'s' * (k != 1)};"
                f" it needs {self.least} or more"
            )


@dataclass(frozen=True)
class Tolerant:
    """What rules and pre-aggregations share that withstand a number of liars.

    Attributes:
        f: liars tolerated among the received, 0 or more.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    f: int

    def __post_init__(self) -> None:
        require_whole(0, "aggregation.f", self.f)

    @property
    def least(self) -> int:
        """The fewest received vectors of which f are no majority."""
        return 2 * self.f + 1

    def without(self, liars: int) -> Self:
        """What is left to do when so many liars have been found and turned away."""
        return replace(self, f=max(0, self.f - liars))


def _at(round: Round, i: int) -> Round:
    """The round of one receiver of a batch."""
    named = {name: getattr(round, name) for name in ("receivers", "links", "start")}
    return replace(round, **{n: value[i] for n, value in named.items() if value is not None})
