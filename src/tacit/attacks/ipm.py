"""Inner product manipulation: the reverse of the mean update."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import from_all, mean_change
from tacit.attacks.search import farthest
from tacit.attacks.view import Knowledge, View
from tacit.errors import require_number


@dataclass(frozen=True, kw_only=True)
class IPM(UpdateAttack):
    """All liars send start - eps mu, also known as fall of empires.

    Xie, Koyejo, Gupta, "Fall of empires", UAI 2019. Defined on gradients, so mu is the mean change,
    and start the mean of where the changes began. ByzFL's default eps is 2.

    Attributes:
        eps: 0.1 is hard to tell from honest vectors; with 2, more than a third of the nodes turn a
            plain mean round.
        knowledge: mu is over the honest nodes; over the colluders' own updates with "colluders".

    Raises:
        InputError: another eps than a finite number.
    """

    eps: float = 0.1
    least_knowledge: ClassVar[Knowledge] = "colluders"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.eps", self.eps)

    def lie(self, view: View) -> Tensor:
        return from_all(view, view.sample_starts.mean(0) - self.eps * mean_change(view))


@dataclass(frozen=True, kw_only=True)
class OptimalIPM(UpdateAttack):
    """IPM with the eps, from 0.01 to 1,000, that moves the rule's result farthest from the mean.

    ByzFL's Optimal_InnerProductManipulation, with 20 questions to the rule, too; see
    ``OptimalALIE`` for what differs.
    """

    knowledge: Knowledge = "defence"
    least_knowledge: ClassVar[Knowledge] = "defence"
    equivocates: ClassVar[bool] = True

    def lie(self, view: View) -> Tensor:
        return farthest(view, view.sample_starts.mean(0), -mean_change(view))
