"""Records of asynchronous runs over real sockets: honest ones hold, and every crime is named."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import tacit
from tacit.engine.recording import rules
from tacit.errors import InputError, MessageError
from tacit.ledger.recorder import OPENINGS
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import verify
from tacit.network import processes
from tacit.network.async_recording import AsyncRecording
from tacit.network.asynchronous import AsyncCoordinator, AsyncSiteRun
from tacit.network.protocol import MOST_RECEIPTS
from tacit.network.store import Arrival, Store
from tacit.network.witnessing import Unrecorded, Witnessing
from test_network_records import NAMES, Careful, Ward, refusals, statements
from test_network_rounds import experiment

STEPS, BUFFER = 6, 3


class CarefulAsync(Careful, AsyncSiteRun):
    """A site beside others in this process."""


class AsyncWard(Ward):
    """A ward whose coordinator waits for nobody."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)

        def make(*given: Any, **settings: Any) -> AsyncCoordinator:
            self.made.append(AsyncCoordinator(*given, **settings))
            self.arrived = self.made[-1]._arrived
            return self.made[-1]

        monkeypatch.setattr(processes, "AsyncCoordinator", make)

    def carry_out(self, **changes: Any) -> dict[str, Any]:
        fields = {
            "algorithm": tacit.FedBuff(buffer=BUFFER),
            "rounds": STEPS,
            "evaluate_every": STEPS,
        }
        return super().carry_out(**fields | changes)

    def commits(self, crime: type[AsyncRecording]) -> None:
        self.patch.setattr(processes, "AsyncRecording", crime)

    def lies(self, liars: dict[str, type[AsyncSiteRun]]) -> None:
        def make(*given: Any, **settings: Any) -> AsyncSiteRun:
            return liars.get(given[2], CarefulAsync)(*given, **settings)

        self.patch.setattr(processes, "AsyncSiteRun", make)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncWard:
    return AsyncWard(tmp_path, monkeypatch)


def test_a_run_that_waits_for_nobody_leaves_a_record_that_holds(ward: AsyncWard) -> None:
    told = ward.carry_out()
    assert {getattr(end, "outcome", end) for end in told.values()} == {"finished"}, told
    one = ["round-open", *["contribution"] * BUFFER, "aggregate"]
    kinds = [said.kind for said in statements(ward.record)]
    # A model is evaluated if three sites have measured it in time.
    assert [kind for kind in kinds if kind != "evaluation"] == ["genesis", *one * STEPS]
    for audit in (verify(ward.record), *map(ward.against, NAMES)):
        assert audit.findings == ()


class Omitting(AsyncRecording):
    """The second update that counts is not recorded."""

    def _closing(self, round: int, model: bytes, row: Any) -> list[bytes]:
        entries = super()._closing(round, model, row)
        if round:
            return entries
        last = Envelope.from_bytes(entries[-1]).statement
        less = Statement(last.kind, last.subjects, {**last.says, "included": [2, 3]})
        return [entries[0], *entries[2:-1], self._signed(less)]


def test_a_site_reports_what_was_taken_and_is_not_recorded(
    ward: AsyncWard, caplog: pytest.LogCaptureFixture
) -> None:
    ward.commits(Omitting)
    told = ward.carry_out()
    assert {end.outcome for end in told.values()} == {"finished"}
    assert verify(ward.record).findings == ()  # only the site that sent it can know
    arrived = ward.arrived[1]
    reports = [path for name in NAMES for path in ward.site(name).glob("record/incident-*")]
    (report,) = reports
    assert report.parent.parent == ward.site(arrived.site)
    told_of = dict(ward.against(arrived.site).checks)["reports"]
    assert f"what {arrived.site} signed for round {arrived.round} is not in the record" in told_of
    said = [each.message for each in caplog.records if "leaves out what" in each.message]
    assert said == [
        f"coordinator's record leaves out what this site sent in round {arrived.round + 1}"
    ]


class Swapped(AsyncRecording):
    """From the second step on the record names another model than the sites get."""

    def go_on(self, round: int, model: Path, *given: Any) -> None:
        other = self.folder / "other"
        other.write_bytes(b"another")
        super().go_on(round, other if round else model, *given)


class Unopened(AsyncRecording):
    """The second step is not in the record."""

    def go_on(self, round: int, model: Path, last: Any, over: bool) -> None:
        if round < 2:
            super().go_on(round, model, last, over or round == 1)


class Lenient(AsyncRecording):
    """Its genesis lets contributions count that are older than the plan allows."""

    def _beginning(self) -> Any:
        found = super()._beginning()
        (said, names), *others = found.statements
        rules = said.says["rules"] | {"max_staleness": "21"}
        other = Statement(said.kind, said.subjects, {**said.says, "rules": rules})
        return replace(found, statements=((other, names), *others))


@pytest.mark.parametrize(
    ("crime", "said"),
    [
        (Lenient, "begins a record with other rules than the experiment's"),
        pytest.param(Swapped, "sent another model than its record names", marks=pytest.mark.slow),
        pytest.param(Unopened, "whose beginning is not in its record", marks=pytest.mark.slow),
    ],
)
def test_no_site_goes_on(crime: type[AsyncRecording], said: str, ward: AsyncWard) -> None:
    ward.commits(crime)
    found = refusals(ward.carry_out())
    assert len(found) >= 3  # after which the test ends the run
    for error in found.values():
        assert isinstance(error, Unrecorded), error
        assert said in str(error)


# By calls


class Desk:
    """The record of a run of three sites, and what each has of it, in one process."""

    names = ("a", "b", "c")

    def __init__(self, folder: Path, staleness: int = 1, rounds: int = 4) -> None:
        self.folder = folder
        data = tacit.data.at_sites(self.names, target="y", columns=["x"], labels=[0, 1])
        self.plan = experiment(
            data=data, rounds=rounds, model=lambda: torch.nn.Linear(1, 2),
            algorithm=tacit.FedBuff(buffer=2, max_staleness=staleness),
        )  # fmt: skip
        self.keys = {name: Ed25519PrivateKey.generate() for name in ("hub", *self.names)}
        self.steps: list[list[bytes]] = []
        self.open()
        self.sites = {name: self.site(name, staleness) for name in self.names}
        self.follow()
        self.at(0)

    def open(self) -> None:
        keeper: Any = SimpleNamespace(name="hub", sign=self.keys["hub"].sign)
        self.recording = AsyncRecording(
            self.folder / "record", self.folder, self.plan, keeper, self.key_of
        )
        self.recording.step = lambda round: self.steps[round]

    def key_of(self, name: str) -> Ed25519PublicKey:
        return self.keys[name].public_key()

    def site(self, name: str, staleness: int | None) -> Witnessing:
        return Witnessing(
            self.folder / name, self.plan.digest(), self.plan.rounds, name, self.keys[name],
            "hub", self.key_of, lambda request: self.recording.answer(name, request),
            staleness=staleness, rules=rules(self.plan),
        )  # fmt: skip

    def follow(self) -> None:
        while orders := {n: o for n in self.names if (o := self.recording.order(n)) is not None}:
            for name, order in orders.items():
                self.sites[name].follow(order)

    def model(self, round: int) -> Path:
        path = self.folder / f"model-{round}"
        path.write_bytes(b"model %d" % round)
        return path

    def at(self, round: int, turned_away: dict[str, str] | None = None) -> None:
        """The run is at the beginning of a round."""
        row = {"turned_away": turned_away or {}}
        self.recording.go_on(round, self.model(round), row, False)

    def trains(self, name: str, round: int, again: int = 0) -> bytes:
        """A site begins to train from the newest model; what it signs in the end."""
        site = self.sites[name]
        assert site.allows(round)
        site.require(self.model(round))
        return site.contribution(round, b"%d %d" % (round, again), 10, "none", again)[0]

    def delivers(self, name: str, round: int, entry: bytes, again: int = 0) -> bytes:
        """What it signed is accepted."""
        self.recording.check(name, round, entry, 10)
        self.recording.take(entry)
        self.sites[name].expect(round, again)
        return entry

    def opened(self, name: str) -> int:
        with closing(sqlite3.connect(self.folder / name / OPENINGS)) as db:
            return int(db.execute("SELECT count(*) FROM openings").fetchone()[0])

    def audited(self) -> list[str]:
        """What audits find, with what each site has."""
        self.follow()
        audits = [verify(self.folder / "record", against=self.folder / name) for name in self.names]
        return [str(finding) for audit in audits for finding in audit.findings]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.recording.close()
    for site in desk.sites.values():
        site.close()


def test_a_slow_site_names_the_model_that_it_began_with(desk: Desk) -> None:
    slow = desk.trains("a", 0)
    first = [desk.delivers(name, 0, desk.trains(name, 0)) for name in ("b", "c")]
    desk.steps.append(first)
    desk.at(1)
    # Of the last one's model twice, and of the first one's, with what that model was.
    again = desk.delivers("b", 1, desk.trains("b", 1))
    assert Envelope.from_bytes(slow).statement.subjects["base"] == sha256(b"model 0").digest()
    desk.steps.append([desk.delivers("a", 0, slow), again])
    desk.at(2, {"0": "turned away by Krum"})
    twice = [desk.delivers("b", 2, desk.trains("b", 2, i), i) for i in (0, 1)]
    desk.steps.append(twice)
    desk.at(3)
    assert desk.audited() == []
    assert {name: desk.opened(name) for name in desk.names} == {"a": 1, "b": 4, "c": 1}
    told = statements(desk.folder / "record")
    assert [said.says["included"] for said in told if said.kind == "aggregate"] == [
        [2, 3], [7], [10, 11]
    ]  # fmt: skip
    assert not list(desk.folder.glob("*/incident-*"))


def test_whoever_is_started_again_writes_the_same_and_nothing_twice(desk: Desk) -> None:
    desk.steps.append([desk.delivers(name, 0, desk.trains(name, 0)) for name in ("b", "c")])
    desk.at(1)
    size = len(desk.recording.log)
    desk.recording.close()
    desk.open()
    desk.at(1)
    assert len(desk.recording.log) == size
    (entry, _) = desk.steps[0]
    with pytest.raises(MessageError, match="'b' has signed this contribution before"):
        desk.recording.check("b", 0, entry, 10)
    # A site that was killed before it noted that its update was taken delivers it once more.
    assert desk.trains("b", 1) != entry
    desk.follow()
    assert desk.opened("b") == 1
    desk.sites["b"].close()
    desk.sites["b"] = desk.site("b", 1)
    assert desk.sites["b"].contribution(0, b"0 0", 10, "none", 0)[0] == entry
    desk.sites["b"].expect(0, 0)
    assert desk.audited() == []
    assert desk.opened("b") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"again": 1}, None),
        ({"base": sha256(b"model 1").digest()}, "something else"),  # the newest, not its own
        ({"base": bytes(32)}, "something else"),
        ({"round": 1}, "something else"),
        ({"round": 2}, "something else"),
        ({"site": "b"}, "something else"),
        ({"rows": "1000-9999"}, "something else"),
        ({"replayed": True}, "signed this contribution before"),
    ],
)
def test_a_site_signs_what_it_began_with_and_nothing_twice(
    change: dict[str, Any], said: str | None, desk: Desk
) -> None:
    entry = desk.delivers("a", 0, desk.trains("a", 0))
    desk.steps.append([entry, desk.delivers("b", 0, desk.trains("b", 0))])
    other = desk.trains("a", 0, 1)
    desk.at(1)
    if change != {"again": 1}:
        old = Envelope.from_bytes(entry if "replayed" in change else other).statement
        base = {"base": change.get("base", old.subjects["base"])}
        says = {key: value for key, value in change.items() if key in old.says}
        # Once more, under another signature than before.
        rows = {"rows": old.says["rows"]}
        new = Statement(old.kind, {**old.subjects, **base}, {**old.says, **rows, **says})
        other = signed(new, {"a": desk.keys["a"]})
    if said is None:
        desk.recording.check("a", 0, other, 10)
        return
    with pytest.raises(MessageError, match=said):
        desk.recording.check("a", 0, other, 10)


def test_a_fast_site_finds_all_that_it_sent(desk: Desk) -> None:
    many = 2 * MOST_RECEIPTS + 3
    parts = [desk.delivers("b", 0, desk.trains("b", 0, i), i) for i in range(many)]
    desk.steps.append(parts)
    desk.at(1)
    desk.follow()
    assert desk.opened("b") == many
    assert desk.audited() == []


def test_what_was_refused_is_not_waited_for(desk: Desk) -> None:
    desk.trains("a", 0)
    for round in range(4):
        parts = [desk.delivers("b", round, desk.trains("b", round, i), i) for i in (0, 1)]
        desk.steps.append(parts)
        if round < 3:
            desk.at(round + 1)
    desk.recording.go_on(4, desk.model(4), {"turned_away": {}}, True)
    assert desk.audited() == []
    assert not list(desk.folder.glob("*/incident-*"))


def test_what_was_taken_is_reported_once_it_can_count_no_more(desk: Desk) -> None:
    desk.delivers("a", 0, desk.trains("a", 0))
    reports = []
    for round in range(3):
        parts = [desk.delivers("b", round, desk.trains("b", round, i), i) for i in (0, 1)]
        desk.steps.append(parts)
        desk.at(round + 1)
        desk.follow()
        reports.append(len(list(desk.folder.glob("a/incident-*"))))
    assert reports == [0, 1, 1]  # it might have counted in the second step, which was one later
    audit = verify(desk.folder / "record", against=desk.folder / "a")
    assert audit.findings == ()
    assert "what a signed for round 0 is not in the record" in dict(audit.checks)["reports"]


class Silent(AsyncRecording):
    """It gives no receipts."""

    def _extension(self, site: str, request: Any) -> Any:
        return msgspec.structs.replace(super()._extension(site, request), receipts=())


def test_a_coordinator_that_gives_no_receipts_is_refused(desk: Desk) -> None:
    desk.steps.append([desk.delivers("b", 0, desk.trains("b", 0, i), i) for i in (0, 1)])
    desk.at(1)
    desk.recording.__class__ = Silent
    with pytest.raises(Unrecorded, match="tells of other contributions than it is asked"):
        desk.sites["b"].allows(1)


def test_a_record_that_is_to_begin_within_a_run_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    store = Store(tmp_path / "coordinator", desk.plan.digest())
    store.arrive(0, Arrival("a", 0, 0, b"d" * 32, 0.5))
    with pytest.raises(InputError, match="this run began without a record"):
        AsyncCoordinator(desk.plan, store, print, print, record=desk.recording)
    store.close()
    desk.recording.close()
