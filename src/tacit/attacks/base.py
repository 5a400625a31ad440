"""What an adversary is: who is malicious, what they do to their data, what they send."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator
from torch import Tensor

from tacit.attacks.placement import Who
from tacit.attacks.view import LEVELS, Knowledge, View
from tacit.errors import require


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Base of all attacks; each is a frozen dataclass of its settings.

    Malicious nodes keep to the protocol in everything that an attack does not change: they train,
    take part in every round, and aggregate what they receive.

    Attributes:
        nodes: who is malicious: a share of the nodes (drawn by the seed, the same for every attack
            with the same share, so that attacks can be combined), their names, or a ``Placement``.
    """

    nodes: Who = 0.2


@dataclass(frozen=True, kw_only=True)
class DataAttack(Attack, ABC):
    """Malicious nodes train as everybody does, on rows that they have changed."""

    @abstractmethod
    def poison(
        self, x: Tensor, y: Tensor, classes: int, member: int, members: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """The rows that a malicious node trains on instead of its own.

        Args:
            x: (N, ...) inputs, not to be changed.
            y: targets, not to be changed.
            classes: number of labels; 0 for regression.
            member: which of the malicious nodes, from 0.
            members: how many there are.
            rng: this node's.
        """

    def probe(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
        """Test rows on which the attack has succeeded where a model answers the target y, made from
        honest test rows; None where it has no target but damage."""
        return None

    def fit(self, data: Any) -> None:
        """Refuse a federation whose rows the attack cannot change (InputError)."""


@dataclass(frozen=True, kw_only=True)
class UpdateAttack(Attack, ABC):
    """Malicious nodes send something else than what they trained.

    Attributes:
        knowledge: what they know, of which ``View`` hands them no more.
        least_knowledge: what the attack cannot do without.
        equivocates: whether it tells each receiver something else.
        needs_graph: whether it only exists without a server.
    """

    knowledge: Knowledge = "all"
    least_knowledge: ClassVar[Knowledge] = "own"
    equivocates: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False

    def __post_init__(self) -> None:
        allowed: Sequence[str] = LEVELS[LEVELS.index(self.least_knowledge) :]
        require(self.knowledge in allowed, "attack.knowledge", self.knowledge, ", ".join(allowed))

    @abstractmethod
    def lie(self, view: View) -> Tensor:
        """(b, d) what each malicious node sends; or, if it equivocates, (l, d) for each link."""
