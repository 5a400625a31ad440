"""Find the buffered-Toeplitz coefficients that ``tacit.protection.correlated`` keeps in its table.

    python benchmarks/blt_coefficients.py

minimises, for each number of rounds n, the root-mean-square error of the last prefix sum at
sensitivity 1, ``|first row of A C^-1| |first column of C|``, over two decays and two scales
(Dvijotham, McMahan, Pillutla, Steinke & Thakurta 2024), and prints it beside that of the
square-root factorisation, the best Toeplitz one in the limit (Fichtenberger et al. 2023).
"""

import numpy as np
from scipy.optimize import minimize
from scipy.signal import lfilter

ROUNDS = (10, 100, 1_000, 10_000)


def loss(parameters: np.ndarray, rounds: int) -> float:
    """Of ln(scales) and of the logits of the decays."""
    scales, decays = np.exp(parameters[:2]), 1 / (1 + np.exp(-parameters[2:]))
    below = np.array([1, -decays.sum(), decays.prod()])
    above = below + np.array([0, scales.sum(), -scales @ decays[::-1]])
    impulse = np.zeros(rounds)
    impulse[0] = 1
    column = lfilter(above, below, impulse)
    inverse = lfilter(below, np.convolve(above, [1, -1]), impulse)
    return float(np.linalg.norm(column) * np.linalg.norm(inverse))


for rounds in ROUNDS:
    best = min(
        (
            minimize(
                loss,
                [np.log(a), np.log(b), 0.0, np.log(rounds)],
                (rounds,),
                "Nelder-Mead",
                options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000},
            )
            for a in (0.1, 0.3)
            for b in (0.02, 0.1)
        ),
        key=lambda result: result.fun,
    )
    scales, decays = np.exp(best.x[:2]), 1 / (1 + np.exp(-best.x[2:]))
    root = np.cumprod([1.0, *(1 - 0.5 / np.arange(1, rounds))])
    print(f"{rounds}: ({decays.round(6).tolist()}, {scales.round(6).tolist()}),", end="  ")
    print(f"error {best.fun:.5f}, square root {np.sum(root**2):.5f}, none {rounds**0.5:.5f}")
