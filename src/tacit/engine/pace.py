"""Local training where nodes work at their own pace, as asynchronous algorithms see it."""

import numpy as np
import torch
from torch import Tensor

from tacit.algorithms.arrivals import Arrivals
from tacit.engine.local import LocalTrain, Trainer, mean_loss


class OwnPace:
    """``AsyncTrain`` for one round; see ``tacit.algorithms.base.AsyncTrain``.

    A node's rows, masks and noise are drawn for the round of the model that it was given, and for
    how often it was given that model: known at the node while it trains, whenever it is done. All
    that have these two in common train together.

    Attributes:
        losses: (k,) mean training losses; NaN for none.
    """

    def __init__(self, trainer: Trainer, arrivals: Arrivals, round: int) -> None:
        self.nodes, self.layout = arrivals.nodes, trainer.layout
        self.concurrency = arrivals.concurrency
        self.staleness, self.reach = torch.from_numpy(arrivals.staleness), arrivals.reach
        self.trainer, self.round = trainer, round
        self.losses = torch.full((len(self.nodes),), torch.nan)
        given = np.stack([round - arrivals.staleness, arrivals.again], 1)
        kinds, of = np.unique(given, axis=0, return_inverse=True)
        self.parts = [
            (at, LocalTrain(trainer.again(int(again)), self.nodes[at], int(version)))
            for kind, (version, again) in enumerate(kinds)
            for at in [np.flatnonzero(of.reshape(-1) == kind)]
        ]

    def __call__(self, start: Tensor) -> Tensor:
        ends = torch.empty_like(start)
        for at, train in self.parts:
            ends[at] = train(start[at], overwrite=True).matrix()
            self.losses[at] = train.losses
        return ends

    def mean_loss(self) -> float:
        """The honest nodes' training losses, weighted by their rows; NaN if nobody trained."""
        return mean_loss(self.trainer, self.nodes, self.losses)
