"""Merkle trees of RFC 6962: roots, and proofs of inclusion and of consistency.

A tree is read through ``read(level, index)``, which gives the hash of the complete subtree of
``2**level`` leaves that begins at leaf ``index << level``.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from functools import reduce

Read = Callable[[int, int], bytes]

EMPTY = hashlib.sha256().digest()


def leaf_hash(entry: bytes) -> bytes:
    """Of a leaf (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Of an inner node (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(read: Read, size: int) -> bytes:
    """Of the tree's first ``size`` leaves."""
    return _hash(read, 0, size) if size else EMPTY


class Growing:
    """Roots of a list of leaves' hashes that grows, in memory of its length's logarithm."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._peaks: list[tuple[int, bytes]] = []  # complete subtrees: their levels and hashes
        for leaf in leaves:
            self.add(leaf)

    def add(self, leaf: bytes) -> None:
        """Add a leaf's hash."""
        level, found = 0, leaf
        while self._peaks and self._peaks[-1][0] == level:
            found = node_hash(self._peaks.pop()[1], found)
            level += 1
        self._peaks.append((level, found))

    def copy(self) -> "Growing":
        """The same list, to grow by itself."""
        copy = Growing()
        copy._peaks = list(self._peaks)
        return copy

    @property
    def root(self) -> bytes:
        """Of the leaves so far."""
        if not self._peaks:
            return EMPTY
        hashes = [found for _, found in reversed(self._peaks)]
        return reduce(lambda right, left: node_hash(left, right), hashes)


def inclusion(read: Read, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, section 2.1.1, from the leaf's sibling up."""
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_hash(read, middle, end))
            end = middle
        else:
            path.append(_hash(read, start, middle))
            start = middle
    return path[::-1]


def consistency(read: Read, old: int, new: int) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, section 2.1.2; empty for equal sizes, or from nothing."""
    if old in (0, new):
        return []
    path, start, end = [], 0, new
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_hash(read, middle, end))
            end = middle
        else:
            path.append(_hash(read, start, middle))
            start = middle
    return [*([_hash(read, start, end)] if start else []), *path[::-1]]


def included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a leaf's hash stands at an index of the tree (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    last, found = size - 1, leaf
    for sibling in path:
        if not last:
            return False
        if index & 1 or index == last:
            found = node_hash(sibling, found)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        index, last = index >> 1, last >> 1
    return not last and hmac.compare_digest(found, root)


def consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the new tree begins with the old one (RFC 9162, section 2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old in (0, new):
        begins = EMPTY if not old else new_root
        return not path and hmac.compare_digest(old_root, begins)
    if not path:
        return False
    hashes = list(path) if old & (old - 1) else [old_root, *path]
    index, last = old - 1, new - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if not last:
            return False
        if index & 1 or index == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        index, last = index >> 1, last >> 1
    same = hmac.compare_digest(before, old_root) and hmac.compare_digest(after, new_root)
    return not last and same


def _split(size: int) -> int:
    """The largest power of two below a size of 2 or more."""
    return 1 << ((size - 1).bit_length() - 1)


def _hash(read: Read, start: int, end: int) -> bytes:
    size = end - start
    if not size & (size - 1):
        level = size.bit_length() - 1
        return read(level, start >> level)
    middle = start + _split(size)
    return node_hash(_hash(read, start, middle), _hash(read, middle, end))
