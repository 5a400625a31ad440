"""Records of networked runs, over real sockets: honest ones hold, and every crime is named."""

import hashlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from typer.testing import CliRunner

import tacit
from network_parties import free_port, joined
from tacit.cli import app
from tacit.engine.recording import rules
from tacit.errors import CheckpointError, InputError, TacitError
from tacit.ledger import records
from tacit.ledger.log import Log
from tacit.ledger.merkle import leaf_hash
from tacit.ledger.note import Key
from tacit.ledger.policy import Policy
from tacit.ledger.recorder import LOG, OPENINGS, POLICY
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import Audit, verify
from tacit.ledger.witness import Forked
from tacit.network import processes
from tacit.network import recording as network_recording
from tacit.network.authority import Authority
from tacit.network.coordinator import Coordinator
from tacit.network.messages import Refused
from tacit.network.recording import Recording
from tacit.network.rounds import Site
from tacit.network.site import Notes, SiteRun
from tacit.network.witnessing import Unrecorded, Witnessing
from test_network_rounds import alone, experiment
from test_network_run import told_nothing

NAMES = ("0", "1", "2", "3", "4")
ROUNDS = 2


def slow(*given: Any) -> Any:
    return pytest.param(*given, marks=pytest.mark.slow)


class Over(TacitError):
    """The coordinator has ended, and nobody waits for it."""

    code = "TEST"


# Models are traced by one thread at a time; sites are processes.
ONE_AT_A_TIME = threading.RLock()


class Careful(SiteRun):
    """A site beside others in this process."""

    def _site(self, rows: tuple[int, ...]) -> Site:
        with ONE_AT_A_TIME:
            fresh, site = self.site is None, super()._site(rows)
            if fresh:
                site.measure = one_at_a_time(site.measure)  # type: ignore[method-assign]
            return site

    def _train(self, *given: Any) -> Notes:
        with ONE_AT_A_TIME:
            return super()._train(*given)

    def home(self, *given: Any) -> Any:
        with ONE_AT_A_TIME:
            return super().home(*given)


def one_at_a_time(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def locked(*given: Any) -> Any:
        with ONE_AT_A_TIME:
            return call(*given)

    return locked


class Ward:
    """A coordinator and five sites, each with its keys and folders, over real sockets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.record = folder / "record"
        self.address = f"127.0.0.1:{free_port()}"
        authority = Authority.init("hearts", folder / "hub", [self.address])
        for name in NAMES:
            joined(authority, folder / f"keys-{name}", name)
        (folder / "run").mkdir()
        self.made: list[Coordinator] = []

        def make(*given: Any, **settings: Any) -> Coordinator:
            self.made.append(Coordinator(*given, **settings))
            return self.made[-1]

        monkeypatch.setattr(processes, "Coordinator", make)
        self.lies({})

    def carry_out(
        self,
        *,
        record: bool = True,
        openings: Path | None = None,
        deadline: float | None = None,
        release: Path | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """The whole run; how it ended for each, or its error.

        Of sites that refuse the coordinator takes leave, as of dead ones; without a quorum it ends.
        """
        plan = experiment(**{"rounds": ROUNDS} | changes)
        public = plan.replace(data=told_nothing(plan.data))
        told: dict[str, Any] = {}
        over = threading.Event()

        def wait(reason: str) -> None:
            if over.is_set():
                raise Over(reason)

        def take_part(name: str) -> None:
            try:
                told[name] = processes.take_part(
                    public, alone(plan.data, NAMES.index(name)), self.folder / f"keys-{name}",
                    self.site(name), connect=[self.address], patience=120, on_wait=wait,
                )  # fmt: skip
            except Exception as error:
                told[name] = error
                coordinator = self.made[-1]
                coordinator.attendance.grace = 0.0
                coordinator._left.add(name)
                refused = sum(isinstance(end, TacitError) for end in told.values())
                if refused == 3 or not isinstance(error, TacitError):
                    coordinator.attendance.end(CheckpointError("the operator ends it"))

        with ThreadPoolExecutor(len(NAMES)) as pool:
            parts = [pool.submit(take_part, name) for name in NAMES]
            try:
                told["coordinator"], _ = processes.coordinate(
                    public, self.folder / "hub", self.folder / "run", listen=[self.address],
                    patience=120, grace=120, record=self.record if record else None,
                    openings=openings, deadline=deadline, release=release,
                )  # fmt: skip
            except CheckpointError as error:
                told["coordinator"] = error
            finally:
                over.set()
            for part in parts:
                part.result()
        return told

    def site(self, name: str) -> Path:
        return self.folder / f"run-{name}"

    def against(self, name: str) -> Audit:
        """The audit with what a site has kept."""
        part = self.site(name) / processes.RECORD
        return verify(self.record, policy=part / POLICY, against=part)

    def commits(self, crime: type[Recording]) -> None:
        """From now on the coordinator keeps its record in another way."""
        self.patch.setattr(processes, "Recording", crime)

    def lies(self, liars: dict[str, type[SiteRun]]) -> None:
        """From now on some sites are others."""

        def make(*given: Any, **settings: Any) -> SiteRun:
            return liars.get(given[2], Careful)(*given, **settings)

        self.patch.setattr(processes, "SiteRun", make)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    return Ward(tmp_path, monkeypatch)


def entries(folder: Path) -> list[bytes]:
    with sqlite3.connect(folder / LOG) as db:
        return [row[0] for row in db.execute("SELECT entry FROM entries ORDER BY place")]


def statements(folder: Path) -> list[Statement]:
    return [Envelope.from_bytes(entry).statement for entry in entries(folder)]


def refusals(told: dict[str, Any]) -> dict[str, TacitError]:
    """Whose run ended with an error of its own."""
    return {
        name: end
        for name, end in told.items()
        if isinstance(end, TacitError) and not isinstance(end, Over | CheckpointError)
    }


# Honest


def test_a_networked_run_leaves_a_record_that_holds(ward: Ward) -> None:
    told = ward.carry_out()
    assert {end.outcome for end in told.values()} == {"finished"}
    parts = ["round-open", *["contribution"] * 5]
    # A round's model is measured while the next one is open.
    kinds = ["genesis", *parts, "aggregate", *parts, "evaluation", "aggregate", "evaluation"]
    assert [said.kind for said in statements(ward.record)] == kinds
    audit = verify(ward.record)
    assert audit.findings == ()
    assert dict(audit.checks)["openings"] == "2 commitments opened"
    assert audit.head is not None
    assert audit.head.size == len(kinds)
    rows = experiment().data.test.sizes
    right = sum(rows[i] * told[name].scores["accuracy"] for i, name in enumerate(NAMES))
    percent = round(100 * right / rows.sum())
    says = {"round": 1, "metric": "accuracy", "percent": percent}
    assert statements(ward.record)[-1].says == says
    genesis = Envelope.from_bytes(entries(ward.record)[0])
    assert sorted(genesis.signatures) == [*NAMES, "coordinator"]
    for name in NAMES:
        assert ward.against(name).findings == ()
        part = ward.site(name) / processes.RECORD
        for secret in (OPENINGS, "witness.key"):
            assert (part / secret).stat().st_mode & 0o077 == 0
    (key,) = (ward.folder / "run").glob("log-*.key")
    assert key.stat().st_mode & 0o077 == 0
    # Started again without its record, the run does not go on.
    plan = experiment(rounds=ROUNDS)
    public = plan.replace(data=told_nothing(plan.data))
    with pytest.raises(InputError, match=r"record: the run in .*run began with one; give the same"):
        processes.coordinate(
            public, ward.folder / "hub", ward.folder / "run", listen=[ward.address]
        )
    # A site opens its commitments, and nobody else's, to whoever has a copy.
    shutil.copy(ward.site("3") / processes.RECORD / OPENINGS, ward.record / OPENINGS)
    opened = verify(ward.record)
    assert opened.findings == ()
    assert dict(opened.checks)["openings"] == "2 commitments opened"
    words = ["verify", str(ward.record), "--against", str(ward.site("1") / processes.RECORD)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "other head" in done.stdout


def test_a_deadline_is_in_the_record(ward: Ward) -> None:
    told = ward.carry_out(deadline=599.5)
    assert {end.outcome for end in told.values()} == {"finished"}
    assert verify(ward.record).findings == ()
    begun = [said.says for said in statements(ward.record) if said.kind == "round-open"]
    assert [said["deadline"] for said in begun] == [600, 600]


def test_a_run_without_a_record_writes_none(ward: Ward) -> None:
    told = ward.carry_out(record=False)
    assert {end.outcome for end in told.values()} == {"finished"}
    assert not ward.record.exists()
    assert not list((ward.folder / "run").glob("log-*.key"))
    assert not any((ward.site(name) / processes.RECORD).exists() for name in NAMES)


@pytest.mark.slow
def test_a_rule_turns_the_same_away_as_in_one_process(ward: Ward) -> None:
    ward.carry_out(aggregation=tacit.Krum(f=1))
    one = ward.folder / "one"
    tacit.run(experiment(rounds=ROUNDS, aggregation=tacit.Krum(f=1)), record=one)

    def included(folder: Path) -> list[list[str]]:
        said = statements(folder)
        return [
            sorted(said[place].says["site"] for place in each.says["included"])
            for each in said
            if each.kind == "aggregate"
        ]

    assert verify(ward.record).findings == ()
    assert included(ward.record) == included(one)
    assert [len(names) for names in included(one)] == [1, 1]
    last = [said for said in statements(ward.record) if said.kind == "aggregate"][-1]
    assert [each["reason"] for each in last.says["excluded"]] == ["turned away by Krum"] * 4


@pytest.mark.slow
def test_what_sites_keep_for_a_secure_sum_is_recorded(ward: Ward) -> None:
    told = ward.carry_out(protection=[tacit.SecureAggregation(threshold=3)])
    assert {end.outcome for end in told.values()} == {"finished"}
    assert verify(ward.record).findings == ()
    said = [each for each in statements(ward.record) if each.kind == "contribution"]
    assert len(said) == 10
    assert {each.says["claim"] for each in said} == {"SecureAggregation"}


# A hostile coordinator


def again(recording: Recording, entries: list[bytes]) -> None:
    """Another history in place of the one that the sites have seen."""
    recording.log = Log(recording.folder / "again.db", recording.log.origin)
    recording._places, recording._closed, recording._open, recording._last = {}, 0, -1, 0
    recording._append(entries)


class Forking(Recording):
    """Sites 3 and 4 are shown another history, in which they alone take part."""

    other: Recording | None = None

    def go_on(self, *given: Any) -> None:
        if self.other is None:
            fork = self.folder.with_name("fork")
            fork.mkdir()
            shutil.copy(self.folder / POLICY, fork)
            log = Log(fork / LOG, self.log.origin)
            log.append(list(self.log))
            log.close()
            own = self.folder.with_name("run")
            self.other = Recording(fork, own, self.experiment, self.keeper, self.key_of)
        super().go_on(*given)
        self.other.go_on(*given)

    def end(self) -> None:
        super().end()
        assert self.other is not None
        self.other.end()

    def order(self, site: str) -> Any:
        return self.other.order(site) if self.forked(site) else super().order(site)

    def answer(self, site: str, request: Any) -> Any:
        shown = self.other.answer if self.forked(site) else super().answer
        return shown(site, request)

    def check(self, site: str, *given: Any) -> None:
        (self.other.check if self.forked(site) else super().check)(site, *given)

    def contributed(self, site: str, *given: Any) -> None:
        (self.other.contributed if self.forked(site) else super().contributed)(site, *given)

    def forked(self, site: str) -> bool:
        return self.other is not None and site in ("3", "4")


def test_a_fork_shown_to_some_of_the_sites_counts_nowhere(ward: Ward) -> None:
    ward.commits(Forking)
    ward.carry_out()
    for record in (ward.record, ward.folder / "fork"):
        (wrong, *others) = verify(record).findings  # three and two of five: no quorum
        assert {finding.check for finding in (wrong, *others)} == {"signatures of the head"}
    assert [finding.check for finding in ward.against("0").findings if finding.entry is None] == [
        "signatures of the head"
    ]
    assert "its first 9 entries were rewritten since" in map(str, ward.against("4").findings)


class RolledBack(Recording):
    """After the first round only the first entry is left."""

    def go_on(self, round: int, *given: Any) -> None:
        if round == 1:
            again(self, list(self.log)[:1])
            self._propose(1)
        else:
            super().go_on(round, *given)


class Edited(Recording):
    """Once the sites have cosigned it, a contribution is another."""

    def go_on(self, round: int, *given: Any) -> None:
        if round == ROUNDS:
            new = list(self.log)
            said = Envelope.from_bytes(new[3])
            new[3] = bytes(Envelope(said.payload.replace(b"none", b"some"), said.signatures))
            assert new[3] != list(self.log)[3]
            again(self, new)
        super().go_on(round, *given)


class Unopened(Recording):
    """The second round is not in the record."""

    def go_on(self, round: int, model: Path, last: Any, over: bool) -> None:
        super().go_on(round, model, last, over or round == 1)


class Unlogged(Unopened):
    """The second round's beginning is signed and shown, and not in the record."""

    def go_on(self, round: int, model: Path, *given: Any) -> None:
        super().go_on(round, model, *given)
        base = hashlib.sha256(model.read_bytes()).digest()
        said = records.round_open(round, 0, self._task, base, self.log.head())
        self.shown = self._signed(said)

    def _extension(self, site: str, request: Any) -> Any:
        reply = super()._extension(site, request)
        return msgspec.structs.replace(reply, entry=self.shown) if self._closed == 1 else reply


class Silent(Recording):
    """In the second round nobody is asked to cosign anything."""

    def order(self, site: str) -> Any:
        return None if self._open == 1 else super().order(site)

    def go_on(self, round: int, *given: Any) -> None:
        if round == 0:
            super().go_on(round, *given)


class Swapped(Recording):
    """The record names another model than the sites get."""

    def go_on(self, round: int, model: Path, *given: Any) -> None:
        other = self.folder / "other"
        other.write_bytes(b"another")
        super().go_on(round, other if round == 1 else model, *given)


class WrongEnd(Recording):
    """The last aggregate names another model than the sites get."""

    def _aggregate(self, round: int, model: bytes, row: Any) -> Statement:
        return super()._aggregate(round, model if round < ROUNDS - 1 else bytes(32), row)

    def go_on(self, *given: Any) -> None:
        with suppress(InputError):  # which an honest coordinator ends with
            super().go_on(*given)
        if given[0] == ROUNDS:
            self._propose(len(self.log))


@pytest.mark.parametrize(
    ("crime", "code", "said"),
    [
        (RolledBack, Forked, "1 entries are left of 2"),
        slow(Edited, Forked, "its first 9 entries are not those that were cosigned"),
        (Unopened, Unrecorded, "asks for round 2, whose beginning is not in its record"),
        (Unlogged, Unrecorded, "names the beginning of a round that is not in its record"),
        slow(Silent, Unrecorded, "asks for round 2, whose beginning is not in its record"),
        slow(Swapped, Unrecorded, "sent another model than its record names"),
        slow(WrongEnd, Unrecorded, "sent another model than its record names"),
    ],
)
def test_no_site_goes_on(crime: type[Recording], code: type, said: str, ward: Ward) -> None:
    ward.commits(crime)
    found = refusals(ward.carry_out())
    assert len(found) >= 3  # after which the test ends the run
    for error in found.values():
        assert isinstance(error, code), error
        assert said in str(error)
    for name in found:  # and it has trained on nothing that is not recorded
        notes = json.loads((ward.site(name) / "site.json").read_text())
        assert notes["round"] == (1 if crime in (Edited, WrongEnd) else 0)


def test_no_site_begins_a_record_with_other_rules(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weaker(plan: tacit.Experiment) -> dict[str, str]:
        return rules(plan) | {"protection": "[]", "privacy budget": "none"}

    monkeypatch.setattr(network_recording, "rules", weaker)
    noise = [tacit.Clip(1.0), tacit.GaussianNoise(multiplier=1.0, delta=1e-5, where="local")]
    found = refusals(ward.carry_out(protection=noise))
    assert len(found) >= 3  # after which the test ends the run
    for error in found.values():
        assert isinstance(error, Unrecorded)
        assert "begins a record with other rules than the experiment's" in str(error)
    assert entries(ward.record) == []


class Alone(Policy):
    """Nobody has to cosign."""

    @classmethod
    def of(cls, logs: Sequence[Key], witnesses: Sequence[Key]) -> Policy:
        return replace(Policy.of(logs, witnesses), groups={}, rule="none")


def test_no_site_begins_a_record_whose_heads_count_without_the_witnesses(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_recording, "Policy", Alone)
    found = refusals(ward.carry_out())
    assert len(found) >= 3
    for error in found.values():
        assert "begins a record that is not of this run" in str(error)
    assert entries(ward.record) == []


class WrongAggregate(Recording):
    """The first aggregate names another model than the one that the next round begins with."""

    def _aggregate(self, round: int, model: bytes, row: Any) -> Statement:
        self.real = model
        return super()._aggregate(round, model if round else bytes(32), row)

    def _read(self, place: int, entry: bytes) -> None:
        super()._read(place, entry)
        if self._model == bytes(32):
            self._model = self.real


class Omitting(Recording):
    """What site 2 sends in the first round is counted, and not recorded."""

    def contributed(self, site: str, round: int, entry: bytes) -> None:
        if (site, round) != ("2", 0):
            super().contributed(site, round, entry)


class Denying(Recording):
    """What site 2 sends is recorded, and neither counted nor left out."""

    def _aggregate(self, round: int, model: bytes, row: Any) -> Statement:
        said = super()._aggregate(round, model, row)
        left = [place for place in said.says["included"] if place != self._places[round]["2"]]
        return Statement(said.kind, said.subjects, {**said.says, "included": left})


@pytest.mark.parametrize(
    ("crime", "said"),
    [
        (WrongAggregate, "entry 8: it does not begin with the model of the round before"),
        slow(Denying, "it leaves out the contribution of 2 in entry"),
    ],
)
def test_what_sites_cannot_see_an_auditor_does(
    crime: type[Recording], said: str, ward: Ward
) -> None:
    ward.commits(crime)
    told = ward.carry_out()
    assert {end.outcome for end in told.values()} == {"finished"}
    found = [str(finding) for finding in verify(ward.record).findings]
    assert any(said in each for each in found)
    others = [each for each in found if said not in each]
    assert others == ["entry 14: it measures another model than the last"] * len(others)


class Pretending(Omitting):
    """As a receipt it shows the place of another entry."""

    def contributed(self, site: str, round: int, entry: bytes) -> None:
        super().contributed(site, round, entry)
        if (site, round) == ("2", 0):
            self._stand[leaf_hash(entry)] = 0


@pytest.mark.parametrize("crime", [Pretending, slow(Omitting)])
def test_a_site_names_the_coordinator_that_withholds_its_receipt(
    crime: type[Recording], ward: Ward, caplog: pytest.LogCaptureFixture
) -> None:
    ward.commits(crime)
    ward.carry_out()
    said = [each.message for each in caplog.records if "leaves out what" in each.message]
    assert said == ["coordinator's record leaves out what this site sent in round 1"]


def test_a_record_that_was_cut_short_does_not_hold_against_a_site(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, heads = Log.keep, dict[int, str]()

    def seen(log: Log, size: int, note: str) -> None:
        heads[size] = note
        keep(log, size, note)

    monkeypatch.setattr(Log, "keep", seen)
    ward.carry_out()
    with sqlite3.connect(ward.record / LOG) as db:
        db.execute("DELETE FROM entries WHERE place >= 9")
        db.execute("DELETE FROM nodes WHERE (place + 1) * (1 << level) > 9")
        db.execute("UPDATE heads SET size = 9, note = ?", (heads[9],))
    (ward.record / OPENINGS).unlink()  # of evaluations that are not there any more
    alone = verify(ward.record)
    assert alone.findings == ()
    (wrong,) = ward.against("0").findings
    assert str(wrong) == "it was rolled back: 17 entries were there before"


def test_a_genesis_that_a_founder_has_not_signed(ward: Ward) -> None:
    ward.carry_out()
    found = Envelope.from_bytes(entries(ward.record)[0])
    less = {name: raw for name, raw in found.signatures.items() if name != "3"}
    with sqlite3.connect(ward.record / LOG) as db:
        entry = bytes(Envelope(found.payload, less))
        db.execute("UPDATE entries SET entry = ? WHERE place = 0", (entry,))
    assert "entry 0: 3 has not signed it" in map(str, verify(ward.record).findings)


# A hostile site


class Forger(Careful):
    """It signs a contribution in the name of another."""

    def _entry(self, notes: Notes) -> bytes:
        said = Envelope.from_bytes(super()._entry(notes)).statement
        other = Statement(said.kind, said.subjects, {**said.says, "site": "1"})
        assert self.record is not None
        return signed(other, {"4": self.record.signer})


class Impostor(Careful):
    """It signs with another's name, too."""

    def _entry(self, notes: Notes) -> bytes:
        said = Envelope.from_bytes(super()._entry(notes)).statement
        other = Statement(said.kind, said.subjects, {**said.says, "site": "1"})
        assert self.record is not None
        return signed(other, {"1": self.record.signer})


class Replayer(Careful):
    """In the second round it sends the contribution of the first."""

    first = b""

    def _entry(self, notes: Notes) -> bytes:
        self.first = self.first or super()._entry(notes)
        return self.first


class Unsigned(Careful):
    """It sends an update and signs nothing."""

    def _entry(self, notes: Notes) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("liar", "said", "parts"),
    [
        (Forger, "'4' has signed a contribution to something else", 8),
        slow(Impostor, "'1' has signed, who is no member", 8),
        slow(Replayer, "'4' has signed a contribution to something else", 9),
        slow(Unsigned, "the entry is no signed envelope", 8),
    ],
)
def test_a_site_signs_for_itself_and_for_the_round(
    liar: type[SiteRun], said: str, parts: int, ward: Ward
) -> None:
    ward.lies({"4": liar})
    told = ward.carry_out()
    assert {end.outcome for name, end in told.items() if name != "4"} == {"finished"}
    assert isinstance(told["4"], Refused)
    assert said in str(told["4"])
    assert verify(ward.record).findings == ()  # with the cosignatures of four of five
    kinds = [each.kind for each in statements(ward.record)]
    assert kinds.count("contribution") == parts


# Many sites


def test_more_sites_than_witnesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By calls: three witnesses and founders, and two members more."""
    monkeypatch.setattr(network_recording, "MOST_WITNESSES", 3)
    monkeypatch.setattr(records, "MOST_FOUNDERS", 3)
    names = [f"site-{i}" for i in range(5)]
    data = tacit.data.at_sites(names, target="y", columns=["a"], labels=[0, 1])
    plan = experiment(data=data, rounds=1, model=lambda: torch.nn.Linear(1, 2))
    keys = {name: Ed25519PrivateKey.generate() for name in ("hub", *names)}
    keeper: Any = SimpleNamespace(name="hub", sign=keys["hub"].sign)
    model = tmp_path / "model"
    model.write_bytes(b"a model")

    def key_of(name: str) -> Ed25519PublicKey:
        return keys[name].public_key()

    recording = Recording(tmp_path / "record", tmp_path, plan, keeper, key_of)
    sites = {
        name: Witnessing(
            tmp_path / name, plan.digest(), 1, name, keys[name], "hub", key_of,
            partial(recording.answer, name), rules=rules(plan),
        )
        for name in names
    }  # fmt: skip

    def all_follow() -> None:
        while orders := {n: order for n in names if (order := recording.order(n)) is not None}:
            for name, order in orders.items():
                sites[name].follow(order)

    all_follow()
    assert recording.absent == []
    recording.go_on(0, model, {}, False)
    all_follow()
    for name in names:
        entry, _ = sites[name].contribution(0, model, 10, "none")
        recording.check(name, 0, entry, 10)
        for _ in range(2):  # it counts once
            recording.contributed(name, 0, entry)
    recording.go_on(1, model, {"left_out": names[:2]}, False)
    all_follow()
    recording.close()
    for site in sites.values():
        site.close()
    audit = verify(tmp_path / "record", against=tmp_path / "site-4")
    assert audit.findings == ()
    kinds = [said.kind for said in statements(tmp_path / "record")]
    assert kinds == ["genesis", "membership", "round-open", *["contribution"] * 5, "aggregate"]
    last = statements(tmp_path / "record")[-1]
    assert [each["entry"] for each in last.says["excluded"]] == [3, 4]
    with pytest.raises(InputError, match="holds 1 rounds, and round 4 is to be recorded"):
        Recording(tmp_path / "record", tmp_path, plan, keeper, key_of).require(3)
