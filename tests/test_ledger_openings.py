"""Sums of masked vectors that an auditor computes again, and who must never be unmasked."""

import shutil
import sqlite3
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

import tacit
from tacit.cli import app
from tacit.errors import InputError
from tacit.ledger import records
from tacit.ledger.openings import Openings
from tacit.ledger.recorder import Recorder
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import verify
from tacit.protection.secagg import masks
from tacit.protection.secagg.receiver import Receiver
from tacit.protection.secagg.session import Session
from tacit.protection.secagg.simulate import simulate
from test_ledger_record import NODES, entries, experiment, key, rewrite

LENGTH, LATE = 6, 2
HEADER = 40  # bytes before a masked vector


def vector(node: int) -> np.ndarray:
    return np.arange(LENGTH, dtype=np.uint32) + 1000 * (node + 1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record by hand: entries 0, 1 found it; 2 opens a round, 3 to 6 are parts, 7 closes it.

    In both rounds zurich's vector comes when the others have agreed to go on without it.
    """
    folder = tmp_path_factory.mktemp("openings")
    recorder = Recorder(
        folder / "record", bytes(32), NODES, [10] * 4, {}, "masks", folder / "openings"
    )
    identities = {node: Ed25519PrivateKey.generate() for node in range(4)}
    add = Receiver.add

    def late(self: Receiver, node: int, message: bytes) -> None:
        if node != LATE:
            add(self, node, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Receiver, "add", late)
        for round in range(2):
            recorder.open(round, b"model %d" % round)
            session = Session(
                bytes(32), bytes(32), round, (0, 1, 2, 3), 3, LENGTH, np.dtype(np.uint32), 3
            )

            def heard(node: int, message: bytes) -> None:
                recorder.heard(node, message[HEADER : HEADER + 4 * LENGTH])

            recovered: list[masks.Mask] = []
            total, left = simulate(
                session, identities, {node: vector(node) for node in range(4)},
                {"consent": {LATE}}, heard, recovered.extend,
            )  # fmt: skip
            assert left == (0, 1, 3)
            recorder.summed(total, recovered)
            recorder.close(round, {LATE: "late"}, b"model %d" % (round + 1))
    recorder.finish()
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "kept"))


def change(folder: Path, statement: str, *values: Any) -> None:
    with sqlite3.connect(folder / "openings") as db:
        assert db.execute(statement, values).rowcount > 0


def rows(folder: Path, asked: str) -> list[Any]:
    with sqlite3.connect(folder / "openings") as db:
        return db.execute(asked).fetchall()


def found(folder: Path) -> list[str]:
    audit = verify(folder / "record", openings=folder / "openings")
    assert all(finding.check == "masked sums" for finding in audit.findings)
    return [str(finding) for finding in audit.findings]


def test_the_sums_are_computed_again_without_whoever_was_lost(folder: Path) -> None:
    audit = verify(folder / "record", openings=folder / "openings")
    assert audit.findings == ()
    assert dict(audit.checks)["masked sums"] == "2 rounds summed again"
    assert (folder / "openings").stat().st_mode & 0o077 == 0


def test_nobody_is_unmasked(folder: Path) -> None:
    # All that the file has: vectors, and keys of masks. Whatever part of the nodes in the sum is
    # added up, with all masks that are known of them, only all three give their true sum. Masks are
    # uniform: that one of 6 numbers agrees by chance in one of 12 sums has probability 2e-8.
    assert {site for (site,) in rows(folder, "SELECT site FROM vectors")} == {
        "bern", "basel", "geneva",
    }  # fmt: skip
    for round in range(2):
        sent = dict(rows(folder, f"SELECT site, vector FROM vectors WHERE round = {round}"))
        known = rows(folder, f"SELECT node, peer, key, sign FROM masks WHERE round = {round}")
        for size in (1, 2, 3):
            for sites in combinations(sorted(sent), size):
                total = np.zeros(LENGTH, np.uint32)
                for site in sites:
                    total += np.frombuffer(sent[site], np.uint32)
                mine = [(k, s) for node, peer, k, s in known if (peer or node) in sites]
                masks.add(total, mine)
                true = sum(vector(NODES.index(site)) for site in sites)
                assert (total == true).all() if size == 3 else not (total == true).any()


def test_a_late_vector_and_its_masks_are_never_both_opened(folder: Path) -> None:
    # The crime: the vector that came late, beside the masks that were recovered for its node.
    late = (0, 0, "zurich", bytes(4 * LENGTH))
    change(folder, "INSERT INTO vectors VALUES (?, ?, ?, ?)", *late)
    assert found(folder)[0] == (
        "entry 5: zurich was lost, and its vector and its masks are both opened"
    )


def test_both_kinds_of_masks_of_a_node_are_never_opened(folder: Path) -> None:
    row = (0, 0, "bern", "basel", bytes(16), 1)
    change(folder, "INSERT INTO masks VALUES (?, ?, ?, ?, ?, ?)", *row)
    assert "entry 3: both kinds of bern's masks are opened" in found(folder)


def test_a_vector_that_is_in_no_sum_is_not_opened(folder: Path) -> None:
    change(folder, "DELETE FROM masks WHERE round = 0 AND node = 'zurich'")
    late = (0, 0, "zurich", bytes(4 * LENGTH))
    change(folder, "INSERT INTO vectors VALUES (?, ?, ?, ?)", *late)
    assert "entry 5: zurich's vector is opened, and in no sum" in found(folder)


def test_a_changed_masked_vector(folder: Path) -> None:
    ((old,),) = rows(folder, "SELECT vector FROM vectors WHERE round = 0 AND site = 'basel'")
    new = bytes([old[0] ^ 1]) + old[1:]
    change(folder, "UPDATE vectors SET vector = ? WHERE round = 0 AND site = 'basel'", new)
    assert found(folder) == ["entry 4: the masked vector is another than basel has committed to"]


def test_a_changed_recovered_mask(folder: Path) -> None:
    change(folder, "UPDATE masks SET key = ? WHERE round = 1 AND peer = 'bern'", bytes(16))
    assert found(folder) == [
        "entry 13: the list of recovered masks is another than keeper has committed to"
    ]


def test_a_wrong_sum(folder: Path) -> None:
    # The keeper commits to another sum than it had, and opens that commitment properly.
    ((nonce,),) = rows(folder, "SELECT nonce FROM commitments WHERE round = 1 AND subject = 'sum'")
    new, digest = entries(folder / "record"), bytes(32)
    private = key(folder / "record", "member", "keeper")
    public = private.public_key().public_bytes_raw()
    said = Envelope.from_bytes(new[13]).statement
    subjects = dict(said.subjects) | {"sum": records.commitment(public, 1, nonce, digest)}
    new[13] = signed(Statement(said.kind, subjects, said.says), {"keeper": private})
    rewrite(folder / "record", new)
    change(folder, "UPDATE commitments SET digest = ? WHERE round = 1 AND subject = 'sum'", digest)
    assert found(folder) == [
        "entry 13: the sum of the masked vectors is another than keeper has committed to"
    ]


@pytest.mark.parametrize(
    ("subject", "site", "said"),
    [
        ("commitment", "bern", "entry 3: the nonce does not fit bern's commitment to its masked"),
        ("sum", "keeper", "entry 7: the nonce does not fit keeper's commitment to its sum of"),
        ("masks", "keeper", "entry 7: the nonce does not fit keeper's commitment to its list of"),
    ],
)
def test_a_nonce_that_does_not_fit(subject: str, site: str, said: str, folder: Path) -> None:
    change(
        folder,
        "UPDATE commitments SET nonce = ? WHERE round = 0 AND site = ? AND subject = ?",
        bytes(32), site, subject,
    )  # fmt: skip
    (finding,) = found(folder)
    assert finding.startswith(said)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM vectors WHERE round = 0 AND site = 'bern'", "vector of bern is not opened"),
        (
            "DELETE FROM commitments WHERE round = 0 AND site = 'bern'",
            "the masked vector of bern is not opened",
        ),
        (
            "DELETE FROM masks WHERE round = 0 AND node = 'bern'",
            "entry 3: bern is counted, and in no sum",
        ),
        (
            "UPDATE masks SET node = 'zurich', peer = '' WHERE round = 0 AND node = 'bern'",
            "entry 5: zurich is in the sum, and is not counted",
        ),
        ("DELETE FROM sums WHERE round = 0", "list of recovered masks is another"),
        ("UPDATE sums SET bits = 64 WHERE round = 0", "list of recovered masks is another"),
    ],
)
def test_what_is_left_out(statement: str, said: str, folder: Path) -> None:
    change(folder, statement)
    assert any(said in finding for finding in found(folder)), found(folder)


def test_a_file_that_is_none(folder: Path) -> None:
    (folder / "openings").write_bytes(b"not a database, and long enough to be read as one" * 99)
    assert found(folder) == [
        f"entry {place}: the openings of this round cannot be read" for place in (7, 13)
    ]
    with pytest.raises(InputError, match="is no file"):
        verify(folder / "record", openings=folder / "none")


# Of runs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": tacit.Scaffold()},  # two sums a round
        {"data": tacit.data.load("breast-cancer", nodes=7), "topology": tacit.Hierarchical(2)},
        {"topology": tacit.Star(cohort=3)},
    ],
    ids=["fedavg", "scaffold", "groups", "cohort"],
)
def test_a_runs_sums_are_computed_again(changes: dict[str, Any], tmp_path: Path) -> None:
    plan = experiment(protection=[tacit.SecureAggregation(threshold=3)], **changes)
    tacit.run(plan, record=tmp_path / "record", openings=tmp_path / "openings")
    audit = verify(tmp_path / "record", openings=tmp_path / "openings")
    assert audit.findings == ()
    assert dict(audit.checks)["masked sums"] == "2 rounds summed again"


def test_where_no_server_sums_masked_vectors(tmp_path: Path) -> None:
    secure = [tacit.SecureAggregation(threshold=3)]
    peers = {"algorithm": tacit.Gossip(), "topology": tacit.Complete(), "protection": secure}
    for changes in ({}, peers):
        with pytest.raises(InputError, match="of masked vectors that a server sums"):
            tacit.run(experiment(**changes), record=tmp_path / "r", openings=tmp_path / "o")
    with pytest.raises(InputError, match="give record as well"):
        tacit.run(experiment(protection=secure), openings=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("experiment.py").write_text(
        "import tacit, torch.nn as nn\n"
        "experiment = tacit.Experiment(\n"
        '    data=tacit.data.load("breast-cancer", nodes=3), model=lambda: nn.Linear(30, 2),\n'
        "    loss=nn.functional.cross_entropy, training=tacit.SGD(lr=0.1), rounds=1,\n"
        "    protection=[tacit.SecureAggregation(threshold=3)])\n"
    )
    call = lambda *words: CliRunner().invoke(app, [*words])  # noqa: E731
    assert call("run", "experiment.py", "--record", "r", "--openings", "o").exit_code == 0
    done = call("verify", "r", "--openings", "o")
    assert done.exit_code == 0
    assert "masked sums             1 rounds summed again" in done.stdout
    with sqlite3.connect("o") as db:
        db.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE site = '2'")
    done = call("verify", "r", "--openings", "o")
    assert done.exit_code == 1
    assert "FAIL  masked sums: entry " in done.stdout


def test_a_sum_and_a_beginning_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path, stop = tmp_path / "openings", "BEFORE DELETE ON {} BEGIN SELECT RAISE(FAIL, 'cut'); END"
    recovered = [masks.Mask(0, None, bytes(16), -1), masks.Mask(1, 0, bytes(16), 1)]

    def count(table: str) -> Any:
        return rows(tmp_path, f"SELECT count(*) FROM {table}")[0][0]

    with closing(Openings(path)) as kept:
        kept.begin(0)
        for site in ("bern", "basel"):  # which is lost, and whose vector came late
            kept.sent(site, bytes(8))
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"CREATE TRIGGER stop {stop.format('vectors')}")
            db.commit()
        with pytest.raises(sqlite3.IntegrityError, match="cut"):
            kept.summed(np.zeros(2, np.uint32), recovered, ["bern", "basel"])
        # Else the file would hold the vector of a lost site, and the masks that it shared.
        assert [count(table) for table in ("masks", "sums", "vectors")] == [0, 0, 2]
        with closing(sqlite3.connect(path)) as db:
            db.execute("DROP TRIGGER stop")
            db.commit()
        kept.summed(np.zeros(2, np.uint32), recovered, ["bern", "basel"])
        assert [count(table) for table in ("masks", "sums", "vectors")] == [2, 1, 1]
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"CREATE TRIGGER stop {stop.format('masks')}")
            db.commit()
        with pytest.raises(sqlite3.IntegrityError, match="cut"):
            kept.begin(0)
        assert [count(table) for table in ("masks", "sums", "vectors")] == [2, 1, 1]
