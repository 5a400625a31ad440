"""Example-level differential privacy of local training: DP-SGD.

In each step every row of a node enters the batch independently of the others (``Plan``), the
gradient of every row is clipped to an L2 norm, their sum gets Gaussian noise, and the result is
divided by the expected batch size. What an optimiser, weight decay, a proximal term or an
algorithm's correction then does with it depends on no single row and needs no clipping.

Source: Abadi et al., "Deep learning with differential privacy", CCS 2016, algorithm 1, with
neighbouring data sets that differ by one row more or less. The paper divides by its lot size L,
which is the expected batch size here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tacit.errors import InputError, require
from tacit.training.plan import Ints

_LARGEST = torch.finfo(torch.float32).max
# Normals drawn at a time. Whoever has just swept the caches pays for calls more than for numbers.
_BLOCK = 2**20
# From 32 random bits to within (-1, 1), never its ends; erfinv of it, times sqrt(2), is normal.
_TO_UNIT = (1 - 2**-24) / 2**31


@dataclass(frozen=True)
class Private:
    """What a row of a node can do to a step of its training.

    Attributes:
        clip: C, the largest L2 norm of one row's gradient; above 0.
        multiplier: sigma; the noise on the sum of clipped gradients has standard deviation
            sigma * C. 0 draws none, and gives no guarantee.
    """

    clip: float
    multiplier: float

    def __post_init__(self) -> None:
        require(0 < self.clip <= _LARGEST, "private.clip", self.clip, "a number above 0")
        allowed = "0 or a number above"
        require(0 <= self.multiplier <= _LARGEST, "private.multiplier", self.multiplier, allowed)

    @staticmethod
    def check(module: nn.Module) -> None:
        """Refuse a model whose rows cannot be told apart.

        Raises:
            InputError: a layer that mixes rows, or keeps statistics of them without noise.
        """
        for name, layer in module.named_modules():
            mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm)
            if mixes or getattr(layer, "track_running_stats", False):
                raise InputError(
                    f"model: layer {name!r} ({type(layer).__name__}) mixes a batch's rows or keeps"
                    " their statistics, so that no row's influence can be bounded; use GroupNorm"
                )


class Noise(Protocol):
    """Where Gaussian noise comes from."""

    def __call__(self, parts: Sequence[Tensor], std: Tensor, nodes: Ints, steps: Ints) -> None:
        """Add independent normals to a gradient's blocks (C, w_1), (C, w_2), ... of columns.

        Args:
            std: (C, 1) standard deviation for each row; below 0, the noise is turned around.
            nodes, steps: (C,) for which step of which node; a simulation draws the same noise
                for the same address, and a deployment from the operating system.
        """
        ...


@dataclass(frozen=True)
class AddressedNoise:
    """Noise of a simulation: a function of (stream, node, step, coordinate) alone.

    The random bits are AES-128 in counter mode, the fastest source at hand (about 1 ns for 32),
    whose counter is the address; the inverse of the normal distribution is taken of them. The 32
    bits end at 5.4 standard deviations, and the key can be guessed: never for a deployment.

    Attributes:
        stream: key of (seed, "dp-sgd", round).
    """

    stream: int

    def __call__(self, parts: Sequence[Tensor], std: Tensor, nodes: Ints, steps: Ints) -> None:
        widths = [part.shape[1] for part in parts]
        rows = max(1, _BLOCK // sum(widths))
        for first in range(0, len(nodes), rows):
            at = slice(first, first + rows)
            words = self._words(nodes[at], steps[at], sum(widths))
            # In the memory of the words, number by number: fresh memory costs as much as they do.
            drawn = words.view(torch.float32).copy_(words).mul_(_TO_UNIT).erfinv_()
            for part, its in zip(parts, drawn.split(widths, dim=1), strict=True):
                part[at].addcmul_(its, std[at], value=math.sqrt(2))

    def _words(self, nodes: Ints, steps: Ints, width: int) -> Tensor:
        """(C, width) random int32."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        key = algorithms.AES(self.stream.to_bytes(16, "little"))
        cipher = Cipher(key, modes.CTR(bytes(16))).encryptor()
        words, zeros = np.empty((len(nodes), width), dtype="<i4"), bytes(4 * width)
        for node, step, row in zip(
            nodes.tolist(), steps.tolist(), words.view(np.uint8), strict=True
        ):
            cipher.reset_nonce((node << 96 | step << 64).to_bytes(16, "big"))
            cipher.update_into(zeros, row.data)
        return torch.from_numpy(words)
