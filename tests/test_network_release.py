"""Models of networked runs that are handed out: a quorum of the sites signs, or none does."""

import hashlib
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tacit
from tacit.cli import app
from tacit.ledger.verify import verify
from test_network_records import ROUNDS, Ward, entries, statements, ward
from test_release import signed_off
from typer.testing import CliRunner
from tacit.ledger.statement import Envelope

FILES = {"README.md", "bom.cdx.json", "model.pub", "model.safetensors", "model.sig"}
__all__ = ["ward"]


def test_the_sites_sign_that_the_model_is_handed_out(ward: Ward) -> None:
    out = ward.folder / "out"
    told = ward.carry_out(release=out, algorithm=tacit.Scaffold())
    assert {end.outcome for end in told.values()} == {"finished"}
    assert told["coordinator"].reason == f"all {ROUNDS} rounds are done"
    assert {path.name for path in out.iterdir()} == {*FILES, "state.safetensors"}
    # Whoever has nothing but the record and the folder.
    assert verify(ward.record, release=out).findings == ()
    assert signed_off(out).returncode == 0
    said = statements(ward.record)
    assert said[-1].kind == "release"
    assert len(Envelope.from_bytes(entries(ward.record)[-1]).signatures) == 5  # of six members
    state = (out / "state.safetensors").read_bytes()
    ends = [each.subjects["model"] for each in said if each.kind == "aggregate"]
    assert hashlib.sha256(state).digest() == ends[-1]
    # And a site, which goes home with the same model.
    mine, handed = (load_file(p / "model.safetensors") for p in (ward.site("2"), out))
    assert {n: t.tolist() for n, t in mine.items()} == {n: t.tolist() for n, t in handed.items()}
    words = ["verify", str(ward.record), "--release", str(out)]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "The record holds.")
    print((out / "README.md").read_text())
