"""What an experiment's protections do to the vectors of a round, in this process."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.protection import AdaptiveClip, Clip, Noise
from tacit.protection.clip import clipped
from tacit.protection.codec import Codec
from tacit.protection.guard import Guard
from tacit.protection.sampling import Source, discrete_gaussian, gaussian, laplace, skellam
from tacit.protection.secagg.simulate import simulate
from tacit.randomness import generator
from tacit.training.plan import Ints

_NORM = "protection.norm"


class Protector:
    """Carries the guard out.

    Attributes:
        bytes: that secure sums took so far, by what nodes and receivers really sent each other.
    """

    def __init__(self, guard: Guard, round: Round, malicious: Ints) -> None:
        self.guard, self.round, self.malicious = guard, round, malicious
        self.bytes = 0

    @property
    def norm(self) -> float | None:
        """The clipping norm of this round."""
        clip = self.guard.clip
        if isinstance(clip, AdaptiveClip):
            return float(self.round.memory.get(_NORM, torch.tensor(clip.norm)))
        return clip.norm if clip else None

    def step(self, updates: Tensor, nodes: Ints) -> Tensor:
        """(k, d) what nodes let out of their updates where nobody sums: clipped, with local noise."""
        if self.norm is None:
            return updates
        short, _ = clipped(updates, self.norm, self.guard.clip.order)
        return short + self._local(short, nodes)

    def mean(self, updates: Tensor, weight: Tensor, nodes: Ints) -> Tensor:
        """(d,) the mean of (k, d) updates as a server learns it.

        With noise every node counts alike, over all that a round expects: a weight would be one
        more number to protect.
        """
        guard, noise = self.guard, self.guard.noise
        ...
