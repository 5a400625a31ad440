"""What ``tacit release`` hands out, read by the tools of others, and forged."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.nn as nn
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tacit
from tacit.cli import app
from tacit.cli.folder import Folder
from tacit.ledger import records
from tacit.ledger.recorder import KEYS, Recorder
from tacit.ledger.release import ORDER, sign
from tacit.ledger.statement import signed
from tacit.ledger.verify import verify
from tacit.release.card import card
from tacit.release.facts import Facts
from test_ledger_record import experiment

FILES = {"README.md", "bom.cdx.json", "model.pub", "model.safetensors", "model.sig"}
NOISE = [tacit.Clip(1.0), tacit.GaussianNoise(multiplier=4.0, delta=1e-5, where="central")]


def carried_out(folder: Path, **changes: Any) -> dict[str, Any]:
    plan = experiment(**changes)
    return Folder(folder).finish(tacit.run(plan, folder=folder, record=folder / "record"))


def call(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "hearts"
    carried_out(folder, protection=NOISE)
    done = call("release", folder, "--to", folder.parent / "out")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run whose model was handed out, in the folder beside it."""
    shutil.copytree(finished.parent, tmp_path / "runs")
    return tmp_path / "runs" / "hearts"


@pytest.fixture
def out(run: Path) -> Path:
    return run.parent / "out"


def what(run: Path, out: Path) -> list[str]:
    return [str(finding) for finding in verify(run / "record", release=out).findings]


def signed_off(out: Path) -> subprocess.CompletedProcess[str]:
    """What model-signing's own command says of a folder."""
    words = [sys.executable, "-m", "model_signing", "verify", "key", str(out)]
    words += ["--signature", str(out / "model.sig"), "--public_key", str(out / "model.pub")]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_the_tools_of_others_take_the_folder(run: Path, out: Path) -> None:
    assert {path.name for path in out.iterdir()} == FILES
    done = signed_off(out)
    assert done.returncode == 0, done.stderr
    text = (out / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert json.loads(text)["metadata"]["component"]["type"] == "machine-learning-model"
    model = torch_linear(out / "model.safetensors")
    assert model == torch_linear(run / "model.safetensors")
    (out / "README.md").write_text((out / "README.md").read_text() + "\nNow even better.")
    assert signed_off(out).returncode != 0


def torch_linear(path: Path) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in load_file(path).items()}


def test_the_card_tells_what_was_spent_tried_and_measured(run: Path, out: Path) -> None:
    text = (out / "README.md").read_text()
    _, metadata, body = text.split("---\n", 2)
    results = yaml.safe_load(metadata)["model-index"][0]["results"][0]
    metrics = json.loads((run / "metrics.json").read_text())
    last = metrics["rounds"][-1]
    assert {m["type"]: m["value"] for m in results["metrics"]} == {
        name: last[name] for name in ("accuracy", "auc", "f1")
    }
    assert f"Epsilon {last['epsilon']:.4g} at delta 1e-05, for one node." in body
    assert "## Attacks tried\n\nNone.\n" in body
    assert "## Contributions\n\nNot measured.\n" in body
    for row in metrics["nodes"]:  # how many rows a site has is its own affair
        assert f" {row['rows']} " not in body
    log = json.loads(call("verify", run / "record", "--json").stdout)
    assert f"{log['size'] - 1} entries" in body  # the release is the one after it


def test_the_card_tells_of_audit_and_contributions_that_lie_in_the_run(run: Path) -> None:
    digest = json.loads((run / "metrics.json").read_text())["digest"]
    audit = {"experiment": digest, "canaries": 1000, "unit": "node", "verdict": "nothing found."}
    (run / "audit.json").write_text(json.dumps(audit))
    rows = [{"node": "bern", "percent": 70, "gain": 0.125}]
    rows += [{"node": "b", "percent": 30, "gain": None}]
    told = {"experiment": digest, "method": "Shapley", "weakness": "It has one.", "nodes": rows}
    (run / "contributions.json").write_text(json.dumps(told))
    assert call("release", run, "--to", run / "new").exit_code == 0
    body = (run / "new" / "README.md").read_text()
    assert "with 1,000 canaries, one for each node that is tried: nothing found." in body
    assert "By Shapley. It has one." in body
    assert "| bern | 70 | +0.125 |\n| b | 30 | not measured |" in body
    assert what(run, run / "new") == []
    (run / "contributions.json").write_text("")  # of a command that was refused
    assert call("release", run, "--to", run / "bare").exit_code == 0
    assert "Not measured." in (run / "bare" / "README.md").read_text()
    (run / "audit.json").write_text(json.dumps(audit | {"experiment": "another"}))
    done = call("release", run, "--to", run / "newer")
    assert "audit.json is about another experiment than the run's" in done.stderr


def test_scores_in_the_record_are_told(run: Path) -> None:
    recorder = Recorder.again(run / "record")
    found = dict(zip(recorder.nodes, (3, 1, 0, -5), strict=True))
    method = {"name": "Shapley"}
    said = records.score(recorder.experiment, 0, 1, method, found, bytes(32))
    recorder.keeper.append([signed(said, dict(list(recorder._members.items())[:2]))])
    facts = Facts.of(run, recorder.keeper.log)
    recorder.finish()
    assert facts.contributions is not None
    shares = [row["percent"] for row in facts.contributions["nodes"]]
    assert shares == [75, 25, 0, 0]  # of what was scored above zero
    assert "| not measured |" in card(facts)


def test_without_privacy_the_card_says_so(tmp_path: Path) -> None:
    statistics = nn.Sequential(nn.Linear(30, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    carried_out(tmp_path / "run", model=lambda: statistics)
    assert call("release", tmp_path / "run", "--to", tmp_path / "out").exit_code == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "None is promised: no differential privacy." in text
    assert what(tmp_path / "run", tmp_path / "out") == []


def test_folders_may_be_named_from_where_one_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    assert call("release", "hearts", "--to", "near").exit_code == 0
    assert what(Path("hearts"), Path("near")) == []


def test_the_record_knows_the_folder(run: Path, out: Path) -> None:
    done = call("verify", run / "record", "--release", out)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "The record holds.")
    rows = json.loads(call("ledger", "show", run / "record", "--json").stdout)
    assert rows[-1]["kind"] == "release"
    assert len(rows[-1]["signed by"]) == 4  # floor(2 5 / 3) + 1 of the keeper and four sites


def other_weights(out: Path) -> None:
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def other_bom(out: Path) -> None:
    (out / "bom.cdx.json").write_text("{}")


def more(out: Path) -> None:
    (out / "pickled.bin").write_text("run me")


def no_signature(out: Path) -> None:
    (out / "model.sig").unlink()


def other_key(out: Path) -> None:
    (out / "model.pub").write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), public=True))


@pytest.mark.parametrize(
    ("crime", "named"),
    [
        (other_weights, "model.safetensors is not the model that was recorded"),
        (other_bom, "bom.cdx.json is not the one that was recorded"),
        (more, "Extra files found in model 'out': pickled.bin"),
        (no_signature, "model.sig is missing"),
        (other_key, "the model's signature does not hold: Key mismatch"),
    ],
)
def test_another_folder_than_the_members_released_is_named(
    run: Path, out: Path, crime: Any, named: str
) -> None:
    crime(out)
    found = what(run, out)
    assert any(named in each for each in found), found
    assert all(each.startswith("entry ") for each in found)


def test_signed_anew_with_another_key_it_is_still_not_the_recorded_one(
    run: Path, out: Path
) -> None:
    other_weights(out)
    other = run / "other.key"
    private = ec.generate_private_key(ec.SECP256R1())
    other.write_bytes(pem(private))
    (out / "model.pub").write_bytes(pem(private, public=True))
    sign(out, other)
    assert signed_off(out).returncode == 0
    found = what(run, out)
    assert len(found) == 2
    assert "model.sig is not the one that was recorded" in found[0]
    assert "model.safetensors is not the model that was recorded" in found[1]


def test_a_release_takes_a_quorum_and_the_last_model(run: Path, out: Path) -> None:
    recorder = Recorder.again(run / "record")
    recorder._models.append(bytes(32))
    recorder.release(bytes(32), bytes(32))
    recorder._models.pop()
    recorder._members = dict(list(recorder._members.items())[:4])  # whose quorum is 3, not 4
    recorder.release(bytes(32), bytes(32))
    recorder.finish()
    first, second = what(run, out)
    assert "it takes 4 of 5 members to sign it" in first
    assert "it releases another model than the last" in second


def pem(key: Any, *, public: bool = False) -> bytes:
    if public:
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))
    pkcs8, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, none))


def test_a_key_of_ones_own(run: Path) -> None:
    mine = run / "mine.pem"
    mine.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    done = call("release", run, "--to", run / "new", "--key", mine)
    assert "others may read" in done.stderr
    mine.chmod(0o600)
    assert call("release", run, "--to", run / "new", "--key", mine).exit_code == 0
    assert what(run, run / "new") == []
    assert (run / "model.key").stat().st_mode & 0o777 == 0o600  # that of the first release
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())):
        mine.write_bytes(pem(key))
        done = call("release", run, "--to", run / "newer", "--key", mine)
        assert "holds no ECDSA key of the curve P-256" in done.stderr
    assert not (run / "newer").exists()


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("metrics.json", "holds no finished run: there is no metrics.json"),
        ("record/log.db", "has no log.db"),
        (f"record/{KEYS}", f"has no {KEYS}; only a record of a run in one process"),
        ("model.safetensors", "is no model that this version's tacit run has kept"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(run: Path, gone: str, told: str) -> None:
    (run / gone).unlink()
    done = call("release", run, "--to", run / "new")
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(run.glob("*new*"))


def test_a_folder_with_something_in_it_is_left_alone(run: Path, out: Path) -> None:
    done = call("release", run, "--to", out)
    assert f"{out} is there and not empty" in done.stderr
    (run / "empty").mkdir()
    assert call("release", run, "--to", run / "empty").exit_code == 0
    assert what(run, run / "empty") == []


def test_another_model_and_another_record_are_refused(run: Path, tmp_path: Path) -> None:
    carried_out(tmp_path / "other", rounds=1)
    done = call("release", run, "--to", run / "new", "--record", tmp_path / "other" / "record")
    assert "is of another experiment than" in done.stderr
    path = run / "model.safetensors"
    state = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(state, path, {ORDER: json.dumps(["weight", "bias"])})
    done = call("release", run, "--to", run / "new")
    assert "does not end with the model of" in done.stderr


def test_nothing_is_left_of_a_release_that_failed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = set(run.iterdir())
    monkeypatch.setattr(Recorder, "release", full)
    assert call("release", run, "--to", run / "new").exit_code == 2
    assert set(run.iterdir()) == before
    assert verify(run / "record").findings == ()
