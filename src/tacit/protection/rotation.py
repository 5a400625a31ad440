"""A random rotation that sender and receiver draw alike: Hadamard times random signs.

Ailon, Chazelle, "The fast Johnson-Lindenstrauss transform", SIAM J. Comput. 2009: it spreads a
vector's energy evenly over its coordinates, in O(n log n) and with n random bits.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def rotate(vectors: Tensor, signs: Tensor) -> Tensor:
    """H diag(signs) v for each of (..., n) vectors, n a power of two; signs (..., n) of +-1."""
    return _hadamard(vectors * signs)


def unrotate(vectors: Tensor, signs: Tensor) -> Tensor:
    """The inverse of ``rotate``."""
    return _hadamard(vectors) * signs


def random_signs(generator: np.random.Generator, size: int) -> Tensor:
    """(size,) float32 of +-1, equally likely."""
    return torch.from_numpy(generator.integers(2, size=size, dtype=np.int8) * np.float32(2) - 1)


def _hadamard(vectors: Tensor) -> Tensor:
    # H_ab = H_a (x) H_b: two products with small matrices use the caches better than log n passes.
    n = vectors.shape[-1]
    a = 1 << (n.bit_length() // 2)
    blocks = vectors.reshape(*vectors.shape[:-1], a, n // a)
    return (_matrix(a) @ blocks @ _matrix(n // a)).reshape(vectors.shape)


@lru_cache
def _matrix(n: int) -> Tensor:
    """(n, n) Sylvester's Hadamard matrix over sqrt(n), which is its own inverse."""
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix / math.sqrt(n)
