"""A little is enough: a lie within the spread of the honest vectors."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

from torch import Tensor

from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import from_all, spread
from tacit.attacks.search import farthest
from tacit.attacks.view import Knowledge, View
from tacit.errors import require_number


@dataclass(frozen=True, kw_only=True)
class ALIE(UpdateAttack):
    """All liars send mu - z sigma, coordinate by coordinate.

    Baruch, Baruch, Goldberg, "A little is enough", NeurIPS 2019, algorithm 3. The paper computes z
    so that enough honest vectors lie farther out than the lie to support it; its code takes 1.5.
    ByzFL sends mu + 1.5 sigma. The code of the paper divides the variance by n, He et al. 2022,
    ByzFL and this by n - 1.

    Attributes:
        z: how many standard deviations from the mean; None: ``support(n, m)``, which is near 0 in
            small federations, where the lie is then hardly one.
        knowledge: mu and sigma are over the colluders' own vectors, or, from "all" on, over the
            honest ones.

    Raises:
        InputError: another z than a finite number.
    """

    z: float | None = None
    knowledge: Knowledge = "colluders"
    least_knowledge: ClassVar[Knowledge] = "colluders"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.z", self.z, none=True)

    def lie(self, view: View) -> Tensor:
        z = support(view.everyone, len(view.nodes)) if self.z is None else self.z
        return from_all(view, view.sample.mean(0) - z * spread(view.sample))


def support(n: int, m: int) -> float:
    """z = Phi^-1((n - m - h) / (n - m)) with h = floor(n/2 + 1) - m honest supporters needed.

    Where the m liars are a majority alone, or need every honest node, the formula is infinite; one
    supporter more, or one less, than there are honest nodes (at least 1) is then reckoned with.
    """
    honest = max(n - m, 1)
    share = (honest - (math.floor(n / 2 + 1) - m)) / honest
    return NormalDist().inv_cdf(min(max(share, 1 / (honest + 1)), honest / (honest + 1)))


@dataclass(frozen=True, kw_only=True)
class OptimalALIE(UpdateAttack):
    """ALIE with the z, from 0.01 to 1,000, that moves the rule's result farthest from the mean.

    ByzFL's Optimal_ALittleIsEnough, with 20 questions to the rule, too. That one steps by 10 first,
    doubles while it helps, and cannot go back below a good z; here the scale of z is found first,
    and each receiver is told a lie of its own.
    """

    knowledge: Knowledge = "defence"
    least_knowledge: ClassVar[Knowledge] = "defence"
    equivocates: ClassVar[bool] = True

    def lie(self, view: View) -> Tensor:
        return farthest(view, view.sample.mean(0), -spread(view.sample))
