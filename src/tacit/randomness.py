"""Randomness that is addressed, not consumed.

Every stream is a pure function of ``(seed, purpose, *address)``, where the address is for instance
``(round, node)``. Results therefore do not depend on scheduling, chunk size, process or machine.
Never used for cryptographic keys or masks: those come from the operating system.
"""

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key(seed: int, purpose: str, *address: int) -> int:
    """The 64-bit key of one stream."""
    text = ":".join([str(seed), purpose, *map(str, address)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """A NumPy generator of its own for this address (Philox, counter-based)."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *address)))


def torch_seed(seed: int, purpose: str, *address: int) -> int:
    """A seed for ``torch.manual_seed`` (63 bits)."""
    return key(seed, purpose, *address) >> 1


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit words that looks random: the splitmix64 finaliser.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        value = value + _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * _MIX_1
        value = (value ^ (value >> np.uint64(27))) * _MIX_2
        return value ^ (value >> np.uint64(31))


def words(stream: int, *address: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Independent 64-bit words, one for each element of the broadcast address.

    ``words(key(seed, "shuffle", round), node, index)`` hashes every (node, index) pair at once.
    """
    state = np.uint64(stream)
    result = np.asarray(state)
    for part in address:
        with np.errstate(over="ignore"):
            result = mix(result ^ mix(np.asarray(part).astype(np.uint64)))
    return result


def uniform_mask(stream: torch.Tensor, shape: tuple[int, ...], keep: float) -> torch.Tensor:
    """Bernoulli(keep) masks, one per stream, as a pure function of the stream and the position.

    Args:
        stream: (C,) int64, one address per slot; the mask of a slot depends on nothing else.
        shape: shape of one slot's mask.
        keep: probability of a one, in (0, 1].

    Returns:
        (C, *shape) bool.
    """
    size = int(np.prod(shape))
    word = torch.arange(size, dtype=torch.int64, device=stream.device) + stream.unsqueeze(1)
    # Two rounds of xorshift-multiply on 64-bit words (arithmetic shifts masked to logical ones).
    for multiplier in (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15):
        word = (word ^ ((word >> 30) & 0x3FFFFFFFF)) * multiplier
    word = (word >> 40) & 0xFFFFFF
    return (word < int(keep * 2**24)).view(-1, *shape)
