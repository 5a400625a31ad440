"""Lower bounds on epsilon from one run, by guessing which canaries were in it.

Each of m canaries is included by a fair coin of its own. The auditor ranks them by a score, guesses
"in" for the highest, "out" for the lowest and abstains between; how many of the guesses are right
bounds the privacy of the mechanism from below.

Sources: Mahloujifar, Melis, Chaudhuri, "Auditing f-differential privacy in one run", 2024 (its
recursion over right and wrong guesses); Steinke, Nasr, Jagielski, "Privacy auditing with one (1)
training run", 2023 (the bound at delta = 0).
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from tacit.auditing.leak import Leak
from tacit.errors import require

# A family's noise: from a quarter of what is stated to 16 times as much, in steps of 2 %.
_NOISE = 2 ** (np.arange(-2 * 32, 4 * 32 + 1) / 32)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon >= 0 at which mu-Gaussian DP (mu = sensitivity / sigma) has this delta.

    Source: Balle and Wang, "Improving the Gaussian mechanism for differential privacy", 2018,
    theorem 8; Dong, Roth, Su, "Gaussian differential privacy", 2019, corollary 2.13.
    """
    require(mu >= 0, "mu", mu, "a number >= 0")
    require(0 < delta < 1, "delta", delta, "a number between 0 and 1")

    def passes(epsilon: float) -> bool:
        left = float(scipy.special.ndtr(mu / 2 - epsilon / mu))
        right = math.exp(epsilon + float(scipy.special.log_ndtr(-mu / 2 - epsilon / mu)))
        return left - right > delta

    return _last(passes) if mu else 0.0


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu whose epsilon at this delta it is: the inverse of ``gaussian_epsilon``."""
    return _last(lambda mu: gaussian_epsilon(mu, delta) < epsilon)


def correct_guesses(scores: NDArray[np.floating], included: NDArray[np.bool_], guesses: int) -> int:
    """How many are right when the highest half of the guesses says "in", the lowest half "out".

    Args:
        scores: (m,) finite, higher where a canary looks included.
        included: (m,) the coin flips.
        guesses: even, 2 to m; fixed before the scores are seen, or the bound's confidence is lost.
            A quarter of m is close to the best at epsilon 1 to 7.
    """
    m = _check_scores(scores, included)
    require(guesses in range(2, m + 1, 2), "guesses", guesses, f"an even number from 2 to {m}")
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    return int(included[order[m - half :]].sum() + (~included[order[:half]]).sum())


def gaussian_bound(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95
) -> float:
    """The largest epsilon that these guesses refute, if the mechanism is mu-Gaussian DP.

    A mechanism with a smaller epsilon at ``delta`` would have been guessed this well with
    probability below ``1 - confidence``. 0 where nothing is refuted.

    Args:
        canaries: m, the number of coin flips.
        guesses: r, at most m.
        correct: c, at most r.
        delta: at which epsilon is stated.
        confidence: of the bound, in (0, 1).
    """
    _check_guesses(canaries, guesses, correct, confidence)

    def refuted(mu: float) -> bool:
        least = lambda right: float(scipy.special.ndtr(scipy.special.ndtri(right) - mu))  # noqa: E731
        return _refuted(least, canaries, guesses, correct, 1 - confidence)

    return gaussian_epsilon(_last(refuted), delta)


def noise_bound(
    leak: Callable[[float], Leak],
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """The largest epsilon that these guesses refute, if the mechanism is one of a family.

    As ``gaussian_bound``, for mechanisms that differ in their noise alone.

    Args:
        leak: what is given away with so many times some noise: the more noise, the less.
    """
    _check_guesses(canaries, guesses, correct, confidence)

    def refuted(noise: float) -> bool:
        return _refuted(leak(noise).least, canaries, guesses, correct, 1 - confidence)

    # The least noise that is refuted: all more noise is, too.
    first = bisect_left(_NOISE, True, key=refuted)
    return leak(_NOISE[first]).epsilon(delta) if first < len(_NOISE) else 0.0


def pure_bound(guesses: int, correct: int, confidence: float = 0.95) -> float:
    """The largest epsilon that these guesses refute, if the mechanism is epsilon-DP (delta 0).

    Under epsilon-DP the correct guesses are stochastically below a binomial with probability
    e^epsilon / (1 + e^epsilon), whose one-sided Clopper-Pearson limit is turned round.
    """
    _check_guesses(guesses, guesses, correct, confidence)
    rate = _least_rate(correct, guesses, 1 - confidence)
    return max(0.0, math.log(rate / (1 - rate))) if rate > 0 else 0.0


@dataclass(frozen=True)
class TruePositives:
    """The rate of included canaries found at a false-positive rate, and its confidence limits."""

    rate: float
    least: float
    most: float


def true_positives(
    scores: NDArray[np.floating],
    included: NDArray[np.bool_],
    false_positive_rate: float,
    confidence: float = 0.95,
) -> TruePositives:
    """TPR at a fixed FPR with two-sided Clopper-Pearson limits (given the threshold).

    The threshold is the lowest that lets at most the fraction ``false_positive_rate`` (such as
    0.001 or 0.01) of the excluded canaries' scores lie above it.

    Args:
        scores: (m,) finite, higher where a canary looks included.
        included: (m,) the coin flips; both sides must occur.
    """
    _check_scores(scores, included)
    require(0 < false_positive_rate < 1, "false_positive_rate", false_positive_rate, "0 to 1")
    inside, outside = scores[included], np.sort(scores[~included])
    both = len(inside) > 0 and len(outside) > 0
    require(both, "included", f"{len(inside)} of {len(scores)}", "canaries in and out")
    threshold = outside[-1 - math.floor(false_positive_rate * len(outside))]
    found, tail = int((inside > threshold).sum()), (1 - confidence) / 2
    return TruePositives(
        found / len(inside),
        _least_rate(found, len(inside), tail),
        1 - _least_rate(len(inside) - found, len(inside), tail),
    )


def _refuted(
    least: Callable[[float], float], canaries: int, guesses: int, correct: int, significance: float
) -> bool:
    """Whether P[at least ``correct`` right] >= significance is impossible under f-DP.

    ``right`` and ``wrong`` are the least masses, over canaries, of right and of wrong guesses in
    runs with at least i right ones; together they may not exceed guesses / canaries.

    Args:
        least: f(1 - x), which is the inverse of the paper's blow-up function 1 - f(x).
    """
    right = significance * correct / canaries
    wrong = significance * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        below = least(min(right, 1.0))
        if below <= wrong:
            break
        right += i / (guesses - i) * (below - wrong)
        wrong = below
    return right + wrong > guesses / canaries


def _last(holds: Callable[[float], bool]) -> float:
    """The end of the interval [0, x] on which ``holds``; 0 where it holds nowhere."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _least_rate(found: int, trials: int, tail: float) -> float:
    """Clopper and Pearson's lower limit: below it, ``found`` or more has less chance than tail."""
    return float(scipy.stats.beta.ppf(tail, found, trials - found + 1)) if found else 0.0


def _check_scores(scores: NDArray[np.floating], included: NDArray[np.bool_]) -> int:
    require(scores.ndim == 1 and len(scores) > 1, "scores", scores.shape, "(m,) with m > 1")
    require(bool(np.isfinite(scores).all()), "scores", "NaN or infinity", "finite numbers")
    require(included.shape == scores.shape, "included", included.shape, f"{scores.shape}")
    return len(scores)


def _check_guesses(canaries: int, guesses: int, correct: int, confidence: float) -> None:
    require(0 < guesses <= canaries, "guesses", guesses, f"1 to {canaries}, the canaries")
    require(0 <= correct <= guesses, "correct", correct, f"0 to {guesses}, the guesses")
    require(0 < confidence < 1, "confidence", confidence, "a number between 0 and 1")
