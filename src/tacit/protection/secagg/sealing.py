"""Shares sealed from one node to another: AES-128-GCM, on its way through the receiver.

A key is of one direction between two nodes in one session and seals one share of each kind, so that
the kind can be the nonce.
"""

from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.protection.secagg import masks
from tacit.protection.secagg.messages import header
from tacit.protection.secagg.session import Session


def seal(
    session: Session, channel: bytearray, kind: IntEnum, sender: int, to: int, share: bytes
) -> bytes:
    """A share and its tag; the channel is what the two nodes agreed on."""
    aead, bound = _aead(session, channel, kind, sender, to)
    return aead.encrypt(_nonce(kind), share, bound)


def unseal(
    session: Session, channel: bytearray, kind: IntEnum, sender: int, to: int, sealed: bytes
) -> bytes | None:
    """The share, or None where it was not sealed for exactly this."""
    aead, bound = _aead(session, channel, kind, sender, to)
    try:
        return aead.decrypt(_nonce(kind), sealed, bound)
    except InvalidTag:
        return None


def _aead(
    session: Session, channel: bytearray, kind: IntEnum, sender: int, to: int
) -> tuple[AESGCM, bytes]:
    """The cipher, and what it binds: version, kind, session (so experiment, round), both ends."""
    ends = sender.to_bytes(4, "little") + to.to_bytes(4, "little")
    key = masks.key(channel, session.context, b"channel " + ends)
    return AESGCM(key), header(session, kind, sender) + ends


def _nonce(kind: IntEnum) -> bytes:
    return kind.to_bytes(12, "big")
