"""What a site has forgotten is on no disk any more, and the record verifies."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import small
from tacit.cli import app
from tacit.errors import InputError
from tacit.ledger import erasure
from tacit.ledger.erasure import destroy
from tacit.ledger.log import Log
from tacit.ledger.recorder import LOG, OPENINGS, Recorder
from tacit.ledger.verify import verify
from tacit.network import forgetting
from tacit.network.approval import approve, approved
from tacit.network.processes import RECORD, gossip, swarm, take_part
from test_network_records import Ward

NODES = ["bern", "basel", "zurich"]


def call(*words: object, code: int = 0, **given: Any) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words], **given)
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record")
    recorder = Recorder(folder, bytes(32), NODES, [10, 200, 30], {}, "none")
    for round in range(3):
        recorder.open(round, b"model %d" % round)
        for node in range(3):
            recorder.heard(node, b"update %d %d" % (round, node))
        recorder.close(round, {}, b"model %d" % (round + 1))
        recorder.evaluated({"accuracy": 0.5}, "accuracy")
    recorder.finish()
    return folder


@pytest.fixture
def record(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "record"))


def nonces(record: Path, site: str) -> list[bytes]:
    with sqlite3.connect(record / OPENINGS) as db:
        rows = db.execute("SELECT nonce FROM openings WHERE site = ? ORDER BY entry", (site,))
        return [nonce for (nonce,) in rows]


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_nonces_are_not_destroyed_under_a_run(record: Path) -> None:
    with closing(Log(record / LOG, "")):
        done = call("node", "forget", record, "--site", "basel", "--yes", code=2)
        assert "is being written by another run" in done.output
        assert len(nonces(record, "basel")) == 3
    call("node", "forget", record, "--site", "basel", "--yes")
    assert nonces(record, "basel") == []


def test_nonces_of_one_site_are_gone_and_the_record_holds(record: Path) -> None:
    mine, others = nonces(record, "basel"), nonces(record, "zurich")
    assert len(mine) == 3
    assert all(nonce in on_disk(record) for nonce in mine)
    before = (record / "log.db").read_bytes()
    done = call("node", "forget", record, "--site", "basel", "--yes")
    assert "Destroyed: 3 nonces of basel." in done.stdout
    assert "Stays: the record, which verifies" in done.stdout
    assert not any(nonce in on_disk(record) for nonce in mine)
    assert nonces(record, "zurich") == others
    assert (record / "log.db").read_bytes() == before
    assert (record / OPENINGS).stat().st_mode & 0o777 == 0o600
    audit = verify(record)
    assert audit.findings == ()
    # 3 rounds of 3 sites and an evaluation are 12, without basel's 3.
    words = "9 commitments opened; the nonces of basel were destroyed"
    assert dict(audit.checks)["openings"] == words


def test_again_it_says_that_nothing_is_left(record: Path) -> None:
    call("node", "forget", record, "--site", "basel", "--yes")
    done = call("node", "forget", record, "--site", "basel", "--yes", "--json")
    assert json.loads(done.stdout)["destroyed"] == []
    done = call("node", "forget", record, "--site", "bern", "--yes")
    assert "3 nonces of bern" in done.stdout
    words = dict(verify(record).checks)["openings"]
    assert words == "6 commitments opened; the nonces of basel, bern were destroyed"


def test_it_is_overwritten_before_it_is_unlinked(record: Path, tmp_path: Path) -> None:
    mine = nonces(record, "basel")
    os.link(record / OPENINGS, tmp_path / "same bytes")  # what is left of the old file's blocks
    call("node", "forget", record, "--site", "basel", "--yes")
    assert not any((tmp_path / "same bytes").read_bytes())
    assert mine


def test_cut_off_it_is_finished_by_the_next_call(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = nonces(record, "basel")

    def cut(path: Path) -> bool:
        if path.exists():
            raise OSError(5, "cut off")
        return False

    with monkeypatch.context() as patched:
        patched.setattr(erasure, "destroy", cut)
        call("node", "forget", record, "--site", "basel", "--yes", code=2)
    assert any(nonce in on_disk(record) for nonce in mine)
    call("node", "forget", record, "--site", "basel", "--yes")
    assert not any(nonce in on_disk(record) for nonce in mine)


def test_it_asks_first(record: Path) -> None:
    before = (record / OPENINGS).read_bytes()
    done = call("node", "forget", record, "--site", "basel", input="n\n", code=1)
    assert "Nothing was destroyed." in done.stderr
    assert (record / OPENINGS).read_bytes() == before
    call("node", "forget", record, "--site", "basel", input="y\n")
    assert nonces(record, "basel") == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--site: whose nonces? There are: basel, bern, zurich"),
        (("--site", "keeper"), "there is no site 'keeper'"),
        (("--site", "bazel"), "did you mean 'basel'"),
    ],
)
def test_whose_nonces_must_be_said(record: Path, words: tuple[str, ...], told: str) -> None:
    assert told in call("node", "forget", record, "--yes", *words, code=2).stderr


SECRET = b"what only this site may know, in 43 bytes.."
DIGEST = "ab" * 32


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A site's folder of a run, as a site leaves it, and its home."""
    folder, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    approve(home, DIGEST)
    approve(home, "cd" * 32)
    for name in ("tensors/0123", "tensors/.north", "labels-abab", f"record/{OPENINGS}",
                 f"record/{OPENINGS}-journal"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(SECRET)
    (folder / "site.json").write_text(json.dumps({"experiment": DIGEST, "round": 3}))
    for name in ("model.safetensors", "record/head.txt", "record/witness.key"):
        (folder / name).write_text("stays")
    return folder


def test_a_site_forgets_its_part_in_a_run(part: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = call("node", "forget", part, "--home", home, "--yes")
    for word in ("the nonces", "2 files of updates", "labels", "the approval of experiment abab"):
        assert word in done.stdout
    assert SECRET not in on_disk(part)
    left = {str(path.relative_to(part)) for path in part.rglob("*") if path.is_file()}
    assert left == {"model.safetensors", "record/head.txt", "record/witness.key", "forgotten.json"}
    assert not approved(home, DIGEST)
    assert approved(home, "cd" * 32)
    done = call("node", "forget", part, "--home", home, "--yes")
    assert "Destroyed: nothing, it was before." in done.stdout


def test_it_takes_no_part_in_the_run_again(part: Path, tmp_path: Path) -> None:
    forgetting.require_remembered(part, DIGEST)
    call("node", "forget", part, "--home", tmp_path / "home", "--yes")
    with pytest.raises(InputError, match="has forgotten its part in this run"):
        forgetting.require_remembered(part, DIGEST)
    forgetting.require_remembered(part, "cd" * 32)


@pytest.mark.parametrize("role", [take_part, gossip, swarm])
def test_nor_does_any_role(part: Path, tmp_path: Path, role: Any) -> None:
    plan = small.experiment()
    (part / "site.json").write_text(json.dumps({"experiment": plan.digest()}))
    call("node", "forget", part, "--home", tmp_path / "home", "--yes")
    where = {} if role is take_part else {"listen": []}
    with pytest.raises(InputError, match="has forgotten its part in this run"):
        role(plan, plan.data, tmp_path / "home", part, **where)


@pytest.mark.slow
def test_a_site_of_real_machines_forgets_and_the_record_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward = Ward(tmp_path, monkeypatch)
    told = ward.carry_out()
    assert {end.outcome for end in told.values()} == {"finished"}
    mine = nonces(ward.site("3") / RECORD, "3")
    assert mine
    assert all(nonce in on_disk(ward.site("3")) for nonce in mine)
    done = call("node", "forget", ward.site("3"), "--home", tmp_path / "keys-3", "--yes")
    assert "the nonces in" in done.stdout
    assert not any(nonce in on_disk(tmp_path) for nonce in mine)
    assert verify(ward.record).findings == ()
    assert ward.against("3").findings == ()  # it can still tell whether the record is rewritten


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tensors").mkdir()
    (tmp_path / "tensors" / "mine").write_text("of a coordinator")
    done = call("node", "forget", tmp_path, "--home", tmp_path, "--yes", code=2)
    assert "is no folder of a site's run" in done.stderr
    asked = call("node", "forget", tmp_path / "none", code=2)  # before anybody has said yes
    assert "is no folder of a site's run" in asked.stderr
    assert (tmp_path / "tensors" / "mine").exists()


def test_what_a_link_points_to_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("not mine")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert destroy(tmp_path / "link")
    assert (tmp_path / "other").read_text() == "not mine"
    assert not (tmp_path / "link").is_symlink()
    assert not destroy(tmp_path / "link")
