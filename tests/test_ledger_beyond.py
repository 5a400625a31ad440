"""Entries beyond a record's newest signed head: of a run that was cut off, and of a stranger."""

import json
import shutil
import sqlite3
from contextlib import closing
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from tacit.cli import app
from tacit.ledger import records
from tacit.ledger.contribution import Shapley
from tacit.ledger.log import Log
from tacit.ledger.recorder import LOG, Recorder
from tacit.ledger.scores import Game
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import verify
from test_ledger_record import NODES, entries, found, key, rewrite


def opened(folder: Path) -> Recorder:
    return Recorder(folder, bytes(32), NODES, [10] * 4, {}, "none")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Entries 0, 1 found it, then two rounds of open, four parts and a close."""
    recorder = opened(tmp_path / "record")
    for round in range(2):
        recorder.open(round, b"model %d" % round)
        for node in range(4):
            recorder.heard(node, b"update %d %d" % (round, node))
        recorder.close(round, {}, b"model %d" % (round + 1))
    recorder.finish()
    return tmp_path / "record"


def add(record: Path, entry: bytes) -> None:
    with closing(Log(record / LOG, "")) as log:
        log.append([entry])


def test_every_round_ends_under_a_head_and_has_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, sizes = Log.keep, list[int]()

    def told(log: Log, size: int, note: str) -> None:
        sizes.append(size)
        keep(log, size, note)

    monkeypatch.setattr(Log, "keep", told)
    recorder = opened(tmp_path)
    for round in range(2):
        recorder.open(round, b"model %d" % round)
        assert (verify(tmp_path).findings, verify(tmp_path).beyond) == ((), 1)
        for node in range(4):
            recorder.heard(node, b"update")
        recorder.close(round, {}, b"model %d" % (round + 1))
        assert (verify(tmp_path).findings, verify(tmp_path).beyond) == ((), 0)
    recorder.finish()
    assert sizes == [2, 8, 14]


def test_a_run_that_was_cut_off_is_judged_and_vouched_for_by_nobody(record: Path) -> None:
    whole = entries(record)
    for size in range(2, 14):
        rewrite(record, whole[:size])
        for entry in whole[size:]:
            add(record, entry)
        audit = verify(record)
        assert (audit.findings, audit.beyond) == ((), 14 - size)
        assert audit.head is not None
        assert audit.head.size == size
    done = CliRunner().invoke(app, ["verify", str(record)])
    assert done.exit_code == 0
    assert (
        "13 entries; nobody vouches yet for 1 more (the run goes on, or was cut off)" in done.output
    )
    assert done.output.splitlines()[-1] == (
        "The record holds, up to its signed head; 1 entries stand beyond it, for which nobody"
        " vouches yet."
    )
    told = json.loads(CliRunner().invoke(app, ["verify", str(record), "--json"]).output)
    assert (told["holds"], told["size"], told["beyond"]) == (True, 13, 1)
    # Whoever goes on has them cosigned, even where nothing is left to be done.
    opened(record).finish()
    audit = verify(record)
    assert (audit.findings, audit.beyond) == ((), 0)


def test_what_is_wrong_beyond_the_head_is_found(record: Path) -> None:
    whole = entries(record)
    rewrite(record, whole[:8])
    add(record, whole[10])
    assert found(verify(record)) == [("rounds", 8)]
    with closing(sqlite3.connect(record / LOG)) as db:
        db.execute("DELETE FROM heads")
        db.commit()
    (first, _) = verify(record).findings
    assert "it has no signed head" in first.what


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A record with an entry of each kind."""
    record = tmp_path / "record"
    recorder = opened(record)
    recorder.open(0, b"model 0")
    for node in range(4):
        recorder.heard(node, b"update %d" % node)
    recorder.close(0, {}, b"model 1")
    recorder.evaluated({"accuracy": 0.5}, "accuracy")
    subsets = [frozenset(some) for size in range(5) for some in combinations(range(4), size)]
    game = Game(0, range(4), {some: len(some) / 2 for some in subsets})
    recorder.scored(Shapley(), [[name] for name in NODES], [game], np.full(4, 0.5), 100)
    recorder.release(bytes(32), bytes(32))
    head, keeper = recorder.keeper.log.head(2), {"keeper": key(record, "member", "keeper")}
    two = [
        signed(records.round_open(0, 0, bytes(32), bytes([i] * 32), head), keeper) for i in (1, 2)
    ]
    basel = key(record, "member", "basel")
    recorder.keeper.append([signed(records.incident("keeper", two), {"basel": basel})])
    recorder.finish()
    return record


def test_what_a_stranger_adds_to_a_record_is_found(whole: Path, tmp_path: Path) -> None:
    known = entries(whole)
    kinds = {Envelope.from_bytes(entry).statement.kind for entry in known}
    assert len(kinds) == 10
    assert verify(whole).findings == ()
    added = [b"", b"{}", *known]  # noise, and what was signed before
    stranger = Ed25519PrivateKey.generate()
    for entry in known:
        envelope = Envelope.from_bytes(entry)
        said = envelope.statement
        other = Statement(said.kind, dict.fromkeys(said.subjects, bytes(32)), said.says)
        added.append(signed(other, dict.fromkeys(envelope.signatures, stranger)))
        added.append(signed(other, {}))
    for entry in added:
        copy = Path(shutil.copytree(whole, tmp_path / "copy"))
        add(copy, entry)
        assert {finding.entry for finding in verify(copy).findings} == {len(known)}, entry
        shutil.rmtree(copy)


def test_fewer_signatures_of_what_stands_there_are_no_other_entry(whole: Path) -> None:
    known = entries(whole)
    (place,) = (i for i, e in enumerate(known) if Envelope.from_bytes(e).statement.kind == "score")
    envelope = Envelope.from_bytes(known[place])
    zurich = key(whole, "member", "zurich")
    three = signed(envelope.statement, {"zurich": zurich})
    more = envelope.signatures | Envelope.from_bytes(three).signatures
    known[place] = bytes(Envelope(envelope.payload, more))
    rewrite(whole, known)
    assert verify(whole).findings == ()
    add(whole, bytes(envelope))
    assert ("entries", len(known)) in found(verify(whole))


def test_a_release_for_which_nobody_vouches_is_none(whole: Path, tmp_path: Path) -> None:
    known = entries(whole)
    (end,) = (i for i, e in enumerate(known) if Envelope.from_bytes(e).statement.kind == "release")
    rewrite(whole, known[:end])
    add(whole, known[end])
    assert verify(whole).findings == ()
    (finding,) = verify(whole, release=tmp_path).findings
    assert str(finding) == "the record holds no release"
