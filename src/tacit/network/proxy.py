"""The way out through an HTTP proxy: a listener on loopback that opens CONNECT tunnels.

zenoh knows no proxies, so it connects to the listener, which copies bytes (RFC 9110, 9.3.6). TLS
stays between the two members: the proxy and the listener see what they would see of a cable.
Certificates of coordinators and relays are good for 127.0.0.1, where this leads; who is at the
other end is told by the common name, as everywhere, and not by the host that the proxy was asked
for.
"""

import logging
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from tacit.errors import InputError, TacitError
from tacit.network.configuration import host
from tacit.network.transport import Unreachable

LOOPBACK = "127.0.0.1"
WAIT = 30.0  # seconds for a proxy's answer
_LONGEST = 16384  # bytes of it
_MOST = 16  # tunnels at a time
_CHUNK = 1 << 18
_WRONG_PASSWORD = 407
_NOT_ALLOWED = (403, 405)
_log = logging.getLogger("tacit.network")


class Nobody(Exception):
    """The proxy answers, and nobody at the address."""


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy. Its password is in no repr, log or sentence."""

    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str) -> "Proxy":
        """InputError unless the URL is ``http://[user:password@]host[:port]``."""
        allowed = "http://host:port or http://user:password@host:port"
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            name, port = parts.hostname, parts.port or 80
        except ValueError:
            name = None
        if not name or parts.scheme != "http" or parts.path not in ("", "/"):
            raise InputError(f"--proxy: this is no proxy's address; allowed is {allowed}")
        credentials = None
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(name, port, credentials)

    def __str__(self) -> str:
        return f"the proxy at {self.host}:{self.port}"

    def connect(self, address: str) -> tuple[socket.socket, bytes]:
        """A tunnel to ``host:port``, and what has come out of it already.

        Raises:
            Unreachable: the proxy does not answer.
            Nobody: it finds nobody at the address.
            InputError: it wants another user or password, or does not allow the address.
        """
        try:
            link = socket.create_connection((self.host, self.port), WAIT)
        except OSError as error:
            raise Unreachable(f"{self} does not answer ({error})") from None
        try:
            link.sendall(self._request(address))
            status, reason, rest = self._answer(link)
        except OSError as error:
            link.close()
            raise Unreachable(f"{self} does not answer ({error})") from None
        except Unreachable:
            link.close()
            raise
        if 200 <= status < 300:
            link.settimeout(None)
            return link, rest
        link.close()
        if status == _WRONG_PASSWORD:
            which = "another user name or password" if self.credentials else "a user and password"
            raise InputError(f"{self} wants {which} (407): --proxy http://user:password@host:port")
        said = f"{status} {reason}".rstrip()
        if status in _NOT_ALLOWED:
            raise InputError(f"{self} does not allow connections to {address} ({said})")
        raise Nobody(f"{self} does not reach {address} ({said})")

    def _request(self, address: str) -> bytes:
        lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
        if self.credentials is not None:
            secret = b64encode(self.credentials.encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {secret}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _answer(self, link: socket.socket) -> tuple[int, str, bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            more = link.recv(4096)
            if not more or len(received) > _LONGEST:
                raise Unreachable(f"{self} does not speak HTTP")
            received += more
        head, rest = received.split(b"\r\n\r\n", 1)
        words = head.split(b"\r\n")[0].decode("latin-1").split(" ", 2)
        if not words[0].startswith("HTTP/1.") or not words[1:] or not words[1].isdigit():
            raise Unreachable(f"{self} does not speak HTTP")
        reason = "".join(c for c in words[2] if c.isprintable())[:80] if words[2:] else ""
        return int(words[1]), reason, rest


def chosen(url: str | None, addresses: Sequence[str]) -> Proxy | None:
    """The proxy to go through: the given one, or HTTPS_PROXY's but for loopback and NO_PROXY."""
    if url is not None:
        return Proxy.of(url)
    found = getproxies()
    away = [
        each
        for each in map(host, addresses)
        if each not in ("127.0.0.1", "::1", "localhost") and not proxy_bypass(each)
    ]
    return Proxy.of(found["https"]) if "https" in found and away else None


@contextmanager
def through(proxy: Proxy | None, addresses: Sequence[str]) -> Iterator[Sequence[str]]:
    """While it lasts, the addresses to connect to: on loopback, where there is a proxy.

    Raises:
        Unreachable: the proxy does not answer.
        InputError: it wants another user or password, or does not allow an address.
    """
    if proxy is None:
        yield addresses
        return
    with ExitStack() as stack:
        yield [stack.enter_context(_listening(proxy, address)) for address in addresses]


@contextmanager
def _listening(proxy: Proxy, address: str) -> Iterator[str]:
    """An address on loopback that leads to another."""
    try:
        proxy.connect(address)[0].close()
    except Nobody as error:  # it may start later
        _log.warning("%s", error)
    links: set[socket.socket] = set()
    with socket.create_server((LOOPBACK, 0)) as listener:
        tunnels = _Tunnels(listener, proxy, address, links)
        threading.Thread(target=tunnels.accept, daemon=True).start()
        try:
            yield f"{LOOPBACK}:{listener.getsockname()[1]}"
        finally:
            _shut(listener)
            for link in list(links):
                _shut(link)


@dataclass(frozen=True)
class _Tunnels:
    """Those of one listener; ``links`` are the sockets of those that are open."""

    listener: socket.socket
    proxy: Proxy
    address: str
    links: set[socket.socket]

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:  # the end
                return
            if len(self.links) >= 2 * _MOST:
                near.close()
                continue
            threading.Thread(target=self._open, args=(near,), daemon=True).start()

    def _open(self, near: socket.socket) -> None:
        with near:
            try:
                far, rest = self.proxy.connect(self.address)
            except (TacitError, Nobody) as error:
                _log.warning("%s", error)
                return
            with far:
                self.links.update((near, far))
                with suppress(OSError):
                    near.sendall(rest)
                back = threading.Thread(target=_copy, args=(far, near), daemon=True)
                back.start()
                _copy(near, far)
                back.join()
                self.links.difference_update((near, far))


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            sink.sendall(chunk)
    _shut(sink)
    _shut(source)


def _shut(link: socket.socket) -> None:
    with suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
