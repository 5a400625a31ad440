"""Each node's own rows, parted into those it learns from and those it is measured on."""

from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.data.federation import Split
from tacit.errors import InputError
from tacit.randomness import generator


def deal(x: Tensor, y: Tensor, owned: list[NDArray[np.int64]]) -> Split:
    """The rows of ``x`` (N, ...) and ``y`` that each node owns, packed side by side."""
    order = torch.from_numpy(np.concatenate(owned))
    return Split(x[order], y[order], np.cumsum([0, *map(len, owned)]))


def hold_out(
    data: Split, fraction: float, *, stratify: bool, ordered: bool, seed: int
) -> tuple[Split, Split]:
    """Every node's training and test rows.

    A node with n rows gives ceil(fraction * n) of them to its test set, but keeps one to train on.

    Args:
        data: all rows of every node.
        fraction: share of the rows to test on, in [0, 1).
        stratify: keep the node's shares of labels, as nearly as whole rows allow.
        ordered: hold the last rows out instead of drawing them.
        seed: of the draw.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"test_fraction: {fraction} was given; 0 up to, not with, 1 is allowed")
    train, test = [], []
    for node, (_, y) in enumerate(data.parts()):
        count = max(0, min(ceil(fraction * len(y)), len(y) - 1))
        held = np.zeros(len(y), bool)
        if ordered:
            held[len(y) - count :] = True
        else:
            labels = y.numpy() if stratify else np.zeros(len(y), np.int64)
            held[_draw(labels, count, generator(seed, "test rows", node))] = True
        train.append(data.offsets[node] + np.flatnonzero(~held))
        test.append(data.offsets[node] + np.flatnonzero(held))
    return deal(data.x, data.y, train), deal(data.x, data.y, test)


def _draw(labels: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """``count`` rows with the label shares of ``labels``; largest remainders are rounded up."""
    if len(labels) == 0:
        return np.empty(0, np.int64)
    values, sizes = np.unique(labels, return_counts=True)
    quota = count * sizes / len(labels)
    take = np.floor(quota).astype(np.int64)
    short = np.argsort(take - quota, kind="stable")[: count - take.sum()]
    take[short] += 1
    drawn = [
        random.permutation(np.flatnonzero(labels == value))[:number]
        for value, number in zip(values, take, strict=True)
    ]
    return np.concatenate(drawn)
