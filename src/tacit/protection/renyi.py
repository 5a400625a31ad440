"""Rényi divergences of one release, at a fixed list of orders.

From `dp-accounting` for continuous noise, from the papers for the integer mechanisms.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.protection.release import Poisson, Release, WithoutReplacement

ORDERS = np.array([*range(2, 65), 96, 128, 256, 512])  # whole: the Skellam bound asks for it


@lru_cache(maxsize=1024)
def renyi(release: Release) -> NDArray[np.float64]:
    """(orders,) Rényi divergences of one release at ``ORDERS``; read-only.

    Laplace noise with a sampler is bounded as without one: no bound of its own is known here.
    """
    import dp_accounting as dp

    ratio, sampler = release.relative, release.sampler
    match release.mechanism:
        case "gaussian" if isinstance(sampler, Poisson):
            # Mironov, Talwar & Zhang 2019.
            event = dp.PoissonSampledDpEvent(sampler.q, dp.GaussianDpEvent(ratio))
            curve = _event_renyi(event)
        case "gaussian" if isinstance(sampler, WithoutReplacement):
            # Wang, Balle & Kasiviswanathan 2019, Theorem 27.
            event = dp.SampledWithoutReplacementDpEvent(
                sampler.n, sampler.k, dp.GaussianDpEvent(ratio)
            )
            curve = _event_renyi(event)
        case "gaussian":
            curve = ORDERS / (2 * ratio**2)
        case "laplace":
            curve = _event_renyi(dp.LaplaceDpEvent(ratio))
        case "discrete_gaussian":
            curve = _discrete_gaussian_renyi(release)
        case "skellam":
            curve = _skellam_renyi(release)
        case _:  # randomised response
            # Binary randomised response is the worst of all mechanisms with this pure epsilon
            # (Kairouz, Oh & Viswanath 2015).
            flip = 2 / (1 + math.exp(1 / ratio))
            curve = _event_renyi(dp.RandomizedResponseDpEvent(flip, 2))
    curve.setflags(write=False)
    return curve


def _event_renyi(event: Any) -> NDArray[np.float64]:
    import dp_accounting as dp
    from dp_accounting.rdp import RdpAccountant

    sampled = (dp.SampledWithoutReplacementDpEvent, dp.RandomizedResponseDpEvent)
    relation = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    if isinstance(event, sampled):
        relation = dp.NeighboringRelation.REPLACE_ONE
    return RdpAccountant(list(ORDERS), relation).compose(event).rdp


def _discrete_gaussian_renyi(release: Release) -> NDArray[np.float64]:
    """Kairouz, Liu & Steinke 2021, Proposition 14: a sum of n shares of discrete Gaussian noise.

    ``slack`` is the paper's tau, how far the sum of shares is from one discrete Gaussian.
    """
    assert release.grid is not None
    grid, std = release.grid, release.std
    norm, norm_l1 = grid.norm * release.sensitivity, grid.norm_l1 * release.sensitivity
    k = np.arange(1, grid.shares)
    slack = 10 * float(np.exp(-2 * math.pi**2 * std**2 / grid.shares * k / (k + 1)).sum())
    flat = norm**2 / std**2
    return np.minimum(
        ORDERS / 2 * flat + slack * grid.dimension,
        ORDERS
        / 2
        * np.minimum(
            flat + 2 * slack * norm_l1 / std + slack**2 * grid.dimension,
            (norm / std + slack * math.sqrt(grid.dimension)) ** 2,
        ),
    )


def _skellam_renyi(release: Release) -> NDArray[np.float64]:
    """Agarwal, Kairouz & Liu 2021, section 3, the bound for vectors.

    A sum of Skellam shares is Skellam, so that the number of shares does not matter.
    """
    assert release.grid is not None
    norm, norm_l1 = (
        release.grid.norm * release.sensitivity,
        release.grid.norm_l1 * release.sensitivity,
    )
    variance = release.std**2
    excess = ((2 * ORDERS - 1) * norm**2 + 6 * norm_l1) / (4 * variance**2)
    return ORDERS * norm**2 / (2 * variance) + np.minimum(excess, 3 * norm_l1 / (2 * variance))


def to_epsilon(curve: NDArray[np.float64], delta: float) -> float:
    """Epsilon at ``delta``: Canonne, Kamath & Steinke 2020, Proposition 12, at the best order."""
    from dp_accounting.rdp import compute_epsilon

    return float(compute_epsilon(ORDERS, curve, delta)[0])
