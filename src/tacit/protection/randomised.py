"""k-ary randomised response: each label is sent as it is, or as one of the others by chance.

Warner 1965; for k values Kairouz, Bonawitz & Ramage 2016. It is a local guarantee: it
holds against everyone, with no trust in a coordinator.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.release import PURE, Release
from tacit.protection.sampling import Words


@dataclass(frozen=True)
class RandomisedResponse:
    """Of labels 0 ... ``categories`` - 1, each under pure epsilon-DP against its replacement."""

    categories: int
    epsilon: float

    def __post_init__(self) -> None:
        require(self.categories >= 2, "categories", self.categories, "a whole number from 2")
        require(0 < self.epsilon <= 20, "epsilon", self.epsilon, "a number above 0, at most 20")

    @property
    def lie(self) -> float:
        """Probability q of each label but the true one."""
        return 1 / (math.exp(self.epsilon) + self.categories - 1)

    @property
    def truth(self) -> float:
        """Probability p of the true label; the guarantee is ln(p / q) = epsilon."""
        return math.exp(self.epsilon) * self.lie

    @property
    def release(self) -> Release:
        """What one answer by each unit costs."""
        return Release(PURE, 1 / self.epsilon, adjacency="replace")

    def answer(self, source: Words, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) answers to (n,) labels; ln(p / q) is right to 10^-9.

        Raises:
            InputError: a label outside 0 ... categories - 1.
        """
        self._check(labels)
        n = len(labels)
        lies = source(n) < np.uint64(math.ceil((self.categories - 1) * self.lie * 2.0**64))
        step = 1 + (source(n) % np.uint64(self.categories - 1)).astype(np.int64)
        return np.where(lies, (labels + step) % self.categories, labels)

    def histogram(self, answers: NDArray[np.int64]) -> NDArray[np.float64]:
        """(categories,) unbiased counts of the true labels behind (n,) answers; may be negative.

        An answer is j with probability q + (p - q) [label is j], hence (seen - n q) / (p - q).

        Raises:
            InputError: an answer outside 0 ... categories - 1.
        """
        self._check(answers)
        seen = np.bincount(answers, minlength=self.categories)
        counts = (seen - len(answers) * self.lie) / (self.truth - self.lie)
        return np.asarray(counts, dtype=np.float64)

    def _check(self, labels: NDArray[np.int64]) -> None:
        inside = not len(labels) or 0 <= labels.min() <= labels.max() < self.categories
        require(inside, "labels", "one outside", f"0 to {self.categories - 1}")
