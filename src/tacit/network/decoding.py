"""What bytes say, as values of the types that they must have; the one place that decodes."""

import threading
from functools import cache
from typing import Any, TypeVar, Union

import msgspec

_building = threading.Lock()
T = TypeVar("T")


def from_msgpack(data: bytes, *kinds: type[T]) -> T:
    """A value of one of the types; one of ``MALFORMED`` where it is none."""
    return _decoder(msgspec.msgpack.Decoder, *kinds).decode(data)


def from_json(data: bytes | msgspec.Raw, *kinds: type[T]) -> T:
    """A value of one of the types; one of ``MALFORMED`` where it is none."""
    return _decoder(msgspec.json.Decoder, *kinds).decode(data)


def _decoder(made: Any, *kinds: Any) -> Any:
    """msgspec 0.22 describes a type when it first decodes it, in place.

    A thread that comes to the same type meanwhile reads half a description, and the process dies of
    a segmentation fault. Thus types are described one at a time, and ``msgspec.msgpack.decode`` and
    ``msgspec.json.decode`` are called nowhere else.
    """
    with _building:
        return _built(made, *kinds)


@cache
def _built(made: Any, *kinds: Any) -> Any:
    return made(Union[kinds])  # noqa: UP007
