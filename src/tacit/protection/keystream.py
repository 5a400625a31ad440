"""AES in counter mode (NIST SP 800-38A, section 6.5) as a source of uniform words."""

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import DTypeLike, NDArray


def start(key: bytes | bytearray, block: int = 0) -> CipherContext:
    """The keystream of a key of 16 or 32 bytes, from this block of 16 bytes onwards."""
    return Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(16, "big"))).encryptor()


def words(stream: CipherContext, count: int, dtype: DTypeLike) -> NDArray[Any]:
    """(count,) the stream's next words, of an unsigned integer type."""
    drawn = np.zeros(count, dtype)
    octets = drawn.view(np.uint8).data
    stream.update_into(octets, octets)
    return drawn
