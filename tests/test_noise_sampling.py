"""Noise against its named distribution.

Statistical tests have a false-alarm rate of 1e-6 each; the seeded source is fixed, so that they
either always pass or never. The cryptographic source is fresh at every run.
"""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ive

from tacit.errors import InputError
from tacit.protection import sampling
from tacit.protection.sampling import (
    TABLE_ERROR,
    discrete_gaussian,
    gaussian,
    laplace,
    secure,
    seeded,
    skellam,
)

COUNT = 200_000
ALARM = 1e-6


def source(kind, *address):
    return secure() if kind == "secure" else seeded(7, "test noise", *address)


def gaussian_mass(k, std):
    weight = np.exp(-0.5 * (k / std) ** 2)
    return weight / weight.sum()


def skellam_mass(k, std):
    return ive(np.abs(k), std**2)


def chi_square(values, mass, std):
    """p-value of integer values against ``mass``, in cells that expect at least 20."""
    reach = int(12 * std) + 20
    k = np.arange(-reach, reach + 1)
    expected = mass(k, std) * len(values)
    cell = np.floor(np.cumsum(expected) / max(20, len(values) / 200)).astype(int)
    cell = np.unique(cell, return_inverse=True)[1]
    seen = np.bincount(cell[values + reach], minlength=cell.max() + 1)
    expected = np.bincount(cell, expected)
    while expected[-1] < 20:
        expected = np.append(expected[:-2], expected[-2:].sum())
        seen = np.append(seen[:-2], seen[-2:].sum())
    return stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("kind", ["seeded", "secure"])
@pytest.mark.parametrize("std", [0.5, 3.0, 700.0])
@pytest.mark.parametrize(
    ("draw", "mass"), [(discrete_gaussian, gaussian_mass), (skellam, skellam_mass)]
)
def test_integer_noise_has_its_distribution(draw, mass, std, kind):
    values = draw(source(kind), std, (COUNT,))
    assert values.dtype == np.int64
    assert chi_square(values, mass, std) > ALARM


@pytest.mark.parametrize(
    ("draw", "mass"), [(discrete_gaussian, gaussian_mass), (skellam, skellam_mass)]
)
@pytest.mark.parametrize("std", [3.0, 700.0])
def test_three_percent_too_little_is_found(draw, mass, std):
    assert chi_square(draw(source("seeded"), 0.97 * std, (COUNT,)), mass, std) < ALARM


@pytest.mark.parametrize("std", [1025.0, 5e3, 1e6, 2.0**33])
def test_a_wide_discrete_gaussian_is_a_gaussian(std):
    # Above 1,000 the rounded Gaussian's distribution function is within 1e-9 of it. The sum of a
    # fine and a coarse draw must leave no comb: its last bits are uniform too.
    values = discrete_gaussian(source("seeded", int(std)), std, (COUNT,))
    uniform = stats.norm.cdf((values + 0.5) / std)
    assert stats.kstest(uniform, "uniform").pvalue > ALARM
    assert stats.chisquare(np.bincount(values % 256)).pvalue > ALARM
    assert stats.kstest(stats.norm.cdf(values / (0.97 * std)), "uniform").pvalue < ALARM


def test_the_sum_of_a_fine_and_a_coarse_draw_has_the_variance_asked_for():
    # Of 2,000,000 squares: five standard errors, 5 sqrt(2 / n), are 0.5 %; 257 for 256 adds 0.7 %.
    values = discrete_gaussian(source("seeded"), 3000.0, (2_000_000,)).astype(float)
    assert (values**2).mean() == pytest.approx(3000.0**2, rel=0.005)


@pytest.mark.parametrize("kind", ["seeded", "secure"])
@pytest.mark.parametrize(
    ("draw", "law"), [(gaussian, stats.norm(0, 1.5)), (laplace, stats.laplace(0, 1.5))]
)
def test_continuous_noise_has_its_distribution(draw, law, kind):
    values = draw(source(kind), 1.5, (2, COUNT // 2))
    assert values.dtype == torch.float32
    assert values.shape == (2, COUNT // 2)
    flat = values.flatten().double().numpy()
    assert stats.kstest(flat, law.cdf).pvalue > ALARM
    # Seven percent too little moves the distribution function of Laplace by .07 / (2 e) = .013, six
    # times what the alarm needs to sound at this count: fresh noise cannot hide it by chance.
    assert stats.kstest(0.93 * flat, law.cdf).pvalue < ALARM
    # Five standard errors (alarm 6e-7) of the mean, and of the mean square by the spread of x^2:
    # E x^4 is 3 s^4 for a Gaussian and 4! b^4 for Laplace.
    fourth = 1.5**4 * (3 if draw is gaussian else 24)
    assert abs(flat.mean()) < 5 * math.sqrt(law.var() / COUNT)
    assert abs((flat**2).mean() - law.var()) < 5 * math.sqrt((fourth - law.var() ** 2) / COUNT)


def test_gaussian_pairs_are_not_correlated():
    pair = gaussian(source("seeded"), 1.0, (2, COUNT // 2)).double()
    for a, b in ((pair[0], pair[1]), (pair[0] ** 2, pair[1] ** 2)):
        assert stats.pearsonr(a.numpy(), b.numpy()).pvalue > ALARM


@pytest.mark.parametrize(
    ("kind", "std"),
    [("discrete_gaussian", s) for s in (0.25, 3.3, 512.0)]
    + [("skellam", s) for s in (0.25, 5.0, 30.0)],
)
def test_tables_are_within_the_stated_total_variation(kind, std):
    # The table's probabilities are whole multiples of 2^-64: compared in 200-bit arithmetic.
    above = [int(x) for x in sampling._table(kind, std)[0]]
    above[-1] = 2**64
    drawn = np.diff([0, *above])
    half = len(above) // 2
    with mpmath.workprec(200):
        variance = mpmath.mpf(std) ** 2
        if kind == "skellam":
            mass = [mpmath.besseli(k, variance) / mpmath.exp(variance) for k in range(half + 1)]
        else:
            mass = [mpmath.exp(-(k**2) / (2 * variance)) for k in range(2 * half + 40)]
            total = 2 * mpmath.fsum(mass) - mass[0]
            mass = [x / total for x in mass]
        shared = [min(mpmath.mpf(int(p)) / 2**64, mass[abs(k - half)]) for k, p in enumerate(drawn)]
        assert 1 - mpmath.fsum(shared) < TABLE_ERROR


@pytest.mark.slow
def test_the_largest_skellam_table_is_within_it_too():
    # mpmath's Bessel function takes minutes there; the ratios' recurrence in 160 bits does not.
    std = 2.0**13
    above = [int(x) for x in sampling._table("skellam", std)[0]]
    above[-1] = 2**64
    drawn = np.diff(above[len(above) // 2 - 1 :])  # of 0, 1, ...
    reach = len(drawn) + 500
    with mpmath.workprec(160):
        ratio, ratios = mpmath.mpf(0), []
        for k in range(reach, -1, -1):
            ratio = 1 / (2 * (k + 1) / mpmath.mpf(std) ** 2 + ratio)
            ratios.append(ratio)
        mass = [mpmath.mpf(1)]
        for ratio in ratios[:500:-1]:
            mass.append(mass[-1] * ratio)
        total = 2 * mpmath.fsum(mass) - 1
        shared = [
            min(mpmath.mpf(int(p)) / 2**64, m / total) for p, m in zip(drawn, mass, strict=False)
        ]
        assert 1 - (2 * mpmath.fsum(shared) - shared[0]) < TABLE_ERROR


def test_shares_of_skellam_noise_add_up():
    # Sixteen shares of std 2 are one draw of std 8.
    total = skellam(source("seeded"), 2.0, (16, COUNT)).sum(axis=0)
    assert chi_square(total, skellam_mass, 8.0) > ALARM


def test_the_address_decides_the_noise():
    def draw(*address):
        return discrete_gaussian(seeded(3, "noise", *address), 9.0, (100,))

    assert (draw(1, 2) == draw(1, 2)).all()
    assert (draw(1, 2) != draw(1, 3)).any()
    stream = seeded(3, "noise", 1, 2)
    first = discrete_gaussian(stream, 9.0, (100,))
    assert (first == draw(1, 2)).all()
    assert (discrete_gaussian(stream, 9.0, (100,)) != first).any()


def test_the_keystream_is_aes_in_counter_mode(monkeypatch):
    # NIST AESAVS, key 0^128: AES of the zero block is 66e94bd4ef8a2c3b884cfa59ca342b2e.
    monkeypatch.setattr(sampling.os, "urandom", bytes)
    words = secure()
    block = np.concatenate([words(1), words(1)])
    assert block.tobytes().hex() == "66e94bd4ef8a2c3b884cfa59ca342b2e"


def test_two_secure_sources_differ():
    assert (secure()(8) != secure()(8)).all()


@pytest.mark.parametrize(
    ("draw", "std"),
    [
        (gaussian, 0.0),
        (gaussian, math.inf),
        (laplace, -1.0),
        (laplace, math.nan),
        (discrete_gaussian, 0.1),
        (discrete_gaussian, 2.0**41),
        (skellam, 0.0),
        (skellam, 2.0**14),
    ],
)
def test_a_useless_width_is_refused(draw, std):
    with pytest.raises(InputError, match="allowed is"):
        draw(source("seeded"), std, (1,))


def test_extreme_words_stay_finite():
    for word in (0, 2**63 - 1, 2**63, 2**64 - 1):

        def constant(count, word=word):
            return np.full(count, word, dtype=np.uint64)

        assert gaussian(constant, 1.0, (3,)).abs().max() < 8.3  # P[|x| > 8.29] = 2^-53
        assert laplace(constant, 1.0, (3,)).abs().max() < 36.8  # ln 2^53 = 36.74
        assert abs(discrete_gaussian(constant, 5.0, (3,))).max() < 50
        assert abs(skellam(constant, 5.0, (3,))).max() < 60
    assert gaussian(seeded(0, "x"), 1.0, (0,)).shape == (0,)
    assert skellam(secure(), 1.0, (0,)).shape == (0,)
