"""Joining a federation by a token, and renewing what was got, over real sockets and by commands."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import zenoh
from typer.testing import CliRunner

from network_parties import Ping, Pong, joined, listening, until
from tacit.cli import app
from tacit.errors import InputError, MessageError
from tacit.network import authority as authorities
from tacit.network import joining
from tacit.network.admission import Token
from tacit.network.authority import Authority
from tacit.network.configuration import configuration
from tacit.network.identity import Identity, write
from tacit.network.transport import Endpoint, Unreachable


class Hall:
    """A coordinator that admits; invitations name its true port."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.init("hearts", folder / "coordinator", ["127.0.0.1:0"])
        self.coordinator = listening(Identity.load(self.authority.home))
        self.address: str = self.coordinator.address  # type: ignore[attr-defined]
        here = msgspec.structs.replace(self.authority.coordinator, connect=(self.address,))
        write(self.authority.home / "federation.json", msgspec.json.encode(here))
        joining.serve(self.coordinator, self.authority)
        self.coordinator.serve(Ping, lambda _, ping: Pong(ping.number + 1))


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    made = Hall(tmp_path)
    yield made
    made.coordinator.close()


def test_a_site_joins_by_its_token_and_speaks(hall: Hall, tmp_path: Path) -> None:
    token = hall.authority.invite("zurich")
    hall.coordinator.refresh()
    zurich = joining.join(token, tmp_path / "zurich")
    assert (zurich.name, zurich.federation) == ("zurich", "hearts")
    with Endpoint(zurich, connect=zurich.connect) as endpoint:
        assert endpoint.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)
    with pytest.raises(MessageError, match="the token was used already; ask for another"):
        joining.join(token, tmp_path / "thief")
    assert not (tmp_path / "thief" / "tls.pem").exists()


def test_a_coordinator_that_listens_and_does_not_answer_yet_is_asked_again(tmp_path: Path) -> None:
    authority = Authority.init("hearts", tmp_path / "coordinator", ["127.0.0.1:0"])
    with listening(Identity.load(authority.home)) as coordinator:
        here = msgspec.structs.replace(authority.coordinator, connect=(coordinator.address,))
        write(authority.home / "federation.json", msgspec.json.encode(here))
        token = authority.invite("zurich")
        coordinator.refresh()
        ready = threading.Timer(6.0, joining.serve, [coordinator, authority])
        ready.start()
        assert joining.join(token, tmp_path / "zurich").name == "zurich"
        ready.join()


def test_bad_tokens_are_refused_in_a_sentence(
    hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = hall.authority.invite("zurich")
    with pytest.raises(MessageError, match="not one of this federation, or was withdrawn"):
        joining.join(msgspec.structs.replace(token, nonce=bytes(16)), tmp_path / "a")
    other = Authority.init("hearts", tmp_path / "other", [hall.address]).invite("zurich")
    monkeypatch.setattr(joining, "TIMEOUT", 1.0)
    with pytest.raises(Unreachable):
        joining.join(other, tmp_path / "b")
    for text in ("", "tacit1.", "hello", token.to_text()[:-9], token.to_text() + "x"):
        with pytest.raises(InputError, match="no token, or not all of it"):
            Token.from_text(text)
    assert Token.from_text(f" {token.to_text()}\n") == token
    assert token.nonce.hex() not in repr(token)
    monkeypatch.setattr(authorities, "INVITATION", timedelta(seconds=-1))
    with pytest.raises(InputError, match="the token expired on 2"):
        joining.join(hall.authority.invite("late"), tmp_path / "c")


def test_a_tokens_certificate_can_do_nothing_but_ask_to_join(hall: Hall, tmp_path: Path) -> None:
    token = hall.authority.invite("zurich")
    bern = joined(hall.authority, tmp_path / "bern", "bern")
    hall.coordinator.refresh()
    write(tmp_path / "tls.pem", token.tls, secret=True)
    write(tmp_path / "ca.pem", token.authority)
    settings = json.loads(configuration(bern, [], [hall.address], wait=10))
    del settings["access_control"]
    for name in ("listen", "connect"):
        for part in ("private_key", "certificate"):
            settings["transport"]["link"]["tls"][f"{name}_{part}"] = str(tmp_path / "tls.pem")
    with (
        Endpoint(bern, connect=[hall.address]) as endpoint,
        zenoh.open(zenoh.Config.from_json5(json.dumps(settings))) as knock,
    ):
        asked: list[object] = []
        endpoint.serve(Ping, lambda sender, ping: asked.append(sender) or Pong(0))  # type: ignore[func-returns-value]
        remote = zenoh.Locality.REMOTE
        knock.declare_queryable("**", asked.append, allowed_origin=remote)
        token_ = knock.liveliness().declare_token("tacit/hearts/zurich/alive")
        for topic in ("Ping", "members", "blob", "Renew"):
            for name in ("coordinator", "bern"):
                for sender in ("joining", "bern", "zurich"):
                    got = knock.get(f"tacit/hearts/{name}/{topic}/{sender}", timeout=5)
                    assert [reply for reply in got if reply.ok is not None] == []
        seen = [str(reply.ok.key_expr) for reply in knock.liveliness().get("**", timeout=5)]
        assert asked == []
        assert set(seen) <= {"tacit/hearts/zurich/alive"}  # its own claim, if anybody's
        assert hall.coordinator.alive() == {"bern"}
        (reply,) = knock.get("tacit/hearts/coordinator/join/joining", payload=b"x", timeout=5)
        assert b"cannot be read" in reply.ok.payload.to_bytes()
        del token_


@pytest.mark.slow  # it waits for a certificate to end, long enough for any machine to renew another
def test_certificates_expire_unless_they_are_renewed(
    hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorities, "CERTIFICATE", timedelta(seconds=30))
    geneva = joined(hall.authority, tmp_path / "geneva", "geneva")
    basel = joined(hall.authority, tmp_path / "basel", "basel")
    monkeypatch.undo()
    hall.coordinator.refresh()
    with (
        Endpoint(geneva, connect=[hall.address]) as renews,
        Endpoint(basel, connect=[hall.address]) as forgets,
    ):
        until(lambda: hall.coordinator.alive() == {"geneva", "basel"})
        changes: list[tuple[str, bool]] = []
        hall.coordinator.watch(lambda name, alive: changes.append((name, alive)))
        assert joining.renew(renews)  # of 10 minutes and a half, half a minute is left
        assert not joining.renew(renews)
        assert renews.identity.certificate != geneva.certificate
        until(lambda: hall.coordinator.alive() == {"geneva"}, seconds=120)
        assert renews.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)
        with pytest.raises(Unreachable):
            forgets.ask("coordinator", Ping(1), Pong, timeout=1)
        assert ("basel", False) in changes
    with pytest.raises(InputError, match="the certificate expired"):
        Identity.load(tmp_path / "basel")


def test_the_commands(hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tacit(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    def sentence(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert (result.exit_code, result.stdout) == (2, "")
        return result.stderr

    monkeypatch.setattr("tacit.cli.federation.FOLDERS", tmp_path / "homes")
    monkeypatch.setattr("tacit.cli.node.FOLDERS", tmp_path / "homes")
    assert "which federation?" in sentence("federation", "list")
    for address in ("0.0.0.0:7447", "[::]:7447", "hub.example:0", "hub.example:70000"):
        assert f"--address: '{address}'" in sentence(
            "federation", "init", "f", "--address", address
        )
    assert not (tmp_path / "homes").exists()
    tacit("federation", "init", "lungs", "--address", "127.0.0.1:7447")
    assert "already" in sentence("federation", "init", "lungs", "--address", "127.0.0.1:7447")
    tacit("federation", "invite", "basel")
    assert "coordinator" in tacit("federation", "list")

    home = ["--home", str(hall.authority.home)]
    token = tacit("federation", "invite", "zurich", *home).strip()
    hall.coordinator.refresh()
    assert "Joined 'hearts' as 'zurich'" in tacit("node", "join", token)
    with Endpoint(Identity.load(tmp_path / "homes" / "hearts" / "zurich"), connect=[hall.address]):
        until(lambda: hall.coordinator.alive() == {"zurich"})
        assert "used already" in sentence("node", "join", token, "--home", str(tmp_path / "x"))
        assert not (tmp_path / "x").exists()
        rows = json.loads(tacit("federation", "list", "--json", *home))
        assert [(row["member"], row["state"]) for row in rows] == [
            ("coordinator", "member"),
            ("zurich", "member"),
        ]
        before = Identity.load(hall.authority.home).certificate
        tacit("federation", "rotate", *home)
        assert hall.coordinator.refresh()
        assert hall.coordinator.identity.certificate != before
        until(lambda: hall.coordinator.alive() == {"zurich"})
        assert "shut out" in tacit("federation", "revoke", "zurich", *home)
        hall.coordinator.refresh()
        until(lambda: hall.coordinator.alive() == frozenset())
    assert "not a member" in sentence("federation", "revoke", "zurich", *home)
    assert "no token" in sentence("node", "join", "rubbish")
