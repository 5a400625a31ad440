"""QSGD: stochastic rounding of each coordinate to a few levels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tacit.compression.base import (
    Compressor,
    Shared,
    expect_length,
    float_bytes,
    floats,
    pack,
    packed_length,
    unpack,
)
from tacit.errors import MessageError, require, require_whole
from tacit.layout import Layout
from tacit.randomness import generator


@dataclass(frozen=True)
class QSGD(Compressor):
    """Each value as a sign and one of ``levels`` fractions of its bucket's L2 norm, at random.

    Unbiased, with E|C(x) - x|^2 <= min(b/s^2, sqrt(b)/s) |x|^2 for b = ``bucket``, s = ``levels``.
    Alistarh et al., "QSGD: communication-efficient SGD via gradient quantization and encoding",
    NeurIPS 2017, Lemma 3.1, with its buckets. A message is a float32 norm a bucket
    and a fixed number of bits a value; the paper's Elias code is shorter where levels are many
    and most values are 0.

    Attributes:
        levels: s, 1 to 127 beside zero: 2 to 8 bits a value.
        bucket: values that share a norm.

    Raises:
        InputError: a setting out of its range.
    """

    levels: int = 7
    bucket: int = 512

    def __post_init__(self) -> None:
        require_whole(1, "compression.levels", self.levels)
        require(self.levels <= 127, "compression.levels", self.levels, "1 to 127")
        require_whole(1, "compression.bucket", self.bucket)

    def memory_size(self, layout: Layout) -> int:
        return 0

    def encode(self, updates: Tensor, nodes: Sequence[int], shared: Shared) -> list[bytes]:
        size = shared.layout.size
        starts = np.arange(0, size, self.bucket)
        messages = []
        for row, node in zip(updates.numpy().astype(np.float64), nodes, strict=True):
            # Rounded to float32 the norm is still no less than any value, itself a float32.
            norms = np.sqrt(np.add.reduceat(row * row, starts)).astype(np.float32)
            parts = np.repeat(np.where(norms > 0, norms, 1), self.bucket)[:size]
            scaled = row / parts * self.levels
            low = np.floor(scaled)
            random = generator(shared.seed, "qsgd", shared.round, node).random(size)
            codes = (low + (random < scaled - low)).astype(np.int64) + self.levels
            messages.append(float_bytes(norms) + pack(codes, self._bits))
        return messages

    def decompress(self, message: bytes, node: int, shared: Shared) -> Tensor:
        size = shared.layout.size
        head = 4 * -(-size // self.bucket)
        expect_length(message, head + packed_length(size, self._bits))
        norms = floats(message[:head])
        codes = unpack(message[head:], size, self._bits)
        if (codes > 2 * self.levels).any() or (norms < 0).any():
            raise MessageError(f"the message holds a level above {self.levels} or a negative norm")
        parts = np.repeat(norms, self.bucket)[:size]
        return torch.from_numpy(parts * ((codes - self.levels) / np.float32(self.levels))).float()

    @property
    def _bits(self) -> int:
        return (2 * self.levels).bit_length()
