"""Sealed messages: what they bind, and that no bytes get past or harm the receiver."""

from typing import Annotated

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from network_parties import Ping, Pong, joined
from tacit.errors import MessageError
from tacit.network.authority import Authority
from tacit.network.identity import Identity
from tacit.network.messages import MOST, Message, Refusal, kind, seal, unseal


class Text(Message, frozen=True):
    text: Annotated[str, msgspec.Meta(max_length=100_000)]


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, Identity, Identity]:
    """The coordinator and two sites; the coordinator and the second know all."""
    folder = tmp_path_factory.mktemp("federation")
    authority = Authority.init("hearts", folder / "coordinator")
    zurich = joined(authority, folder / "zurich", "zurich")
    bern = joined(authority, folder / "bern", "bern")
    return Identity.load(authority.home), zurich, bern


Parties = tuple[Identity, Identity, Identity]


def test_a_message_arrives(parties: Parties) -> None:
    coordinator, zurich, _ = parties
    sealed = seal(zurich, "coordinator", Ping(7))
    assert unseal(coordinator, "zurich", sealed, Ping) == Ping(7)
    assert unseal(coordinator, "zurich", sealed, Pong, Ping, Refusal) == Ping(7)
    assert kind(Ping) == "Ping"


def test_each_thing_that_a_signature_binds(parties: Parties) -> None:
    coordinator, zurich, bern = parties
    sealed = seal(zurich, "coordinator", Ping(7))
    wrong = {
        "the signature is not that of 'zurich'": (
            (bern, "zurich", sealed, b""),  # for another
            (coordinator, "zurich", sealed, b"a request"),  # not an answer
            (coordinator, "zurich", seal(zurich, "coordinator", Ping(7), b"another"), b"a request"),
        ),
        "'bern' sent a message of 'zurich'": ((coordinator, "bern", sealed, b""),),
        "'geneva' sent a message of 'zurich'": ((coordinator, "geneva", sealed, b""),),
    }
    for sentence, cases in wrong.items():
        for receiver, sender, data, answers in cases:
            with pytest.raises(MessageError, match=sentence):
                unseal(receiver, sender, data, Ping, answers=answers)
    with pytest.raises(MessageError, match="'zurich' sent is no Pong or Refusal"):
        unseal(coordinator, "zurich", sealed, Pong, Refusal)
    assert unseal(coordinator, "zurich", seal(zurich, "coordinator", Ping(1), b"q"), Ping,
                  answers=b"q") == Ping(1)  # fmt: skip


def test_every_flipped_bit_is_noticed(parties: Parties) -> None:
    coordinator, zurich, _ = parties
    sealed = seal(zurich, "coordinator", Ping(7))
    for at in range(len(sealed)):
        flipped = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(MessageError):
            unseal(coordinator, "zurich", flipped, Ping)
    for end in range(len(sealed)):
        with pytest.raises(MessageError):
            unseal(coordinator, "zurich", sealed[:end], Ping)
    with pytest.raises(MessageError):
        unseal(coordinator, "zurich", sealed + b"\0", Ping)


def test_what_is_too_large_is_neither_sent_nor_read(parties: Parties) -> None:
    coordinator, zurich, _ = parties
    with pytest.raises(ValueError, match="a Text has 65653 bytes; allowed are 65536"):
        seal(zurich, "coordinator", Text("a" * (MOST + 18 - 1)))
    with pytest.raises(MessageError, match="'zurich' sent 65537 bytes; allowed are 65536"):
        unseal(coordinator, "zurich", bytes(MOST + 1), Text)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "Ping", "number": 1, "more": 1},
        {"type": "Ping", "number": "1"},
        {"type": "Ping", "number": 1.5},
        {"type": "Ping"},
        {"number": 1},
        {"type": ["Ping"], "number": 1},
        ["Ping", 1],
        None,
        {"type": "Refusal", "code": "c" * 33, "sentence": ""},
        {"type": "Refusal", "code": "", "sentence": "s" * 2001},
    ],
)
def test_a_signed_body_is_still_checked(parties: Parties, body: object) -> None:
    coordinator, zurich, _ = parties
    packed = msgspec.msgpack.encode(body)
    to_sign = msgspec.msgpack.encode(("tacit/v1", "hearts", "zurich", "coordinator", b"", packed))
    sealed = msgspec.msgpack.encode(["zurich", packed, zurich.sign(to_sign)])
    with pytest.raises(MessageError, match="'zurich' sent is no Ping or Refusal"):
        unseal(coordinator, "zurich", sealed, Ping, Refusal)


def test_nesting_does_not_break_the_stack(parties: Parties) -> None:
    coordinator, zurich, _ = parties
    deep = b"\x91" * 60_000
    to_sign = msgspec.msgpack.encode(("tacit/v1", "hearts", "zurich", "coordinator", b"", deep))
    for sealed in (
        deep,
        msgspec.msgpack.encode(["zurich", deep, zurich.sign(to_sign)]),
        b"\x94\xa6zurich\xc4\x00" + b"\xc4\x40" + bytes(64) + deep,
    ):
        with pytest.raises(MessageError):
            unseal(coordinator, "zurich", sealed, Ping)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_raise(parties: Parties, data: bytes) -> None:
    coordinator, _, _ = parties
    with pytest.raises(MessageError):
        unseal(coordinator, "zurich", data, Ping, Refusal)


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary()
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(nested)
def test_no_signed_value_does_anything_but_raise(parties: Parties, value: object) -> None:
    coordinator, zurich, _ = parties
    packed = msgspec.msgpack.encode(value)
    to_sign = msgspec.msgpack.encode(("tacit/v1", "hearts", "zurich", "coordinator", b"", packed))
    sealed = msgspec.msgpack.encode(["zurich", packed, zurich.sign(to_sign)])
    with pytest.raises(MessageError):
        unseal(coordinator, "zurich", sealed, Ping, Refusal)
