"""Statements and envelopes: other people's tools read them, and nothing but them is read."""

import json
import subprocess
import sys

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as PublicEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from tacit.errors import InputError, MessageError
from tacit.ledger.statement import Envelope, Statement, canonical, signed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner, max_size=4)
    ),
    max_leaves=8,
)
SAYS = {"round": 3, "bucket": "100-999", "kept": [1, 2], "who": 'Zürich \u2028 \x1f \\ " €'}


@given(VALUES)
def test_canonical_json_is_that_of_an_independent_library(value: object) -> None:
    assert canonical({"value": value}) == rfc8785.dumps({"value": value})  # type: ignore[dict-item, arg-type]


@pytest.mark.parametrize("value", [0.5, float("nan"), 2**53, b"x", {"é": 1}, {1: 2}, "\ud800"])
def test_what_a_record_does_not_hold(value: object) -> None:
    with pytest.raises(InputError, match="record: "):
        canonical({"value": value})  # type: ignore[dict-item]
    nested: list[object] = []
    for _ in range(9):
        nested = [nested]
    with pytest.raises(InputError, match="8 deep"):
        canonical(nested)  # type: ignore[arg-type]


def test_securesystemslib_verifies_an_entry_unchanged() -> None:
    keys = {name: Ed25519PrivateKey.generate() for name in ("bern", "zurich")}
    public = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
    statement = Statement("contribution", {"update": bytes(32)}, SAYS)
    entry = signed(statement, keys)
    theirs = PublicEnvelope.from_dict(json.loads(entry))
    known = [
        SSlibKey(name, "ed25519", "ed25519", {"public": raw.hex()}) for name, raw in public.items()
    ]
    assert set(theirs.verify(known, 2)) == {"bern", "zurich"}
    assert json.loads(theirs.payload)["predicateType"] == "urn:tacit:contribution:v1"
    with pytest.raises(VerificationError):
        theirs.verify([known[0], known[0]], 2)
    mine = Envelope.from_bytes(entry)
    assert mine.signers(public) == ["bern", "zurich"]
    assert mine.statement == statement
    with pytest.raises(MessageError, match="'zurich' has signed, who is no member"):
        mine.signers({"bern": public["bern"]})
    with pytest.raises(MessageError, match="the signature of 'bern' is wrong"):
        mine.signers(public | {"bern": public["zurich"]})


def test_a_text_of_many_levels_ends_no_process_whatever_the_limit_of_recursion() -> None:
    code = (
        "import sys; sys.setrecursionlimit(10**6)\n"
        "from tacit.errors import MessageError\n"
        "from tacit.ledger.statement import Envelope, Statement\n"
        "for text in (b'[' * 10**5, b'{\"a\":' * 10**5):\n"
        "    for read in (Statement.from_payload, Envelope.from_bytes):\n"
        "        try:\n"
        "            read(text)\n"
        "        except MessageError as error:\n"
        "            print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.count("canonical JSON")) == (0, 4)


def test_brackets_in_texts_are_no_levels() -> None:
    said = Statement("round-open", {}, {"why": '[{"' * 50 + "\\" * 3})
    assert Statement.from_payload(said.payload()) == said


def test_no_byte_of_an_entry_can_change() -> None:
    key = Ed25519PrivateKey.generate()
    public = {"bern": key.public_key().public_bytes_raw()}
    entry = signed(Statement("round-open", {"model": bytes(32)}, SAYS), {"bern": key})
    for i in range(len(entry)):
        changed = bytearray(entry)
        changed[i] ^= 1
        with pytest.raises(MessageError):
            assert Envelope.from_bytes(bytes(changed)).signers(public) == ["bern"]
    for other in (entry + b" ", entry.replace(b":", b": ", 1), b"", b"[]", b"[" * 10**5, b"\xff"):
        with pytest.raises(MessageError):
            Envelope.from_bytes(other)


@pytest.mark.parametrize(
    "payload", [b"{}", b'{"a":1}', b"[]", b"nul", b'{"predicateType":1}', b"\xff", b"[" * 10**5]
)
def test_what_is_no_statement(payload: bytes) -> None:
    with pytest.raises(MessageError, match="no statement"):
        Statement.from_payload(payload)
    with pytest.raises(MessageError, match="no statement"):
        Envelope(payload, {}).statement  # noqa: B018
