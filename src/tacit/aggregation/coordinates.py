"""Rules that look at each coordinate alone: median, trimmed mean, mean around the median.

They sort. The vectors are cut into tiles of some columns that fit in the cache, which are sorted
side by side in as many threads as torch may use: NumPy's sort releases the interpreter's lock, has
vector instructions where torch's has none, and a tile is all that is ever copied.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.aggregation.rule import Aggregated, Aggregation, Round, Tolerant

Array = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]
# Of own (b, c), received (b, k, c), and which of the receivers these b are: (b, c) results, and
# (b, k) in how many of the c columns each received value was kept.
Kernel = Callable[[Array, Array, slice], tuple[Array, Counts]]
# Of values (b, m, c) in ascending order: (b, c) means, and the least and largest value in each.
Screen = Callable[[Array], tuple[Array, Array, Array]]

# Numbers in a tile: with its sorted copy it stays in a core's own cache.
_TILE = 100_000


def by_tiles(own: Tensor, received: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Run a kernel over all receivers and columns.

    Args:
        own: (..., d).
        received: (..., k, d).
        kernel: see ``Kernel``; it must not write into what it is given.

    Returns:
        (..., d) results, and (..., k) the share of coordinates in which each was kept.
    """
    k, d = received.shape[-2:]
    owns, vectors = own.reshape(-1, d).numpy(), received.reshape(-1, k, d).numpy()
    result = np.empty_like(owns)
    columns = max(1, min(d, _TILE // k))
    rows = max(1, _TILE // (k * columns))
    tiles = [
        (slice(row, row + rows), slice(column, column + columns))
        for row in range(0, len(owns), rows)
        for column in range(0, d, columns)
    ]

    def run(tile: tuple[slice, slice]) -> Counts:
        row, column = tile
        result[tile], kept = kernel(owns[tile], vectors[row, :, column], row)
        return kept

    if len(tiles) == 1 or torch.get_num_threads() == 1:
        counts = [run(tile) for tile in tiles]
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            counts = list(pool.map(run, tiles))
    total = np.zeros(vectors.shape[:2], np.int64)
    for (row, _), kept in zip(tiles, counts, strict=True):
        total[row] += kept
    share = torch.from_numpy(total / d).to(own.dtype)
    return torch.from_numpy(result).view_as(own), share.view(received.shape[:-1])


def screened(screen: Screen) -> Kernel:
    """The kernel that sorts the received values and screens them."""

    def kernel(own: Array, received: Array, rows: slice) -> tuple[Array, Counts]:
        result, low, high = screen(np.sort(received, axis=1))
        return result, within(received, low, high)

    return kernel


def within(values: Array, low: Array, high: Array) -> Counts:
    """(b, k) in how many columns (b, k, c) values lie between (b, c) bounds, these included."""
    inside = values >= low[:, None]
    inside &= values <= high[:, None]
    return inside.sum(axis=-1, dtype=np.int32)


def median(ordered: Array) -> tuple[Array, Array, Array]:
    """The middle value, or the mean of the middle two."""
    m = ordered.shape[1]
    low, high = ordered[:, (m - 1) // 2], ordered[:, m // 2]
    return low / 2 + high / 2, low, high


def trimmed_mean(ordered: Array, f: int) -> tuple[Array, Array, Array]:
    """The mean without the f smallest and the f largest."""
    kept = ordered[:, f : ordered.shape[1] - f]
    m = kept.shape[1]
    # Shares first, since a sum of the largest floats overflows.
    mean = np.einsum("bmc,m->bc", kept, np.full(m, 1 / m, kept.dtype))
    return mean, kept[:, 0], kept[:, -1]


def nearest_mean(ordered: Array, count: int) -> tuple[Array, Array, Array]:
    """The mean of the ``count`` values nearest to the median; of two as near, the smaller."""
    middle, _, _ = median(ordered)
    # The nearest are neighbours in the order. They start behind value i if value i + count is
    # nearer to the median than it.
    behind = middle[:, None] > ordered[:, :-count] / 2 + ordered[:, count:] / 2
    every = np.ones((len(ordered), count, ordered.shape[2]), bool)
    kept = np.concatenate([~behind, every], 1) & np.concatenate([every, behind], 1)
    low = np.where(kept, ordered, np.inf).min(axis=1)
    high = np.where(kept, ordered, -np.inf).max(axis=1)
    share = kept.astype(ordered.dtype) / count
    return np.einsum("bmc,bmc->bc", ordered, share), low, high


@dataclass(frozen=True)
class Median(Aggregation):
    """The median of each coordinate; of an even number, the mean of the middle two.

    Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates",
    ICML 2018, definition 1. All inputs count alike. In a gossip the node keeps what the mixing
    weights leave of its own: own + sum(w) (median - own).
    """

    def tolerates(self, k: int) -> str:
        return f"{(k - 1) // 2} of {k}: each coordinate stays in the range of the honest"

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        return mixed(own, weight, *by_tiles(own, received, screened(median)))


@dataclass(frozen=True)
class TrimmedMean(Tolerant, Aggregation):
    """The mean of each coordinate without its f smallest and f largest values.

    Yin et al. 2018, definition 2, with beta = f / k. All inputs count alike. In a gossip the node
    keeps what the mixing weights leave of its own.

    Attributes:
        f: liars tolerated among the received, 0 or more.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    def tolerates(self, k: int) -> str:
        return f"{self.f} of {k}: each coordinate stays in the range of the honest"

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        kernel = screened(lambda ordered: trimmed_mean(ordered, self.f))
        return mixed(own, weight, *by_tiles(own, received, kernel))


@dataclass(frozen=True)
class MeaMed(Tolerant, Aggregation):
    """The mean of the k - f values nearest to the median, in each coordinate.

    Xie et al., "Generalized Byzantine-tolerant SGD", 2018, definition 7. All inputs count alike.
    In a gossip the node keeps what the mixing weights leave of its own.

    Attributes:
        f: liars tolerated among the received, 0 or more.

    Raises:
        InputError: ``f`` is negative, or not a whole number.
    """

    def tolerates(self, k: int) -> str:
        return (
            f"{self.f} of {k}: each coordinate stays in the range of the honest, widened on"
            " either side by its own width"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        count = received.shape[-2] - self.f
        kernel = screened(lambda ordered: nearest_mean(ordered, count))
        return mixed(own, weight, *by_tiles(own, received, kernel))


def mixed(own: Tensor, weight: Tensor, combined: Tensor, accepted: Tensor) -> Aggregated:
    """What the received were combined to, with the share of own that (..., k) weights leave."""
    return Aggregated(own.lerp(combined, weight.sum(-1, keepdim=True)), accepted)
