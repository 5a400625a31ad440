"""What a build that does as it says gives away of one canary: trade-off functions, and scores.

A canary's part of a release is a number x: its contribution of 0 or more clipping norms, and noise.
The released numbers of a run, laid together by their likelihood ratio, are the best score that
looks at one canary alone; how well that can do is a trade-off function f, the least rate of false
negatives at a rate of false positives (Dong, Roth, Su, "Gaussian differential privacy", 2019).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from tacit.protection.release import Poisson, Release, Sampler

Floats = NDArray[np.float64]
# Where a trade-off function is kept: slopes up to e^40, which no number of guesses ever reaches.
_EPSILONS = np.linspace(0, 40, 801)
_CELLS = 4000
_TIE = 1e-9


@dataclass(frozen=True, eq=False)
class Leak:
    """A mechanism by its privacy curve.

    Attributes:
        deltas: (801,) at the epsilons 0, 0.05 ... 40.
        epsilon: the least epsilon at a delta.
    """

    deltas: Floats
    epsilon: Callable[[float], float]

    def least(self, right: float) -> float:
        """f(1 - right), by the lines below f: Dong, Roth, Su 2019, proposition 2.5."""
        steep = 1 - self.deltas - np.exp(_EPSILONS) * (1 - right)
        flat = np.exp(-_EPSILONS) * (right - self.deltas)
        return max(0.0, float(steep.max()), float(flat.max()))


@lru_cache(maxsize=128)
def leak(release: Release, count: int, scale: float) -> Leak:
    """What ``count`` releases of real numbers give away, with ``scale`` times the noise stated.

    A release of a cohort drawn without replacement is that of this audit's canaries, each of which
    sends its vector or the opposite one, and takes part with the cohort's rate: what is accounted
    for is a bound that holds for all data, and far above.
    """
    from dp_accounting.pld import privacy_loss_distribution as pld

    noise, q = scale * release.multiplier, rate(release.sampler)
    drawn = release.adjacency == "replace" and release.sampler is not None
    if release.adjacency == "replace" and not drawn:  # +1 and -1 are two norms apart
        noise /= 2
    grid = min(1e-2, max(0.1 * q / noise, 1e-4))
    if drawn:
        # Losses are rounded up here, round for round.
        fine = max(grid / math.sqrt(count), 1e-4)
        masses = _opposite(q, noise)
        one = pld.from_two_probability_mass_functions(*masses, value_discretization_interval=fine)
    else:
        make: Any = pld.from_gaussian_mechanism
        if release.mechanism == "laplace":
            make = pld.from_laplace_mechanism
        one = make(noise, value_discretization_interval=grid, sampling_prob=q)
    all_rounds = one.self_compose(count)
    deltas = np.asarray(all_rounds.get_delta_for_epsilon(_EPSILONS))
    return Leak(deltas, all_rounds.get_epsilon_for_delta)


def rate(sampler: Sampler) -> float:
    """The chance of taking part."""
    if sampler is None:
        return 1.0
    return sampler.q if isinstance(sampler, Poisson) else sampler.k / sampler.n


def _opposite(q: float, noise: float) -> tuple[dict[int, float], dict[int, float]]:
    """Log masses, in small cells, of noise around +1, or -1, with probability q, and else 0."""
    edges = np.linspace(-1 - 7.5 * noise, 1 + 7.5 * noise, _CELLS + 1)
    masses = (1 - q) * np.diff(scipy.special.ndtr(edges / noise)) + q * np.diff(
        scipy.special.ndtr((edges - 1) / noise)
    )
    log = np.log(np.maximum(masses, 1e-300)).tolist()
    return dict(enumerate(log)), dict(enumerate(log[::-1]))


def log_ratio(x: Floats, release: Release, times: int = 1) -> Floats:
    """How much likelier each (m,) sum of ``times`` releases is with a canary than without.

    Args:
        x: in clipping norms.
    """
    if release.mechanism == "laplace":
        counts, spread = np.arange(2), release.multiplier
        each = (np.abs(x)[:, None] - np.abs(x[:, None] - counts)) / spread
        each += _TIE * x[:, None]  # all numbers above 1 are equally likely
    else:
        counts, spread = np.arange(times + 1), times * release.multiplier**2
        each = (x[:, None] * counts - counts**2 / 2) / spread
    chance = scipy.stats.binom.logpmf(counts, counts[-1], rate(release.sampler))
    return np.asarray(scipy.special.logsumexp(each + chance, axis=1))
