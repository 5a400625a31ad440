"""All that decodes bytes which others sent; fed with anything, each says no in a sentence."""

import importlib
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

import tacit.network
from tacit.errors import TacitError
from tacit.network import blobs, certificates, members, messages
from tacit.network.admission import Admission, Application, Token
from tacit.network.authority import Authority
from tacit.network.malformed import MALFORMED
from tacit.network.messages import Message
from tacit.network.tensors import Tensors

_folder = tempfile.TemporaryDirectory()
_authority = Authority.init("hearts", Path(_folder.name) / "authority", ["127.0.0.1:1"])
_tensors = Tensors(Path(_folder.name) / "tensors")


def below(kind: type[Message]) -> Iterator[type[Message]]:
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


for module in pkgutil.iter_modules(tacit.network.__path__, "tacit.network."):
    importlib.import_module(module.name)
MESSAGES = sorted((m for m in below(Message) if m.__module__.startswith("tacit.")), key=str)
TYPES: list[Any] = [*MESSAGES, messages._Signed, blobs._Request, Application, Admission]


def _tensor(raw: bytes) -> None:
    _tensors.path(bytes(32)).write_bytes(raw)
    _tensors.get(bytes(32))


def _decoder(kind: Any) -> Callable[[bytes], object]:
    return lambda raw: msgspec.msgpack.decode(raw, type=kind)


DECODERS: dict[str, Callable[[bytes], object]] = {
    **{kind.__name__: _decoder(kind) for kind in TYPES},
    "token": lambda raw: Token.from_text(raw.decode("latin1")),
    "certificate request": lambda raw: certificates.requested_key(raw, "north"),
    "members": lambda raw: members.read(raw, _authority.certificate),
    "tensors": _tensor,
}


def decode(name: str, raw: bytes) -> None:
    with suppress(TacitError, *MALFORMED):
        DECODERS[name](raw)


def one(raw: bytes) -> None:
    """For a fuzzer: the first byte says which decoder."""
    if raw:
        names = list(DECODERS)
        decode(names[raw[0] % len(names)], raw[1:])
