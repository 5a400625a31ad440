"""The accountant against published figures, closed forms and numbers derived a second way."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ive
from scipy.stats import norm

from tacit.errors import InputError
from tacit.protection.accounting import (
    compose,
    filtered,
    multiplier_for,
    rounds_within,
    spent,
)
from tacit.protection.release import Grid, Poisson, Release, WithoutReplacement
from tacit.protection.renyi import ORDERS, renyi

MNIST = 256 / 60_000


def gaussian_delta(epsilon, multiplier):
    """Balle & Wang 2018, Theorem 8, for sensitivity 1."""
    a, b = 1 / (2 * multiplier), epsilon * multiplier
    return norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b)


def gaussian_epsilon(multiplier, delta):
    return brentq(lambda e: gaussian_delta(e, multiplier) - delta, 0, 200, xtol=1e-12)


def renyi_divergence(p, q, order):
    """Of two probability vectors, in logarithms."""
    kept = (p > 0) & (q > 0)
    logs = order * np.log(p[kept]) + (1 - order) * np.log(q[kept])
    return (logs.max() + np.log(np.exp(logs - logs.max()).sum())) / (order - 1)


@pytest.mark.parametrize(
    ("multiplier", "epochs", "published"), [(1.12, 60, 2.92), (0.6, 30, 9.74), (1.2, 10, 1.20)]
)
def test_the_dpsgd_mnist_tutorial(multiplier, epochs, published):
    # TensorFlow Privacy, tutorials/README.md, "Select Parameters": 60,000 rows, batches of 256,
    # delta 1e-5. Its accountant converted by Mironov 2017, Proposition 3: min r + ln(1/d)/(a - 1).
    rounds = epochs * 60_000 // 256
    curve = rounds * renyi(Release("gaussian", multiplier, Poisson(MNIST)))
    assert min(curve + math.log(1e5) / (ORDERS - 1)) == pytest.approx(published, rel=0.005)


def test_agrees_with_a_second_tight_accountant():
    # Opacus 1.6.0, PRVAccountant with history (1.1, 256/60000, 14062) and eps_error 0.001: 2.3827.
    epsilon = spent(Release("gaussian", 1.1, Poisson(MNIST)), 14_062, 1e-5)
    assert epsilon == pytest.approx(2.3827, abs=0.002)


def test_poisson_sampling_by_quadrature():
    # One release: the worse direction's hockey-stick divergence, integrated on a fine grid.
    q, multiplier, epsilon = 0.2, 0.9, 1.0
    x = np.linspace(-15, 16, 2_000_001)
    absent = norm.pdf(x, 0, multiplier)
    present = (1 - q) * absent + q * norm.pdf(x, 1, multiplier)
    step = x[1] - x[0]
    delta = max(
        np.maximum(present - math.exp(epsilon) * absent, 0).sum() * step,
        np.maximum(absent - math.exp(epsilon) * present, 0).sum() * step,
    )
    release = Release("gaussian", multiplier, Poisson(q))
    assert epsilon - 1e-9 <= spent(release, 1, delta) <= epsilon * 1.001
    # And its Rényi divergence at order 8, by the same quadrature.
    order = 8
    expected = renyi_divergence(present * step, absent * step, order)
    assert renyi(release)[order == ORDERS][0] == pytest.approx(expected, rel=1e-6)


def test_the_gaussian_mechanism_is_exact():
    # k rounds at m are one round at m / sqrt(k); a replaced unit moves the sum by twice the bound.
    release = Release("gaussian", 20.0)
    assert spent(release, 100, 1e-5) == pytest.approx(gaussian_epsilon(2.0, 1e-5), rel=1e-9)
    moved = Release("gaussian", 20.0, adjacency="replace")
    assert spent(moved, 100, 1e-5) == pytest.approx(gaussian_epsilon(1.0, 1e-5), rel=1e-9)


def test_different_gaussians_compose_by_precision():
    # 3^-2 + 4^-2 = 25/144, hence one Gaussian of multiplier 12/5.
    both = [(Release("gaussian", 3.0), 1), (Release("gaussian", 4.0), 1)]
    assert compose(both, 1e-6) == pytest.approx(gaussian_epsilon(2.4, 1e-6), rel=1e-9)


def test_a_planned_mixture_is_between_its_bounds():
    sampled, plain = Release("gaussian", 1.1, Poisson(MNIST)), Release("gaussian", 5.0)
    mixed = compose([(sampled, 1000), (plain, 1)], 1e-5)
    assert mixed > max(spent(sampled, 1000, 1e-5), spent(plain, 1, 1e-5))
    assert mixed < filtered([(sampled, 1000), (plain, 1)], 1e-5)
    assert compose([(plain, 2), (plain, 1)], 1e-5) == spent(plain, 3, 1e-5)
    # As q goes to 1, a sampled release is a plain one: the mixture is one Gaussian again.
    almost = Release("gaussian", 3.0, Poisson(1.0))
    both = compose([(almost, 1), (Release("gaussian", 4.0), 1)], 1e-6)
    assert both == pytest.approx(gaussian_epsilon(2.4, 1e-6), rel=1e-3)


def test_a_filter_is_the_renyi_sum():
    # Canonne, Kamath & Steinke 2020, Proposition 12, on a/2 (3^-2 + 4^-2) = a * 25/288.
    orders = np.array([float(a) for a in ORDERS])
    curve = orders * 25 / 288
    expected = min(curve + np.log1p(-1 / orders) - np.log(1e-6 * orders) / (orders - 1))
    both = [(Release("gaussian", 3.0), 1), (Release("gaussian", 4.0), 1)]
    assert filtered(both, 1e-6) == pytest.approx(expected, rel=1e-12)
    assert filtered([], 1e-6) == 0


def test_sampling_without_replacement_has_its_own_bound():
    # Nothing is gained with k = n; and one of ten at 10 % is below the unsampled, but, replacing a
    # unit, above the Poisson figure for a unit added.
    plain = renyi(Release("gaussian", 4.0, adjacency="replace"))
    everyone = renyi(Release("gaussian", 4.0, WithoutReplacement(10, 10), "replace"))
    tenth = renyi(Release("gaussian", 4.0, WithoutReplacement(1, 10), "replace"))
    assert everyone == pytest.approx(plain)
    # Wang, Balle & Kasiviswanathan 2019, Theorem 9 at order 2 with q = 1/10 and e(2) = 2/(2 * 2^2):
    # ln(1 + q^2 min(4 (exp(e(2)) - 1), 2 exp(e(2)))).
    bound = math.log(1 + 0.01 * min(4 * math.expm1(0.25), 2 * math.exp(0.25)))
    assert tenth[0] == pytest.approx(bound, rel=1e-9)
    assert (tenth < plain).all()
    assert (tenth[:20] > renyi(Release("gaussian", 4.0, Poisson(0.1)))[:20]).all()


def test_laplace_and_pure_epsilons():
    # One Laplace release at scale 2 is 1/2-DP; 64 at 8 cost far less than 64/8 at delta 1e-5.
    assert spent(Release("laplace", 2.0), 1, 1e-9) == pytest.approx(0.5, rel=1e-3)
    assert spent(Release("laplace", 8.0), 64, 1e-5) < 5.5
    # delta of Laplace is 1 - exp((e - s)/2) for one release at e below s = 1/scale.
    epsilon = 0.5 + 2 * math.log(1 - 0.01)
    assert spent(Release("laplace", 2.0), 1, 0.01) == pytest.approx(epsilon, abs=1e-3)
    answered = Release("randomised_response", 1 / 1.5, adjacency="replace")
    assert spent(answered, 1, 1e-9) == pytest.approx(1.5)
    assert spent(answered, 100, 1e-5) < 150


@pytest.mark.parametrize("norm_bound", [1, 3, 8])
def test_skellam_against_its_probabilities(norm_bound):
    # In one dimension, a shift of s: the divergence by summing Bessel functions.
    variance = 144.0
    k = np.arange(-200, 201)
    mass = ive(np.abs(k), variance)
    release = Release("skellam", 12.0 / norm_bound, grid=Grid(1, norm_bound))
    for order in (2, 5, 12):
        shifted = ive(np.abs(k - norm_bound), variance)
        true = renyi_divergence(shifted, mass, order)
        bound = renyi(release)[order == ORDERS][0]
        assert true <= bound <= 1.2 * true


def test_skellam_by_hand():
    # Agarwal et al. 2021, section 3, with order 2, L2 10, L1 min(10 * sqrt(4), 100) = 20 and
    # variance 400: 2 * 100/800 + min((3 * 100 + 120)/(4 * 160000), 60/800).
    value = renyi(Release("skellam", 2.0, grid=Grid(4, 10)))[0]
    assert value == pytest.approx(0.25 + 420 / 640_000)
    # To replace a unit doubles both norms.
    value = renyi(Release("skellam", 2.0, adjacency="replace", grid=Grid(4, 10)))[0]
    assert value == pytest.approx(1.0 + (3 * 400 + 240) / 640_000)


@pytest.mark.parametrize("shares", [1, 2, 9])
def test_discrete_gaussian_against_its_probabilities(shares):
    # Shares of variance 1/2 each (where a sum of shares differs from one discrete Gaussian).
    local = math.sqrt(0.5)
    k = np.arange(-60, 61)
    share = np.exp(-(k**2) / (2 * local**2))
    share /= share.sum()
    mass = share
    for _ in range(shares - 1):
        mass = np.convolve(mass, share)
    std = local * math.sqrt(shares)
    release = Release("discrete_gaussian", std / 2, grid=Grid(1, 2, shares))
    shifted = np.roll(mass, 2)
    for order in (2, 4):
        inside = slice(len(mass) // 2 - 20, len(mass) // 2 + 21)
        true = renyi_divergence(shifted[inside], mass[inside], order)
        bound = renyi(release)[order == ORDERS][0]
        assert true <= bound * (1 + 1e-9)
        if shares == 1:
            assert bound == pytest.approx(order * 4 / (2 * 0.5))  # Canonne et al. 2020: as Gaussian


def test_discrete_gaussian_slack_by_hand():
    # Kairouz et al. 2021, Proposition 14, two shares of variance 1/2: tau = 10 exp(-pi^2/2).
    tau = 10 * math.exp(-(math.pi**2) / 2)
    value = renyi(Release("discrete_gaussian", 0.5, grid=Grid(1, 2, 2)))[0]
    assert value == pytest.approx(min(4 + tau, 4 + 4 * tau + tau**2, (2 + tau) ** 2))


@pytest.mark.parametrize(
    ("rounds", "setting"),
    [
        (100, {}),
        (500, {"sampler": Poisson(0.02)}),
        (20, {"mechanism": "laplace"}),
        pytest.param(
            5,
            {"sampler": WithoutReplacement(1, 50), "adjacency": "replace"},
            marks=pytest.mark.slow,
        ),
        (50, {"mechanism": "skellam", "grid": Grid(1000, 4096.0, 10)}),
        (50, {"mechanism": "discrete_gaussian", "grid": Grid(1000, 4096.0, 10)}),
    ],
)
def test_calibration_spends_the_budget_and_not_more(rounds, setting):
    multiplier = multiplier_for(3.0, 1e-5, rounds, **setting)
    release = Release(**{"mechanism": "gaussian", **setting, "multiplier": multiplier})
    assert 2.997 <= spent(release, rounds, 1e-5) <= 3.0


def test_calibration_of_one_gaussian_is_balle_and_wangs():
    multiplier = multiplier_for(1.0, 1e-6, 1)
    assert gaussian_delta(1.0, multiplier) == pytest.approx(1e-6, rel=0.02)


def test_rounds_within_is_the_last_that_fits():
    release = Release("gaussian", 2.0, Poisson(0.1))
    rounds = rounds_within(release, 1.0, 1e-5)
    assert spent(release, rounds, 1e-5) <= 1.0 < spent(release, rounds + 1, 1e-5)
    assert rounds_within(Release("gaussian", 0.5), 1.0, 1e-5) == 0
    # k rounds at 20 are one at 20 / sqrt(k).
    for epsilon in (0.7, 1.0, 1.3):
        most = max(k for k in range(1, 100) if gaussian_epsilon(20 / math.sqrt(k), 1e-5) <= epsilon)
        assert rounds_within(Release("gaussian", 20.0), epsilon, 1e-5) == most


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mechanism": "cauchy"}, "mechanism: 'cauchy'"),
        ({"multiplier": 0.0}, "multiplier: 0.0"),
        ({"multiplier": math.nan}, "multiplier: nan"),
        ({"adjacency": "zero-out"}, "adjacency"),
        ({"sampler": Poisson(0.5), "adjacency": "replace"}, "sampler"),
        ({"sampler": WithoutReplacement(1, 2)}, "sampler"),
        ({"mechanism": "skellam", "grid": Grid(1, 2.0), "sampler": Poisson(0.5)}, "sampler"),
        ({"mechanism": "skellam"}, "grid: None"),
        ({"grid": Grid(1, 2.0)}, "grid"),
        ({"mechanism": "discrete_gaussian", "grid": Grid(1, 1.0, 9)}, "0.5 grid steps"),
    ],
)
def test_no_bound_no_release(setting, message):
    with pytest.raises(InputError, match=message):
        Release(**{"mechanism": "gaussian", "multiplier": 1.0, **setting})


def test_extreme_noise_stays_finite_and_cheap():
    # Below epsilon 50 a loss distribution is built; above, its grid would not fit in memory.
    assert 1e5 < spent(Release("gaussian", 0.05, Poisson(0.1)), 1000, 1e-5) < 1e6
    # Many rounds of very small losses: in the limit a Gaussian of multiplier m / (q sqrt(k)), here
    # 100 / (0.01 * 100) (Bu et al. 2020, Theorem 5).
    epsilon = spent(Release("gaussian", 100.0, Poisson(0.01)), 10_000, 1e-5)
    assert epsilon == pytest.approx(gaussian_epsilon(100.0, 1e-5), rel=0.02)


def test_refusals():
    with pytest.raises(InputError, match="q: 0"):
        Poisson(0)
    with pytest.raises(InputError, match="k: 3"):
        WithoutReplacement(3, 2)
    one = Release("gaussian", 1.0)
    with pytest.raises(InputError, match="one adjacency"):
        compose([(one, 1), (Release("gaussian", 1.0, adjacency="replace"), 1)], 1e-5)
    with pytest.raises(InputError, match="delta: 0"):
        spent(one, 1, 0)
    with pytest.raises(InputError, match="rounds: -1"):
        spent(one, -1, 1e-5)
    assert spent(one, 0, 1e-5) == 0
