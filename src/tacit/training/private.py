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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tacit.errors import InputError, require
from tacit.training.plan import Ints

_LARGEST = torch.finfo(torch.float32).max
# Normals drawn and added at a time: what stays in the cache on the way.
_BLOCK = 2**17
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

    def check(self, module: nn.Module) -> None:
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

    def __call__(self, out: Tensor, std: Tensor, nodes: Ints, steps: Ints, first: int) -> None:
        """Fill ``out`` (C, w) with independent normals.

        Args:
            out: its rows are contiguous.
            std: (C, 1) standard deviation of each row.
            nodes, steps: (C,) for which step of which node; a simulation draws the same noise
                for the same address, and a deployment from the operating system.
            first: which coordinate of the gradient the first column is.
        """
        ...


class AddressedNoise:
    """Noise of a simulation: a function of (stream, node, step, coordinate) alone.

    The address is encrypted by AES-128 in ECB mode, which is the fastest source of random bits at
    hand (about 1 ns for 32), and the inverse of the normal distribution taken of the result. The 32
    bits end at 5.4 standard deviations, and the key can be guessed: never for a deployment.

    Attributes:
        stream: key of (seed, "dp-sgd", round).
    """

    def __init__(self, stream: int) -> None:
        self.stream = stream
        # Kept from call to call: fresh memory of this size costs as much as the cipher.
        self._counter = np.empty((0, 0, 2), dtype="<u8")
        self._bits = np.empty(0, dtype=np.uint8)

    def __call__(self, out: Tensor, std: Tensor, nodes: Ints, steps: Ints, first: int) -> None:
        rows, width = out.shape
        block, skipped = divmod(first, 4)  # one block of the cipher makes four numbers
        blocks = -(-(skipped + width) // 4)
        if self._counter.shape[:2] != (rows, blocks):
            self._counter = np.empty((rows, blocks, 2), dtype="<u8")
            self._bits = np.empty(self._counter.nbytes + 15, dtype=np.uint8)  # as update_into asks
        counter, bits = self._counter, self._bits
        address = nodes.astype(np.uint64) << np.uint64(32) | steps.astype(np.uint64)
        counter[:, :, 0] = address[:, None]
        counter[:, :, 1] = np.arange(block, block + blocks, dtype=np.uint64)
        _cipher(self.stream).update_into(counter.reshape(-1).view(np.uint8).data, bits.data)
        words = torch.from_numpy(bits[: counter.nbytes].view("<i4").reshape(rows, -1))
        out.copy_(words[:, skipped : skipped + width]).mul_(_TO_UNIT).erfinv_()
        out.mul_(std * math.sqrt(2))


@lru_cache(maxsize=1)
def _cipher(stream: int) -> Any:
    """What encrypts whole blocks, each by itself, under the key of a stream."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(stream.to_bytes(16, "little")), modes.ECB()).encryptor()


def add_noise(
    target: Tensor, scale: float, noise: Noise, std: Tensor, nodes: Ints, steps: Ints, first: int
) -> None:
    """Add ``scale`` times fresh noise to ``target`` (C, w), a block at a time.

    The other arguments are those of ``Noise``, ``first`` for the first column of ``target``.
    """
    rows, width = target.shape
    columns = max(4, _BLOCK // rows // 4 * 4)
    drawn = target.new_empty(rows * min(columns, width))
    for begin in range(0, width, columns):
        part = target[:, begin : begin + columns]
        out = drawn[: part.numel()].view(part.shape)
        noise(out, std, nodes, steps, first + begin)
        part.add_(out, alpha=scale)
