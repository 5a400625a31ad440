"""Records of runs, and every crime against one that ``verify`` must name."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch.nn as nn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tacit
from tacit.cli import app
from tacit.errors import CheckpointError, InputError
from tacit.ledger import records
from tacit.ledger import verify as audits
from tacit.ledger.log import Log
from tacit.ledger.note import COSIGNATURE, Key, cosign, sign
from tacit.ledger.policy import Policy
from tacit.ledger.recorder import KEYS, LOG, OPENINGS, POLICY, Recorder
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import Audit, verify

WORDS = "round view head size root site rows claim included excluded entry reason add remove"
NAMES = st.sampled_from(WORDS.split())
NODES = ["bern", "basel", "zurich", "geneva"]


def experiment(**changes: Any) -> tacit.Experiment:
    settings: dict[str, Any] = {
        "data": tacit.data.load("breast-cancer", nodes=4),
        "model": lambda: nn.Linear(30, 2),
        "loss": nn.functional.cross_entropy,
        "training": tacit.SGD(lr=0.1, batch_size=16, epochs=1),
        "rounds": 2,
    }
    return tacit.Experiment(**(settings | changes))


def found(audit: Audit) -> list[tuple[str, int | None]]:
    return [(finding.check, finding.entry) for finding in audit.findings]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record by hand: entries 0, 1 found it, then two rounds of open, four parts and a close."""
    folder = tmp_path_factory.mktemp("record")
    recorder = Recorder(folder, bytes(32), NODES, [10, 200, 30, 4000], {"algorithm": "x"}, "none")
    for round in range(2):
        recorder.open(round, b"model %d" % round)
        for node in range(4):
            recorder.heard(node, b"update %d %d" % (round, node))
        recorder.close(
            round, {3: "turned away by Krum"} if round else {}, b"model %d" % (round + 1)
        )
    recorder.finish()
    return folder


@pytest.fixture
def record(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "record"))


def key(folder: Path, use: str, name: str) -> Ed25519PrivateKey:
    seed = json.loads((folder / KEYS).read_text())[f"{use} {name}"]
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


def entries(folder: Path) -> list[bytes]:
    with closing(sqlite3.connect(folder / LOG)) as db:
        return [row[0] for row in db.execute("SELECT entry FROM entries ORDER BY place")]


def rewrite(folder: Path, new: list[bytes], witnesses: int = 4) -> str:
    """The keeper writes another history, which so many witnesses cosign."""
    policy = Policy.from_text((folder / POLICY).read_text())
    (log_key,) = policy.logs
    for path in (*folder.glob(f"{LOG}*"), *folder.glob("openings.db*")):
        path.unlink(missing_ok=True)  # SQLite removes its own, when whoever reads ends
    log = Log(folder / LOG, log_key.name)
    log.append(new)
    head = log.head()
    note = f"{head.text}\n{sign(head.text, log_key, key(folder, 'log', log_key.name))}"
    for name in NODES[:witnesses]:
        private = key(folder, "witness", name)
        note += str(cosign(head, Key.of(name, private, COSIGNATURE), private, 1))
    log.keep(head.size, note)
    log.close()
    return note


def test_a_record_holds(record: Path) -> None:
    audit = verify(record, against=record)
    assert audit.findings == ()
    assert audit.head is not None
    assert audit.head.size == 2 + 2 * 6
    assert dict(audit.checks)["rounds"] == "2 rounds"
    assert dict(audit.checks)["openings"] == "8 commitments opened"
    kinds = [Envelope.from_bytes(entry).statement.kind for entry in entries(record)]
    one = ["round-open", *["contribution"] * 4, "aggregate"]
    assert kinds == ["genesis", "membership", *one, *one]
    last = Envelope.from_bytes(entries(record)[-1]).statement
    assert last.says["included"] == [9, 10, 11]
    assert last.says["excluded"] == [{"entry": 12, "reason": "turned away by Krum"}]
    assert {(record / name).stat().st_mode & 0o777 for name in (KEYS, OPENINGS)} == {0o600}


def test_what_is_sent_can_be_guessed_from_no_entry(record: Path) -> None:
    text = b"".join(entries(record)).decode()
    for secret in ("4000", "update"):
        assert secret not in text
    said = Envelope.from_bytes(entries(record)[6]).statement.says
    assert said == {"claim": "none", "round": 0, "rows": "1000-9999", "site": "geneva"}
    assert [records.bucket(n) for n in (0, 9, 10, 99, 100)] == [
        "0-9", "0-9", "10-99", "10-99", "100-999",
    ]  # fmt: skip


# Crimes of SPEC-ledger


def test_an_edited_entry(record: Path) -> None:
    with sqlite3.connect(record / LOG) as db:
        text = entries(record)[4].replace(b"payload", b"PAYLOAD", 1)
        db.execute("UPDATE entries SET entry = ? WHERE place = 4", (text,))
    audit = verify(record)
    assert ("tree", 4) in found(audit)
    assert ("entries", 4) in found(audit)
    assert {entry for _, entry in found(audit)} <= {4, 7, 8}  # what counts it, or names the tree


def test_an_edited_entry_with_all_hashes_made_anew(record: Path) -> None:
    new = entries(record)
    said = Envelope.from_bytes(new[4])
    new[4] = bytes(Envelope(said.payload.replace(b"100-999", b"10-99"), said.signatures))
    rewrite(record, new)
    assert "entry 4: the signature of 'basel' is wrong" in map(str, verify(record).findings)


def test_a_forged_contribution(record: Path) -> None:
    new = entries(record)
    statement = Envelope.from_bytes(new[4]).statement
    new[4] = signed(statement, {"keeper": key(record, "member", "keeper")})
    rewrite(record, new)
    audit = verify(record)
    assert ("entries", 4) in found(audit)
    assert "entry 4: basel has not signed it" in map(str, audit.findings)
    new[4] = signed(statement, {"basel": Ed25519PrivateKey.generate()})
    rewrite(record, new)
    assert "entry 4: the signature of 'basel' is wrong" in map(str, verify(record).findings)


def test_a_replay_into_a_later_round(record: Path) -> None:
    new = entries(record)
    new[9] = new[3]  # bern's part of the first round, in the second
    rewrite(record, new)
    assert ("rounds", 9) in found(verify(record))


def test_a_contribution_that_counts_twice(record: Path) -> None:
    new = entries(record)
    new[10] = new[9]
    rewrite(record, new)
    audit = verify(record)
    assert "entry 10: bern contributes twice to round 1" in map(str, audit.findings)


def test_a_fork_shown_to_half_the_witnesses(record: Path, tmp_path: Path) -> None:
    fork = Path(shutil.copytree(record, tmp_path / "fork"))
    new = entries(fork)
    last = Envelope.from_bytes(new[-1]).statement
    other = Statement(last.kind, dict(last.subjects) | {"model": bytes(32)}, last.says)
    new[-1] = signed(other, {"keeper": key(fork, "member", "keeper")})
    rewrite(fork, new, witnesses=2)
    assert found(verify(fork)) == [("signatures of the head", None)]
    rewrite(fork, new, witnesses=4)  # all collude: only another copy tells
    assert found(verify(fork)) == []
    assert found(verify(fork, against=record)) == [("other copy", 13)]


def test_an_omitted_contribution(record: Path) -> None:
    new = entries(record)
    last = Envelope.from_bytes(new[-1]).statement
    silent = Statement(last.kind, last.subjects, dict(last.says) | {"excluded": []})
    new[-1] = signed(silent, {"keeper": key(record, "member", "keeper")})
    rewrite(record, new)
    (finding,) = verify(record).findings
    assert str(finding) == "entry 13: it leaves out the contribution of geneva in entry 12"


def test_a_wrong_aggregate(record: Path) -> None:
    new = entries(record)
    first = Envelope.from_bytes(new[7]).statement
    wrong = Statement(first.kind, {"model": bytes(32)}, first.says)
    new[7] = signed(wrong, {"keeper": key(record, "member", "keeper")})
    rewrite(record, new)
    # The next round began with another model, and named the record as it was.
    assert found(verify(record)) == [("rounds", 8), ("rounds", 8)]


def test_a_rolled_back_log(record: Path) -> None:
    with sqlite3.connect(record / LOG) as db:
        (seen,) = db.execute("SELECT note FROM heads ORDER BY size DESC").fetchone()
    rewrite(record, entries(record)[:8])
    assert verify(record).findings == ()
    (finding,) = verify(record, seen=seen).findings
    assert str(finding) == "it was rolled back: 14 entries were there before"


def test_a_history_that_was_rewritten_since_it_was_seen(record: Path) -> None:
    old = rewrite(record, entries(record)[:8])
    new = entries(record)
    last = Envelope.from_bytes(new[7]).statement
    other = Statement(last.kind, {"model": bytes(32)}, last.says)
    new[7] = signed(other, {"keeper": key(record, "member", "keeper")})
    rewrite(record, new)
    assert found(verify(record, seen=old)) == [("earlier head", None)]
    assert found(verify(record)) == []


def test_a_removed_member_that_signs_on(record: Path) -> None:
    new = entries(record)[:8]
    gone = records.membership(bytes(32), {}, ["geneva"])
    new.append(signed(gone, {n: key(record, "member", n) for n in ("bern", "basel", "zurich")}))
    rewrite(record, new)
    assert ("entries", 8) in found(verify(record))  # three of five members are no quorum
    quorum = ("keeper", "bern", "basel", "zurich")
    new[8] = signed(gone, {name: key(record, "member", name) for name in quorum})
    rewrite(record, new)
    assert verify(record).findings == ()
    part = Envelope.from_bytes(new[6]).statement
    late = Statement(part.kind, part.subjects, dict(part.says) | {"round": 1})
    new.append(signed(late, {"geneva": key(record, "member", "geneva")}))
    rewrite(record, new)
    audit = verify(record)
    assert [str(finding) for finding in audit.findings] == [
        "entry 9: 'geneva' has signed, who is no member"
    ]


def test_an_opening_of_something_else(record: Path) -> None:
    with sqlite3.connect(record / "openings.db") as db:
        db.execute("UPDATE openings SET digest = ? WHERE entry = 5", (bytes(32),))
        db.execute("UPDATE openings SET entry = 2 WHERE entry = 9")
    audit = verify(record)
    assert found(audit) == [("openings", 2), ("openings", 5)]


def test_a_policy_of_the_auditors_own(record: Path, tmp_path: Path) -> None:
    own = tmp_path / "policy"
    own.write_text((record / POLICY).read_text())
    assert verify(record, policy=own).findings == ()
    text = (record / POLICY).read_text()
    own.write_text(text.replace("group witnesses 3", "group witnesses 4"))
    assert ("entries", 0) in found(verify(record, policy=own))


@pytest.mark.parametrize(
    "change",
    [
        lambda new: new[1:],
        lambda new: [new[0], *new],
        lambda new: [*new, new[2]],
        lambda new: [*new, b"no envelope"],
        lambda new: [*new[:8], new[9], new[8], *new[10:]],
        lambda new: [*new, new[-1]],
        lambda new: new[::-1],
    ],
)
def test_other_disorder(change: Callable[[list[bytes]], list[bytes]], record: Path) -> None:
    rewrite(record, change(entries(record)))
    assert verify(record).findings


def test_an_entry_added_again_and_a_missing_tail(record: Path) -> None:
    log = Log(record / LOG, Policy.from_text((record / POLICY).read_text()).logs[0].name)
    log.append([entries(record)[2]])
    log.close()
    assert found(verify(record)) == [("entries", 14)]
    with sqlite3.connect(record / LOG) as db:
        db.execute("DELETE FROM entries WHERE place > 11")
    assert "the last 2 of 14 entries are missing" in map(str, verify(record).findings)


@pytest.mark.slow
@settings(max_examples=40)
@given(data=st.data())
def test_no_statement_makes_the_audit_fail_by_itself(data: st.DataObject, kept: Path) -> None:
    """Hostile members: whatever they sign, there is a verdict and no traceback."""
    value = st.none() | st.integers(-3, 20) | st.text(max_size=3)
    nested = st.recursive(value, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))
    fields = st.dictionaries(NAMES, nested, max_size=6)
    with TemporaryDirectory() as folder:
        record = Path(shutil.copytree(kept, Path(folder) / "record"))
        new = entries(record)
        place = data.draw(st.integers(0, len(new) - 1))
        said = Envelope.from_bytes(new[place]).statement
        says = dict(said.says) | data.draw(fields)
        kind = data.draw(st.sampled_from([said.kind, "membership", "aggregate", "other"]))
        forged = Statement(kind, data.draw(st.sampled_from([{}, said.subjects])), says)
        new[place] = signed(forged, {n: key(record, "member", n) for n in ("keeper", "bern")})
        rewrite(record, new)
        verify(record, against=kept)


# Records of runs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": tacit.Scaffold()},
        {"aggregation": tacit.Median()},
        {"protection": [tacit.SecureAggregation(threshold=3)]},
        {
            "protection": [
                tacit.Clip(1.0),
                tacit.GaussianNoise(multiplier=1.0, delta=1e-5, where="central"),
            ]
        },
        {"algorithm": tacit.Gossip(), "topology": tacit.Ring()},
        {"compression": tacit.TopK(0.1)},
    ],
    ids=["mean", "scaffold", "median", "masks", "central", "gossip", "topk"],
)
def test_a_runs_record_holds_and_changes_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    plan = experiment(**changes)
    plain, told = tacit.run(plan), tacit.run(plan, record=tmp_path)
    for one, other in zip(
        plain.model.state_dict().values(), told.model.state_dict().values(), strict=True
    ):
        assert (one - other).abs().max() < 1e-6
    audit = verify(tmp_path)
    assert audit.findings == ()
    assert dict(audit.checks)["openings"] == "10 commitments opened"  # 4 parts, 1 score, twice


def test_a_resumed_run_goes_on_in_its_record(tmp_path: Path) -> None:
    plan = experiment(rounds=3)

    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise Stop

    with pytest.raises(Stop):
        tacit.run(plan, folder=tmp_path / "run", record=tmp_path / "record", on_round=stop)
    tacit.run(plan, folder=tmp_path / "run", record=tmp_path / "record", resume=True)
    audit = verify(tmp_path / "record")
    assert audit.findings == ()
    assert dict(audit.checks)["rounds"] == "3 rounds"
    with pytest.raises(InputError, match="holds another experiment's record"):
        tacit.run(experiment(seed=1), record=tmp_path / "record")


def test_a_round_that_was_cut_off_begins_again(tmp_path: Path) -> None:
    def open() -> Recorder:
        return Recorder(tmp_path, bytes(32), NODES, [1] * 4, {}, "none")

    for _ in range(2):
        recorder = open()
        recorder.open(0, b"start")
        recorder.finish()
    recorder = open()
    recorder.open(0, b"start")
    recorder.heard(1, b"update")
    recorder.close(0, {}, b"model")
    with pytest.raises(InputError, match="holds 1 rounds, and round 3"):
        recorder.open(2, b"model")
    recorder.open(0, b"start")
    with pytest.raises(InputError, match="another model of round 1"):
        recorder.close(0, {}, b"other")
    recorder.finish()
    assert verify(tmp_path).findings == ()


# Commands


def test_the_commands(record: Path, tmp_path: Path) -> None:
    def call(*words: str | Path, code: int = 0) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == code, done.output
        return done.output

    assert call("verify", record).endswith("The record holds.\n")
    seen = tmp_path / "head"
    seen.write_text(call("ledger", "head", record))
    assert "extends the one of 14 entries" in call("verify", record, "--seen", seen)
    assert len(json.loads(call("ledger", "show", record, "--json"))) == 14
    shown = call("ledger", "show", record).splitlines()
    assert re.search(r"members \(keeper [0-9a-f]{12}\.{3}\), rules \(algorithm x\)", shown[0])
    assert shown[7].endswith("excluded (none), included (3, 4, 5, 6), round 0")
    assert not re.search(r"[0-9a-f]{13}|[][{}]", "".join(shown))
    assert call("ledger", "proof", record, "3").startswith("c2sp.org/tlog-proof@v1\nindex 3\n")
    call("ledger", "export", record, tmp_path / "out")
    assert (tmp_path / "out" / "000003.dsse.json").read_bytes() == entries(record)[3]
    assert not list((tmp_path / "out").glob("keys*"))
    assert call("ledger", "export", record, tmp_path / "out", code=2)
    assert call("verify", tmp_path, code=2)
    for entry in ("14", "99"):
        told = f"tacit: ENTRY: {entry} was given; allowed is 0 to 13, under the signed head"
        assert call("ledger", "proof", record, entry, code=2).startswith(told)
    with closing(sqlite3.connect(record / LOG)) as db:
        db.execute("DELETE FROM heads")
        db.commit()
    assert "has no signed head yet" in call("ledger", "head", record, code=2)
    rewrite(record, entries(record)[::-1])
    assert "FAIL  entries: entry 0: " in call("verify", record, code=1)
    assert json.loads(call("verify", record, "--json", code=1))["holds"] is False


# Records that an auditor meets


def changed(record: Path, name: str, at: int, byte: bytes = b"\xff") -> None:
    whole = (record / name).read_bytes()
    (record / name).write_bytes(whole[:at] + byte + whole[at + 1 :])


def test_an_audit_leaves_the_record_as_it_is(record: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (record, *record.iterdir())}
    with closing(Log(record / LOG, "", read_only=True)) as log:
        assert len(log) == 14
        assert {path: path.stat().st_mtime_ns for path in (record, *record.iterdir())} == before
        with pytest.raises(CheckpointError, match="cannot be used"):
            log.append([b"entry"])
    assert verify(record).findings == ()
    assert {path: path.stat().st_mtime_ns for path in (record, *record.iterdir())} == before


def test_an_audit_sees_what_a_writer_has_just_added(record: Path) -> None:
    with closing(Log(record / LOG, "")) as writer:
        writer.append([b"entry"])
        assert (record / f"{LOG}-wal").stat().st_size
        with closing(Log(record / LOG, "", read_only=True)) as reader:
            assert len(reader) == 15


def test_files_that_are_no_text_and_a_folder_that_is_no_record(record: Path) -> None:
    (record / "noise").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="noise is no text"):
        verify(record, policy=record / "noise")
    done = CliRunner().invoke(app, ["verify", str(record), "--seen", str(record / "noise")])
    assert done.exit_code == 2
    assert "tacit: seen: " in done.output
    for written in ("", "no head\n", "\n\n", "tacit/0\n14\nAAAA\n\n— a AAAAAAA=\n"):
        (record / "noise").write_text(written)
        done = CliRunner().invoke(app, ["verify", str(record), "--seen", str(record / "noise")])
        assert done.exit_code == 2
        assert done.output.startswith("tacit: seen: no signed head was given, as tacit ledger head")
        assert done.output.count("\n") == 1
    for none in (record / "nowhere", record / "noise"):
        done = CliRunner().invoke(app, ["verify", str(record), "--release", str(none)])
        assert done.exit_code == 2
        assert done.output == f"tacit: release: {none} is no folder [TACIT-101]\n"
    with pytest.raises(InputError, match=f"nowhere has no {LOG}"):
        verify(record / "nowhere")
    with pytest.raises(InputError, match=f"{POLICY} has no {LOG}"):
        verify(record / POLICY)


def test_openings_that_cannot_be_read(record: Path) -> None:
    changed(record, OPENINGS, 100)  # the kind of the first page
    (finding,) = verify(record).findings
    assert str(finding).startswith("they cannot be read (")
    (record / OPENINGS).unlink()
    with closing(sqlite3.connect(record / OPENINGS)) as db:
        db.execute("CREATE TABLE openings (entry, site, nonce, digest)")
        db.execute("INSERT INTO openings VALUES ('x', 'bern', 1, NULL)")
        db.commit()
    (finding,) = verify(record).findings
    assert finding.check == "openings"


def test_an_entry_that_was_taken_out_is_named(record: Path) -> None:
    with closing(sqlite3.connect(record / LOG)) as db:
        db.execute("DELETE FROM entries WHERE place = 5")
        db.commit()
    first = verify(record).findings[0]
    assert str(first) == "entry 5: it is missing, or out of its place"


def test_a_changed_hash_of_the_tree_is_named(record: Path) -> None:
    with closing(sqlite3.connect(record / LOG)) as db:
        db.execute("UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND place = 2")
        db.commit()
    (finding,) = verify(record).findings
    assert str(finding) == "its hash of entries 4 to 5 is another, and so would be proofs of them"


def test_a_record_of_another_run_is_no_fork(record: Path, tmp_path: Path) -> None:
    other = Recorder(tmp_path / "other", bytes([1] * 32), NODES, [10] * 4, {}, "none")
    other.finish()
    (finding,) = verify(record, against=tmp_path / "other").findings
    assert "of another log" in str(finding)


def test_a_copy_that_goes_further_shows_a_rolled_back_log(record: Path, kept: Path) -> None:
    rewrite(record, entries(record)[:8])
    (finding,) = verify(record, against=kept).findings
    assert str(finding) == "it was rolled back: 14 entries were there before"
    assert verify(kept, against=record).findings == ()


@pytest.mark.parametrize("written", [b"", b"{", b'{"log": 3}', b'{"log": "x"}', b"\xff"])
def test_keys_that_cannot_be_read(record: Path, written: bytes) -> None:
    (record / KEYS).write_bytes(written)
    with pytest.raises(InputError, match="does not hold its keys any more"):
        Recorder.again(record)
    with pytest.raises(InputError, match="does not hold its keys any more"):
        Recorder(record, bytes(32), NODES, [10] * 4, {}, "none")


def test_keys_that_were_half_written_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def half(path: Path, text: str) -> int:
        write(path, text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(CheckpointError, match="cannot be written"):
            Recorder(tmp_path, bytes(32), NODES, [10] * 4, {}, "none")
    Recorder(tmp_path, bytes(32), NODES, [10] * 4, {}, "none").finish()
    assert verify(tmp_path).findings == ()


def test_records_that_cannot_be_gone_on_with(record: Path) -> None:
    changed(record, OPENINGS, 0)
    with pytest.raises(CheckpointError, match="it cannot be used"):
        Recorder.again(record)
    with closing(sqlite3.connect(record / LOG)) as db:
        db.execute("DELETE FROM entries")
        db.commit()
    with pytest.raises(InputError, match="the log has 0"):
        Recorder.again(record)


def test_openings_that_cannot_be_written_leave_no_record(tmp_path: Path) -> None:
    for masked in (tmp_path / "none" / "masked.db", tmp_path, tmp_path / "record" / OPENINGS):
        with pytest.raises(InputError, match="openings: "):
            Recorder(tmp_path / "record", bytes(32), NODES, [10] * 4, {}, "none", masked)
        assert not (tmp_path / "record").exists()


def test_an_audit_of_a_record_that_grows(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = audits._read
    recorder = Recorder(record, bytes(32), NODES, [10] * 4, {}, "none")

    def rounds(first: int) -> None:
        for round in (first, first + 1):
            recorder.open(round, b"model %d" % round)
            recorder.heard(0, b"update")
            recorder.close(round, {}, b"model %d" % (round + 1))

    def growing(folder: Path, policy: Path | None) -> Any:
        found = read(folder, policy)
        rounds(4)
        return found

    rounds(2)
    monkeypatch.setattr(audits, "_read", growing)
    audit = verify(record)
    recorder.finish()
    assert audit.findings == ()
    assert dict(audit.checks)["rounds"] == "4 rounds"
