"""Members who reach a relay alone: they join, ask each other, pull, and learn through it."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import network_gossip
from network_parties import Ping, Pong, joined, listening, until
from tacit.cli import app
from tacit.ledger.verify import verify
from tacit.network import joining
from tacit.network import relay as relays
from tacit.network.authority import Authority
from tacit.network.blobs import Blobs
from tacit.network.identity import Identity, write
from tacit.network.transport import Endpoint, Unreachable

NAMES = ("a", "b", "c")


class Firewalled:
    """A coordinator, a relay that reaches it, and sites that reach the relay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.init("hearts", folder / "coordinator", ["127.0.0.1:0"])
        joined(self.authority, folder / "relay", "relay", ("127.0.0.1",), "relay")
        self.coordinator = listening(Identity.load(self.authority.home))
        self.coordinator.serve(Ping, lambda _, ping: Pong(ping.number + 1))
        joining.serve(self.coordinator, self.authority)
        roll = (self.authority.home / "members.json").read_bytes()
        identity = Identity.load(folder / "relay").accept_members(roll)
        self.relay = listening(identity, connect=[self.coordinator.address])  # type: ignore[attr-defined]
        self.address: str = self.relay.address  # type: ignore[attr-defined]
        until(lambda: "coordinator" in self.relay.alive())

    def site(self, name: str) -> Endpoint:
        """That joins through the relay and knows no other address."""
        token = self.authority.invite(name)
        self.coordinator.refresh()
        until(lambda: self._knows(name))
        until(lambda: asks(self.relay, "coordinator"))  # its session may be a new one
        there = msgspec.structs.replace(token, addresses=(self.address,))
        identity = joining.join(there, self.folder / name)
        assert identity.connect == (self.address,)
        return Endpoint(identity, connect=identity.connect, wait=60)

    def _knows(self, name: str) -> bool:
        """Whether the relay has the newest list, and lets the name in."""
        self.relay.fetch_members()
        self.relay.refresh()
        return name in self.relay.identity.members.by_name

    def close(self) -> None:
        self.relay.close()
        self.coordinator.close()


@pytest.fixture
def walls(tmp_path: Path) -> Iterator[Firewalled]:
    made = Firewalled(tmp_path)
    yield made
    made.close()


def asks(endpoint: Endpoint, member: str) -> bool:
    try:
        return endpoint.ask(member, Ping(1), Pong, timeout=5) == Pong(2)
    except Unreachable:
        return False


def test_sites_that_reach_the_relay_alone_join_ask_and_pull(walls: Firewalled) -> None:
    with walls.site("zurich") as zurich, walls.site("bern") as bern:
        for site in (zurich, bern):
            site.serve(Ping, lambda _, ping: Pong(ping.number + 1))
        for asker, asked in ((zurich, "coordinator"), (zurich, "bern"), (bern, "zurich")):
            until(lambda asker=asker, asked=asked: asks(asker, asked))
        assert asks(walls.coordinator, "bern")
        until(lambda: walls.coordinator.alive() == {"relay", "zurich", "bern"})
        content = bytes(range(256)) * 8192
        (walls.folder / "blob").write_bytes(content)
        offer = Blobs(zurich).offer(walls.folder / "blob")
        pulled = Blobs(bern).pull("zurich", offer, walls.folder / "pulled", most=offer.size)
        assert Path(pulled).read_bytes() == content
        walls.coordinator.close()  # sites meet without it
        until(lambda: asks(bern, "zurich"))


def test_the_command(walls: Firewalled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    home = ["--home", str(walls.authority.home)]

    def fails(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 2
        return done.stderr

    assert "--host: say where" in fails("federation", "invite", "r", "--role", "relay", *home)
    joined(walls.authority, walls.folder / "site", "site")
    site = str(walls.folder / "site")
    assert "'site' is a site; invite" in fails("relay", "--listen", "127.0.0.1:1", "--home", site)


def test_a_relay_takes_over_the_newest_list_of_members(
    walls: Firewalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_REFRESH", 0.1)
    walls.relay.close()
    stop, home = threading.Event(), walls.folder / "relay"
    to = walls.coordinator.address  # type: ignore[attr-defined]
    running = threading.Thread(
        target=relays.relay, args=(home,),
        kwargs={"listen": [walls.address], "connect": [to], "stop": stop},
    )  # fmt: skip
    running.start()
    try:
        joined(walls.authority, walls.folder / "late", "late")
        walls.coordinator.refresh()
        until(lambda: Identity.load(home).members.has("late"))
        with Endpoint(
            Identity.load(walls.folder / "late"), connect=[walls.address], wait=60
        ) as late:
            until(lambda: asks(late, "coordinator"))
    finally:
        stop.set()
        running.join(60)
    assert not running.is_alive()


@pytest.mark.slow
def test_peers_that_reach_the_relay_alone_learn_together(walls: Firewalled) -> None:
    folder = walls.folder
    (folder / "plan.py").write_text(network_gossip.EXPERIMENT)
    for name in NAMES:
        joined(walls.authority, folder / name, name)
    roll = (walls.authority.home / "members.json").read_bytes()
    for name in (*NAMES, "relay"):
        write(folder / name / "members.json", roll)
        rows = "\n".join(f"{u},{v},{int(u > v)}" for u in range(6) for v in range(5))
        (folder / f"{name}.csv").write_text(f"u,v,y\n{rows}\n")
    walls.relay.refresh()
    walls.coordinator.close()
    (folder / "gate").touch()
    script = Path(__file__).with_name("network_gossip.py")
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder / "plan.py"), str(folder / f"{name}.csv"),
             str(folder / name), str(folder / "runs" / name), "", walls.address,
             str(folder / "gate"), "12", "60", str(folder / "records" / name)],
            stdout=subprocess.PIPE, text=True,
        )
        for name in NAMES
    ]  # fmt: skip
    try:
        for process in running:
            *_, last = process.communicate(timeout=300)[0].splitlines()
            assert last == "finished all 12 rounds are done"
        for name in NAMES:
            audit = verify(folder / "records" / name)
            assert (audit.findings, audit.beyond) == ((), 0)
    finally:
        for process in running:
            process.kill()
            process.communicate()
