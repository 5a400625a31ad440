"""What is recorded: in-toto statements in DSSE envelopes, as canonical JSON (RFC 8785).

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md,
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.errors import InputError, MessageError
from tacit.ledger.note import Signer

PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "urn:tacit:{}:v1"
# What JSON's numbers hold exactly everywhere.
_MOST_INT = 2**53
_MOST_DEPTH = 8
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{\]}]', re.DOTALL)
_STEP = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)

Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True)
class Statement:
    """One record: its kind, the digests that it speaks of, and what it says of them.

    Attributes:
        kind: "genesis", "round-open", "contribution", ...
        subjects: name to SHA-256.
        says: integers, strings, lists and objects of them; no fractions, whose text differs between
            languages.
    """

    kind: str
    subjects: Mapping[str, bytes]
    says: Mapping[str, Any]

    def payload(self) -> bytes:
        """The statement's bytes.

        Raises:
            InputError: something that a record does not hold.
        """
        named: list[Json] = [
            {"name": name, "digest": {"sha256": found.hex()}}
            for name, found in sorted(self.subjects.items())
        ]
        return canonical(
            {
                "_type": _STATEMENT,
                "subject": named,
                "predicateType": _PREDICATE.format(self.kind),
                "predicate": dict(self.says),
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> "Statement":
        """What ``payload`` made.

        Raises:
            MessageError: anything else, even the same in other words.
        """
        try:
            found = parsed(payload)
            prefix, _, suffix = _PREDICATE.partition("{}")
            kind = found["predicateType"].removeprefix(prefix).removesuffix(suffix)
            subjects = {s["name"]: bytes.fromhex(s["digest"]["sha256"]) for s in found["subject"]}
            statement = cls(kind, subjects, found["predicate"])
            same = statement.payload() == payload
        except (ValueError, KeyError, TypeError, AttributeError, InputError):
            same = False
        if not same:
            raise MessageError("the record is no statement in canonical JSON")
        return statement


@dataclass(frozen=True)
class Envelope:
    """A statement's bytes and who has signed them: names to Ed25519 signatures."""

    payload: bytes
    signatures: Mapping[str, bytes]

    def __bytes__(self) -> bytes:
        signatures = [
            {"keyid": name, "sig": base64.b64encode(raw).decode()}
            for name, raw in sorted(self.signatures.items())
        ]
        payload = base64.b64encode(self.payload).decode()
        return canonical({"payload": payload, "payloadType": PAYLOAD, "signatures": signatures})

    @classmethod
    def from_bytes(cls, entry: bytes) -> "Envelope":
        """What ``bytes`` made.

        Raises:
            MessageError: anything else.
        """
        try:
            found = parsed(entry)
            payload = base64.b64decode(found["payload"], validate=True)
            listed = found["signatures"]
            signatures = {s["keyid"]: base64.b64decode(s["sig"], validate=True) for s in listed}
            envelope = cls(payload, signatures)
            same = bytes(envelope) == entry
        except (ValueError, KeyError, TypeError, binascii.Error, InputError):
            same = False
        if not same:
            raise MessageError("the entry is no signed envelope in canonical JSON")
        return envelope

    @property
    def statement(self) -> Statement:
        """What was signed, by whomever."""
        return Statement.from_payload(self.payload)

    def signers(self, keys: Mapping[str, bytes]) -> list[str]:
        """Which of these members have signed.

        Args:
            keys: names to 32-byte Ed25519 public keys.

        Raises:
            MessageError: somebody who is not among them, or a wrong signature.
        """
        message = encoded(self.payload)
        for name, raw in self.signatures.items():
            if name not in keys:
                raise MessageError(f"{name!r} has signed, who is no member")
            try:
                Ed25519PublicKey.from_public_bytes(keys[name]).verify(raw, message)
            except InvalidSignature:
                raise MessageError(f"the signature of {name!r} is wrong") from None
        return sorted(self.signatures)


def signed(statement: Statement, by: Mapping[str, Signer]) -> bytes:
    """An entry for the log: a statement with the signatures of members, by their names."""
    payload = statement.payload()
    message = encoded(payload)
    return bytes(Envelope(payload, {name: key.sign(message) for name, key in by.items()}))


def encoded(payload: bytes) -> bytes:
    """What a DSSE signature is of (PAE)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def canonical(value: Json) -> bytes:
    """RFC 8785 for whole numbers, strings and what is made of them.

    Raises:
        InputError: another value, a key that is not ASCII, or too many levels.
    """
    _require(value, _MOST_DEPTH)
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        raise InputError("record: it holds half of a UTF-16 pair") from None


def parsed(text: bytes) -> Any:
    """What JSON says, if it has no more levels than ``canonical`` makes.

    ``json.loads`` goes as deep as its text does. Where a library has raised Python's limit of
    recursion, as py_ecc does, a deep one ends the process.

    Raises:
        ValueError: it is no JSON, or too deep.
    """
    depth = 0
    deep = text.count(b"[") + text.count(b"{") > _MOST_DEPTH  # else no need to look further
    for token in _TOKEN.findall(text) if deep else ():
        depth += _STEP.get(token, 0)
        if depth > _MOST_DEPTH:
            raise ValueError("too many levels")
    return json.loads(text)


def _require(value: Any, depth: int) -> None:
    if isinstance(value, str):
        return
    if isinstance(value, dict):
        fits = depth > 0
        for key, part in value.items():
            # Sorted as UTF-16 and as code points the same, where they are ASCII.
            fits = fits and isinstance(key, str) and key.isascii()
            _require(part, depth - 1)
    elif isinstance(value, list | tuple):
        fits = depth > 0
        for part in value:
            _require(part, depth - 1)
    else:
        fits = value is None or (isinstance(value, int) and -_MOST_INT < value < _MOST_INT)
    if not fits:
        raise InputError(
            f"record: {value!r:.60} was given; allowed are whole numbers below 2**53, strings, and"
            f" lists and objects of them, {_MOST_DEPTH} deep"
        )
