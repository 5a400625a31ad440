"""How one joins a federation: a token, an application, an admission.

The token carries a secret nonce that never travels, and the key of a certificate that is good for
nothing but asking. The answer needs no signature: the certificate and the list of members in it
are the authority's, whose own certificate is in the token.
"""

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec.structs import replace

from tacit.errors import InputError
from tacit.network.decoding import from_msgpack
from tacit.network.institution import Chain
from tacit.network.malformed import MALFORMED
from tacit.network.members import is_signed, require_name
from tacit.network.messages import Message

_PREFIX = "tacit1."
_CHECK = 4  # bytes that tell a token from one that was mistyped


def _check(packed: bytes) -> bytes:
    return sha256(packed).digest()[:_CHECK]


class Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An invitation, for one use.

    Attributes:
        addresses: ``host:port`` each, of the coordinator or relays.
        authority: the authority's certificate, PEM.
        tls: key and certificate with which to connect in order to ask, PEM.
        nonce: 16 secret bytes.
        relays: names of those by whom the coordinator may be reached.
    """

    federation: str
    coordinator: str
    name: str
    addresses: tuple[str, ...]
    authority: bytes
    tls: bytes
    nonce: bytes
    relays: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Token({self.federation!r}, {self.name!r})"

    def to_text(self) -> str:
        packed = msgspec.msgpack.encode(self)
        return _PREFIX + urlsafe_b64encode(packed + _check(packed)).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> "Token":
        """InputError unless the text is a whole token."""
        body = text.strip().removeprefix(_PREFIX)
        try:
            whole = urlsafe_b64decode(body + "=" * (-len(body) % 4))
            packed, check = whole[:-_CHECK], whole[-_CHECK:]
            if check != _check(packed):
                raise ValueError
            token = from_msgpack(packed, cls)
        except (*MALFORMED, binascii.Error, ValueError):
            raise InputError("this is no token, or not all of it; paste the whole line") from None
        require_name("token: federation", token.federation)  # they name a folder
        require_name("token: name", token.name)
        return token


class Application(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to join.

    Attributes:
        csr: certificate signing request for the name, PEM.
        key: the applicant's Ed25519 public key, 64 hexadecimal digits.
        chain: certificates of its institution, for the key of the request, PEM; where it has one.
        proof: HMAC-SHA256 of the above by the token's nonce: a relay that sees the application
            cannot join in its place.
        signature: Ed25519, of the same. Without it, whoever finds a used token could ask again with
            the public key of the member, and get a certificate in its name.
    """

    name: Annotated[str, msgspec.Meta(max_length=63)]
    csr: Annotated[bytes, msgspec.Meta(max_length=4096)]
    key: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    chain: Chain = b""
    proof: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""

    def proven(self, nonce: bytes, sign: Callable[[bytes], bytes]) -> "Application":
        signed = self._signed()
        return replace(self, proof=hmac.digest(nonce, signed, "sha256"), signature=sign(signed))

    def proves_token(self, nonce: bytes) -> bool:
        return hmac.compare_digest(self.proof, hmac.digest(nonce, self._signed(), "sha256"))

    def proves_key(self) -> bool:
        return is_signed(self.key, self._signed(), self.signature)

    def _signed(self) -> bytes:
        bare = msgspec.msgpack.encode(replace(self, proof=b"", signature=b""))
        return b"tacit/v1/join\0" + bare


class Admission(Message, frozen=True):
    """What a member gets when it has joined; nothing of it is secret.

    Attributes:
        certificate: PEM.
        members: the signed list.
        policy: the federation's limits, TOML: what a site's own policy begins with. Its operator
            reads it and may change it: it is not signed.
    """

    certificate: Annotated[bytes, msgspec.Meta(max_length=4096)]
    members: bytes
    policy: Annotated[bytes, msgspec.Meta(max_length=16384)] = b""
