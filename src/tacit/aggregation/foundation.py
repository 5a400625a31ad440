"""FoundationFL: outvote liars with copies of the most central vector."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from torch import Tensor

from tacit.aggregation.coordinates import (
    Array,
    Counts,
    by_tiles,
    median,
    mixed,
    trimmed_mean,
    within,
)
from tacit.aggregation.gram import squares
from tacit.aggregation.rule import Aggregated, Aggregation, Round, Tolerant
from tacit.errors import require


@dataclass(frozen=True)
class FoundationFL(Tolerant, Aggregation):
    """Add k // 2 copies of one vector, then take the median or the trimmed mean of all.

    Copied is the vector whose distance to the nearer of the coordinate-wise maximum and minimum is
    the largest: Fang et al., "Do we really need to design new Byzantine-robust aggregation rules?",
    NDSS 2025. All inputs count alike. In a gossip the node keeps what the mixing weights leave of
    its own.

    That vector may be a liar's: two liars who are extreme in different coordinates make it so. The
    copies then do not outvote the honest under the median if k > 4f; under the trimmed mean, which
    cuts f values off each side, they move the result anywhere.

    Attributes:
        f: liars tolerated among the received, 0 or more; the trimmed mean cuts as many.
        screen: what is taken of received and copies.

    Raises:
        InputError: ``f`` is negative, or not a whole number; an unknown ``screen``.
    """

    screen: Literal["median", "trimmed-mean"] = "median"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("median", "trimmed-mean")
        require(self.screen in known, "aggregation.screen", self.screen, " or ".join(known))

    @property
    def least(self) -> int:
        return 4 * self.f + 1

    def tolerates(self, k: int) -> str:
        if self.screen == "median":
            return f"{self.f} of {k}: each coordinate stays in the range of the honest"
        return (
            f"{self.f} of {k} while the copied vector is honest; liars can arrange that it is not"
        )

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        k = received.shape[-2]
        to_extremes = [
            squares(received, extreme) for extreme in (received.amax(-2), received.amin(-2))
        ]
        copied = to_extremes[0].minimum(to_extremes[1]).argmax(-1).reshape(-1, 1, 1).numpy()
        screen = median if self.screen == "median" else partial(trimmed_mean, f=self.f)

        def kernel(own: Array, received: Array, rows: slice) -> tuple[Array, Counts]:
            copies = np.take_along_axis(received, copied[rows], axis=1).repeat(k // 2, axis=1)
            result, low, high = screen(np.sort(np.concatenate([received, copies], 1), axis=1))
            return result, within(received, low, high)

        return mixed(own, weight, *by_tiles(own, received, kernel))
