"""Who can say what to whom, over real sockets: members, rogue members, outsiders."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zenoh

import network_process
from network_parties import (
    Ping,
    Pong,
    admitted,
    application,
    free_port,
    joined,
    listening,
    until,
)
from tacit.errors import InputError, MessageError
from tacit.network import transport
from tacit.network.authority import Authority
from tacit.network.configuration import configuration
from tacit.network.identity import Identity
from tacit.network.messages import MOST, Message, Refused, seal
from tacit.network.transport import WAITING, Endpoint, Unreachable


class Federation:
    """A coordinator that listens, and sites that connect to it, each with the newest roll."""

    def __init__(self, folder: Path, *sites: str) -> None:
        self.authority = Authority.init(
            "hearts", folder / "coordinator", ["127.0.0.1:0", "[::1]:0"]
        )
        for name in sites:
            joined(self.authority, folder / name, name)
        self.folder = folder
        self.open: list[Endpoint] = []
        self.coordinator = listening(self.identity("coordinator"))
        self.address: str = self.coordinator.address  # type: ignore[attr-defined]
        self.open.append(self.coordinator)

    def identity(self, name: str) -> Identity:
        return Identity.load(self.folder / name)

    def site(self, name: str, **settings: Any) -> Endpoint:
        endpoint = Endpoint(self.identity(name), connect=[self.address], **settings)
        self.open.append(endpoint)
        until(lambda: "coordinator" in endpoint.alive() and name in self.coordinator.alive())
        return endpoint

    def rogue(self, name: str, **changed: object) -> zenoh.Session:
        """A session with a member's certificate that does what it likes."""
        settings = json.loads(configuration(self.identity(name), [], [self.address], wait=10))
        del settings["access_control"], settings["low_pass_filter"]
        return zenoh.open(zenoh.Config.from_json5(json.dumps(settings | changed)))


@pytest.fixture
def hearts(tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path, "zurich", "bern")
    yield federation
    for endpoint in federation.open:
        endpoint.close()


def echo(endpoint: Endpoint) -> list[str]:
    """Answers pings; the list grows by who asked."""
    asked: list[str] = []

    def answer(sender: str, ping: Ping) -> Pong:
        asked.append(sender)
        return Pong(ping.number + 1)

    endpoint.serve(Ping, answer)
    return asked


def replies(session: zenoh.Session, key: str, payload: bytes = b"") -> list[bytes]:
    got = session.get(key, payload=payload, timeout=5)
    return [reply.ok.payload.to_bytes() for reply in got if reply.ok is not None]


def test_members_ask_each_other_through_the_coordinator(hearts: Federation) -> None:
    zurich, bern = hearts.site("zurich"), hearts.site("bern")
    for endpoint in hearts.open:
        echo(endpoint)
    for asks in hearts.open:
        for answers in hearts.open:
            if asks is not answers:
                pong = asks.ask(answers.identity.name, Ping(1), Pong, timeout=10)
                assert pong == Pong(2)
    until(lambda: zurich.alive() == {"coordinator", "bern"})
    until(lambda: bern.alive() == {"coordinator", "zurich"})
    assert hearts.coordinator.alive() == {"zurich", "bern"}


def test_what_goes_wrong_in_an_answer_is_told_as_far_as_it_may(hearts: Federation) -> None:
    zurich, answer = hearts.site("zurich"), threading.Event()

    def refuse(sender: str, ping: Ping) -> Pong:
        if ping.number == 1:
            raise Refused("spent", "the privacy budget is spent")
        if ping.number == 2:
            raise MessageError("row 3 of the table")
        if ping.number == 3:
            raise ValueError("patient Meier, HIV positive")
        answer.wait(20)
        return Pong(0)

    hearts.coordinator.serve(Ping, refuse)
    with pytest.raises(Refused, match="'coordinator' refuses: the privacy budget") as refused:
        zurich.ask("coordinator", Ping(1), Pong, timeout=10)
    assert refused.value.code == "spent"
    with pytest.raises(Refused, match="row 3"):
        zurich.ask("coordinator", Ping(2), Pong, timeout=10)
    with pytest.raises(Refused) as hidden:
        zurich.ask("coordinator", Ping(3), Pong, timeout=10)
    assert hidden.value.code == "TACIT-100"
    assert "Meier" not in str(hidden.value)
    with pytest.raises(Unreachable, match="no reply of 'coordinator'"):
        zurich.ask("coordinator", Ping(4), Pong, timeout=0.2)
    with pytest.raises(Unreachable, match="no reply of 'bern'"):
        zurich.ask("bern", Ping(1), Pong, timeout=10)  # it is not connected
    answer.set()


def test_a_reply_of_another_type_is_no_reply(hearts: Federation) -> None:
    zurich = hearts.site("zurich")
    hearts.coordinator.serve(Ping, lambda _, ping: Ping(ping.number))
    with pytest.raises(MessageError, match="'coordinator' sent is no Pong"):
        zurich.ask("coordinator", Ping(1), Pong, timeout=10)


def test_a_site_cannot_answer_as_another(hearts: Federation) -> None:
    bern, rogue = hearts.site("bern"), hearts.rogue("zurich")
    heard: list[str] = []
    for key in ("coordinator/*/*", "bern/*/*", "**", "zurich/*/*", "*/Ping/bern"):
        rogue.declare_queryable(f"tacit/hearts/{key}", lambda q: heard.append(str(q.key_expr)))
    for name in ("hearts/coordinator", "hearts/bern"):
        rogue.declare_subscriber(f"tacit/{name}/**", lambda s: heard.append(str(s.key_expr)))

    def own_key_is_heard() -> bool:
        with pytest.raises(Unreachable):
            bern.ask("zurich", Ping(1), Pong, timeout=2)
        return bool(heard)

    until(own_key_is_heard)  # now all that it declared would be known
    assert set(heard) == {"tacit/hearts/zurich/Ping/bern"}
    with pytest.raises(Unreachable):
        hearts.coordinator.ask("bern", Ping(1), Pong, timeout=2)  # bern does not serve pings
    with pytest.raises(Unreachable):
        bern.ask("coordinator", Ping(1), Pong, timeout=2)
    assert set(heard) == {"tacit/hearts/zurich/Ping/bern"}
    rogue.close()


def test_a_site_cannot_ask_as_another_nor_publish(hearts: Federation) -> None:
    bern, rogue = hearts.site("bern"), hearts.rogue("zurich")
    asked = [echo(hearts.coordinator), echo(bern)]
    unsigned: list[str] = []
    for endpoint in (hearts.coordinator, bern):
        endpoint.serve_bytes("raw", lambda sender, _: unsigned.append(sender) or b"")  # type: ignore[func-returns-value]
    sealed = seal(hearts.identity("zurich"), "coordinator", Ping(1))
    for key in ("coordinator/Ping/bern", "coordinator/Ping/*", "bern/Ping/coordinator", "**"):
        assert replies(rogue, f"tacit/hearts/{key}", sealed) == []
        assert replies(rogue, f"tacit/hearts/{key}".replace("Ping", "raw")) == []
    assert replies(rogue, "tacit/hearts/coordinator/*/zurich", sealed) == []
    assert (asked, unsigned) == ([[], []], [])
    assert len(replies(rogue, "tacit/hearts/coordinator/Ping/zurich", sealed)) == 1
    assert asked == [["zurich"], []]
    published: list[str] = []
    hearts.coordinator._session.declare_subscriber("**", lambda s: published.append(s))
    rogue.put("tacit/hearts/coordinator/Ping/zurich", b"x")
    rogue.put("tacit/hearts/zurich/x", b"x")
    assert len(replies(rogue, "tacit/hearts/coordinator/Ping/zurich", sealed)) == 1
    assert published == []
    rogue.close()


def test_a_site_cannot_forge_that_another_is_alive(hearts: Federation) -> None:
    bern, rogue = hearts.site("bern"), hearts.rogue("zurich")
    tokens = [
        rogue.liveliness().declare_token(f"tacit/hearts/{name}/alive")
        for name in ("geneva", "coordinator", "zurich")
    ]
    until(lambda: "zurich" in bern.alive() & hearts.coordinator.alive())
    assert hearts.coordinator.alive() == {"zurich", "bern"}
    assert bern.alive() == {"zurich", "coordinator"}
    del tokens
    rogue.close()


def test_a_signature_decides_even_where_a_certificate_would_let_it_pass(
    hearts: Federation,
) -> None:
    rogue, asked = hearts.rogue("zurich"), echo(hearts.coordinator)
    key = "tacit/hearts/coordinator/Ping/zurich"
    bern, zurich = hearts.identity("bern"), hearts.identity("zurich")
    other = joined(Authority.init("hearts", hearts.folder / "o"), hearts.folder / "z", "zurich")
    for payload in (
        seal(bern, "coordinator", Ping(1)),  # bern's, which it may have got hold of
        seal(zurich, "bern", Ping(1)),  # for another
        seal(zurich, "coordinator", Ping(1), answers=b"a request"),
        seal(other, "coordinator", Ping(1)),
        seal(zurich, "coordinator", Ping(1))[:-1],
        seal(zurich, "coordinator", Pong(1)),
        b"", b"\xff" * 1000, b"\x93" * 5000, bytes(MOST + 1)[:MOST], b"\x81\xa4body" * 9,
    ):  # fmt: skip
        (reply,) = replies(rogue, key, payload)
        assert b"Refusal" in reply
    assert replies(rogue, key, bytes(MOST + 1)) == []  # is not let in at all
    assert asked == []
    assert b"Pong" in replies(rogue, key, seal(zurich, "coordinator", Ping(1)))[0]
    rogue.close()


def test_a_flood_of_one_member_does_not_keep_out_another(hearts: Federation) -> None:
    zurich, bern = hearts.site("zurich"), hearts.site("bern")
    gate, entered = threading.Event(), threading.Semaphore(0)

    class Slow(Message, frozen=True):
        pass

    def slow(sender: str, request: Slow) -> Pong:
        entered.release()
        gate.wait(60)
        return Pong(0)

    bern.serve(Slow, slow)
    sealed = seal(zurich.identity, "bern", Slow())
    flood = [zurich.request("bern", "Slow", sealed, timeout=60) for _ in range(10 * WAITING)]
    dropped = [future for future in flood[WAITING:] if future.exception(60) is not None]
    assert len(dropped) == 9 * WAITING
    assert bern._waiting["zurich"] == WAITING
    gate.set()
    assert all(future.result(60) for future in flood[:WAITING])
    echo(bern)
    assert hearts.coordinator.ask("bern", Ping(1), Pong, timeout=60) == Pong(2)
    assert zurich.ask("bern", Ping(1), Pong, timeout=60) == Pong(2)


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.processes)])
def test_many_tiny_messages_take_no_memory_and_name_their_sender(
    count: int, hearts: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    bern = hearts.site("bern")
    echo(hearts.coordinator)
    before, asked = network_process.peak(), 0
    words = ("flood", hearts.folder / "zurich", hearts.address, "coordinator", count)
    with network_process.start(*words) as flood:
        try:
            sent = threading.Thread(target=lambda: flood.stdout.readline())
            sent.start()
            while sent.is_alive():
                with suppress(Unreachable):  # a machine that is busy may lose a link; it comes back
                    assert bern.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)
                    asked += 1
        finally:
            flood.kill()
        sent.join(60)
    assert asked
    assert network_process.peak() - before < 200e6
    lines = [record.getMessage() for record in caplog.records if "'zurich'" in record.getMessage()]
    assert lines
    assert len(lines) < 1000


def test_a_request_that_is_forgotten_ends_all_the_same(
    hearts: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    zurich = hearts.site("zurich")
    monkeypatch.setattr(zurich, "request", lambda *_: Future())
    monkeypatch.setattr(transport, "CLOSING", 0.01)
    with pytest.raises(Unreachable, match="no reply of 'coordinator' to a Ping"):
        zurich.ask("coordinator", Ping(1), Pong, timeout=0.01)


def test_outsiders_cannot_connect(hearts: Federation, tmp_path: Path) -> None:
    other = Authority.init("hearts", tmp_path / "other", ["127.0.0.1:0"])
    stranger = joined(other, tmp_path / "stranger", "zurich")
    address = hearts.address
    with pytest.raises(Unreachable, match="'zurich' found nobody at 127"):
        Endpoint(stranger, connect=[address], wait=1)
    with pytest.raises(Unreachable):
        Endpoint(hearts.identity("zurich"), connect=[address], wait=1, insecure=True)
    settings = json.loads(configuration(hearts.identity("zurich"), [], [address], wait=1))
    settings["transport"]["link"]["tls"] |= {"enable_mtls": False}
    for name in ("private_key", "certificate"):
        del settings["transport"]["link"]["tls"][f"connect_{name}"]
    with pytest.raises(zenoh.ZError):
        zenoh.open(zenoh.Config.from_json5(json.dumps(settings)))
    assert hearts.coordinator.alive() == frozenset()


def test_a_member_does_not_talk_to_a_false_coordinator(hearts: Federation, tmp_path: Path) -> None:
    other = Authority.init("hearts", tmp_path / "other", ["127.0.0.1:0"])
    with listening(Identity.load(other.home)) as false, pytest.raises(Unreachable):
        Endpoint(hearts.identity("zurich"), connect=[false.address], wait=1)
    # A member's certificate is good for no host but those it was invited with.
    joined(hearts.authority, hearts.folder / "geneva", "geneva", ("geneva.example", "127.0.0.9"))
    for name in ("bern", "geneva"):
        with listening(hearts.identity(name)) as site, pytest.raises(Unreachable):
            Endpoint(hearts.identity("zurich"), connect=[site.address], wait=1)


@pytest.mark.parametrize("mode", ["router", "peer"])
def test_a_member_whose_host_is_reached_instead_cannot_pose_as_the_coordinator(
    hearts: Federation, mode: str
) -> None:
    joined(hearts.authority, hearts.folder / "geneva", "geneva", ("127.0.0.1",))
    hearts.coordinator.close()
    address = f"127.0.0.1:{free_port()}"
    heard: list[str] = []
    listen = {"endpoints": [f"tls/{address}"]}
    rogue = hearts.rogue("geneva", mode=mode, listen=listen, connect={"endpoints": []})
    remote = zenoh.Locality.REMOTE
    for key in ("**", "tacit/hearts/coordinator/*/*", "tacit/hearts/*/*/*"):
        rogue.declare_queryable(key, lambda q: heard.append(q.key_expr), allowed_origin=remote)
    token = rogue.liveliness().declare_token("tacit/hearts/coordinator/alive")
    roll = (hearts.authority.home / "members.json").read_bytes()
    zurich = hearts.identity("zurich").accept_members(roll)
    with Endpoint(zurich, connect=[address]) as lured:
        for _ in range(20):
            with pytest.raises(Unreachable):
                lured.ask("coordinator", Ping(1), Pong, timeout=0.1)
        assert lured.alive() == frozenset()
    assert heard == []
    del token
    rogue.close()


def test_a_relay_passes_on_what_all_send(hearts: Federation) -> None:
    token = hearts.authority.invite("relay", ["127.0.0.1"], role="relay")
    asked, key = application(hearts.folder / "relay", token)
    admission = hearts.authority.admit(asked)
    admitted(hearts.authority, hearts.folder / "relay", "relay", key, admission)
    roll = (hearts.authority.home / "members.json").read_bytes()
    with listening(hearts.identity("relay")) as relay:
        ends = [
            Endpoint(hearts.identity(name).accept_members(roll), connect=[relay.address])  # type: ignore[attr-defined]
            for name in ("coordinator", "zurich")
        ]
        echo(ends[0]), echo(ends[1])
        until(lambda: "zurich" in ends[0].alive() and "coordinator" in ends[1].alive())
        assert ends[0].ask("zurich", Ping(1), Pong, timeout=60) == Pong(2)
        assert ends[1].ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)
        for end in ends:
            end.close()


def test_a_revoked_member_is_shut_out(hearts: Federation) -> None:
    zurich, bern = hearts.site("zurich"), hearts.site("bern")
    echo(hearts.coordinator), echo(bern)
    assert zurich.ask("bern", Ping(1), Pong, timeout=60) == Pong(2)
    hearts.authority.revoke("zurich")
    assert hearts.coordinator.refresh()
    until(lambda: hearts.coordinator.alive() == {"bern"})
    for member in ("coordinator", "bern"):
        with pytest.raises(Unreachable):
            zurich.ask(member, Ping(1), Pong, timeout=1)
    with pytest.raises(Unreachable):
        hearts.coordinator.ask("zurich", Ping(1), Pong, timeout=1)
    assert hearts.coordinator.ask("bern", Ping(1), Pong, timeout=60) == Pong(2)


def test_a_new_member_is_let_in_and_known_to_all(hearts: Federation) -> None:
    zurich = hearts.site("zurich")
    echo(zurich), echo(hearts.coordinator)
    hearts.authority.invite("nobody-yet")
    joined(hearts.authority, hearts.folder / "geneva", "geneva")
    assert hearts.coordinator.refresh()
    assert not hearts.coordinator.refresh()
    geneva = hearts.site("geneva")
    until(lambda: "zurich" in hearts.coordinator.alive())  # it is back by itself
    assert geneva.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)
    assert geneva.ask("zurich", Ping(1), Pong, timeout=60) == Pong(2)  # it fetches the new list
    assert hearts.identity("zurich").members.has("geneva")


def test_peers_find_each_other_from_one_address(tmp_path: Path) -> None:
    authority = Authority.init("hearts", tmp_path / "coordinator", ["coordinator.example:7447"])
    names, hosts = ("a", "b", "c"), ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    for name, host in zip(names, hosts, strict=True):
        joined(authority, tmp_path / name, name, (host,))
    roll = (authority.home / "members.json").read_bytes()
    peers: list[Endpoint] = []
    for name, host in zip(names, hosts, strict=True):
        identity = Identity.load(tmp_path / name).accept_members(roll)
        seed = [peers[0].address] if peers else []  # type: ignore[attr-defined]
        peers.append(listening(identity, host, connect=seed))
    for peer in peers:
        echo(peer)
        until(lambda peer=peer: len(peer.alive()) == 2)
    for one in peers:
        for other in peers:
            if one is not other:
                assert one.ask(other.identity.name, Ping(1), Pong, timeout=60) == Pong(2)
    peers[0].close()  # the seed is not needed any more
    until(lambda: all(len(peer.alive()) == 1 for peer in peers[1:]))
    assert peers[1].ask("c", Ping(1), Pong, timeout=60) == Pong(2)
    for peer in peers[1:]:
        peer.close()


def test_ipv6(hearts: Federation) -> None:
    try:
        coordinator = listening(hearts.identity("coordinator"), "[::1]")
    except AssertionError:
        pytest.skip("there is no IPv6 loopback interface")
    echo(coordinator)
    address: str = coordinator.address  # type: ignore[attr-defined]
    with coordinator, Endpoint(hearts.identity("zurich"), connect=[address]) as zurich:
        assert zurich.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)


def test_without_encryption_only_on_loopback(hearts: Federation) -> None:
    for settings in ({"listen": ["0.0.0.0:7447"]}, {"connect": ["coordinator.example:7447"]}):
        with pytest.raises(InputError, match="not a loopback address"):
            Endpoint(hearts.identity("zurich"), insecure=True, **settings)  # type: ignore[arg-type]
    with listening(hearts.identity("coordinator"), insecure=True) as plain:
        echo(plain)
        address: str = plain.address  # type: ignore[attr-defined]
        with Endpoint(hearts.identity("zurich"), connect=[address], insecure=True) as zurich:
            assert zurich.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)


def test_nothing_answers_within_the_time_to_connect(hearts: Federation) -> None:
    hearts.coordinator.close()
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        Endpoint(hearts.identity("zurich"), connect=[hearts.address], wait=0.5)
    assert time.monotonic() - begun < 10
