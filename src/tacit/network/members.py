"""Who belongs to a federation: a roll that its authority signs, and everyone can check."""

import re
from typing import Annotated, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.errors import MessageError, require
from tacit.network.certificates import Key
from tacit.network.decoding import from_json
from tacit.network.malformed import MALFORMED

Role = Literal["coordinator", "relay", "site"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_DOMAIN = b"tacit/v1/members\0"


def require_name(field: str, given: str) -> None:
    """Refuse what cannot be a certificate's name, a folder and a part of a key at once."""
    allowed = "1 to 63 letters, digits, - and _, the first a letter or digit"
    require(_NAME.fullmatch(given) is not None, field, given, allowed)


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member, or who is invited to be one.

    Attributes:
        key: its Ed25519 public key, 64 hexadecimal digits; empty until it has joined.
        hosts: DNS names and IP addresses where it listens.
    """

    role: Role
    key: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""
    hosts: tuple[Annotated[str, msgspec.Meta(max_length=253)], ...] = ()
    revoked: bool = False

    @property
    def state(self) -> Literal["member", "invited", "revoked"]:
        if self.revoked:
            return "revoked"
        return "member" if self.key else "invited"


class Members(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All members of a federation by name.

    Attributes:
        version: grows with every change; an older roll never replaces a newer one.
        by_name: whoever was invited once, so that no revoked name is given again unnoticed.
    """

    federation: str
    version: int
    by_name: dict[str, Member]

    def verify(self, name: str, message: bytes, signature: bytes) -> None:
        """MessageError unless this member signed the message.

        Whether its certificate has expired is the transport's business: it closes the connection.
        """
        if not self.has(name):
            state = self.by_name[name].state if name in self.by_name else "unknown"
            raise MessageError(f"{name!r} is {state} in federation {self.federation!r}")
        if not is_signed(self.by_name[name].key, message, signature):
            raise MessageError(f"the signature is not that of {name!r}")

    def key(self, name: str) -> Ed25519PublicKey:
        """With which this member signs; MessageError if it has not joined or is revoked."""
        if not self.has(name):
            raise MessageError(f"{name!r} is no member of federation {self.federation!r}")
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.by_name[name].key))

    def has(self, name: str) -> bool:
        """Whether this name has joined and is not revoked."""
        return name in self.by_name and self.by_name[name].state == "member"

    def names(self) -> dict[str, Role]:
        """Whom access control is about: everyone who is not revoked."""
        return {name: member.role for name, member in self.listed().items()}

    def listed(self) -> dict[str, Member]:
        """Those who may connect, or will: everyone who is not revoked."""
        return {name: member for name, member in self.by_name.items() if not member.revoked}

    def those(self, *roles: Role) -> list[str]:
        """Names of all who have one of these roles and are not revoked, in order."""
        return sorted(name for name, member in self.listed().items() if member.role in roles)


def is_signed(key: str, message: bytes, signature: bytes) -> bool:
    """Whether the holder of an Ed25519 public key, hexadecimal, signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


class _Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    roll: msgspec.Raw
    signature: Annotated[str, msgspec.Meta(max_length=200)]


def sign(members: Members, key: Key) -> bytes:
    """The roll as JSON text, signed by the authority's key (ECDSA, SHA-256)."""
    roll = msgspec.json.encode(members)
    signature = key.sign(_DOMAIN + roll, ec.ECDSA(hashes.SHA256()))
    return msgspec.json.encode(_Signed(msgspec.Raw(roll), signature.hex()))


def read(text: bytes, authority: x509.Certificate) -> Members:
    """The roll in a signed text; MessageError unless this authority signed it."""
    try:
        signed = from_json(text, _Signed)
        key = authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        signature = bytes.fromhex(signed.signature)
        key.verify(signature, _DOMAIN + bytes(signed.roll), ec.ECDSA(hashes.SHA256()))
        return from_json(signed.roll, Members)
    except (*MALFORMED, ValueError):
        raise MessageError("the list of members cannot be read") from None
    except InvalidSignature:
        raise MessageError("the list of members is not signed by this authority") from None
