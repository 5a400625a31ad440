"""Sparsification: a share of the coordinates, the largest or random ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
from tacit.errors import MessageError, require_number
from tacit.layout import Layout
from tacit.randomness import generator


@dataclass(frozen=True)
class _Sparsifier(Compressor):
    share: float

    def __post_init__(self) -> None:
        require_number("compression.share", self.share, above=0, most=1)

    def count(self, size: int) -> int:
        """Coordinates sent of ``size``: at least 1."""
        return max(1, round(self.share * size))


@dataclass(frozen=True)
class TopK(_Sparsifier):
    """The coordinates of largest magnitude, with error feedback.

    A contraction: |C(x) - x|^2 <= (1 - k/d) |x|^2 (Stich, Cordonnier, Jaggi 2018, Lemma A.1). A
    message is the positions, as packed indices or as a bitmap, whichever is shorter, and float32
    values. It shows which coordinates changed most, hence does not go under masks.

    Attributes:
        share: k/d, of the coordinates sent, in (0, 1].

    Raises:
        InputError: a share out of its range.
    """

    leaks_positions: ClassVar[bool] = True

    def encode(self, updates: Tensor, nodes: Sequence[int], shared: Shared) -> list[bytes]:
        size = shared.layout.size
        top = updates.abs().topk(self.count(size), sorted=False).indices.sort().values
        values = updates.gather(1, top).numpy()
        messages = []
        for indices, row in zip(top.numpy(), values, strict=True):
            if self._bitmap(size):
                flags = np.zeros(size, np.int64)
                flags[indices] = 1
                positions = pack(flags, 1)
            else:
                positions = pack(indices, _index_bits(size))
            messages.append(positions + float_bytes(row))
        return messages

    def decompress(self, message: bytes, node: int, shared: Shared) -> Tensor:
        size = shared.layout.size
        count = self.count(size)
        bitmap = self._bitmap(size)
        head = packed_length(size, 1) if bitmap else packed_length(count, _index_bits(size))
        expect_length(message, head + 4 * count)
        if bitmap:
            indices = np.flatnonzero(unpack(message[:head], size, 1))
        else:
            indices = unpack(message[:head], count, _index_bits(size))
        if len(indices) != count or indices[-1] >= size or (np.diff(indices) <= 0).any():
            raise MessageError(f"the message must name {count} increasing positions below {size}")
        result = torch.zeros(size)
        result[torch.from_numpy(indices)] = torch.from_numpy(floats(message[head:]))
        return result

    def _bitmap(self, size: int) -> bool:
        return size < self.count(size) * _index_bits(size)


@dataclass(frozen=True)
class RandomK(_Sparsifier):
    """Random coordinates, drawn each round from the shared seed: positions cost no bytes.

    All nodes send the same coordinates, hence a sum of messages is the message of the sum and can
    be masked. With error feedback a contraction in expectation, E|C(x) - x|^2 = (1 - k/d) |x|^2
    (Stich, Cordonnier, Jaggi 2018, Lemma A.1). Without, the values are scaled by d/k: unbiased,
    E|C(x) - x|^2 = (d/k - 1) |x|^2.

    Attributes:
        share: k/d, of the coordinates sent, in (0, 1].
        feedback: whether what is left out is kept for the next round.

    Raises:
        InputError: a share out of its range.
    """

    feedback: bool = True
    linear: ClassVar[bool] = True

    def memory_size(self, layout: Layout) -> int:
        return layout.size if self.feedback else 0

    def project(self, updates: Tensor, shared: Shared) -> Tensor:
        """(..., d) updates to the (..., k) values that are sent."""
        values = updates[..., self.positions(shared)]
        return values if self.feedback else values * (updates.shape[-1] / values.shape[-1])

    def restore(self, values: Tensor, shared: Shared) -> Tensor:
        """(..., k) values, or sums of them, to (..., d), zero elsewhere."""
        result = values.new_zeros(*values.shape[:-1], shared.layout.size)
        result[..., self.positions(shared)] = values
        return result

    def encode(self, updates: Tensor, nodes: Sequence[int], shared: Shared) -> list[bytes]:
        return [float_bytes(row) for row in self.project(updates, shared).numpy()]

    def decompress(self, message: bytes, node: int, shared: Shared) -> Tensor:
        expect_length(message, 4 * self.count(shared.layout.size))
        return self.restore(torch.from_numpy(floats(message)), shared)

    def positions(self, shared: Shared) -> Tensor:
        size = shared.layout.size
        random = generator(shared.seed, "random-k", shared.round)
        return torch.from_numpy(random.choice(size, self.count(size), replace=False))


def _index_bits(size: int) -> int:
    return max(1, (size - 1).bit_length())
