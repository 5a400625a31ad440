"""What each site's update was worth: scores of a round, by several methods with one interface.

V(S) is the utility, on validation rows, of the model that the updates of the sites S alone would
have made: w + sum over S of (n_j / n_S) D_j, for the round's base w, updates D and rows n. Many
coalitions are asked for at once, so that their models are evaluated as one batch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.errors import require, require_number, require_whole
from tacit.randomness import generator

Floats = NDArray[np.float64]
Coalition = frozenset[int]
# Numbers in the models of one call.
_MOST_FLOATS = 2**26
# Sites whose 2^k coalitions are few enough for all to be evaluated, and for samples of them.
MOST_EXACT, MOST_SAMPLED = 10, 20
MILLION = 10**6
_MOST_SCORE = 2.0**52


@dataclass(eq=False)
class Round:
    """One round, as its scorers see it.

    Attributes:
        base: (d,) w.
        steps: (k, d) D.
        rows: (k,) n; a site without rows counts nothing.
        utility: (m, d) models to (m,) how good they are, finite.
        gradient: (d,) model to (d,) gradient of the validation loss.
        seed: of sampled permutations.
        index: of the round, from 0.
    """

    base: Tensor
    steps: Tensor
    rows: Floats
    utility: Callable[[Tensor], Floats]
    gradient: Callable[[Tensor], Tensor]
    seed: int = 0
    index: int = 0
    known: dict[Coalition, float] = field(default_factory=dict)

    def values(self, coalitions: Iterable[Coalition]) -> Floats:
        """V of each, in as few calls of the utility as memory allows; each is evaluated once."""
        wanted = list(coalitions)
        new = [each for each in dict.fromkeys(wanted) if each not in self.known]
        at_once = max(1, _MOST_FLOATS // self.base.numel())
        for start in range(0, len(new), at_once):
            part = new[start : start + at_once]
            self.known |= zip(part, self.worth(part), strict=True)
        return np.array([self.known[each] for each in wanted])

    def worth(self, coalitions: list[Coalition]) -> list[float]:
        """V of each, evaluated as one batch."""
        return self.utility(self.base + self.shares(coalitions) @ self.steps).tolist()

    def shares(self, coalitions: list[Coalition]) -> Tensor:
        """(m, k) of each update in the model of each coalition."""
        share = np.zeros((len(coalitions), len(self.rows)))
        for row, coalition in zip(share, coalitions, strict=True):
            row[list(coalition)] = self.rows[list(coalition)]
        share /= np.maximum(share.sum(1, keepdims=True), 1e-300)
        return torch.from_numpy(share).to(self.steps.dtype)

    @property
    def everyone(self) -> Coalition:
        return frozenset(range(len(self.rows)))


class Contribution(ABC):
    """A way to score the sites of a round.

    Attributes:
        weakness: what it does not see, in a sentence, for whoever reads the scores.
    """

    weakness: ClassVar[str]

    @abstractmethod
    def scores(self, round: Round) -> Floats:
        """(k,) what each site's update was worth."""


@dataclass(frozen=True)
class Shapley(Contribution):
    """Exact Shapley values of the round's game (Wang et al. 2020, "A principled approach").

    phi_i = sum over S without i of |S|! (n-|S|-1)! / n! [V(S + i) - V(S)], by 2^n evaluations.

    Raises:
        InputError: more than 10 sites.
    """

    weakness = (
        "It pays for what moves the validation rows: duplicated rows share their worth between all"
        " who hold them, and whoever has rows like the validation's is paid for that."
    )

    def scores(self, round: Round) -> Floats:
        n = len(round.rows)
        require(n <= MOST_EXACT, "contribution", f"Shapley() with {n} sites", "10 or fewer; or TMC")
        coalitions = [_members(bits, n) for bits in range(2**n)]
        value = round.values(coalitions)
        sizes = np.array([len(each) for each in coalitions])
        weight = np.array(
            [math.factorial(s) * math.factorial(n - s - 1) / math.factorial(n) for s in range(n)]
        )
        bits = np.arange(2**n)
        found = np.zeros(n)
        for i in range(n):
            without = bits[bits >> i & 1 == 0]
            gained = value[without | 1 << i] - value[without]
            found[i] = weight[sizes[without]] @ gained
        return found


@dataclass(frozen=True)
class TMC(Contribution):
    """Shapley values by truncated Monte Carlo (Ghorbani and Zou 2019, algorithm 1).

    Marginal gains along random orders of the sites. An order is cut off where the rest is worth
    less than ``tolerance``. The orders go side by side, so that each step is one batch; where
    ``most`` does not allow all, some are given up.

    Attributes:
        orders: how many, if the evaluations allow.
        tolerance: in units of the utility.
        most: evaluations of a round.

    Raises:
        InputError: a setting out of range, or more than 20 sites.
    """

    weakness = (
        "It is a sample of Shapley values: scores of sites that are close may change places with"
        " the seed. It shares what Shapley values do not see."
    )
    orders: int = 100
    tolerance: float = 1e-3
    most: int = 1000

    def __post_init__(self) -> None:
        require_whole(1, "orders", self.orders)
        require_number("tolerance", self.tolerance, least=0)
        require_whole(MOST_SAMPLED + 2, "most", self.most)

    def scores(self, round: Round) -> Floats:
        n = len(round.rows)
        require(n <= MOST_SAMPLED, "contribution", f"TMC() with {n} sites", "20 or fewer")
        draw = generator(round.seed, "contribution", round.index)
        empty, full = round.values([frozenset(), round.everyone])
        orders = np.array([draw.permutation(n) for _ in range(self.orders)])
        before = np.full(len(orders), empty)
        gains, whole = np.zeros((len(orders), n)), np.ones(len(orders), bool)
        going = np.arange(len(orders))
        for step in range(n):
            room = self.most - len(round.known)
            going = going[np.abs(full - before[going]) >= self.tolerance]
            prefixes = [frozenset(orders[o, : step + 1].tolist()) for o in going]
            if len({each for each in prefixes if each not in round.known}) > room:
                keep = room // (n - step)
                whole[going[keep:]] = False
                going, prefixes = going[:keep], prefixes[:keep]
            if not len(going):
                break
            after = round.values(prefixes)
            gains[going, orders[going, step]] = after - before[going]
            before[going] = after
        return gains[whole].mean(0) if whole.any() else np.full(n, np.nan)


@dataclass(frozen=True)
class FirstOrder(Contribution):
    """What each update promises by the gradient of the validation loss: -q_i <grad L(w), D_i>.

    One gradient for any number of sites; q_i = n_i / n.
    """

    weakness = (
        "It sees the slope where the round began, and neither how far a step goes nor what two"
        " updates are worth together."
    )

    def scores(self, round: Round) -> Floats:
        slope = round.gradient(round.base).double()
        share = round.rows / max(round.rows.sum(), 1e-300)
        return -share * (round.steps.double() @ slope).numpy()


@dataclass(frozen=True)
class CGSV(Contribution):
    """Cosine of each update with the aggregate (Xu et al. 2021, CGSV): cos(D_i, sum q_j D_j).

    For finding free riders and poisoners; needs no validation rows.
    """

    weakness = (
        "It says who goes along with the others, and not whose data are worth something: duplicated"
        " data are scored in full, and a majority of liars looks honest."
    )

    def scores(self, round: Round) -> Floats:
        steps, share = round.steps.double(), torch.from_numpy(round.rows)
        total = (share / share.sum().clamp(min=1e-300)) @ steps
        length = steps.norm(dim=1) * total.norm()
        return torch.where(length > 0, steps @ total / length.clamp(min=1e-300), 0.0).numpy()


def suited(sites: int) -> Contribution:
    """The method for so many sites: exact, sampled, or by one gradient."""
    if sites <= MOST_EXACT:
        return Shapley()
    return TMC() if sites <= MOST_SAMPLED else FirstOrder()


def millionths(scores: Floats) -> list[int]:
    """Of the utility's unit, since records hold no fractions; no more than JSON's numbers hold."""
    return np.rint((scores * MILLION).clip(-_MOST_SCORE, _MOST_SCORE)).astype(np.int64).tolist()


def _members(bits: int, n: int) -> Coalition:
    return frozenset(i for i in range(n) if bits >> i & 1)
