"""Free riders: nodes that want the model and give nothing for it."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import drawn
from tacit.attacks.view import Knowledge, View
from tacit.errors import require_number


@dataclass(frozen=True, kw_only=True)
class FreeRider(UpdateAttack):
    """Sends the model it started the round with, plus noise, instead of training.

    To x (its last aggregated model) it adds N(0, (sigma t^-decay)^2) in round t = 1, 2, ..., which
    shrinks as honest changes do. Without noise this is the paper's plain free rider, which a
    receiver finds by comparing.

    Source: Fraboni, Vidal, Lorenzi, "Free-rider attacks on model aggregation in federated
    learning", AISTATS 2021.

    Attributes:
        sigma: standard deviation in the first round, in the units of the parameters; 0 or more.
        decay: how fast it shrinks; 0 (never) or more.

    Raises:
        InputError: a setting out of its range.
    """

    knowledge: Knowledge = "own"
    sigma: float = 0.01
    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.sigma", self.sigma, least=0)
        require_number("attack.decay", self.decay, least=0)

    def lie(self, view: View) -> Tensor:
        scale = self.sigma * (view.round + 1) ** -self.decay
        d = view.starts.shape[1]
        noise = drawn(view, "free rider", lambda random: random.standard_normal(d, np.float32))
        return view.starts + scale * noise
