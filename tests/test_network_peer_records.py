"""Records of peers, over real sockets: each keeps its own, and every crime is named."""

import secrets
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from torch import nn
from typer.testing import CliRunner

import tacit
from network_parties import free_port, joined, until
from tacit.cli import app
from tacit.engine.recording import rules
from tacit.errors import InputError, MessageError, TacitError
from tacit.ledger import records
from tacit.ledger.note import verified
from tacit.ledger.peers import RULE
from tacit.ledger.policy import Policy
from tacit.ledger.recorder import LOG, OPENINGS, POLICY
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import Audit, verify
from tacit.network import processes
from tacit.network.authority import Authority
from tacit.network.blobs import Offer
from tacit.network.forgetting import RECORD, forget
from tacit.network.identity import MEMBERS, Identity
from tacit.network.peer import PeerRun
from tacit.network.peer_record import PeerLog, PeerRecord, PeerWitnessing
from tacit.network.protocol import Holds, Model, OfRecord, Release, Seek
from tacit.network.witnessing import Unrecorded
from test_network_records import ONE_AT_A_TIME, again, one_at_a_time
from test_network_rounds import alone, experiment
from test_network_run import told_nothing

NAMES = ("0", "1", "2", "3", "4")
ROUNDS = 2


class Careful(PeerRun):
    """A peer beside others in this process."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        with ONE_AT_A_TIME:
            super().__init__(*given, **settings)
        self.peer.trainer.run = one_at_a_time(self.peer.trainer.run)  # type: ignore[method-assign]
        self.peer.measure = one_at_a_time(self.peer.measure)  # type: ignore[method-assign]


def plan_of(**changes: Any) -> tacit.Experiment:
    fields = {"algorithm": tacit.Gossip(), "topology": tacit.Ring(), "rounds": ROUNDS}
    return experiment(**fields | changes)


class Crowd:
    """Five peers on a ring, each with its keys and folders, over real sockets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        authority = Authority.init("hearts", folder / "hub", ["127.0.0.1:1"])
        for name in NAMES:
            joined(authority, folder / f"keys-{name}", name, ("127.0.0.1",))
        for name in NAMES:
            shutil.copy(folder / "hub" / MEMBERS, folder / f"keys-{name}" / MEMBERS)
        self.address = {name: f"127.0.0.1:{free_port()}" for name in NAMES}
        self.kept: dict[str, PeerRecord] = {}

        def keep(*given: Any) -> PeerRecord:
            made = PeerRecord(*given)
            self.kept[made.name] = made
            return made

        monkeypatch.setattr(processes, "PeerRecord", keep)
        self.lies({})

    def lies(self, liars: dict[str, type[PeerRun]]) -> None:
        """From now on some peers are others."""

        def make(*given: Any, **settings: Any) -> PeerRun:
            return liars.get(given[2], Careful)(*given, **settings)

        self.patch.setattr(processes, "PeerRun", make)

    def record(self, name: str) -> Path:
        return self.folder / f"record-{name}"

    def run(self, name: str) -> Path:
        return self.folder / f"run-{name}"

    def part(self, name: str, plan: tacit.Experiment, **settings: Any) -> Any:
        """One peer's whole run; how it ended, or its error."""
        public, first = plan.replace(data=told_nothing(plan.data)), NAMES[0]
        try:
            return processes.gossip(
                public, alone(plan.data, NAMES.index(name)), self.folder / f"keys-{name}",
                self.run(name), listen=[self.address[name]],
                connect=[self.address[first]] * (name != first), record=self.record(name),
                **{"patience": 120, "grace": 120} | settings,
            )  # fmt: skip
        except TacitError as error:
            return error

    def carry_out(self, **changes: Any) -> dict[str, Any]:
        """The whole run."""
        with ThreadPoolExecutor(len(NAMES)) as pool:
            ended = pool.map(lambda name: self.part(name, plan_of(**changes)), NAMES)
            return dict(zip(NAMES, ended, strict=True))


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    return Crowd(tmp_path, monkeypatch)


def entries(folder: Path) -> list[bytes]:
    with sqlite3.connect(folder / LOG) as db:
        return [row[0] for row in db.execute("SELECT entry FROM entries ORDER BY place")]


def statements(folder: Path) -> list[Statement]:
    return [Envelope.from_bytes(entry).statement for entry in entries(folder)]


def holds(audit: Audit) -> None:
    assert audit.findings == ()


# Honest


def test_every_peer_leaves_a_record_that_holds(crowd: Crowd) -> None:
    told = crowd.carry_out()
    assert [end.outcome for end in told.values()] == ["finished"] * 5, told
    one = ["round-open", *["contribution"] * 3, "aggregate"]  # a peer and its two neighbours
    for name in NAMES:
        said = statements(crowd.record(name))
        assert [each.kind for each in said] == ["genesis", *one * ROUNDS]
        audit = verify(crowd.record(name))
        holds(audit)
        assert audit.head is not None
        assert audit.head.size == 1 + 5 * ROUNDS
        assert dict(audit.checks)["rounds"] == f"2 rounds of {name}, a peer"
        for other in NAMES:
            if other != name:
                holds(verify(crowd.record(name), against=crowd.record(other)))
                part = crowd.run(other) / RECORD / "of" / name
                holds(verify(crowd.record(name), policy=part / POLICY, against=part))
        shutil.copy(crowd.run(name) / RECORD / OPENINGS, crowd.record(name) / OPENINGS)
        opened = verify(crowd.record(name))
        holds(opened)
        assert dict(opened.checks)["openings"] == f"{ROUNDS} commitments opened"
    (crowd.record("4") / OPENINGS).unlink()
    done = forget(crowd.run("4"), crowd.folder / "keys-4")
    assert any(OPENINGS in words for words in done)
    assert not list(crowd.run("4").glob("**/peer.json"))  # in which nonces are, too
    holds(verify(crowd.record("4"), against=crowd.record("0")))


@pytest.mark.slow
def test_what_a_rule_turns_away_is_told(crowd: Crowd) -> None:
    """Balance takes models within gamma times the own one's length; no other's lies within that."""
    told = crowd.carry_out(aggregation=tacit.Balance(gamma=1e-9), rounds=1)
    assert [end.outcome for end in told.values()] == ["finished"] * 5, told
    for name in NAMES:
        holds(verify(crowd.record(name)))
        said = statements(crowd.record(name))
        counted = [said[place].says["site"] for place in said[-1].says["included"]]
        assert counted == [name]
        reasons = [each["reason"] for each in said[-1].says["excluded"]]
        assert reasons == ["turned away by Balance"] * 2


def test_all_peers_leave_a_record_or_none(crowd: Crowd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tacit.network")
    refused = crowd.part("0", plan_of(), patience=0.2)
    assert isinstance(refused, InputError)
    assert "1, 2, 3, 4 did not sign its beginning within 0.2 seconds" in str(refused)
    assert "the record waits for 1, 2, 3, 4 to sign its beginning" in caplog.text
    record, crowd.record = crowd.record, lambda name: None  # type: ignore[method-assign,assignment,return-value]
    later = crowd.part("0", plan_of())
    assert "began with one; give the same again" in str(later)
    crowd.record = record  # type: ignore[method-assign]
    pairs = crowd.part("1", plan_of(algorithm=tacit.ADPSGD()))
    assert "real peers that average in pairs have no rounds to record" in str(pairs)


# A hostile peer


class Liar(Careful):
    """It tells peer 3 another thing than the others."""

    def answer(self, peer: str, request: Seek) -> Holds:
        holds = super().answer(peer, request)
        told = tuple(map(self.instead, holds.models)) if peer == "3" else holds.models
        return msgspec.structs.replace(holds, models=told)

    @cache  # noqa: B019
    def instead(self, model: Model) -> Model:
        other = self.tensors.get(model.offer.digest)["model"] + 1
        offer = self.tensors.put({"model": other})
        self.offer(self.tensors.path(offer.digest), ["3"])
        return msgspec.structs.replace(model, offer=offer)


class Equivocating(Liar):
    """It signs both."""

    @cache  # noqa: B019
    def instead(self, model: Model) -> Model:
        assert self.record is not None
        told, receipts = super().instead(model), self.record.receipts
        said = Envelope.from_bytes(model.entry).statement
        nonce, key = secrets.token_bytes(32), self.record.own.public(self.name)
        digest = records.file_digest(self.tensors.path(told.offer.digest))
        committed = records.commitment(key, model.round, nonce, digest)
        other = Statement(said.kind, {**said.subjects, "commitment": committed}, said.says)
        entry = signed(other, {self.name: receipts.signer})
        return msgspec.structs.replace(told, entry=entry, nonce=nonce)


def test_who_tells_neighbours_different_models_is_found_and_named(crowd: Crowd) -> None:
    crowd.lies({"2": Equivocating})
    told = crowd.carry_out()
    assert [end.outcome for end in told.values()] == ["finished"] * 5, told
    for name in NAMES:
        holds(verify(crowd.record(name)))  # alone, none of them knows
    holds(verify(crowd.record("1"), against=crowd.record("2")))
    holds(verify(crowd.record("0"), against=crowd.record("1")))

    def places(name: str) -> list[int]:
        said = enumerate(statements(crowd.record(name)))
        return [i for i, one in said if one.kind == "contribution" and one.says["site"] == "2"]

    for one, other in (("1", "3"), ("3", "1"), ("2", "3")):
        audit = verify(crowd.record(one), against=crowd.record(other))
        both = zip(places(one), places(other), strict=True)
        assert [str(finding) for finding in audit.findings] == [
            f"entry {here}: 2 signed another model for round {round} here than in entry {there} of"
            f" the record of {other}"
            for round, (here, there) in enumerate(both)
        ]
        assert len(audit.findings) == ROUNDS
    words = ["verify", str(crowd.record("1")), "--against", str(crowd.record("3"))]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "FAIL  other copy: entry" in done.stdout
    # Whoever has both reports it, and takes neither any more.
    run, identity = crowd.run("1"), Identity.load(crowd.folder / "keys-1")
    keys = {name: Identity.load(crowd.folder / f"keys-{name}") for name in NAMES}
    plan = plan_of()
    kept = PeerRecord(
        crowd.record("1"), run, plan.replace(data=told_nothing(plan.data)), 1, identity,
        lambda name: keys[name].members.key(name), lambda *_: 1 / 0, tuple,
    )  # fmt: skip
    place = places("3")[-1]
    with pytest.raises(MessageError, match="'2' has signed two models of one round"):
        kept.own.require_one("2", ROUNDS - 1, entries(crowd.record("3"))[place])
    kept.close()
    audit = verify(crowd.record("1"))
    words = f"2 signed what contradicts itself: entry {len(entries(crowd.record('1'))) - 1} proves"
    assert words in dict(audit.checks)["incidents"]


class Unsigned(Careful):
    """It signs nothing."""

    def _signed(self, round: int, offer: Offer) -> Model:
        return Model(round, offer)

    def _sent(self, model: Model) -> None:
        pass


class Replaying(Careful):
    """In the second round it sends what it signed in the first."""

    first: Model | None = None

    def _signed(self, round: int, offer: Offer) -> Model:
        new = super()._signed(round, offer)
        self.first = self.first or new
        return msgspec.structs.replace(new, entry=self.first.entry, nonce=self.first.nonce)

    def _sent(self, model: Model) -> None:
        pass


class Elsewhere(Careful):
    """It names another log than its own."""

    def _signed(self, round: int, offer: Offer) -> Model:
        model = super()._signed(round, offer)
        said = Envelope.from_bytes(model.entry).statement
        other = Statement(said.kind, {**said.subjects, "policy": bytes(32)}, said.says)
        assert self.record is not None
        entry = signed(other, {self.name: self.record.receipts.signer})
        return msgspec.structs.replace(model, entry=entry)


@pytest.mark.parametrize(
    ("crimes", "round", "said"),
    [
        (
            {"1": Unsigned, "2": Liar}, 1,
            ["'1' sends its model unsigned", "'2' has signed a contribution to something else"],
        ),
        pytest.param(
            {"1": Replaying, "2": Elsewhere}, 2,
            [f"'{name}' has signed a contribution to something else" for name in "12"],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_who_does_not_sign_what_it_sends_is_left_out(
    crimes: dict[str, type[PeerRun]],
    round: int,
    said: list[str],
    crowd: Crowd,
    caplog: pytest.LogCaptureFixture,
) -> None:
    crowd.lies(crimes)
    told = crowd.carry_out()
    assert [end.outcome for end in told.values()] == ["finished"] * 5, told
    assert "without 1" in told["0"].reason
    assert "without 2" in told["3"].reason
    assert told["4"].reason == f"all {ROUNDS} rounds are done"
    for words in said:
        assert f"left out of round {round}: {words}" in caplog.text
    for name in "034":
        holds(verify(crowd.record(name)))


class Rewriting(Careful):
    """Once all have cosigned the second round's beginning, nothing is left of its log."""

    wait: Callable[[], None]

    def _recorded(self) -> None:
        if self.notes.round == ROUNDS:
            return
        super()._recorded()
        if self.record and self.notes.round == 1:
            own = self.record.own
            until(lambda: not own.uncosigned)
            again(own, list(own.log)[:1])
            own._propose(1)
            type(self).wait()
            self.record.farewell = lambda *_: None  # type: ignore[method-assign,assignment]


def test_from_a_peer_that_has_rewritten_its_log_nothing_is_taken(
    crowd: Crowd, caplog: pytest.LogCaptureFixture
) -> None:
    def all_know() -> bool:
        return all("2" in crowd.kept[name]._refused for name in "0134")

    Rewriting.wait = staticmethod(lambda: until(all_know))
    crowd.lies({"2": Rewriting})
    told = crowd.carry_out()
    for name in "13":
        assert told[name].reason == f"all {ROUNDS} rounds are done, 1 without 2"
    assert "left out of round 2: '2': the log's record was rewritten: 1 entries are" in caplog.text
    for name in "0134":
        holds(verify(crowd.record(name)))
        part = crowd.run(name) / RECORD / "of" / "2"
        policy = Policy.from_text((part / POLICY).read_text())
        head, by = verified((part / "forked.txt").read_text(), policy.logs)
        assert head.size == 1
        assert by == list(policy.logs)  # its own word


# By calls: a, whose log it is, and its witnesses b and c

KEYS = {name: Ed25519PrivateKey.generate() for name in "abc"}


def key_of(name: str) -> Ed25519PublicKey:
    return KEYS[name].public_key()


class Trio:
    def __init__(self, folder: Path) -> None:
        data = tacit.data.at_sites("abc", target="y", columns=["u"], labels=[0, 1])
        self.plan, self.folder = plan_of(data=data, model=lambda: nn.Linear(1, 2)), folder
        self.model = folder / "model"
        self.begin()

    def begin(self) -> None:
        """a's process, which may have been killed before."""
        keeper: Any = SimpleNamespace(name="a", sign=KEYS["a"].sign)
        self.log = PeerLog(self.folder / "record", self.folder, self.plan, keeper, key_of)

    def follow(self, rule: dict[str, str] = RULE) -> None:
        """Both witnesses do what they are asked for."""
        made = {
            name: PeerWitnessing(
                self.folder / name, self.plan.digest(), ROUNDS, name, KEYS[name], "a", key_of,
                partial(self.log.answer, name), rules=rules(self.plan) | rule,
            )
            for name in "bc"
        }  # fmt: skip
        while orders := {name: order for name in "bc" if (order := self.log.order(name))}:
            for name, order in orders.items():
                assert isinstance(order, OfRecord)
                made[name].follow(order)
        for witness in made.values():
            witness.close()

    def bring_to(
        self, round: int, own: str, out: dict[str, str] | None = None, led: bytes = b""
    ) -> None:
        self.model.write_text(own)
        self.log.bring_to(round, self.model, out, led, round >= ROUNDS)

    def part(self, site: str, round: int) -> bytes:
        said = records.contribution(
            round, site, self.log.base, bytes(32), 10, "none",
            policy=self.log.policy if site == "a" else bytes(32),
        )  # fmt: skip
        return signed(said, {site: KEYS[site]})


@pytest.fixture
def trio(tmp_path: Path) -> Trio:
    return Trio(tmp_path)


class Dead(BaseException):
    pass


def test_a_peer_that_dies_while_it_catches_up(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a's first round all are in the second, and c's model is taken; then all have ended."""
    trio.follow()
    trio.bring_to(0, "m0")
    trio.log.take(0, {"a": trio.part("a", 0)})
    led = trio.part("c", 1)

    def die(*_: object) -> bytes:
        raise Dead

    monkeypatch.setattr(trio.log, "_opening", die)
    with pytest.raises(Dead):
        trio.bring_to(1, "from c", led=led)
    for _ in range(2):
        trio.log.close()
        trio.begin()
        trio.bring_to(1, "from c", led=led)  # as its notes say
    trio.follow()
    kinds = [said.kind for said in statements(trio.log.folder)]
    assert kinds == ["genesis", "round-open", "contribution", "contribution", "round-open"]
    with pytest.raises(InputError, match="holds another model of round 2"):
        trio.bring_to(ROUNDS, "from nobody")
    for _ in range(2):
        trio.bring_to(ROUNDS, "from c")  # its own
        trio.log.close()
        trio.begin()
    trio.bring_to(ROUNDS, "from c")
    trio.follow()
    assert [said.kind for said in statements(trio.log.folder)] == [*kinds, "round-open"]
    trio.log.close()
    audit = verify(trio.log.folder)
    holds(audit)
    assert dict(audit.checks)["rounds"] == "0 rounds of a, a peer, 2 left out"


def test_a_log_that_is_not_where_the_peer_was(trio: Trio) -> None:
    trio.follow()
    with pytest.raises(InputError, match="round 2 is to be recorded; give the folder that"):
        trio.bring_to(1, "m1", out={})
    trio.bring_to(0, "m0")
    with pytest.raises(InputError, match="holds another model of round 0"):
        trio.bring_to(0, "another")
    trio.log.take(0, {"a": trio.part("a", 0)})
    trio.bring_to(1, "m1", out={})
    with pytest.raises(InputError, match="round 1 is to be recorded; give the folder that"):
        trio.bring_to(0, "m0")
    trio.log.close()


def test_no_coordinator_keeps_a_peer_s_log(trio: Trio) -> None:
    """Nor a peer another one: its rounds would be held to less."""
    with pytest.raises(Unrecorded, match="begins a record with other rules"):
        trio.follow({})
    trio.log.close()


def test_of_a_peer_s_own_model_no_release_is_signed(trio: Trio) -> None:
    trio.follow()
    said = records.release(ROUNDS, trio.log.base, bytes(32), bytes(32))
    witness = PeerWitnessing(
        trio.folder / "b", trio.plan.digest(), ROUNDS, "b", KEYS["b"], "a", key_of,
        partial(trio.log.answer, "b"), rules=rules(trio.plan) | RULE,
    )  # fmt: skip
    with pytest.raises(Unrecorded, match="of a peer's own none is signed"):
        witness.follow(Release(trio.plan.digest(), said.payload()))
    witness.close()
    trio.log.close()


def test_a_peer_stays_until_it_has_followed_the_others_to_their_end(trio: Trio) -> None:
    identity: Any = trio.log.keeper
    kept = PeerRecord(
        trio.folder / "its", trio.folder, trio.plan, 1, identity, key_of, lambda *_: 1 / 0, tuple
    )
    lost = iter([(), ("b",), ("b", "c"), ()])
    kept.farewell(60.0, lambda: next(lost))
    assert list(lost) == [()]  # it asked three times
    kept._ended |= {"b", "c"}
    kept.farewell(60.0, tuple)
    kept.close()
    trio.log.close()
