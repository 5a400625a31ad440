"""The bytes that nodes and receiver exchange: fixed layouts, little-endian, bounded by the session.

A message is a header (version, kind, two zero bytes, session, the node it is from or to) and a body
of sets (a bit a node of the cohort) and tables (a count, then a node number and a blob of fixed
size each, ascending). Everything has one encoding, and no length that the session does not bound.
A header has 40 bytes, so that a vector after it is aligned.

| kind | direction | body |
| --- | --- | --- |
| ADVERT | from a node | two public keys, set of its share holders, signature of all before it |
| KEYS | to a node | table of adverts |
| SHARES | from a node | table of sealed shares of its mask key |
| DELIVERY | to a node | set that shared, table of sealed shares by sender |
| MASKED | from a node | the masked vector, table of sealed shares of its own mask's seed |
| SURVIVORS | to a node | set whose vectors arrived |
| CONSENT | from a node | that set, signature of all before it |
| REQUEST | to a node | that set, table of signatures, table of sealed shares by sender |
| REVEAL | from a node | table of shares of survivors' seeds, table of shares of others' mask keys |
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import compress

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.protection.secagg.session import Aborted, Session

_VERSION = 1
_HEADER, _NUMBER = struct.Struct("<BBxx32sI"), struct.Struct("<I")
KEY, SIGNATURE, SHARE, SEALED = 32, 64, 32, 48  # bytes; sealed is a share and its tag


class Kind(IntEnum):
    """What a message is."""

    ADVERT = 1
    KEYS = 2
    SHARES = 3
    DELIVERY = 4
    MASKED = 5
    SURVIVORS = 6
    CONSENT = 7
    REQUEST = 8
    REVEAL = 9


def header(session: Session, kind: IntEnum, party: int) -> bytes:
    """Of a message from or to this node."""
    return _HEADER.pack(_VERSION, kind, session.context, party)


def write_set(session: Session, members: Iterable[int]) -> bytes:
    """One bit a node of the cohort."""
    chosen = set(members)
    return np.packbits([node in chosen for node in session.nodes], bitorder="little").tobytes()


def write_table(rows: Mapping[int, bytes | bytearray]) -> bytes:
    """A count, then each node's number and blob, ascending."""
    packed = [_NUMBER.pack(node) + rows[node] for node in sorted(rows)]
    return _NUMBER.pack(len(rows)) + b"".join(packed)


class Reader:
    """Reads one message in order.

    Raises:
        Aborted: another version, kind, session or node than expected, or any byte too few or many.
    """

    def __init__(self, session: Session, kind: IntEnum, party: int, message: bytes) -> None:
        self.session, self.view, self.at = session, memoryview(message), 0
        self._refuse(self.take(_HEADER.size) != header(session, kind, party))

    def _refuse(self, wrong: bool) -> None:
        if wrong:
            raise Aborted("a message does not belong to this session and stage, or is malformed")

    def take(self, size: int) -> memoryview:
        """The next bytes, as many as asked for."""
        self._refuse(self.at + size > len(self.view))
        self.at += size
        return self.view[self.at - size : self.at]

    def set(self) -> frozenset[int]:
        nodes = self.session.nodes
        packed = np.frombuffer(self.take(-(-len(nodes) // 8)), np.uint8)
        bits = np.unpackbits(packed, bitorder="little").tolist()
        self._refuse(any(bits[len(nodes) :]))
        return frozenset(compress(nodes, bits))

    def table(self, size: int) -> dict[int, bytes]:
        """Node number to blob of this many bytes."""
        (count,) = _NUMBER.unpack(self.take(_NUMBER.size))
        self._refuse(count > len(self.session.nodes))
        row = struct.Struct(f"<I{size}s")
        rows: dict[int, bytes] = dict(row.iter_unpack(self.take(count * row.size)))
        ascending = len(rows) == count and list(rows) == sorted(rows)
        self._refuse(not (ascending and rows.keys() <= self.session.members))
        return rows

    def end(self) -> None:
        self._refuse(self.at != len(self.view))


@dataclass(frozen=True)
class Advert:
    """A node's public keys of this session, and who will hold its shares."""

    channel: bytes
    mask: bytes
    holders: frozenset[int]


def advert_size(session: Session) -> int:
    """Bytes of an advert."""
    return _HEADER.size + 2 * KEY + -(-len(session.nodes) // 8) + SIGNATURE


def read_advert(session: Session, node: int, key: Ed25519PublicKey, message: bytes) -> Advert:
    """A node's advert, its signature checked.

    Raises:
        Aborted: malformed, or not signed by this node.
    """
    reader = Reader(session, Kind.ADVERT, node, message)
    advert = Advert(bytes(reader.take(KEY)), bytes(reader.take(KEY)), reader.set())
    if not signed(key, message[: reader.at], bytes(reader.take(SIGNATURE))):
        raise Aborted(f"node {node}'s keys are not signed by it")
    reader.end()
    return advert


def signed(key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether the signature is this key's, of this message."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
