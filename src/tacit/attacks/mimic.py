"""Mimic: repeat one honest node, so that the others weigh less."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.aggregation.gram import gram
from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import from_all, mean_change
from tacit.attacks.view import Knowledge, View


@dataclass(frozen=True, kw_only=True)
class Mimic(UpdateAttack):
    """All liars send what node i* sends, whose update u has the largest |<z, u_i>|.

    Karimireddy, He, Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing",
    ICLR 2022, appendix B: no single vector is suspicious, and heterogeneous data lose all weight
    but those of i*. z is the direction in which the updates differ most. The paper approaches z
    over a learning phase with Oja's rule and keeps i* after it; here z is the leading eigenvector
    of this round's updates less their mean, so that no state is kept and i* may change where two
    nodes are alike extreme. The paper's code takes the largest <z, u_i>, with the arbitrary sign of
    z.
    """

    least_knowledge: ClassVar[Knowledge] = "all"

    def lie(self, view: View) -> Tensor:
        changes = view.sample - view.sample_starts
        mean = mean_change(view)
        products = gram(torch.cat([changes - mean, mean.unsqueeze(0)]), torch.zeros_like(mean))
        within, with_mean = products[:-1, :-1], products[-1, :-1]
        leading = torch.linalg.eigh(within).eigenvectors[:, -1]
        # z is the combination of the centred updates by ``leading``, up to its norm.
        along = within @ leading + with_mean @ leading
        return from_all(view, view.sample[along.abs().argmax()])
