"""Secure sums in the records of networked runs: an auditor computes them again."""

import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from typer.testing import CliRunner

import tacit
from tacit.cli import app
from tacit.engine.recording import rules
from tacit.engine.secure_sum import Opened
from tacit.errors import InputError, MessageError, TacitError
from tacit.ledger import records
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import verify
from tacit.network import processes
from tacit.network.authority import Authority
from tacit.network.masked import Masked, vector_in
from tacit.network.protocol import Answer, Enter, Go, Reply, Stage
from tacit.network.recording import Recording
from tacit.network.stages import MASKS
from tacit.network.sums import CoordinatorSum, SiteSum
from tacit.network.witnessing import Unrecorded, Witnessing
from tacit.protection.secagg.messages import Kind, header, write_table
from tacit.protection.secagg.session import Session
from test_network_policy import FILE
from test_network_records import NAMES, Careful, Ward, entries, refusals, statements
from test_network_records import ward as ward
from test_network_rounds import experiment

SECURE = [tacit.SecureAggregation(threshold=3)]
CLAIM = "SecureAggregation"


# By calls


class Round:
    """One round of a coordinator and five sites, each in the other's hands."""

    def __init__(self, folder: Path, kind: type[Recording] = Recording) -> None:
        self.folder = folder
        data = tacit.data.at_sites(NAMES, target="y", columns=["a"], labels=[0, 1])
        plan = experiment(
            data=data, rounds=1, model=lambda: torch.nn.Linear(1, 2), protection=SECURE
        )
        self.keys = {name: Ed25519PrivateKey.generate() for name in ("hub", *NAMES)}
        keeper: Any = SimpleNamespace(name="hub", sign=self.keys["hub"].sign)
        self.experiment, self.keeper, self.kind = plan, keeper, kind
        self.model = folder / "model"
        self.model.write_bytes(b"a model")
        self.recording = self.again()
        self.sites = {
            name: Witnessing(
                folder / name, plan.digest(), 1, name, self.keys[name], "hub", self.key_of,
                partial(self.answer, name), rules=rules(plan),
            )
            for name in NAMES
        }  # fmt: skip
        self.follow()
        self.recording.go_on(0, self.model, {}, False)
        self.follow()
        self.sums = 0

    def again(self) -> Recording:
        """The coordinator's part, of what is on the disk."""
        path = self.folder
        return self.kind(
            path / "record", path, self.experiment, self.keeper, self.key_of, path / "openings"
        )

    def answer(self, name: str, request: Any) -> Reply:
        return self.recording.answer(name, request)

    def key_of(self, name: str) -> Ed25519PublicKey:
        return self.keys[name].public_key()

    def follow(self) -> None:
        """All do what the record asks them for."""
        order: Any
        while orders := {n: order for n in NAMES if (order := self.recording.order(n)) is not None}:
            for name, order in orders.items():
                self.sites[name].follow(order)

    def sum(
        self,
        lost: Callable[[Stage], tuple[int, ...]] = lambda stage: (),
        lies: Callable[[int, bytes], bytes] = lambda node, vector: vector,
    ) -> Opened | None:
        """A session of the round, with who is lost in a stage, and what the sites sign."""
        number, self.sums = self.sums, self.sums + 1
        nodes = tuple(range(len(NAMES)))
        session = Session(
            bytes.fromhex(self.experiment.digest()), bytes([number]) * 32, 0, nodes, 3, 4,
            np.dtype(np.uint32), 3,
        )  # fmt: skip
        keys = {node: self.key_of(NAMES[node]) for node in nodes}
        masked = Masked(self.recording, session, NAMES)
        mine = CoordinatorSum(MASKS, session, number, 0, keys, lambda body: body, masked)
        theirs = {
            node: SiteSum(
                MASKS, session, number, 0, node, self.keys[NAMES[node]], keys,
                partial(np.full, 4, node + 1, np.uint32),
            )
            for node in nodes
        }  # fmt: skip
        opened, gone = None, set[int]()
        while opened is None:
            stage = mine.stage
            gone |= set(lost(stage))
            for node, asked in dict(mine.asked).items():
                if node in gone:
                    continue
                assert isinstance(asked, bytes)
                body = theirs[node].answer(stage, asked)
                entry = nonce = b""
                if stage == "mask":
                    signed = lies(node, vector_in(session, node, body))
                    entry, nonce = self.sites[NAMES[node]].contribution(0, signed, 10, CLAIM)
                answer = Answer(self.experiment.digest(), 0, number, stage, body, entry, nonce)
                mine.check(node, answer, body, 10)
                assert mine.take(node, stage, body)
            opened = mine.advance(mine.close())
        return opened

    def end(self, *left_out: str) -> None:
        """The round is closed, and all have cosigned it."""
        self.model.write_bytes(b"another model")
        self.recording.go_on(1, self.model, {"left_out": left_out}, True)
        self.follow()
        self.recording.close()
        for site in self.sites.values():
            site.close()

    def found(self) -> list[str]:
        """What an auditor finds who has the openings."""
        audit = verify(self.folder / "record", openings=self.folder / "openings")
        assert {each.check for each in audit.findings} <= {"masked sums"}
        return [str(each) for each in audit.findings]

    def rows(self, asked: str, *values: Any) -> list[Any]:
        with sqlite3.connect(self.folder / "openings") as db:
            return db.execute(asked, values).fetchall()


def vector_message(session: Session, node: int, vector: bytes) -> bytes:
    return header(session, Kind.MASKED, node) + vector + write_table({})


def parts(folder: Path) -> list[tuple[int, Statement]]:
    """Contributions in a record, and their places."""
    return [
        (place, said)
        for place, said in enumerate(statements(folder))
        if said.kind == "contribution"
    ]


def test_a_sum_that_is_tried_again_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    round = Round(tmp_path)
    with pytest.raises(TacitError, match="2 nodes are left"):
        round.sum(lambda stage: (0, 1, 2) if stage == "consent" else ())
    before = {bytes(vector) for (vector,) in round.rows("SELECT vector FROM vectors")}
    assert len(before) == 5
    opened = round.sum(lambda stage: (4,) if stage == "mask" else ())
    assert opened is not None
    assert opened.total is not None
    assert opened.total.tolist() == [1 + 2 + 3 + 4] * 4
    round.end("4")
    assert round.found() == []
    assert [said.says["site"] for _, said in parts(round.folder / "record")] == list(NAMES[:4])
    # Of the first sum, and of who was lost in the second, no vector is there; nor are its bytes.
    assert round.rows("SELECT DISTINCT site FROM vectors ORDER BY site") == [(n,) for n in "0123"]
    file = (tmp_path / "openings").read_bytes()
    assert not any(vector in file for vector in before)
    assert round.rows("SELECT DISTINCT node FROM masks WHERE peer != ''") == [("4",)]
    assert (tmp_path / "openings").stat().st_mode & 0o077 == 0
    # A site opens by itself what it signed last.
    shutil.copy(tmp_path / "2" / "openings.db", tmp_path / "record")
    audit = verify(tmp_path / "record")
    assert audit.findings == ()
    assert dict(audit.checks)["openings"] == "1 commitments opened"


def test_a_coordinator_that_is_killed_after_a_sum_begins_the_round_again(tmp_path: Path) -> None:
    round = Round(tmp_path)
    round.sum()
    round.recording.close()
    round.recording = round.again()
    round.sum(lambda stage: (1,) if stage == "consent" else ())
    round.recording.close()  # and once more before the round is closed
    round.recording = round.again()
    round.end()
    assert round.found() == []
    opened = [said for said in statements(tmp_path / "record") if said.kind == "round-open"]
    assert [said.says["view"] for said in opened] == [0, 1]
    assert statements(tmp_path / "record")[-1].says["included"] == [8, 9, 10, 11, 12]
    assert "sum" in statements(tmp_path / "record")[-1].subjects


def test_a_site_that_signs_another_vector_than_it_sends_is_refused(tmp_path: Path) -> None:
    def lies(node: int, vector: bytes) -> bytes:
        return bytes(len(vector)) if node == 3 else vector

    round = Round(tmp_path)
    with pytest.raises(MessageError, match="'3' has signed another vector than it sends"):
        round.sum(lies=lies)


def test_a_site_sends_one_vector_to_a_sum(tmp_path: Path) -> None:
    round = Round(tmp_path)
    session = Session(bytes(32), bytes(32), 0, (0, 1, 2), 2, 4, np.dtype(np.uint32), 2)
    masked = Masked(round.recording, session, NAMES)
    message = vector_message(session, 2, b"a vector of four")
    entry, nonce = round.sites["2"].contribution(0, b"a vector of four", 10, CLAIM)
    for _ in range(2):
        masked.check(2, message, entry, nonce, 10)
    other = vector_message(session, 2, b"one more of four")
    entry, nonce = round.sites["2"].contribution(0, b"one more of four", 10, CLAIM)
    with pytest.raises(MessageError, match="'2' sends two vectors for one sum"):
        masked.check(2, other, entry, nonce, 10)
    with pytest.raises(MessageError, match="'1': a message does not belong to this session"):
        masked.check(1, message, entry, nonce, 10)


def test_a_changed_masked_vector_is_named(tmp_path: Path) -> None:
    round = Round(tmp_path)
    round.sum()
    round.end()
    (place,) = [at for at, said in parts(tmp_path / "record") if said.says["site"] == "2"]
    round.rows("UPDATE vectors SET vector = zeroblob(16) WHERE site = '2'")
    assert round.found() == [f"entry {place}: the masked vector is another than 2 has committed to"]


class OtherSum(Recording):
    """The coordinator commits to another sum than it had, and opens that commitment."""

    def _aggregate(self, *given: Any) -> Statement:
        assert self.openings is not None
        self.openings._db.execute(
            "UPDATE commitments SET digest = zeroblob(32) WHERE subject = 'sum'"
        )
        return super()._aggregate(*given)


def test_another_sum_is_named(tmp_path: Path) -> None:
    round = Round(tmp_path, OtherSum)
    round.sum()
    round.end()
    last = len(statements(tmp_path / "record")) - 1
    assert round.found() == [
        f"entry {last}: the sum of the masked vectors is another than hub has committed to"
    ]


class Replaying(Recording):
    """What the sites signed for the sum before stands in the record, and its vectors beside it."""

    first: Any = None

    def check(self, site: str, round: int, entry: bytes, rows: int) -> Statement:
        self.first = self.first or {}
        self.first.setdefault(site, entry)
        return super().check(site, round, entry, rows)

    def summed(self, entries: Any) -> None:
        super().summed({site: self.first[site] for site in entries})


def test_what_was_signed_for_another_sum_is_no_receipt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    round = Round(tmp_path, Replaying)
    with pytest.raises(TacitError, match="2 nodes are left"):
        round.sum(lambda stage: (0, 1, 2) if stage == "consent" else ())
    round.sum()
    round.end()
    said = [each.message for each in caplog.records if "leaves out what" in each.message]
    assert said == ["hub's record leaves out what this site sent in round 1"] * 5
    assert len(round.found()) == 5  # and to an auditor the nonces do not fit
    part = tmp_path / "2"
    told = dict(verify(tmp_path / "record", against=part).checks)["reports"]
    assert told == (
        "what 2 signed for round 0 is not in the record: it came too late to be counted, or hub"
        " withheld it"
    )
    # A report of what is there, or that another signs, is one itself.
    report = Envelope.from_bytes((part / "incident-0.json").read_bytes())
    sent = [text.encode() for text in report.statement.says["statements"]]
    place, _ = parts(tmp_path / "record")[0]
    recorded = entries(tmp_path / "record")[place]
    for member, text, why in [
        ("2", recorded, "the contribution is in the record"),
        ("3", *sent, "2 has not signed both"),
        ("2", b"{}", "the entry is no signed envelope in canonical JSON"),
    ]:
        said_so = signed(records.incident("hub", [text]), {member: round.keys[member]})
        (part / "incident-0.json").write_bytes(said_so)
        audit = verify(tmp_path / "record", against=part)
        assert [str(each) for each in audit.findings] == [f"incident-0.json proves nothing: {why}"]


def test_a_site_that_wants_a_record_trains_in_no_run_without_one(tmp_path: Path) -> None:
    site = Witnessing(
        tmp_path, "0" * 64, 1, "a", Ed25519PrivateKey.generate(), "hub", lambda name: 1 / 0,
        lambda request: 1 / 0, required=True, rules={},
    )  # fmt: skip
    with pytest.raises(Unrecorded, match="policy asks for a record of the run, and 'hub' keeps no"):
        site.allows(0)


# Over sockets


class Killed(Careful):
    """In the first round its process is gone when it is asked for what it hides."""

    stage = "mask"

    def _summed(self, order: Enter | Go) -> None:
        if isinstance(order, Go) and order.stage == self.stage and order.round == 0:
            raise Gone
        super()._summed(order)


class KilledLater(Killed):
    """It is gone once it has sent its vector."""

    stage = "consent"


class Gone(TacitError):
    """A site's process is gone."""

    code = "TEST"


@pytest.mark.parametrize(
    ("killed", "counted"),
    [(Killed, 8), pytest.param(KilledLater, 9, marks=pytest.mark.slow)],
)
def test_an_auditor_sums_a_networked_run_again(
    killed: type[Careful], counted: int, ward: Ward
) -> None:
    ward.lies({"4": killed})
    told = ward.carry_out(protection=SECURE, openings=ward.folder / "openings")
    assert isinstance(told.pop("4"), Gone)
    assert {end.outcome for end in told.values()} == {"finished"}
    audit = verify(ward.record, openings=ward.folder / "openings")
    assert audit.findings == ()
    assert dict(audit.checks)["masked sums"] == "2 rounds summed again"
    said = [each.says for _, each in parts(ward.record)]
    assert len(said) == counted
    assert {each["claim"] for each in said} == {CLAIM}
    assert ward.against("0").findings == ()
    with sqlite3.connect(ward.folder / "openings") as db:
        lost = db.execute("SELECT count(*) FROM masks WHERE node = '4' AND peer != ''")
        assert lost.fetchone() == (4 if killed is Killed else 0,)
        sent = db.execute("SELECT count(*) FROM vectors WHERE site = '4'")
        assert sent.fetchone() == (counted - 8,)


class Lying(Careful):
    """It signs another vector than it sends."""

    def _signed(self, *given: Any) -> tuple[bytes, bytes]:
        entry, nonce = super()._signed(*given)
        return entry, bytes(len(nonce))


@pytest.mark.slow
def test_no_site_that_wants_a_record_trains_without(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "take_part", partial(processes.take_part, record=True))
    found = refusals(ward.carry_out(record=False))
    assert len(found) >= 3
    assert {type(error) for error in found.values()} == {Unrecorded}
    assert not any((ward.site(name) / "site.json").exists() for name in NAMES)
    told = ward.carry_out()  # and with one they do
    assert {end.outcome for end in told.values()} == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_a_lying_site_is_in_no_sum(
    large: bool, ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # what is pulled is looked at as well
        monkeypatch.setattr("tacit.network.sums.SMALL", 16)
    ward.lies({"4": Lying})
    told = ward.carry_out(protection=SECURE, openings=ward.folder / "openings")
    assert {told[name].outcome for name in NAMES[:4]} == {"finished"}
    if not large:
        assert "'4' has signed another vector than it sends" in str(told["4"])
    assert verify(ward.record, openings=ward.folder / "openings").findings == ()
    assert {said.says["site"] for _, said in parts(ward.record)} == set(NAMES[:4])


def test_the_command_wants_a_record_beside_the_openings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    Authority.init("hearts", tmp_path / "hub", ["h:1"])
    (tmp_path / "plan.py").write_text(FILE)
    words = ["coordinator", str(tmp_path / "plan.py"), "--listen", "h:1", "--openings", "o"]
    done = CliRunner().invoke(app, [*words, "--home", str(tmp_path / "hub")])
    assert done.exit_code == 2
    assert "openings: a file was given without a record; give record as well" in done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"protection": SECURE, "algorithm": tacit.Scaffold()},
        {"protection": [*SECURE, tacit.VerifiableSum()]},
    ],
    ids=["none", "sums", "verifiable"],
)
def test_openings_that_a_networked_run_has_not(changes: dict[str, Any], tmp_path: Path) -> None:
    keeper: Any = SimpleNamespace(name="hub")
    with pytest.raises(InputError, match="kept of one sum a round behind masks"):
        Recording(
            tmp_path / "record", tmp_path, experiment(**changes), keeper, keeper, tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()
