"""What stands in the way of taking part is found, and named by itself."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from network_parties import joined, listening
from tacit.cli import app
from tacit.data import at_sites
from tacit.network import doctor
from tacit.network.authority import Authority
from tacit.network.identity import CA, SIGN, TLS, Identity

FILE = """
import tacit
from torch import nn

experiment = tacit.Experiment(
    data=tacit.data.at_sites(["north", "south"], target="y", columns=["a"], labels=[0, 1]),
    model=lambda: nn.Linear(1, 2), loss=nn.functional.cross_entropy,
    rounds=1, training=tacit.SGD(lr=0.1),
)
"""


@pytest.fixture
def hearts(tmp_path: Path) -> Authority:
    return Authority.init("hearts", tmp_path / "coordinator", ["localhost:7447", "127.0.0.1:7447"])


@pytest.fixture
def north(hearts: Authority, tmp_path: Path) -> Path:
    return joined(hearts, tmp_path / "north", "north").folder


@pytest.fixture
def address(hearts: Authority, north: Path) -> Iterator[str]:
    """Where the coordinator listens."""
    coordinator: Any = listening(Identity.load(hearts.home))
    yield coordinator.address
    coordinator.close()


def wrong(home: Path, *connect: str) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(home, connect) if not check.passed}


def test_all_is_well(north: Path, address: str) -> None:
    assert wrong(north, address) == {}
    names = {check.name for check in doctor.examine(north, [address])}
    assert names == {
        "versions", "disk", "keys", "certificate", "authority", "member", "dns", "port", "tls",
    }  # fmt: skip


def test_a_name_of_the_certificate_is_good_as_well(north: Path, address: str) -> None:
    assert wrong(north, address.replace("127.0.0.1", "localhost")) == {}


def test_a_key_that_others_can_read(north: Path) -> None:
    (north / SIGN).chmod(0o644)
    assert wrong(north)["keys"].advice == f"run `chmod 600 {north / SIGN}`"


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert set(wrong(tmp_path / "nobody")) == {"keys", "certificate", "authority", "member"}


@pytest.mark.parametrize(
    ("days", "name", "said"), [(-60, "clock", "valid from"), (4000, "certificate", "expired on")]
)
def test_a_clock_that_is_wrong(
    days: int, name: str, said: str, north: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=days)

    monkeypatch.setattr(doctor, "datetime", Clock)
    failed = wrong(north)[name]
    assert said in failed.found
    assert "clock" in failed.advice


def test_a_name_that_has_no_address(north: Path) -> None:
    assert "DNS" in wrong(north, "no-such-host.invalid:7447")["dns"].advice


def test_a_port_where_nobody_listens(north: Path) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        failed = wrong(north, f"127.0.0.1:{taken.getsockname()[1]}")
    assert "start the coordinator" in failed["port"].advice


class Server:
    """Something else that listens, for one connection."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.context = context
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        link, _ = self.socket.accept()
        with link:
            if self.context is None:
                link.sendall(b"HTTP/1.0 400 no\r\n\r\n")
                return
            try:
                with self.context.wrap_socket(link, server_side=True) as secure:
                    secure.recv(1)
            except OSError:
                pass

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(60)
        self.socket.close()


def serving(folder: Path, accepts: Path) -> ssl.SSLContext:
    """TLS with a member's certificate, for those of one authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / TLS)
    context.load_verify_locations(accepts)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_a_port_that_does_not_speak_tls(north: Path) -> None:
    with Server(None) as server:
        assert "does not speak TLS" in wrong(north, server.address)["tls"].found


def test_a_certificate_of_another_authority(north: Path, tmp_path: Path) -> None:
    other = Authority.init("minds", tmp_path / "other", ["127.0.0.1:7447"])
    with Server(serving(other.home, other.home / CA)) as server:
        assert "replaces certificates" in wrong(north, server.address)["tls"].advice


def test_a_certificate_of_another_name(hearts: Authority, north: Path, tmp_path: Path) -> None:
    south = joined(hearts, tmp_path / "south", "south", ("elsewhere.example",)).folder
    with Server(serving(south, south / CA)) as server:
        assert "a name that the certificate holds" in wrong(north, server.address)["tls"].advice


def test_a_coordinator_that_refuses_us(
    hearts: Authority, north: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_ALERT", 60.0)
    other = Authority.init("minds", tmp_path / "other", ["127.0.0.1:7447"])
    with Server(serving(hearts.home, other.home / CA)) as server:
        assert "ours is refused" in wrong(north, server.address)["tls"].found


def test_a_disk_that_is_full(north: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ROOM", 2**80)
    assert "make room" in wrong(north)["disk"].advice


def test_a_table_beside_its_contract(north: Path, tmp_path: Path) -> None:
    empty, table = at_sites(["north"], target="y", columns=["a"], labels=[0, 1]), tmp_path / "t.csv"
    table.write_text("a,y\n1.0,0\n2.0,1\n3.0,0\n4.0,1\n")
    assert doctor.examine_data(north, empty, table).passed
    table.write_text("b,y\n1.0,0\n2.0,1\n")
    failed = doctor.examine_data(north, empty, table)
    assert not failed.passed
    assert "a" in failed.found


def test_the_command_says_a_line_each_and_fails_with_the_checks(
    north: Path, address: str, tmp_path: Path
) -> None:
    file, table = tmp_path / "plan.py", tmp_path / "t.csv"
    file.write_text(FILE)
    table.write_text("a,y\n1.0,0\n2.0,1\n3.0,0\n4.0,1\n")
    words = ["doctor", str(file), "--data", str(table), "--home", str(north), "--connect", address]
    good = CliRunner().invoke(app, words)
    assert good.exit_code == 0, good.output
    assert [line[:4] for line in good.output.splitlines()] == ["ok  "] * 11
    (north / TLS).chmod(0o640)
    bad = CliRunner().invoke(app, [*words, "--json"])
    assert bad.exit_code == 1
    failed = [check["name"] for check in json.loads(bad.stdout) if not check["passed"]]
    assert failed == ["keys", "member"]


def test_data_without_a_file_is_refused(north: Path) -> None:
    refused = CliRunner().invoke(app, ["doctor", "--home", str(north), "--data", "t.csv"])
    assert refused.exit_code == 2
    assert "--data" in refused.output
