"""Points of secp256k1 through ``coincurve``: sums, multiples, multi-scalar products, generators.

A point is 33 bytes on the wire; the neutral element, None here, has no encoding and is refused.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from tacit.errors import InputError, MessageError

try:
    from coincurve import PublicKey
except ImportError as error:
    raise InputError(
        "protection: commitments need coincurve: pip install 'tacit[commitments]'"
    ) from error

Point = Any  # PublicKey or None; coincurve is not typed for a public union.

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SIZE = 33


def parse(data: bytes) -> Point:
    """The point of 33 bytes; MessageError if they are none."""
    try:
        return PublicKey(data) if len(data) == SIZE else _refuse()
    except ValueError:
        return _refuse()


def _refuse() -> Point:
    raise MessageError("the bytes are not a point of the curve")


def encode(point: Point) -> bytes:
    """33 bytes; of the neutral element zeros, which are hashed but never parsed."""
    return bytes(SIZE) if point is None else point.format()


def add(*points: Point) -> Point:
    kept = [point for point in points if point is not None]
    try:
        return PublicKey.combine_keys(kept) if len(kept) > 1 else kept[0] if kept else None
    except ValueError:  # The neutral element.
        return None


def negate(point: Point) -> Point:
    data = b"\0" if point is None else point.format()
    return None if point is None else PublicKey(bytes([data[0] ^ 1]) + data[1:])


def multiply(point: Point, scalar: int) -> Point:
    scalar %= ORDER
    if point is None or scalar == 0:
        return None
    return point.multiply(scalar.to_bytes(32, "big"))


def hashed(name: str) -> Point:
    """A point whose logarithm nobody knows: hashed to the curve by trial."""
    for trial in range(256):
        try:
            return PublicKey(b"\x02" + sha256(f"tacit {name} {trial}".encode()).digest())
        except ValueError:
            continue
    raise AssertionError("256 hashes that are no point have probability 2^-256")


VALUE = hashed("value")
BLINDING = hashed("blinding")
_VECTOR: list[Point] = []


def generators(count: int) -> list[Point]:
    """The first ``count`` generators of vector commitments, made once (18 us each)."""
    _VECTOR.extend(hashed(f"vector {i}") for i in range(len(_VECTOR), count))
    return _VECTOR[:count]


def pedersen(value: int, blinding: int) -> Point:
    """value G + blinding H."""
    return add(multiply(VALUE, value), multiply(BLINDING, blinding))


def product(points: Sequence[Point], scalars: Sequence[int]) -> Point:
    """The sum of scalar x point, for scalars in [0, 2^256): Pippenger's buckets of one byte."""
    width = max((max(scalars, default=0).bit_length() + 7) // 8, 1)
    raw = b"".join(scalar.to_bytes(width, "little") for scalar in scalars)
    digits = np.frombuffer(raw, np.uint8).reshape(len(scalars), width)
    result = None
    for window in reversed(range(width)):
        order = np.argsort(digits[:, window], kind="stable")
        ends = np.searchsorted(digits[order, window], np.arange(257))
        placed = order.tolist()
        running = total = None
        for digit in range(255, 0, -1):
            bucket = placed[ends[digit] : ends[digit + 1]]
            running = add(running, *(points[i] for i in bucket))
            total = add(total, running)
        result = add(multiply(result, 256), total)
    return result
