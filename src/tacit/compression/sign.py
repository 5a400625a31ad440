"""One bit a coordinate: scaled signs, plain and after a random rotation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from tacit.compression.base import (
    Compressor,
    Shared,
    expect_length,
    float_bytes,
    floats,
    packed_length,
    unpack,
)
from tacit.errors import MessageError
from tacit.layout import Layout
from tacit.protection.rotation import random_signs, rotate, unrotate
from tacit.randomness import generator

# Rotated at a time: more spreads little better, and pads the last block more.
_BLOCK = 8192


@dataclass(frozen=True)
class SignCompression(Compressor):
    """Every value's sign times the mean magnitude, with error feedback.

    A contraction: |C(x) - x|^2 = |x|^2 - |x|_1^2 / d (Karimireddy et al. 2019, Lemma 8), hence
    delta = |x|_1^2 / (d |x|^2), at least 1/d. A message is a float32 and d bits.
    """

    def encode(self, updates: Tensor, nodes: Sequence[int], shared: Shared) -> list[bytes]:
        scales = updates.abs().mean(1, keepdim=True, dtype=torch.float64)
        return [_message(s, row) for s, row in zip(scales.numpy(), updates.numpy(), strict=True)]

    def decompress(self, message: bytes, node: int, shared: Shared) -> Tensor:
        scales, signs = _parse(message, 1, shared.layout.size)
        return signs * scales


@dataclass(frozen=True)
class DRIVE(Compressor):
    """Signs after a random rotation, times the scale that makes the estimate unbiased.

    Vargaftik et al., "DRIVE: one-bit distributed mean estimation", NeurIPS 2021, Algorithm 1 with
    the scale |x|^2 / |R x|_1. For a uniform rotation R it is unbiased, and |C(x) - x|^2 =
    (d |x|^2 / |R x|_1^2 - 1) |x|^2 tends to (pi/2 - 1) |x|^2. Here R is a Hadamard matrix with
    random signs, as in the paper's experiments, and in blocks of 8192: the estimate's projection on
    x is exact, what is orthogonal to it has mean zero only nearly, the better the denser x.
    Each node has its own rotation, drawn from the shared seed.
    """

    def memory_size(self, layout: Layout) -> int:
        return 0

    def contraction(self, layout: Layout) -> float | None:
        return 2 - math.pi / 2  # the limit for a uniform rotation

    def encode(self, updates: Tensor, nodes: Sequence[int], shared: Shared) -> list[bytes]:
        messages = []
        for row, node in zip(updates, nodes, strict=True):
            signs = _rotation(node, shared)
            rotated = rotate(pad(row, (0, signs.numel() - len(row))).view_as(signs), signs).double()
            scales = rotated.square().sum(1) / rotated.abs().sum(1).clamp(min=1e-300)
            messages.append(_message(scales.numpy(), rotated.numpy()))
        return messages

    def decompress(self, message: bytes, node: int, shared: Shared) -> Tensor:
        rotation = _rotation(node, shared)
        scales, signs = _parse(message, len(rotation), rotation.numel())
        restored = unrotate(signs.view_as(rotation) * scales.unsqueeze(1), rotation)
        return restored.flatten()[: shared.layout.size]


def _rotation(node: int, shared: Shared) -> Tensor:
    """(blocks, width) signs, the width a power of two."""
    size = shared.layout.size
    width = min(_BLOCK, 1 << (size - 1).bit_length())
    total = -(-size // width) * width
    random = generator(shared.seed, "drive", shared.round, node)
    return random_signs(random, total).view(-1, width)


def _message(scales: NDArray, values: NDArray) -> bytes:
    return float_bytes(scales) + np.packbits(values >= 0).tobytes()


def _parse(message: bytes, scales: int, size: int) -> tuple[Tensor, Tensor]:
    """(scales,) and (size,) signs of +-1."""
    expect_length(message, 4 * scales + packed_length(size, 1))
    factors = floats(message[: 4 * scales])
    if (factors < 0).any():
        raise MessageError("the message holds a negative scale")
    bits = unpack(message[4 * scales :], size, 1)
    return torch.from_numpy(factors), torch.from_numpy(bits * 2 - 1).float()
