"""Correlated noise over the rounds of a run (DP-FTRL): less error in the sum, the same guarantee.

A model is the running sum of the rounds' updates. With independent noise the error of that sum
grows like sqrt(n); here a round's noise cancels part of the earlier rounds', which leaves it
growing like ln(n). The whole run is **one** Gaussian release, without amplification by sampling,
and only a trusted coordinator can make it: its noise cannot be split into nodes' shares.

Factorisation A = B C of the matrix of prefix sums (Denisov et al. 2022), C lower triangular and
Toeplitz with the coefficients of a buffered linear Toeplitz matrix, 1 and then
``sum_i scale_i decay_i^(j - 1)`` (Dvijotham, McMahan, Pillutla, Steinke & Thakurta 2024). Two
buffers come within 6 % of the square-root factorisation up to 10,000 rounds (2 % up to 1,000); the
table is computed by ``benchmarks/blt_coefficients.py``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tacit.errors import require

# rounds: (decays, scales)
_TABLE = {
    10: ((0.456434, 0.936972), (0.190407, 0.308943)),
    100: ((0.772988, 0.98886), (0.323541, 0.146028)),
    1_000: ((0.907993, 0.998077), (0.319702, 0.067176)),
    10_000: ((0.963072, 0.999691), (0.259365, 0.029553)),
}


@dataclass(frozen=True)
class BufferedToeplitz:
    """The matrix C of one run.

    Attributes:
        rounds: of the run, 1 to 100,000; the coefficients of the nearest table entry are used.
        participations: the most rounds in which one unit takes part.
        separation: the fewest rounds from one participation of a unit to its next.
    """

    rounds: int
    participations: int = 1
    separation: int = 1

    def __post_init__(self) -> None:
        require(1 <= self.rounds <= 100_000, "rounds", self.rounds, "1 to 100,000")
        require(self.separation >= 1, "separation", self.separation, "a whole number from 1")
        most = -(-self.rounds // self.separation)
        require(
            1 <= self.participations <= most,
            "participations",
            self.participations,
            f"1 to {most}, which is what {self.rounds} rounds at this separation hold",
        )

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """(rounds,) first column of C: 1, then falling."""
        decays, scales = self._buffers
        power = np.arange(self.rounds - 1)
        tail = sum(scale * decay**power for decay, scale in zip(decays, scales, strict=True))
        return np.concatenate([[1.0], tail])

    @property
    def sensitivity(self) -> float:
        """L2 norm by which one unit of contribution bound 1 moves all that C releases.

        Coefficients that fall and are not negative move most when all contributions are alike and
        as early and dense as allowed (Kalinin & Lampert 2024): the norm of the sum of
        the columns 0, b, 2b, ... for separation b.
        """
        column = self.coefficients
        moved = np.zeros(self.rounds)
        for start in range(0, self.participations * self.separation, self.separation):
            moved[start:] += column[: self.rounds - start]
        return float(np.linalg.norm(moved))

    @property
    def error(self) -> float:
        """Deviation of the noise in the sum of all rounds, over that of independent noise.

        At the same guarantee, which independent noise has with a sensitivity of
        sqrt(participations): the sensitivity times the norm of the last row of A C^-1, over
        sqrt(participations rounds).
        """
        from scipy.signal import lfilter

        decays, scales = map(np.array, self._buffers)
        below = np.array([1, -decays.sum(), decays.prod()])
        above = below + np.array([0, scales.sum(), -scales @ decays[::-1]])
        impulse = np.eye(1, self.rounds)[0]
        row = lfilter(below, np.convolve(above, [1, -1]), impulse)
        independent = np.sqrt(self.participations * self.rounds)
        return self.sensitivity * float(np.linalg.norm(row) / independent)

    def next(self, state: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """One round's noise, from C noise = fresh solved row by row.

        Args:
            state: (2, d), zeros before the first round.
            fresh: (d,) independent Gaussian noise of standard deviation ``multiplier * clip norm *
                sensitivity``; the run then costs one ``Release("gaussian", multiplier)``.

        Returns:
            (d,) the noise to add to this round's summed update, and the (2, d) state after it.
        """
        decays, scales = (fresh.new_tensor(x) for x in self._buffers)
        noise = fresh - scales @ state
        return noise, decays.unsqueeze(1) * state + noise

    @property
    def _buffers(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return _TABLE[min(_TABLE, key=lambda n: abs(np.log(n / self.rounds)))]
