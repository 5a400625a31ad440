"""Sites behind an HTTP proxy, here a real one that speaks CONNECT and wants a password."""

import logging
import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from network_parties import Ping, Pong, joined, listening, until
from tacit.errors import InputError
from tacit.network import doctor, joining
from tacit.network.authority import Authority
from tacit.network.identity import Identity
from tacit.network.proxy import Proxy, chosen, through
from tacit.network.transport import Endpoint, Unreachable
from test_network_joining import Hall

PASSWORD = "s3cret@:/ö"
QUOTED = "s3cret%40%3A%2F%C3%B6"


class ConnectProxy:
    """Opens tunnels for one user to wherever it is asked; or says what it is told to say."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.says: bytes | None = None
        self.open: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def url(self, password: str = QUOTED) -> str:
        return f"http://anna:{password}@127.0.0.1:{self.port}"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self.listener.accept()
                self.open.append(link)
                threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := link.recv(4096)):
                return
            head += more
        first, *fields = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        self.asked.append(target)
        if self.says is not None:
            link.sendall(self.says)
            link.close()
            return
        given = dict(line.split(": ", 1) for line in fields if ": " in line)
        kind, _, secret = given.get("Proxy-Authorization", " ").partition(" ")
        if (kind, b64decode(secret).decode()) != ("Basic", f"anna:{PASSWORD}"):
            link.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            link.close()
            return
        host, _, port = target.rpartition(":")
        host = "127.0.0.1" if host == "coordinator.example" else host
        try:
            far = socket.create_connection((host, int(port)), 10)
        except OSError:
            link.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            link.close()
            return
        far.settimeout(None)
        self.open.append(far)
        link.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
        threading.Thread(target=self._copy, args=(far, link), daemon=True).start()
        self._copy(link, far)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """All that is open, as when a firewall forgets."""
        for link in self.open:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        for link in self.open:
            link.close()


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    made = ConnectProxy()
    yield made
    made.close()


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    made = Hall(tmp_path)
    yield made
    made.coordinator.close()


def test_a_site_joins_and_speaks_through_a_proxy_with_a_password(
    hall: Hall, proxy: ConnectProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    way = Proxy.of(proxy.url())
    token = hall.authority.invite("zurich")
    hall.coordinator.refresh()
    zurich = joining.join(token, tmp_path / "zurich", proxy=way)
    with (
        through(way, zurich.connect) as addresses,
        Endpoint(zurich, connect=addresses, wait=60) as endpoint,
    ):
        assert addresses != list(zurich.connect)
        assert endpoint.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)
        before = len(proxy.asked)
        proxy.cut()
        until(lambda: len(proxy.asked) > before)  # it comes back by another tunnel
        until(lambda: answered(endpoint))
    assert set(proxy.asked) == {hall.address}
    assert "s3cret" not in caplog.text
    assert "s3cret" not in repr(way) + str(way)


def test_the_coordinators_name_needs_no_meaning_at_the_site(
    proxy: ConnectProxy, tmp_path: Path
) -> None:
    authority = Authority.init("hearts", tmp_path / "coordinator", ["coordinator.example:7447"])
    zurich = joined(authority, tmp_path / "zurich", "zurich")
    with listening(Identity.load(authority.home)) as coordinator:
        coordinator.serve(Ping, lambda _, ping: Pong(ping.number + 1))
        port = coordinator.address.rpartition(":")[2]  # type: ignore[attr-defined]
        with (
            through(Proxy.of(proxy.url()), [f"coordinator.example:{port}"]) as addresses,
            Endpoint(zurich, connect=addresses, wait=60) as endpoint,
        ):
            assert endpoint.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)


def answered(endpoint: Endpoint) -> bool:
    try:
        return endpoint.ask("coordinator", Ping(1), Pong, timeout=5) == Pong(2)
    except Unreachable:
        return False


def test_another_member_at_the_other_end_is_not_taken_for_the_coordinator(
    hall: Hall, proxy: ConnectProxy, tmp_path: Path
) -> None:
    """Its certificate is good for 127.0.0.1, too; its name is another."""
    rogue = joined(hall.authority, tmp_path / "rogue", "rogue", ("127.0.0.1",))
    zurich = joined(hall.authority, tmp_path / "zurich", "zurich")
    hall.coordinator.close()
    asked: list[str] = []
    with listening(rogue) as liar:
        liar.serve_bytes("Ping", lambda sender, _: asked.append(sender) or b"")  # type: ignore[func-returns-value]
        with through(Proxy.of(proxy.url()), [liar.address]) as addresses:  # type: ignore[attr-defined]
            try:
                endpoint = Endpoint(zurich, connect=addresses, wait=2)
            except Unreachable:
                return
            with endpoint, pytest.raises(Unreachable):
                endpoint.ask("coordinator", Ping(1), Pong, timeout=2)
    assert asked == []


@pytest.mark.parametrize(
    ("says", "error", "sentence"),
    [
        (
            b"HTTP/1.1 403 Forbidden\r\n\r\n",
            InputError,
            "does not allow connections to h:1 (403 Fo",
        ),
        (b"SSH-2.0-x\r\n\r\n", Unreachable, "does not speak HTTP"),
        (b"", Unreachable, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 30000, Unreachable, "does not speak HTTP"),
    ],
    ids=["forbidden", "another protocol", "nothing", "too long"],
)
def test_what_a_proxy_says_is_one_sentence(
    says: bytes, error: type[Exception], sentence: str, proxy: ConnectProxy
) -> None:
    proxy.says = says
    with pytest.raises(error) as refused, through(Proxy.of(proxy.url()), ["h:1"]):
        pass
    assert str(refused.value).startswith(f"the proxy at 127.0.0.1:{proxy.port} {sentence}")
    assert "\n" not in str(refused.value)


def test_a_wrong_password_and_none_are_told_apart(proxy: ConnectProxy) -> None:
    for url, sentence in (
        (proxy.url("wrong"), "wants another user name or password (407)"),
        (f"http://127.0.0.1:{proxy.port}", "wants a user and password (407)"),
    ):
        with pytest.raises(InputError) as refused, through(Proxy.of(url), ["h:1"]):
            pass
        assert sentence in str(refused.value)
        assert "wrong" not in str(refused.value)


def test_a_dead_proxy_is_named(proxy: ConnectProxy) -> None:
    proxy.close()
    with pytest.raises(Unreachable) as dead, through(Proxy.of(proxy.url()), ["h:1"]):
        pass
    assert f"the proxy at 127.0.0.1:{proxy.port} does not answer" in str(dead.value)
    assert "s3cret" not in str(dead.value)


def test_a_coordinator_that_is_not_there_yet_is_waited_for(
    hall: Hall, proxy: ConnectProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zurich = joined(hall.authority, tmp_path / "zurich", "zurich")
    hall.coordinator.close()
    with through(Proxy.of(proxy.url()), [hall.address]) as addresses:
        assert f"does not reach {hall.address} (502 Bad Gateway)" in caplog.text
        with (
            Endpoint(Identity.load(hall.authority.home), listen=[hall.address]) as coordinator,
            Endpoint(zurich, connect=addresses, wait=60) as endpoint,
        ):
            coordinator.serve(Ping, lambda _, ping: Pong(ping.number + 1))
            until(lambda: answered(endpoint))


@pytest.mark.parametrize("url", ["https://h:1", "ftp://h", "http://", "http://h:x", "http://h:1/a"])
def test_what_is_no_proxy_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="allowed is http://host:port or"):
        Proxy.of(url)


def test_the_environment_names_a_proxy_but_not_for_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    assert chosen(None, ["h.example:1"]) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://p:3128")
    monkeypatch.setenv("NO_PROXY", ".inside.example")
    assert chosen(None, ["h.example:1"]) == Proxy("p", 3128)
    assert chosen(None, ["a.inside.example:1"]) is None
    assert chosen(None, ["127.0.0.1:1", "[::1]:2"]) is None
    assert chosen("q:1", ["127.0.0.1:1"]) == Proxy("q", 1)


def test_the_doctor_goes_through_the_proxy(hall: Hall, proxy: ConnectProxy, tmp_path: Path) -> None:
    home = joined(hall.authority, tmp_path / "zurich", "zurich").folder
    hall.coordinator.refresh()

    def found(url: str, address: str = hall.address) -> dict[str, doctor.Check]:
        return {check.name: check for check in doctor.examine(home, [address], url)}

    well = found(proxy.url())
    assert {name: check.found for name, check in well.items() if not check.passed} == {}
    assert well["proxy"].found == f"the proxy at 127.0.0.1:{proxy.port} connects to {hall.address}"
    assert well["tls"].passed
    for url, address, said in (
        (proxy.url("wrong"), hall.address, "another user name or password (407)"),
        (proxy.url(), "127.0.0.1:1", "does not reach 127.0.0.1:1 (502 Bad Gateway)"),
        ("http://127.0.0.1:1", hall.address, "does not answer"),
    ):
        checks = found(url, address)
        assert not checks["proxy"].passed
        assert said in checks["proxy"].found
        assert PASSWORD not in checks["proxy"].found
        assert "tls" not in checks
