"""Messages between members: typed, bounded, addressed, and signed end to end.

TLS protects one hop; a relay in between is not trusted. So each message is signed by its sender for
its receiver, and a reply also for the very request that it answers: none can be given to another,
or taken for the answer to something else.
"""

from hashlib import sha256
from typing import Annotated, TypeVar

import msgspec

from tacit.errors import MessageError, TacitError
from tacit.network.decoding import from_msgpack
from tacit.network.identity import Identity
from tacit.network.malformed import MALFORMED

MOST = 64 * 1024  # bytes of a sealed message


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; each field of variable length states its bound (``msgspec.Meta``)."""


M = TypeVar("M", bound=Message)


class Refusal(Message, frozen=True):
    """The reply to a request that is not granted.

    Attributes:
        code: which refusal, for programs; it never changes.
        sentence: the same for people.
    """

    code: Annotated[str, msgspec.Meta(max_length=32)]
    sentence: Annotated[str, msgspec.Meta(max_length=2000)]


class Refused(TacitError):
    """A member answered no: ``.code`` says why, and the text as much as it tells."""

    code = "TACIT-111"

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    sender: Annotated[str, msgspec.Meta(max_length=63)]
    body: bytes
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


def kind(message: type[Message]) -> str:
    """The name under which a type of message travels."""
    return str(message.__struct_config__.tag)


def seal(identity: Identity, to: str, message: Message, answers: bytes = b"") -> bytes:
    """A message as signed bytes, for one receiver.

    Args:
        answers: the sealed request, if this is the reply to one.

    Raises:
        ValueError: it is larger than ``MOST``.
    """
    body = msgspec.msgpack.encode(message)
    signature = identity.sign(_signed(identity.federation, identity.name, to, body, answers))
    sealed = msgspec.msgpack.encode(_Signed(identity.name, body, signature))
    if len(sealed) > MOST:
        raise ValueError(f"a {kind(type(message))} has {len(sealed)} bytes; allowed are {MOST}")
    return sealed


def unseal(
    identity: Identity, sender: str, sealed: bytes, *kinds: type[M], answers: bytes = b""
) -> M:
    """The message in sealed bytes, which this member sent to us.

    Raises:
        MessageError: too large, malformed, of another kind, or not signed by this sender, for us,
            in this federation and as the answer to this request.
    """
    if len(sealed) > MOST:
        raise MessageError(f"{sender!r} sent {len(sealed)} bytes; allowed are {MOST}")
    try:
        signed = from_msgpack(sealed, _Signed)
    except MALFORMED:
        raise MessageError(f"what {sender!r} sent is no message") from None
    if signed.sender != sender:
        raise MessageError(f"{sender!r} sent a message of {signed.sender!r}")
    expected = _signed(identity.federation, sender, identity.name, signed.body, answers)
    identity.members.verify(sender, expected, signed.signature)
    try:
        return from_msgpack(signed.body, *kinds)
    except MALFORMED as error:
        names = " or ".join(kind(each) for each in kinds)
        raise MessageError(f"what {sender!r} sent is no {names}: {error}") from None


def _signed(federation: str, sender: str, to: str, body: bytes, answers: bytes) -> bytes:
    about = sha256(answers).digest() if answers else b""
    return msgspec.msgpack.encode(("tacit/v1", federation, sender, to, about, body))
