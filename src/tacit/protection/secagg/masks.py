"""Masks: AES-128 in counter mode, read as unsigned integers modulo 2^32 or 2^64.

A key makes one mask and is bound to its session, so that counting starts at zero; and if nodes were
shown different models or cohorts, their masks do not cancel.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from tacit.protection import keystream

KEY_BYTES = 16
_CHUNK = 2**18  # bytes; what is worked on stays in the cache
_ZEROS = bytes(_CHUNK)


@dataclass(frozen=True)
class Mask:
    """A mask that the receiver of a sum has recovered.

    Attributes:
        node: whose own it is; with a peer, one who was lost.
        peer: in the sum, whose vector has the mask that it shared with the node; None: an own one.
        key: of the mask.
        sign: by which it is added to take it out of the sum, 1 or -1.
    """

    node: int
    peer: int | None
    key: bytes = field(repr=False)
    sign: int


def key(secret: bytes | bytearray, context: bytes, purpose: bytes) -> bytes:
    """(16,) bytes by HKDF-SHA256 (RFC 5869): the context is the salt, the purpose the info."""
    return HKDF(SHA256(), KEY_BYTES, salt=context, info=b"tacit secagg " + purpose).derive(secret)


def pairwise(context: bytes, own: X25519PrivateKey, theirs: bytes, me: int, peer: int) -> bytes:
    """(16,) bytes, the key of the mask that two nodes share; the lower number adds it.

    Raises:
        ValueError: the other's public key is of low order.
    """
    low, high = sorted((me, peer))
    purpose = b"pair " + low.to_bytes(4, "little") + high.to_bytes(4, "little")
    return key(own.exchange(X25519PublicKey.from_public_bytes(theirs)), context, purpose)


def add(
    total: NDArray[Any], signed: Sequence[tuple[bytes | bytearray, int]], threads: int = 1
) -> None:
    """Add to ``total`` (d,), in place, each key's mask times its sign (1 or -1)."""
    if threads == 1:
        _add(total, 0, signed)
        return
    step = -(-total.nbytes // threads // _CHUNK) * _CHUNK // total.itemsize
    starts = range(0, len(total), step)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: _add(total[start : start + step], start, signed), starts))


def _add(part: NDArray[Any], start: int, signed: Sequence[tuple[bytes | bytearray, int]]) -> None:
    """The masks' coordinates from ``start``, a multiple of a cipher block, onwards."""
    block = start * part.itemsize // 16
    streams = [
        (keystream.start(key, block), np.add if sign > 0 else np.subtract) for key, sign in signed
    ]
    buffer = bytearray(min(_CHUNK, part.nbytes))
    mask = np.frombuffer(buffer, part.dtype.newbyteorder("<"))
    for first in range(0, len(part), len(mask)):
        chunk = part[first : first + len(mask)]
        zeros = memoryview(_ZEROS)[: chunk.nbytes]
        for stream, combine in streams:
            stream.update_into(zeros, buffer)
            combine(chunk, mask[: len(chunk)], out=chunk)
