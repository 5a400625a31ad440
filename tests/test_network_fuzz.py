"""Any bytes and any values, for every type of message: it is decoded, or refused in a sentence."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect
from safetensors.torch import save
from torch import zeros

import received
from tacit.network.joining import Renew
from tacit.network.messages import Refusal
from tacit.network.protocol import FromCoordinator, FromSite, Holds, Seek

FEW = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Values of a type that keep to its bounds."""
    match kind:
        case inspect.StructType():
            each = {field.name: values(field.type) for field in kind.fields}
            return st.builds(kind.cls, **each)
        case inspect.UnionType():
            return st.one_of(*map(values, kind.types))
        case inspect.IntType():
            most = kind.le if kind.le is not None else (kind.lt or 2**63) - 1
            return st.integers(kind.ge if kind.ge is not None else -(2**63), most)
        case inspect.FloatType():
            return st.floats()
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern)
        case inspect.StrType():
            return st.text(max_size=min(kind.max_length or 50, 50))
        case inspect.BytesType():
            least = kind.min_length or 0
            return st.binary(min_size=least, max_size=max(least, min(kind.max_length or 50, 50)))
        case inspect.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=3)
        case inspect.VarTupleType() | inspect.ListType():
            made = st.lists(values(kind.item_type), max_size=4)
            return made.map(tuple) if isinstance(kind, inspect.VarTupleType) else made
    raise TypeError(f"values: {kind} was given; add it here")


def test_no_message_is_forgotten() -> None:
    assert {FromSite, FromCoordinator, Seek, Holds, Refusal, Renew} < set(received.MESSAGES)


@pytest.mark.parametrize("kind", received.TYPES, ids=lambda kind: kind.__name__)
def test_a_message_arrives_or_is_refused_whatever_is_changed(kind: Any) -> None:
    @FEW
    @given(values(inspect.type_info(kind)), st.integers(0, 10**4), st.binary(max_size=4))
    def change(message: Any, at: int, by: bytes) -> None:
        raw = msgspec.msgpack.encode(message)
        again = msgspec.msgpack.decode(raw, type=kind)
        assert msgspec.msgpack.encode(again) == raw
        cut = at % (len(raw) + 1)
        for changed in (
            raw[:cut],
            raw[:cut] + by + raw[cut:],
            raw[:cut] + by + raw[cut + len(by) :],
        ):
            received.decode(kind.__name__, changed)

    change()


@pytest.mark.parametrize("name", received.DECODERS)
def test_any_bytes_are_refused_in_a_sentence(name: str) -> None:
    good = save({"0": zeros(5), "1": zeros(2, 3)})

    @FEW
    @given(st.binary(max_size=200), st.integers(0, len(good)), st.integers(0, 255))
    def storm(raw: bytes, at: int, byte: int) -> None:
        received.decode(name, raw)
        received.decode(name, good[:at] + bytes([byte]) + good[at + 1 :])
        received.decode(name, good[:at])

    storm()
