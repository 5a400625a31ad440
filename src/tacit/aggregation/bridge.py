"""BRIDGE: screen what the neighbours sent, one's own model among it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.aggregation.bulyan import krum_choices
from tacit.aggregation.coordinates import (
    Array,
    Counts,
    by_tiles,
    median,
    screened,
    trimmed_mean,
    within,
)
from tacit.aggregation.gram import between, combination, gram
from tacit.aggregation.rule import Aggregated, Aggregation, Round, Tolerant
from tacit.errors import require

_SCREENS = ("trim", "median", "krum", "bulyan")


@dataclass(frozen=True)
class BRIDGE(Tolerant, Aggregation):
    """One of four screens over the k received vectors and the node's own.

    - "trim", BRIDGE-T: own and the received without the f smallest and f largest, averaged per
      coordinate; own is never cut.
    - "median", BRIDGE-M: the median of all k + 1 per coordinate.
    - "krum", BRIDGE-K: Krum's choice of all k + 1.
    - "bulyan", BRIDGE-B: Krum chooses k + 1 - 2f of all k + 1, one after another; of these the
      trimmed mean per coordinate.

    Fang, Yang, Bajwa, "BRIDGE: Byzantine-resilient decentralized gradient descent", IEEE
    Transactions on Signal and Information Processing over Networks, 2022. The paper screens the
    models and then takes the gradient step from its own model; here, as for every rule of a gossip,
    the step comes first. Mixing weights have no part in it. At a server, own is the last global
    model and one input of k + 1.

    Attributes:
        f: liars tolerated among the received, 0 or more.
        screen: which of the four.

    Raises:
        InputError: ``f`` is negative, or not a whole number; an unknown ``screen``.
    """

    screen: Literal["trim", "median", "krum", "bulyan"] = "trim"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.screen in _SCREENS, "aggregation.screen", self.screen, " or ".join(_SCREENS))

    @property
    def least(self) -> int:
        """The paper's; Krum's own bound, k + 1 >= 2f + 3, where that is more."""
        f = self.f
        return {
            "trim": 2 * f + 1,
            "median": max(1, 2 * f),
            "krum": max(f + 3, 2 * f + 2),
            "bulyan": max(4 * f, 3 * f + 2),
        }[self.screen]

    def tolerates(self, k: int) -> str:
        if self.screen == "krum":
            return f"{self.f} of {k}: the result is one input with honest ones near"
        return f"{self.f} of {k}: each coordinate stays in the range of the honest, own included"

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        k = received.shape[-2]
        if self.screen == "trim":
            kernel = screened(lambda ordered: trimmed_mean(ordered, self.f))
            mean, accepted = by_tiles(own, received, kernel)
            return Aggregated(own.lerp(mean, 1 - 1 / (k - 2 * self.f + 1)), accepted)
        if self.screen == "median":
            everybody = torch.arange(k + 1).expand(*weight.shape[:-1], k + 1)
            return _of_chosen(own, received, everybody, trim=None)
        # Own lies at the origin of the differences that the Gram matrix is made of.
        distances = between(F.pad(gram(received, own), (0, 1, 0, 1)))
        if self.screen == "krum":
            choice = F.one_hot(krum_choices(distances, self.f, 1)[..., 0], k + 1)[..., :k]
            accepted = choice.to(weight.dtype)
            return Aggregated(combination(own, received, accepted), accepted)
        chosen = krum_choices(distances, self.f, k + 1 - 2 * self.f)
        return _of_chosen(own, received, chosen, trim=self.f)


def _of_chosen(own: Tensor, received: Tensor, chosen: Tensor, trim: int | None) -> Aggregated:
    """The trimmed mean, or the median, of chosen (..., m) vectors, number k being own."""
    k = received.shape[-2]
    index = chosen.reshape(-1, chosen.shape[-1], 1).numpy()

    def kernel(own: Array, received: Array, rows: slice) -> tuple[Array, Counts]:
        inputs = np.concatenate([received, own[:, None]], axis=1)
        ordered = np.sort(np.take_along_axis(inputs, index[rows], axis=1), axis=1)
        result, low, high = median(ordered) if trim is None else trimmed_mean(ordered, trim)
        return result, within(received, low, high)

    result, share = by_tiles(own, received, kernel)
    among = F.one_hot(chosen, k + 1).sum(-2)[..., :k]
    return Aggregated(result, share * among)
