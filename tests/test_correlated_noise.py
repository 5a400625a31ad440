"""DP-FTRL noise against dense matrices, enumeration and the published optimum."""

import itertools
import math

import numpy as np
import pytest
import torch

from tacit.errors import InputError
from tacit.protection.correlated import BufferedToeplitz


def dense(noise):
    """C as a matrix, from its definition."""
    n = noise.rounds
    decays, scales = noise._buffers
    matrix = np.eye(n)
    for i in range(n):
        for j in range(i):
            matrix[i, j] = sum(s * d ** (i - j - 1) for d, s in zip(decays, scales, strict=True))
    return matrix


def streamed(noise, fresh):
    state = torch.zeros(2, fresh.shape[1], dtype=fresh.dtype)
    rows = []
    for row in fresh:
        value, state = noise.next(state, row)
        rows.append(value)
    return torch.stack(rows)


@pytest.mark.parametrize("rounds", [1, 2, 30, 64])
def test_the_stream_solves_the_dense_system(rounds):
    noise = BufferedToeplitz(rounds)
    fresh = np.random.default_rng(1).standard_normal((rounds, 3))
    expected = np.linalg.solve(dense(noise), fresh)
    assert streamed(noise, torch.from_numpy(fresh)).numpy() == pytest.approx(expected, abs=1e-12)


def test_the_stream_keeps_its_precision_in_float32():
    noise = BufferedToeplitz(1000)
    fresh = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact, rounded = streamed(noise, fresh), streamed(noise, fresh.float())
    assert (exact.cumsum(0) - rounded.double().cumsum(0)).abs().max() < 1e-4


@pytest.mark.parametrize("rounds", [2, 9, 64])
def test_sensitivity_of_one_participation_is_a_columns_norm(rounds):
    norms = np.linalg.norm(dense(BufferedToeplitz(rounds)), axis=0)
    assert BufferedToeplitz(rounds).sensitivity == pytest.approx(norms.max())


@pytest.mark.parametrize(
    ("participations", "separation"), [(2, 1), (10, 1), (3, 2), (2, 4), (4, 3), (1, 10)]
)
def test_sensitivity_is_the_worst_of_all_schedules(participations, separation):
    # All sets of at most k of 10 rounds at least b apart. C^T C has no negative entry, so that
    # alike contributions of norm 1 are the worst: the norm of the columns' sum.
    noise = BufferedToeplitz(10, participations, separation)
    matrix = dense(noise)
    worst = max(
        np.linalg.norm(matrix[:, list(rounds)].sum(axis=1))
        for k in range(1, participations + 1)
        for rounds in itertools.combinations(range(10), k)
        if all(b - a >= separation for a, b in itertools.pairwise(rounds))
    )
    assert noise.sensitivity == pytest.approx(worst, rel=1e-12)


@pytest.mark.parametrize(("rounds", "share"), [(10, 1.0005), (100, 1.003), (1000, 1.02)])
def test_error_is_near_the_square_root_factorisations(rounds, share):
    # Henzinger et al. 2023 / Fichtenberger et al. 2023: A^(1/2) has coefficients binom(2k, k)/4^k
    # and its error at sensitivity 1 is the sum of their squares; independent noise has sqrt(n).
    noise = BufferedToeplitz(rounds)
    weights = streamed(noise, torch.eye(rounds, dtype=torch.float64)).sum(0)  # of the last sum
    error = float(weights.norm()) * noise.sensitivity
    optimum = sum((math.comb(2 * k, k) / 4**k) ** 2 for k in range(rounds))
    assert optimum <= error <= share * optimum
    assert error < 0.6 * math.sqrt(rounds)


@pytest.mark.parametrize("rounds", [4, 30, 300, 3_000, 30_000, 100_000])
def test_coefficients_fall_and_are_positive_for_any_number_of_rounds(rounds):
    column = BufferedToeplitz(rounds).coefficients
    assert len(column) == rounds
    assert (column > 0).all()
    assert (np.diff(column) < 0).all()


@pytest.mark.parametrize(
    "setting",
    [
        {"rounds": 0},
        {"rounds": 100_001},
        {"rounds": 10, "separation": 0},
        {"rounds": 10, "participations": 0},
        {"rounds": 10, "participations": 4, "separation": 4},
    ],
)
def test_refusals(setting):
    with pytest.raises(InputError, match="allowed is"):
        BufferedToeplitz(**setting)


@pytest.mark.parametrize(("rounds", "participations", "separation"), [(7, 1, 7), (30, 6, 5)])
def test_the_error_is_that_of_dense_matrices(rounds, participations, separation):
    noise = BufferedToeplitz(rounds, participations, separation)
    row = np.ones(rounds) @ np.linalg.inv(dense(noise))
    independent = math.sqrt(rounds * participations)
    expected = np.linalg.norm(row) * noise.sensitivity / independent
    assert noise.error == pytest.approx(expected, rel=1e-9)
    assert BufferedToeplitz(1).error == pytest.approx(1)
