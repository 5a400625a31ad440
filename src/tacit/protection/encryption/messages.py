"""The bytes that nodes and receiver exchange: see ``secagg.messages`` for header, set and table.

A polynomial is its residues, towers x N numbers of 8 bytes. Every message from a node ends with its
Ed25519 signature of all before it, so of the session, round, kind and sender, but for UPLOAD, whose
hash is signed beforehand.

| kind | direction | body |
| --- | --- | --- |
| ADVERT | from a node | public key for sealing, hash of the public polynomial |
| KEYS | to a node | table of adverts |
| SHARES | from a node | public polynomial, sealed secret, table of sealed shares of that seal |
| DELIVERY | to a node | table of public polynomials, table of sealed shares by sender |
| COMMIT | from a node | hash of what it saw so far, hash of its UPLOAD |
| COMMITS | to a node | table of the latter hash and the signature |
| UPLOAD | from a node, to all | ciphertexts: polynomial pairs |
| PARTIAL | from a node | set whose ciphertexts are summed, a polynomial a ciphertext |
| REQUEST | to a node | set that answered |
| REVEAL | from a node | table of shares of the others' seals |
"""

import hashlib
from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.errors import require
from tacit.protection.encryption.bfv import Scheme
from tacit.protection.secagg import masks
from tacit.protection.secagg.messages import KEY, SIGNATURE, Reader, header, signed, write_table
from tacit.protection.secagg.session import Aborted, Session

HASH, TAG = 32, 16
ADVERT_BODY = KEY + HASH


class Kind(IntEnum):
    """What a message is; no number that ``secagg`` uses."""

    ADVERT = 33
    KEYS = 34
    SHARES = 35
    DELIVERY = 36
    COMMIT = 37
    COMMITS = 38
    UPLOAD = 39
    PARTIAL = 40
    REQUEST = 41
    REVEAL = 42


def hashed(session: Session, kind: Kind, party: int, body: bytes | memoryview) -> bytes:
    """(32,) SHA-256 of a body with its header, so that nobody can pass off another's as its own."""
    digest = hashlib.sha256(header(session, kind, party))
    digest.update(body)
    return digest.digest()


def opened(
    session: Session, kind: Kind, node: int, key: Ed25519PublicKey, message: bytes
) -> Reader:
    """A reader of a node's message without its signature, which fits.

    Raises:
        Aborted: malformed, or not signed by this node.
    """
    if not signed(key, message[:-SIGNATURE], message[-SIGNATURE:]):
        raise Aborted(f"a message is not signed by node {node}")
    return Reader(session, kind, node, message[:-SIGNATURE])


@lru_cache(4)
def _scheme(nodes: int) -> Scheme:
    return Scheme(nodes)


def scheme(session: Session) -> Scheme:
    """Of a session, the same for all its parties; kept, since it takes a second to make.

    Raises:
        InputError: the session is of another type or graph, or OpenFHE cannot be loaded.
    """
    require(session.dtype == np.uint32, "session.dtype", session.dtype, "uint32")
    require(session.degree is None, "session.degree", session.degree, "None, the complete graph")
    return _scheme(len(session.nodes))


def view(session: Session, scheme: Scheme, adverts: Mapping[int, bytes]) -> bytes:
    """(32,) the hash of what has to be the same for all before they encrypt: whose keys are in."""
    seen = session.context + scheme.moduli.astype("<u8").tobytes() + write_table(adverts)
    return hashlib.sha256(b"tacit encryption 1" + seen).digest()


def escrow(session: Session, node: int, secret: int) -> tuple[AESGCM, bytes]:
    """The cipher that seals a node's BFV key under a shared secret, and what it binds.

    A secret is drawn for one message, so that its nonce can be zero.
    """
    key = masks.key(secret.to_bytes(KEY, "little"), session.context, b"escrow")
    return AESGCM(key), header(session, Kind.SHARES, node)
