"""Models of networked runs that are handed out: a quorum of the sites signs, or none does."""

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tacit
from tacit.cli import app
from tacit.engine.recording import rules
from tacit.errors import InputError, MessageError, TacitError
from tacit.ledger import records
from tacit.ledger.release import ORDER, sign
from tacit.ledger.statement import Envelope, Statement, encoded
from tacit.ledger.verify import verify
from tacit.network import processes
from tacit.network.attendance import Attendance
from tacit.network.protocol import Release, Released
from tacit.network.recording import Recording
from tacit.network.releasing import Releasing
from tacit.network.witnessing import Unrecorded, Witnessing
from test_network_records import ROUNDS, Careful, Ward, entries, statements, ward
from test_network_rounds import experiment
from test_release import FILES, signed_off

__all__ = ["ward"]
NAMES = ("0", "1", "2", "3")  # with the coordinator five members, of whom four are a quorum
VECTOR = {"model": torch.arange(4.0), "control": torch.ones(4)}


def test_the_sites_sign_that_the_model_is_handed_out(ward: Ward) -> None:
    out = ward.folder / "out"
    told = ward.carry_out(release=out, algorithm=tacit.Scaffold())
    assert {end.outcome for end in told.values()} == {"finished"}
    assert told["coordinator"].reason == f"all {ROUNDS} rounds are done"
    assert {path.name for path in out.iterdir()} == FILES | {"state.safetensors"}
    # Whoever has nothing but the record and the folder:
    assert verify(ward.record, release=out).findings == ()
    assert signed_off(out).returncode == 0
    said = statements(ward.record)
    assert said[-1].kind == "release"
    assert len(Envelope.from_bytes(entries(ward.record)[-1]).signatures) == 5  # of six members
    state = (out / "state.safetensors").read_bytes()
    ends = [each.subjects["model"] for each in said if each.kind == "aggregate"]
    assert hashlib.sha256(state).digest() == ends[-1]
    # A site, which goes home with the same model:
    mine, handed = (load_file(p / "model.safetensors") for p in (ward.site("2"), out))
    assert {n: t.tolist() for n, t in mine.items()} == {n: t.tolist() for n, t in handed.items()}
    assert ward.against("2").findings == ()
    words = ["verify", str(ward.record), "--release", str(out)]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "The record holds.")
    body = (out / "README.md").read_text()
    assert "what the sites were given; the\nmodel is one of its tensors" in body
    done = CliRunner().invoke(
        app, ["release", str(ward.folder / "run"), "--record", str(ward.record), "--to", "new"]
    )
    assert done.exit_code == 2
    assert "Of a run among real machines the coordinator hands the model out, with --release" in (
        done.stderr
    )


@pytest.mark.slow
def test_the_card_tells_what_the_rounds_have_spent(ward: Ward) -> None:
    noise = tacit.GaussianNoise(multiplier=4.0, delta=1e-5, where="central")
    protection = [tacit.Clip(1.0), noise, tacit.SecureAggregation(threshold=3)]
    out = ward.folder / "out"
    told = ward.carry_out(release=out, protection=protection)
    assert {end.outcome for end in told.values()} == {"finished"}
    assert verify(ward.record, release=out).findings == ()
    spent = ward.made[-1].row["epsilon"]
    body = (out / "README.md").read_text()
    assert f"Epsilon {spent:.4g} at delta 1e-05, for one node." in body
    assert f"- accuracy: {ward.made[-1].store.metrics()[-1]['accuracy']:.4g}" in body


class Deaf(Careful):
    """It signs no release."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        assert self.record is not None
        follow = self.record.follow
        self.record.follow = lambda order: (  # type: ignore[method-assign]
            self.wake(0.1) if isinstance(order, Release) else follow(order)
        )


def test_a_run_ends_though_no_quorum_signs(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out = Releasing.carry_out

    def impatient(*given: Any) -> str:
        given[5].patience = 0.2
        return carry_out(*given)

    monkeypatch.setattr(Releasing, "carry_out", impatient)
    ward.lies(dict.fromkeys(("3", "4"), Deaf))
    out = ward.folder / "out"
    told = ward.carry_out(release=out)
    for end in told.values():
        assert end.outcome == "finished"
        assert end.reason.startswith(
            f"all {ROUNDS} rounds are done; the release of the model is not in the record: "
        )
    assert verify(ward.record).findings == ()
    (missing,) = verify(ward.record, release=out).findings
    assert str(missing) == "the record holds no release"


class Hall:
    """A coordinator and four sites, by calls, once all rounds are over."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        data = tacit.data.at_sites(NAMES, target="y", columns=["a"], labels=[0, 1])
        self.plan = experiment(data=data, rounds=1, model=lambda: torch.nn.Linear(1, 2))
        self.keys = {name: Ed25519PrivateKey.generate() for name in ("hub", *NAMES)}
        self.model = folder / "model"
        save_file(VECTOR, self.model)
        self.attendance = Attendance(NAMES, folder, patience=60, grace=0)
        self.deaf: tuple[str, ...] = ()  # who signs no release
        self.recording = self.again()
        self.sites = {
            name: Witnessing(
                folder / name, self.plan.digest(), 1, name, self.keys[name], "hub", self.key_of,
                partial(self.answer, name), rules=rules(self.plan),
            )
            for name in NAMES
        }  # fmt: skip
        self.follow()
        self.recording.go_on(0, self.model, {}, False)
        self.follow()
        for name in NAMES:
            entry, _ = self.sites[name].contribution(0, self.model, 10, "none")
            self.recording.contributed(name, 0, entry)
        self.recording.go_on(1, self.model, {"left_out": []}, False)

    def again(self) -> Recording:
        """The coordinator's part, of what is on the disk."""
        keeper: Any = SimpleNamespace(name="hub", sign=self.keys["hub"].sign)
        path = self.folder
        return Recording(path / "record", path, self.plan, keeper, self.key_of)

    def key_of(self, name: str) -> Ed25519PublicKey:
        return self.keys[name].public_key()

    def answer(self, name: str, request: Any) -> Any:
        reply = self.recording.answer(name, request)
        with self.attendance.changed:
            self.attendance.news()
        return reply

    def follow(self) -> None:
        """All sites do what they are asked for, until there is nothing more."""
        while orders := {name: order for name in NAMES if (order := self.order(name))}:
            for name, order in orders.items():
                self.sites[name].follow(order)

    def order(self, name: str) -> Any:
        order = self.recording.order(name)
        return None if isinstance(order, Release) and name in self.deaf else order

    def release(self, tell: Callable[[], object] | None = None) -> str:
        releasing = Releasing(self.out, self.folder, self.recording)
        return releasing.carry_out(
            self.plan, VECTOR, self.model, {}, self.attendance, tell or self.follow
        )

    def findings(self) -> list[str]:
        found = verify(self.folder / "record", release=self.out).findings
        return [str(finding) for finding in found]

    def close(self) -> None:
        self.recording.close()
        for site in self.sites.values():
            site.close()


@pytest.fixture
def hall(tmp_path: Path) -> Any:
    made = Hall(tmp_path)
    yield made
    made.close()


def test_a_release_without_a_quorum_is_not_in_the_record(hall: Hall) -> None:
    hall.deaf, hall.attendance.patience = ("1", "2"), 0.05
    said = hall.release()
    assert said == ("the release of the model is not in the record: 3 of 4 signatures came in time")
    assert hall.findings() == ["the record holds no release"]
    # Whoever signs later is too late: the run is over.
    hall.deaf = ()
    hall.follow()
    late = hall.keys["1"].sign(b"whatever")
    assert hall.recording.answer("1", Released(hall.plan.digest(), late)).used is False
    assert [said.kind for said in statements(hall.folder / "record")][-1] == "aggregate"


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize(
    "moment", ["filling", "signing", "placing", "asking", "signed once", "recorded", "cosigned"]
)
def test_whoever_is_killed_goes_on_with_the_same_release(
    moment: str, hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By calls: what is on the disk at each moment, for a process that begins anew."""

    def die(*_: object) -> None:
        raise Killed

    def tell() -> None:
        if moment == "signed once":
            hall.sites["0"].follow(hall.order("0"))  # the head, which was proposed before
            hall.sites["0"].follow(hall.order("0"))
        elif moment != "asking":
            hall.follow()
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "filling":
            patch.setattr("tacit.release.folder.card", die)
        if moment == "signing":
            patch.setattr("tacit.release.folder.sign", die)
        if moment == "placing":
            patch.setattr(Path, "replace", die)
        if moment == "recorded":
            append = hall.recording._append
            patch.setattr(hall.recording, "_append", lambda entries: (append(entries), die()))
        with pytest.raises(Killed):
            hall.release(tell)
    made = moment not in ("filling", "signing", "placing")
    assert hall.out.exists() == made
    before = (hall.out / "model.sig").read_bytes() if made else None
    hall.recording.close()
    hall.recording = hall.again()
    hall.recording.go_on(1, hall.model, {"left_out": []}, True)
    assert hall.release() == ""
    hall.recording.end()
    hall.follow()
    if made:
        assert (hall.out / "model.sig").read_bytes() == before
    assert hall.findings() == []
    kinds = [said.kind for said in statements(hall.folder / "record")]
    assert kinds.count("release") == 1


# A coordinator that lies


def another_model(said: Statement) -> Statement:
    return Statement(said.kind, {**said.subjects, "model": bytes(32)}, said.says)


def another_round(said: Statement) -> Statement:
    return Statement(said.kind, said.subjects, {"rounds": 2})


def a_payout(said: Statement) -> Statement:
    return records.settlement(bytes(32), 0, 100, {"0": 100})


def another_member(said: Statement) -> Statement:
    return records.membership(bytes(32), {"mallory": bytes(32)})


@pytest.mark.parametrize("crime", [another_model, another_round, a_payout, another_member])
def test_sites_sign_the_release_of_the_last_model_and_nothing_else(
    crime: Callable[[Statement], Statement], hall: Hall
) -> None:
    said = records.release(1, hall.recording._model, bytes(32), bytes(32))
    site = hall.sites["0"]
    asked: list[Any] = []
    site.ask = lambda request: (asked.append(request), hall.answer("0", request))[1]
    site.follow(Release(hall.plan.digest(), said.payload()))
    signature = asked[-1].signature  # of what it is asked to sign by an honest one
    hall.key_of("0").verify(signature, encoded(said.payload()))
    asked.clear()
    with pytest.raises(Unrecorded, match="'hub' hands out another model than its record ends with"):
        site.follow(Release(hall.plan.digest(), crime(said).payload()))
    with pytest.raises(MessageError):
        site.follow(Release(hall.plan.digest(), b"{}"))
    assert not any(isinstance(request, Released) for request in asked)


def test_no_release_without_a_record(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    site = Witnessing(
        tmp_path, "0" * 64, 1, "0", key, "hub", lambda _: key.public_key(), lambda request: 1 / 0,
        rules={},
    )  # fmt: skip
    said = records.release(1, bytes(32), bytes(32), bytes(32))
    with pytest.raises(Unrecorded, match="hands a model out, and its record is not begun"):
        site.follow(Release("0" * 64, said.payload()))


def test_a_signature_of_somebody_else_does_not_count(hall: Hall) -> None:
    hall.deaf = NAMES
    hall.attendance.patience = 0.05

    def forge() -> None:
        hall.follow()  # the head
        order = hall.recording.order("0")
        assert isinstance(order, Release)
        signature = hall.keys["1"].sign(encoded(order.statement))
        for name in NAMES:
            reply = hall.recording.answer(name, Released(hall.plan.digest(), signature))
            assert reply.used is (name == "1")

    assert "2 of 4 signatures came in time" in hall.release(forge)


# A folder that was changed


def another_state(out: Path) -> None:
    save_file({**VECTOR, "control": torch.zeros(4)}, out / "state.safetensors")


def another_vector(out: Path) -> None:
    """Of the state's tensors another than the model."""
    path = out / "model.safetensors"
    names = {ORDER: '["weight","bias"]'}
    save_file({"weight": torch.ones(2, 1), "bias": torch.ones(2)}, path, names)


def no_state(out: Path) -> None:
    (out / "state.safetensors").unlink()


@pytest.mark.parametrize(
    ("crime", "named"),
    [
        (another_state, "state.safetensors is not the one that was recorded"),
        (another_vector, "model.safetensors is not the model that was recorded"),
        (no_state, "model.safetensors is not the model that was recorded"),
    ],
)
def test_a_changed_folder_is_found_out_though_it_is_signed_anew(
    crime: Callable[[Path], None], named: str, hall: Hall
) -> None:
    assert hall.release() == ""
    hall.recording.end()
    hall.follow()
    assert hall.findings() == []
    crime(hall.out)
    sign(hall.out, hall.folder / "model.key")
    found = hall.findings()
    assert len(found) == 2
    assert "model.sig is not the one that was recorded" in found[0]
    assert named in found[1]


# What cannot work


def test_a_folder_with_something_else_in_it_is_left_alone(hall: Hall) -> None:
    hall.out.mkdir()
    assert hall.release() == ""  # an empty one gives way
    shutil.rmtree(hall.out)
    hall.out.mkdir()
    (hall.out / "state.safetensors").write_bytes(b"another run's")
    with pytest.raises(InputError, match="out is there and not empty; give a new folder"):
        hall.release()


def test_a_release_takes_a_record_and_a_library(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TacitError, match="release: a folder was given without a record"):
        processes.coordinate(hall.plan, hall.folder, hall.folder, listen=[], release=hall.out)
    monkeypatch.setattr("tacit.ledger.release.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tacit\[release\]'"):
        Releasing(hall.out, hall.folder, hall.recording)
