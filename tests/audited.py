"""A small experiment whose protections are audited."""

from dataclasses import replace
from typing import Any

from torch import nn

import tacit
from small import experiment, federation

CENTRAL = tacit.GaussianNoise(multiplier=1.5, delta=1e-5, where="central")
# Twice the noise: what is sent alone may be any update, two norms from another.
LOCAL = replace(CENTRAL, where="local", multiplier=3.0)
DISTRIBUTED = replace(CENTRAL, where="distributed")
# All five nodes' shares are needed, so that the sum has no more noise than is claimed.
MASKS = tacit.SecureAggregation(threshold=5)


def plan(*parts: Any, hidden: int = 400, order: Any = 2, **changes: Any) -> tacit.Experiment:
    """Two rounds of 5 nodes with a model of 7 ``hidden`` + 2 numbers."""
    return experiment(
        model=lambda: nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2)),
        protection=[tacit.Clip(0.1, order=order), *parts],
        **{"rounds": 2, "data": federation((20, 7, 3, 4, 30))} | changes,
    )
