"""Signed notes, checkpoints and cosignatures, as C2SP specifies them.

https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature
"""

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from tacit.errors import InputError, MessageError

# Types of signatures: by a log on a note; by a witness on a checkpoint, in two algorithms.
NOTE, COSIGNATURE, COSIGNATURE_ML_DSA = 0x01, 0x04, 0x06
MOST_NOTE = 2**20
_DASH = "— "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NAME = re.compile(r"[^\s+\x00-\x20\x7f]{1,60}\Z")
_SIZE = {NOTE: 32, COSIGNATURE: 32, COSIGNATURE_ML_DSA: 1312}


class Signer(Protocol):
    """A private key of ``cryptography``."""

    def sign(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True)
class Key:
    """A verifier key: a name, what it signs, and the public key.

    Raises:
        InputError: a name, a type or a length that the format has not.
    """

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise InputError(
                f"key name: {self.name!r} was given; allowed are 1 to 60 signs without spaces and +"
            )
        if _SIZE.get(self.kind) != len(self.public):
            raise InputError(f"key: {len(self.public)} bytes were given for type {self.kind:#04x}")

    @cached_property
    def id(self) -> bytes:
        """Its first four bytes of a hash, which stand in every signature."""
        said = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return hashlib.sha256(said).digest()[:4]

    def __str__(self) -> str:
        public = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{public}"

    @classmethod
    def of(cls, name: str, private: Signer, kind: int) -> "Key":
        """The public part of a private key."""
        return cls(name, kind, private.public_key().public_bytes_raw())  # type: ignore[attr-defined]

    @classmethod
    def from_text(cls, text: str) -> "Key":
        """What ``str`` made.

        Raises:
            InputError: anything else.
        """
        name, _, rest = text.partition("+")
        id, _, public = rest.partition("+")
        try:
            raw = base64.b64decode(public, validate=True)
        except ValueError:  # also of what is not ASCII
            raw = b""
        if not raw:
            raise InputError(f"key: {text!r} was given; allowed is name+id+key, in base64")
        key = cls(name, raw[0], raw[1:])
        if key.id.hex() != id:
            raise InputError(f"key: {text!r} was given, whose id is not that of its key")
        return key

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the key has signed a message."""
        public = MLDSA44PublicKey if self.kind == COSIGNATURE_ML_DSA else Ed25519PublicKey
        try:
            public.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def received(text: str) -> Key:
    """A key that another party has told.

    Raises:
        MessageError: it is none.
    """
    try:
        return Key.from_text(text)
    except InputError as error:
        raise MessageError(str(error)) from None


@dataclass(frozen=True)
class Signature:
    """A line below a note: whose it claims to be, and its bytes."""

    name: str
    id: bytes
    raw: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.id + self.raw).decode()}\n"

    def of(self, key: Key) -> bool:
        """Whether the line names a key."""
        return (self.name, self.id) == (key.name, key.id)


def split(note: str) -> tuple[str, list[Signature]]:
    """A signed note's text, its last newline included, and its signatures, unverified.

    Raises:
        MessageError: no signed note.
    """
    text, gap, lines = note.rpartition("\n\n")
    if len(note) > MOST_NOTE or not gap or not lines.endswith("\n"):
        raise MessageError("a signed note is text, an empty line, and signatures")
    if _CONTROL.search(note):
        raise MessageError("a signed note holds no control characters")
    return text + "\n", [_signature(line) for line in lines.splitlines()]


def sign(text: str, key: Key, private: Signer) -> Signature:
    """A log's signature on a note."""
    return Signature(key.name, key.id, private.sign(text.encode()))


@dataclass(frozen=True)
class Checkpoint:
    """A log's head: whose, of how many entries, with which root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def from_text(cls, text: str) -> "Checkpoint":
        """The checkpoint that a note's text is; extension lines are refused, as nobody audits them.

        Raises:
            MessageError: no checkpoint.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
            raise MessageError("a checkpoint has an origin, a size and a root, a line each")
        root = _decoded(lines[2])
        if len(root) != 32 or not lines[0]:
            raise MessageError("a checkpoint's root has 32 bytes, and its origin one or more")
        return cls(lines[0], int(lines[1]), root)


def cosign(checkpoint: Checkpoint, key: Key, private: Signer, time: int) -> Signature:
    """A witness's signature on a checkpoint, at so many seconds since 1970."""
    raw = private.sign(_cosigned(checkpoint, key, time))
    return Signature(key.name, key.id, struct.pack(">Q", time) + raw)


def verified(note: str, keys: Iterable[Key]) -> tuple[Checkpoint, list[Key]]:
    """A note's checkpoint, and whose of these keys have signed or cosigned it.

    Raises:
        MessageError: no checkpoint, or a signature in the name of one of the keys that is wrong.
    """
    text, signatures = split(note)
    checkpoint, by = Checkpoint.from_text(text), []
    for key in keys:
        lines = [line for line in signatures if line.of(key)]
        for line in lines:
            message, raw = text.encode(), line.raw
            if key.kind != NOTE:
                time, raw = int.from_bytes(raw[:8]), raw[8:]
                message = _cosigned(checkpoint, key, time)
            if not key.verifies(message, raw):
                raise MessageError(f"the signature of {key.name} on the checkpoint is wrong")
        if lines:
            by.append(key)
    return checkpoint, by


def private_key(kind: int) -> Ed25519PrivateKey | MLDSA44PrivateKey:
    """A new one, from the operating system's randomness."""
    return (MLDSA44PrivateKey if kind == COSIGNATURE_ML_DSA else Ed25519PrivateKey).generate()


def _cosigned(checkpoint: Checkpoint, key: Key, time: int) -> bytes:
    if key.kind == COSIGNATURE:
        return f"cosignature/v1\ntime {time}\n{checkpoint.text}".encode()
    name, origin = key.name.encode(), checkpoint.origin.encode()
    return b"".join(
        (b"subtree/v1\n\0", bytes([len(name)]), name, struct.pack(">Q", time), bytes([len(origin)]),
         origin, struct.pack(">QQ", 0, checkpoint.size), checkpoint.root)
    )  # fmt: skip


def _signature(line: str) -> Signature:
    name, _, raw = line.removeprefix(_DASH).partition(" ")
    found = _decoded(raw)
    if not line.startswith(_DASH) or not _NAME.match(name) or len(found) < 5:
        raise MessageError("a signature of a note is a dash, a name, and base64")
    return Signature(name, found[:4], found[4:])


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MessageError("a signed note has a line that is not base64") from None
