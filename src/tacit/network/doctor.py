"""What can be wrong at a member before it takes part: keys, clock, names, ports, TLS, disk.

An engine's connection fails in silence, or with a time-out; this finds the cause by itself.
"""

import platform
import shutil
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from cryptography import x509

from tacit.data import Federation as Data
from tacit.data import fill
from tacit.errors import InputError
from tacit.network.configuration import host
from tacit.network.decoding import from_json
from tacit.network.identity import CA, FEDERATION, SIGN, TLS, Federation, Identity
from tacit.network.malformed import MALFORMED
from tacit.network.proxy import LOOPBACK, Nobody, Proxy, chosen
from tacit.network.transport import Unreachable

_WAIT = 10.0  # seconds for a connection and each step over it
_ALERT = 2.0  # seconds in which a server says that it does not take a certificate
_MINUTE = "%Y-%m-%d %H:%M UTC"
_SOON = timedelta(days=7)
_ROOM = 2**30  # bytes; a run keeps some copies of its model


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        passed: whether a run can work with it.
        found: how it is, in one sentence without a full stop.
        advice: what to do; empty where it passed.
    """

    name: str
    passed: bool
    found: str
    advice: str = ""


def examine(home: Path, connect: Sequence[str] = (), proxy: str | None = None) -> Iterator[Check]:
    """Look at a member's folder, this machine, and the way to the coordinator.

    Args:
        home: with the member's keys.
        connect: addresses of the coordinator; by default those that the member joined by.
        proxy: URL of the HTTP proxy on the way out; by default HTTPS_PROXY.
    """
    yield from _software()
    yield _disk(home)
    yield from _keys(home)
    yield from _certificate(home)
    yield _membership(home)
    named = _named(home)
    for address in connect or (named.connect if named else ()):
        way = chosen(proxy, [address])
        yield from _tunnelled(way, address, home) if way else _reach(address, home)


def examine_data(home: Path, empty: Data, table: Path) -> Check:
    """Whether a member's table is as the experiment says.

    Args:
        empty: the experiment's data, without rows.
    """
    named = _named(home)
    if named is None:
        return Check("data", False, f"{home}: it does not say who this is", "see above")
    try:
        fill(empty, {named.member: table})
    except InputError as error:
        return Check("data", False, str(error), "give the table that the experiment describes")
    return Check("data", True, f"{table}: as the experiment says")


def _named(home: Path) -> Federation | None:
    try:
        return from_json((home / FEDERATION).read_bytes(), Federation)
    except (OSError, *MALFORMED):
        return None


def _software() -> Iterator[Check]:
    zenoh, python = version("eclipse-zenoh"), platform.python_version()
    found = f"tacit {version('tacit')}, zenoh {zenoh}, Python {python}"
    yield Check("versions", True, f"{found}; all members need the same tacit")


def _disk(home: Path) -> Check:
    here = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(here).free
    found = f"{free / 2**30:.1f} GiB are free at {here}"
    if free < _ROOM:
        return Check("disk", False, found, "make room: a run keeps some copies of its model")
    return Check("disk", True, found)


def _keys(home: Path) -> Iterator[Check]:
    for name in (TLS, SIGN):
        path = home / name
        if not path.is_file():
            advice = "join with `tacit node join TOKEN`"
            yield Check("keys", False, f"{path}: there is no such file", advice)
        elif (mode := path.stat().st_mode & 0o777) & 0o077:
            found = f"{path}: others may read it (mode {mode:04o})"
            yield Check("keys", False, found, f"run `chmod 600 {path}`")
        else:
            yield Check("keys", True, f"{path}: only its owner may read it")


def _certificate(home: Path) -> Iterator[Check]:
    now = datetime.now(UTC)
    for name, file in (("certificate", TLS), ("authority", CA)):
        try:
            found = x509.load_pem_x509_certificate((home / file).read_bytes())
        except (OSError, ValueError):
            advice = "join again with a new token"
            yield Check(name, False, f"{home / file}: it holds no certificate", advice)
            continue
        begin, end = found.not_valid_before_utc, found.not_valid_after_utc
        if now < begin:
            said = f"{home / file}: valid from {begin:{_MINUTE}}, and here it is {now:{_MINUTE}}"
            yield Check("clock", False, said, "set this machine's clock")
        elif now >= end:
            said = f"{home / file}: expired on {end:%Y-%m-%d}, and here it is {now:%Y-%m-%d}"
            advice = "join again with a new token, or set this machine's clock if it is wrong"
            yield Check(name, False, said, advice)
        else:
            soon = "; it renews itself while the member runs" if end - now < _SOON else ""
            yield Check(name, True, f"{home / file}: valid until {end:%Y-%m-%d}{soon}")


def _membership(home: Path) -> Check:
    try:
        identity = Identity.load(home)
    except InputError as error:
        return Check("member", False, str(error), "see above, or join again with a new token")
    return Check("member", True, f"{identity.name!r} is a member of {identity.federation!r}")


def _reach(address: str, home: Path) -> Iterator[Check]:
    """Names, the port, and TLS, one after the other; the first that fails ends it."""
    name, port = host(address), int(address.rpartition(":")[2])
    try:
        entries = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        advice = "correct the address, or ask for an entry in the DNS"
        yield Check("dns", False, f"{name}: it has no address ({error.strerror})", advice)
        return
    found = sorted({str(entry[4][0]) for entry in entries})
    yield Check("dns", True, f"{name}: {', '.join(found)}")
    try:
        with socket.create_connection((name, port), _WAIT) as link:
            yield Check("port", True, f"{address}: it is open")
            yield _tls(link, name, home)
    except OSError as error:
        advice = "start the coordinator, or have the firewall let this machine out to it"
        yield Check("port", False, f"{address}: nobody answers ({error})", advice)


def _tunnelled(proxy: Proxy, address: str, home: Path) -> Iterator[Check]:
    """The proxy, and TLS through it; the proxy looks the name up."""
    try:
        link, _ = proxy.connect(address)
    except Unreachable as error:
        yield Check("proxy", False, str(error), "correct the proxy's address, or start it")
        return
    except InputError as error:
        advice = "correct --proxy or HTTPS_PROXY, or have the proxy let this machine out"
        yield Check("proxy", False, str(error), advice)
        return
    except Nobody as error:
        yield Check("proxy", False, str(error), "start the coordinator, or correct its address")
        return
    with link:
        link.settimeout(_WAIT)
        yield Check("proxy", True, f"{proxy} connects to {address}")
        # As members do, who connect to a listener on loopback that leads there.
        yield _tls(link, LOOPBACK, home)


# Of OpenSSL's X509_V_ERR codes, what to do about those that one meets.
_NOT_YET, _EXPIRED, _HOST, _ADDRESS = 9, 10, 62, 64


def _tls(link: socket.socket, name: str, home: Path) -> Check:
    where = f"{name}'s certificate"
    try:
        context = ssl.create_default_context(cafile=str(home / CA))
        context.load_cert_chain(home / TLS)
    except OSError:
        return Check("tls", False, "the keys here cannot be used", "see above")
    try:
        with context.wrap_socket(link, server_hostname=name) as secure:
            return _accepted(secure, where)
    except ssl.SSLCertVerificationError as error:
        found = f"{where}: {error.verify_message}"
        if error.verify_code in (_NOT_YET, _EXPIRED):
            advice = "compare this machine's clock with the coordinator's; it may have to renew"
            return Check("clock", False, found, advice)
        if error.verify_code in (_HOST, _ADDRESS):
            advice = "connect to a name that the certificate holds, or make the federation with it"
            return Check("tls", False, found, advice)
        advice = "another program listens there, or something in between replaces certificates"
        return Check("tls", False, found, advice)
    except (ssl.SSLError, OSError) as error:
        advice = "another program listens there, or the coordinator runs with --insecure"
        return Check("tls", False, f"{name} does not speak TLS ({error})", advice)


def _accepted(secure: ssl.SSLSocket, where: str) -> Check:
    """A server of TLS 1.3 looks at our certificate after the handshake, and says if it refuses."""
    secure.settimeout(_ALERT)
    try:
        refused = secure.recv(1) == b""
    except TimeoutError:
        refused = False
    except OSError:
        refused = True
    if refused:
        advice = "join again with a new token: this member may have been revoked"
        return Check("tls", False, f"{where} is good, and ours is refused", advice)
    return Check("tls", True, f"{where} is of this federation, and ours is accepted")
