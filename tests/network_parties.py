"""Federations for tests, on free ports of the loopback interface."""

import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from tacit.network import certificates
from tacit.network.admission import Admission, Application, Token
from tacit.network.authority import Authority
from tacit.network.identity import (
    CA,
    FEDERATION,
    MEMBERS,
    TLS,
    Federation,
    Identity,
    make_folder,
    public_hex,
    sign_key,
    write,
)
from tacit.network.members import Role
from tacit.network.messages import Message
from tacit.network.transport import Endpoint, Unreachable


class Ping(Message, frozen=True):
    number: int


class Pong(Message, frozen=True):
    number: int


def application(folder: Path, token: Token) -> tuple[Application, bytes]:
    """What a site sends that joins with a new key, and its TLS key."""
    make_folder(folder)
    own, key = sign_key(folder), certificates.new_key()
    asked = Application(token.name, certificates.request(key, token.name), public_hex(own))
    return asked.proven(token.nonce, own.sign), certificates.key_bytes(key)


def joined(
    authority: Authority, folder: Path, name: str, hosts: tuple[str, ...] = (), role: Role = "site"
) -> Identity:
    """A member that joined by hand, without a network."""
    asked, key = application(folder, authority.invite(name, hosts, role))
    return admitted(authority, folder, name, key, authority.admit(asked))


def admitted(
    authority: Authority, folder: Path, name: str, key: bytes, admission: Admission
) -> Identity:
    """A member whose folder has been filled with what it was given."""
    write(folder / TLS, key + admission.certificate, secret=True)
    write(folder / MEMBERS, admission.members)
    write(folder / CA, certificates.pem(authority.certificate))
    named = Federation(authority.members.federation, name)
    write(folder / FEDERATION, msgspec.json.encode(named))
    return Identity.load(folder)


def listening(identity: Identity, host: str = "127.0.0.1", **settings: object) -> Endpoint:
    """An endpoint on a free port; ``.address`` says where."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(20):
        with socket.socket(family) as free:
            free.bind((host.strip("[]"), 0))
            address = f"{host}:{free.getsockname()[1]}"
        try:
            endpoint = Endpoint(identity, listen=[address], **settings)  # type: ignore[arg-type]
        except Unreachable:  # another process was faster to take it
            continue
        endpoint.address = address  # type: ignore[attr-defined]
        return endpoint
    raise AssertionError("no free port")


def free_port() -> int:
    """For who listens later: below the ports of outgoing connections, which would take it.

    Nobody else is given it while this process lives: its number stays taken among Linux's names.
    """
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with socket.socket() as free, socket.socket(socket.AF_UNIX) as name, suppress(OSError):
            free.bind(("127.0.0.1", port))
            if sys.platform == "linux":
                name.bind(f"\0tacit-tests-{port}")
                name.detach()
            return port


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for a condition; as long as a loaded machine may take."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.01)
