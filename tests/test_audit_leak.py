"""What right builds give away: curves against closed forms, and the bound drawn from them."""

import math

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from scipy.stats import binom, laplace, norm

from tacit.auditing.bound import (
    correct_guesses,
    gaussian_bound,
    gaussian_epsilon,
    gaussian_mu,
    noise_bound,
    pure_bound,
)
from tacit.auditing.leak import leak, log_ratio
from tacit.protection.accounting import spent
from tacit.protection.release import Poisson, Release, WithoutReplacement
from tacit.randomness import generator

DELTA = 1e-5


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_gaussian_noise_without_sampling_is_gaussian_dp(scale: float) -> None:
    # Four releases with multiplier 3: mu = sqrt(4) / 3, over the noise's scale.
    found, mu = leak(Release("gaussian", 3.0), 4, scale), 2 / (3 * scale)
    assert found.epsilon(DELTA) == pytest.approx(get_epsilon_gaussian(1 / mu, DELTA), rel=0.01)
    for right in (0.001, 0.1, 0.5, 0.9):
        # Lines at epsilons a twentieth apart lie below f, by little.
        exact = norm.cdf(norm.ppf(right) - mu)
        assert exact - 2e-3 < found.least(right) <= exact


def test_laplace_noise_is_as_pure_as_it_says() -> None:
    # At epsilon 0, delta is the total variation distance 1 - e^(-1 / 2b); from 1 / b on it is 0.
    found = leak(Release("laplace", 2.0), 1, 1.0)
    assert found.deltas[0] == pytest.approx(1 - math.exp(-1 / 4), abs=1e-4)
    assert found.epsilon(DELTA) == pytest.approx(0.5, abs=0.01)
    assert found.deltas[11] < 1e-12  # epsilon 0.55


def test_a_sampled_release_leaks_what_the_accountant_says() -> None:
    release = Release("gaussian", 1.1, Poisson(0.1))
    assert leak(release, 50, 1.0).epsilon(DELTA) == pytest.approx(
        spent(release, 50, DELTA), rel=0.01
    )


def test_an_opposite_canary_moves_a_sum_by_two_norms() -> None:
    # If all take part: mu = 2 / 4 in each of 4 rounds, 1 together.
    release = Release("gaussian", 4.0, WithoutReplacement(7, 7), "replace")
    found = leak(release, 4, 1.0)
    assert found.epsilon(DELTA) == pytest.approx(gaussian_epsilon(1.0, DELTA), abs=0.02)


def test_a_drawn_cohort_leaks_its_total_variation() -> None:
    # Around 0 both are alike; the rest, a half, are N(1) and N(-1): 1/2 (2 Phi(1 / sigma) - 1).
    release = Release("gaussian", 2.0, WithoutReplacement(3, 6), "replace")
    expected = 0.5 * (2 * norm.cdf(0.5) - 1)
    # Losses are rounded up, by at most 0.01.
    assert expected < leak(release, 1, 1.0).deltas[0] < expected + 0.005
    # The accountant's bound holds for all data, so that it is no smaller.
    assert leak(release, 1, 1.0).epsilon(DELTA) < spent(release, 1, DELTA)


def test_scores_are_likelihood_ratios() -> None:
    x = np.linspace(-3, 4, 15)
    inside = 0.7 * norm.pdf(x, 0, 1.5) + 0.3 * norm.pdf(x, 1, 1.5)
    expected = np.log(inside / norm.pdf(x, 0, 1.5))
    assert np.allclose(log_ratio(x, Release("gaussian", 1.5, Poisson(0.3))), expected)
    # The sum of three steps, in each of which a row is with probability 0.3.
    std = math.sqrt(3) * 1.5
    inside = sum(binom.pmf(k, 3, 0.3) * norm.pdf(x, k, std) for k in range(4))
    expected = np.log(inside / norm.pdf(x, 0, std))
    assert np.allclose(log_ratio(x, Release("gaussian", 1.5, Poisson(0.3)), 3), expected)
    expected = laplace.logpdf(x, 1, 2) - laplace.logpdf(x, 0, 2)
    assert np.allclose(log_ratio(x, Release("laplace", 2.0)), expected, atol=1e-8)


@pytest.mark.parametrize("correct", [150, 200, 240])
def test_a_family_of_gaussians_gives_the_gaussian_bound(correct: int) -> None:
    release = Release("gaussian", 2.0)
    found = noise_bound(lambda noise: leak(release, 4, noise), 1000, 250, correct, DELTA)
    # Noise is found to 2 %, and what is refuted is never more than there is.
    assert found == pytest.approx(gaussian_bound(1000, 250, correct, DELTA), rel=0.05)


@pytest.mark.parametrize("correct", [170, 200, 225])
def test_one_laplace_release_gives_the_bound_of_pure_privacy(correct: int) -> None:
    # Its highest and lowest scores are as good as any mechanism's with that epsilon. The Gaussian
    # family's bound would be 1.8 for 200 of 250, where the truth may be 1.1.
    found = noise_bound(lambda n: leak(Release("laplace", 1.0), 1, n), 1000, 250, correct, DELTA)
    assert found == pytest.approx(pure_bound(250, correct), rel=0.05)


def test_no_signal_has_epsilon_zero() -> None:
    assert noise_bound(lambda n: leak(Release("laplace", 1.0), 1, n), 1000, 250, 125, DELTA) == 0


@pytest.mark.parametrize(
    "release", [Release("laplace", 1.0), Release("gaussian", 1.0, Poisson(0.25))]
)
def test_the_bound_passes_the_truth_in_at_most_one_run_of_twenty(release: Release) -> None:
    # Of 300 runs more than the limit do so with probability 1e-6 (fixed streams: no flicker).
    runs, m, guesses = 300, 400, 100
    truth, limit = leak(release, 1, 1.0).epsilon(DELTA), binom.isf(1e-6, runs, 0.05)
    counts = []
    for run in range(runs):
        stream = generator(0, "audit leak", run)
        included = stream.random(m) < 0.5
        rate = 1.0 if release.sampler is None else 0.25
        draw = stream.laplace if release.mechanism == "laplace" else stream.normal
        x = (included & (stream.random(m) < rate)) + draw(0, release.multiplier, m)
        counts.append(correct_guesses(log_ratio(x, release), included, guesses))
    bound = {
        c: noise_bound(lambda n: leak(release, 1, n), m, guesses, c, DELTA) for c in set(counts)
    }
    assert sum(bound[c] > truth for c in counts) <= limit


def test_mu_of_an_epsilon() -> None:
    assert gaussian_mu(get_epsilon_gaussian(1 / 1.3, DELTA), DELTA) == pytest.approx(1.3, abs=1e-4)
