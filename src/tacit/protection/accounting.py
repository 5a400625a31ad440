"""What a run's releases cost: epsilon at a delta, and the noise that a budget asks for.

Contract. A ``Release`` states a mechanism fully; an amplification is counted only with the sampler
and the adjacency that its theorem asks for; whatever has no bound here is refused. Every number is
an upper bound.

``spent`` and ``compose`` are for a plan that was fixed before the first output was seen:
Gaussian releases without sampling count exactly, as one with multiplier (sum of m_i^-2)^(-1/2)
(Balle & Wang 2018, Theorem 8); with Poisson-sampled Gaussian and with Laplace releases among them
by privacy-loss distributions (`dp-accounting`, pessimistic, connect-the-dots: Doroshenko et al.
2022); anything else by Rényi DP, added up order by order and converted by Canonne, Kamath & Steinke
2020, Proposition 12.

``filtered`` is for releases that are chosen one after the other, each after seeing the earlier
outputs. There only Rényi DP is used: stopping when the sums leave the budget at every order is a
valid privacy filter (Feldman & Zrnic 2021; Lécuyer 2021), while stopping by composed privacy-loss
distributions is not (arXiv:2602.06756), and taking the better of two filters costs both deltas.

`dp-accounting` is imported when a number is first asked for.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError, require
from tacit.protection.release import PURE, Grid, Poisson, Release, Sampler, WithoutReplacement
from tacit.protection.renyi import ORDERS, renyi, to_epsilon

Counts = frozenset[tuple[Release, int]]
_MEANINGFUL = 50.0  # epsilons above promise nothing, and their loss distributions fill the memory
# Spacing of privacy losses: a share of one round's spread, so that its error stays small when many
# rounds add up; a fifth of 2^-11 moves the tests' MNIST figure by 0.1 %.
_GRID, _GRID_SHARE, _FINEST_GRID = 2.0**-11, 0.05, 2.0**-20


def spent(release: Release, rounds: int, delta: float) -> float:
    """Epsilon at ``delta`` after ``rounds`` releases of this kind."""
    return compose([(release, rounds)], delta)


def compose(releases: Sequence[tuple[Release, int]], delta: float) -> float:
    """Epsilon at ``delta`` of a plan of several releases on the same data, each with its rounds.

    Raises:
        InputError: releases of different adjacencies, which have no common meaning.
    """
    return _planned(frozenset(_counted(releases, delta).items()), delta)


def filtered(releases: Sequence[tuple[Release, int]], delta: float) -> float:
    """Epsilon at ``delta`` of releases that were chosen one after the other; as ``compose``."""
    return to_epsilon(_renyi_sum(_counted(releases, delta).items()), delta)


def _counted(releases: Sequence[tuple[Release, int]], delta: float) -> Counter[Release]:
    require(0 < delta < 1, "delta", delta, "a probability between 0 and 1")
    counts: Counter[Release] = Counter()
    for release, rounds in releases:
        require(rounds >= 0, "rounds", rounds, "a whole number from 0")
        counts[release] += rounds
    adjacencies = sorted({release.adjacency for release in counts})
    require(len(adjacencies) <= 1, "releases", " and ".join(adjacencies), "one adjacency")
    return +counts


@lru_cache(maxsize=4096)
def _planned(counts: Counts, delta: float) -> float:
    bound = to_epsilon(_renyi_sum(counts), delta)
    if all(release.mechanism in ("laplace", PURE) for release, _ in counts):
        bound = min(bound, math.fsum(rounds / release.relative for release, rounds in counts))
    if counts and all(_is_plain_gaussian(release) for release, _ in counts):
        from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

        return float(get_epsilon_gaussian(_one_gaussian(counts).multiplier, delta))
    if 0 < bound < _MEANINGFUL and all(_has_loss_distribution(release) for release, _ in counts):
        return min(bound, _by_loss_distributions(counts, delta, bound))
    return bound


def _by_loss_distributions(counts: Counts, delta: float, bound: float) -> float:
    spread = bound / math.sqrt(sum(rounds for _, rounds in counts))
    grid = 2.0 ** math.floor(math.log2(min(_GRID, max(_GRID_SHARE * spread, _FINEST_GRID))))
    plain = frozenset(entry for entry in counts if _is_plain_gaussian(entry[0]))
    merged = [(_one_gaussian(plain), 1)] if plain else []
    parts = [
        _loss_distribution(release, grid).self_compose(rounds)
        for release, rounds in [*(counts - plain), *merged]
    ]
    total = reduce(lambda a, b: a.compose(b), parts)
    return float(total.get_epsilon_for_delta(delta))


def _one_gaussian(counts: Counts) -> Release:
    """The Gaussian mechanism, at sensitivity 1, that equals these unsampled ones together."""
    precision = math.fsum(rounds / release.relative**2 for release, rounds in counts)
    return Release("gaussian", 1 / math.sqrt(precision))


def _is_plain_gaussian(release: Release) -> bool:
    return release.mechanism == "gaussian" and release.sampler is None


def _has_loss_distribution(release: Release) -> bool:
    known = release.mechanism in ("gaussian", "laplace")
    return known and not isinstance(release.sampler, WithoutReplacement)


def rounds_within(release: Release, epsilon: float, delta: float) -> int:
    """The most rounds that keep epsilon at ``delta`` within the budget; 0 if not even one does."""
    require(epsilon > 0, "epsilon", epsilon, "a number above 0")
    least, most = 0, 1
    while spent(release, most, delta) <= epsilon:
        least, most = most, 2 * most
        if most > 2**40:
            raise InputError(f"epsilon: {epsilon} was given; more than 2^40 rounds fit in it")
    while most - least > 1:
        middle = (least + most) // 2
        if spent(release, middle, delta) <= epsilon:
            least = middle
        else:
            most = middle
    return least


@lru_cache(maxsize=256)
def multiplier_for(
    epsilon: float,
    delta: float,
    rounds: int,
    sampler: Sampler = None,
    mechanism: str = "gaussian",
    adjacency: str = "add-or-remove",
    grid: Grid | None = None,
) -> float:
    """The least multiplier whose ``rounds`` releases spend between 99.9 % and 100 % of epsilon.

    They spend less only where a discrete Gaussian needs more noise for its shares to be valid.

    Raises:
        InputError: no multiplier up to 2^30 is enough.
    """
    require(0 < epsilon < math.inf, "epsilon", epsilon, "a finite number above 0")
    require(rounds >= 1, "rounds", rounds, "a whole number from 1")
    floor = 0.0
    if mechanism == "discrete_gaussian" and grid is not None:
        floor = 0.5 * math.sqrt(grid.shares) / grid.norm

    def release(multiplier: float) -> Release:
        return Release(mechanism, max(multiplier, floor), sampler, adjacency, grid)

    def quick(multiplier: float) -> float:
        return to_epsilon(rounds * renyi(release(multiplier)), delta)

    def exact(multiplier: float) -> float:
        return spent(release(multiplier), rounds, delta)

    return max(_smallest(exact, epsilon, _smallest(quick, epsilon, 1.0, 2.0), 1.1), floor)


def _smallest(cost: Callable[[float], float], budget: float, guess: float, step: float) -> float:
    """A multiplier with 0.999 budget <= cost <= budget; the cost falls with the multiplier."""
    from scipy.optimize import brentq

    low = high = guess
    while cost(high) > budget:
        low, high = high, step * high
        if high > 2**30:
            raise InputError(f"epsilon: {budget} was given; no multiplier up to 2^30 reaches it")
    while cost(low) <= budget:
        low, high = low / step, low
        if low < 2**-30:
            return high
    if cost(high) >= 0.999 * budget:
        return high

    def gap(log_multiplier: float) -> float:
        value = min(max(cost(math.exp(log_multiplier)), 1e-30), 1e30)
        return math.log(value / (0.9995 * budget))

    root = brentq(gap, math.log(low), math.log(high), xtol=1e-4)
    while cost(math.exp(root)) > budget:
        root += 1e-4
    return math.exp(root)


@lru_cache(maxsize=16)
def _loss_distribution(release: Release, grid: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld

    q = release.sampler.q if isinstance(release.sampler, Poisson) else 1.0
    make = (
        pld.from_laplace_mechanism
        if release.mechanism == "laplace"
        else pld.from_gaussian_mechanism
    )
    return make(release.relative, value_discretization_interval=grid, sampling_prob=q)


def _renyi_sum(counts: Iterable[tuple[Release, int]]) -> NDArray[np.float64]:
    return sum((rounds * renyi(release) for release, rounds in counts), np.zeros(len(ORDERS)))
