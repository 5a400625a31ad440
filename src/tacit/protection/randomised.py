"""k-ary randomised response: each label is used as it is, or as one of the others by chance.

Warner 1965; for k values Kairouz, Bonawitz & Ramage 2016. It is a local guarantee: it
holds against everyone, with no trust in a coordinator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.release import PURE, Release

if TYPE_CHECKING:  # so that sums can be taken where there is no torch
    from tacit.protection.sampling import Words


@dataclass(frozen=True)
class RandomisedResponse:
    """Every node randomises the labels of its training rows, once, before it learns from them.

    Whatever is made of a label then is epsilon-differentially private against its replacement,
    however many rounds the run has, for all that learn of it: Ghazi, Golowich, Kumar, Manurangsi,
    Zhang, "Deep learning with label differential privacy", NeurIPS 2021, section 2. The unit is the
    label of one training row; inputs are not protected.

    Attributes:
        epsilon: above 0, at most 20.

    Raises:
        InputError: an epsilon out of its range.
    """

    epsilon: float

    def __post_init__(self) -> None:
        allowed = "a number above 0, at most 20"
        require(0 < self.epsilon <= 20, "protection.epsilon", self.epsilon, allowed)

    def lie(self, categories: int) -> float:
        """Probability q of each of ``categories`` labels but the true one."""
        return 1 / (math.exp(self.epsilon) + categories - 1)

    def truth(self, categories: int) -> float:
        """Probability p of the true label; the guarantee is ln(p / q) = epsilon."""
        return math.exp(self.epsilon) * self.lie(categories)

    @property
    def release(self) -> Release:
        """What one answer by each unit costs."""
        return Release(PURE, 1 / self.epsilon, adjacency="replace")

    def answer(
        self, source: Words, labels: NDArray[np.int64], categories: int
    ) -> NDArray[np.int64]:
        """(n,) answers to (n,) labels, 0 to categories - 1; ln(p / q) is right to 10^-9.

        Raises:
            InputError: a label outside, or fewer than 2 categories.
        """
        _check(labels, categories)
        n, others = len(labels), np.uint64(categories - 1)
        lies = source(n) < np.uint64(math.ceil((categories - 1) * self.lie(categories) * 2.0**64))
        step = 1 + (source(n) % others).astype(np.int64)
        return np.where(lies, (labels + step) % categories, labels)

    def histogram(self, answers: NDArray[np.int64], categories: int) -> NDArray[np.float64]:
        """(categories,) unbiased counts of the true labels behind (n,) answers; may be negative.

        An answer is j with probability q + (p - q) [label is j], hence (seen - n q) / (p - q).

        Raises:
            InputError: an answer outside 0 to categories - 1, or fewer than 2 categories.
        """
        _check(answers, categories)
        lie, truth = self.lie(categories), self.truth(categories)
        seen = np.bincount(answers, minlength=categories)
        return np.asarray((seen - len(answers) * lie) / (truth - lie), dtype=np.float64)


def _check(labels: NDArray[np.int64], categories: int) -> None:
    require(categories >= 2, "categories", categories, "a whole number from 2")
    inside = not len(labels) or 0 <= labels.min() <= labels.max() < categories
    require(inside, "labels", "one outside", f"0 to {categories - 1}")
