"""Canary updates, their coins, and how much a released aggregate looks like each of them.

A canary is a node whose update is a random direction of the largest norm that clipping allows.
Only what the receiver publishes is scored, so that the same audit works through masks, encryption
and noise. Source: Andrew et al., "One-shot empirical privacy estimation for federated learning",
ICLR 2024.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.errors import require
from tacit.randomness import generator


def canary(seed: int, index: int, dimension: int) -> Tensor:
    """The update of canary ``index``: (dimension,) float32, uniform on the unit sphere."""
    require(dimension > 0, "dimension", dimension, "a number > 0")
    drawn = generator(seed, "canary", index).standard_normal(dimension, dtype=np.float32)
    drawn /= np.linalg.norm(drawn)
    return torch.from_numpy(drawn)


def coins(seed: int, round: int, count: int) -> NDArray[np.bool_]:
    """(count,) fair coins: whether each canary takes part.

    A claim for one round is audited with each round's own coins, a claim for the whole run with
    the coins of round 0 in every round (and the sum of all that was released scored).
    """
    require(count > 0, "count", count, "a number > 0")
    return generator(seed, "canary coin", round).random(count) < 0.5


def scores(released: Tensor, seed: int, count: int) -> NDArray[np.float64]:
    """(count,) inner products of a released aggregate (d,) with each canary, drawn anew in turn.

    For a mean or sum with Gaussian noise, the inner product is the best score that looks at one
    canary alone.
    """
    require(released.ndim == 1, "released", tuple(released.shape), "(d,)")
    vector = released.detach().to("cpu", torch.float64)
    found = [float(canary(seed, i, len(vector)).double() @ vector) for i in range(count)]
    return np.array(found)
