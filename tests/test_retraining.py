"""A site's influence removed: what is left of it is nothing, to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import small
import tacit
from tacit.cli import app
from tacit.engine.checkpoint import KEPT, Checkpoint, kept_at
from tacit.engine.retraining import Retraining, retraining
from tacit.ledger.statement import Envelope
from tacit.ledger.verify import verify
from test_ledger_record import entries

# By the seed, which is the experiment's own, "a" is first in a cohort of two in round 3, from 0.
SIZES, COHORT = (20, 7, 9, 30), 2


def experiment(rows_of_a: float = 1.0, **changes: Any) -> tacit.Experiment:
    """Four nodes of whom two take part in a round; "a" has other rows where it is asked for."""
    data = small.federation(SIZES)
    for split in (data.train, data.test):
        split.x[: split.sizes[0]] *= rows_of_a
    settings: dict[str, Any] = {"data": data, "rounds": 8, "topology": tacit.Star(cohort=COHORT)}
    return small.experiment(**(settings | changes))


def late(**changes: Any) -> tacit.Experiment:
    """With a seed by which "a" does not take part before round 3, from 0."""
    for seed in range(1000):
        plan = experiment(seed=seed, **changes)
        if next(r for r in range(8) if 0 in plan.cohort(r)) == 3:
            return plan
    raise AssertionError("no such seed")


def vector(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in model.state_dict().values()])


def trained_on(found: Retraining, folder: Path) -> torch.Tensor:
    if found.start:
        found.start.write(folder)
    return vector(tacit.run(found.experiment, folder=folder, resume=True).model)


@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Scaffold()])
def test_nothing_of_its_rows_is_in_the_retrained_model(tmp_path: Path, algorithm: Any) -> None:
    plan = late(algorithm=algorithm)
    changes = {"seed": plan.seed, "algorithm": algorithm}
    models, retrained = [], []
    for factor in (1.0, -7.0):
        folder = tmp_path / str(factor)
        run = tacit.run(experiment(factor, **changes), folder=folder, keep_every=1)
        found = retraining(experiment(factor, **changes), "a", folder)
        assert (found.contributed, found.rounds) == (3, 5)
        assert found.start is not None
        assert found.start.round == 3  # rounds 0, 1 and 2 are done
        models.append(vector(run.model))
        retrained.append(trained_on(found, tmp_path / f"without {factor}"))
    assert not torch.equal(*models)
    assert torch.equal(*retrained)


def test_from_the_start_it_is_the_run_of_a_federation_that_never_had_it(tmp_path: Path) -> None:
    plan = experiment(topology=tacit.Star())
    tacit.run(plan, folder=tmp_path / "run", keep_every=1)
    found = retraining(plan, "b", tmp_path / "run")
    assert (found.contributed, found.start, found.rounds) == (0, None, 8)
    parts = [part for i, part in enumerate(plan.data.train.parts()) if i != 1]
    tests = [part for i, part in enumerate(plan.data.test.parts()) if i != 1]
    pack = type(plan.data.train).pack
    never = tacit.data.federation.Federation(
        pack(parts), pack(tests), ("a", "c", "d"), "classification", 2
    )
    expected = tacit.run(plan.replace(data=never)).model
    assert torch.equal(trained_on(found, tmp_path / "without"), vector(expected))


def test_the_last_checkpoint_before_its_part_is_taken(tmp_path: Path) -> None:
    plan = late()
    tacit.run(plan, folder=tmp_path, keep_every=2)
    assert sorted(path.name for path in (tmp_path / KEPT).iterdir()) == [
        "000002", "000004", "000006", "000008"
    ]  # fmt: skip
    found = retraining(plan, "a", tmp_path)
    assert found.start is not None
    assert (found.start.round, found.rounds) == (2, 6)
    metrics = Checkpoint.read(tmp_path, plan.digest()).metrics  # type: ignore[union-attr]
    seconds = sorted(row["seconds"] for row in metrics)
    assert found.seconds == pytest.approx(6 * (seconds[3] + seconds[4]) / 2)
    tacit.run(plan, folder=tmp_path)  # another run replaces it, and lets none stay
    found = retraining(plan, "a", tmp_path)
    assert (found.start, found.rounds) == (None, 8)


def test_what_a_rule_remembers_by_places_is_not_taken_over(tmp_path: Path) -> None:
    plan = late(compression=tacit.TopK(0.5))
    tacit.run(plan, folder=tmp_path, keep_every=1)
    assert Checkpoint.read(kept_at(tmp_path, 3), plan.digest()) is not None
    assert retraining(plan, "a", tmp_path).start is None


def test_where_nobody_is_waited_for_training_begins_anew(tmp_path: Path) -> None:
    # By the arrivals of the others a node trains on, in round 11, from a model that is not kept.
    algorithm = tacit.FedBuff(buffer=1, spread=20.0)
    data = small.federation((20, 7, 9, 30, 5, 6))
    changes = {"data": data, "seed": 44, "algorithm": algorithm, "topology": tacit.Star()}
    plan = experiment(**changes, rounds=12)
    tacit.run(plan, folder=tmp_path / "run", keep_every=1)
    found = retraining(plan, "a", tmp_path / "run")
    assert (found.contributed >= 11, found.start) == (True, None)
    found.begin_record(tmp_path / "record")
    tacit.run(found.experiment, record=tmp_path / "record")
    audit = verify(tmp_path / "record")
    assert audit.findings == ()
    assert dict(audit.checks)["rounds"] == "12 rounds"


def test_the_others_keep_what_is_their_own(tmp_path: Path) -> None:
    plan = late(algorithm=tacit.Scaffold())
    tacit.run(plan, folder=tmp_path, keep_every=1)
    before = Checkpoint.read(kept_at(tmp_path, 3), plan.digest())
    found = retraining(plan, "a", tmp_path)
    assert before is not None
    assert found.start is not None
    own = [name for name, tensor in before.state.items() if len(tensor) == 4]
    assert own
    for name in before.state:
        left = before.state[name][1:] if name in own else before.state[name]
        assert torch.equal(found.start.state[name], left)
    assert found.experiment.data.names == ("b", "c", "d")


def test_verdicts_of_the_others_stay(tmp_path: Path) -> None:
    plan = late(topology=tacit.Star(cohort=3), aggregation=tacit.Median())
    run = tacit.run(plan, folder=tmp_path / "run", keep_every=1)
    found = retraining(plan, "a", tmp_path / "run")
    assert found.start is not None
    found.start.write(tmp_path / "new")
    result = tacit.run(found.experiment, folder=tmp_path / "new", resume=True)
    assert run.verdicts is not None
    assert result.verdicts is not None
    assert result.verdicts.shape == (8, 3)
    assert torch.equal(result.verdicts[:3], run.verdicts[:3, 1:])


@pytest.mark.parametrize(
    ("changes", "site", "told"),
    [
        ({}, "z", "there is no site 'z'"),
        ({"attack": tacit.attacks.SignFlip(nodes=[1])}, "a", "retraining is for plans without one"),
        (
            {
                "topology": tacit.Star(),
                "protection": [tacit.Clip(1.0), tacit.SecureAggregation(threshold=4)],
            },
            "a", "threshold",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_retrained_is_said(
    tmp_path: Path, changes: dict[str, Any], site: str, told: str
) -> None:
    with pytest.raises(tacit.InputError, match=told):
        retraining(experiment(**changes), site, tmp_path)


FILE = """
import torch.nn as nn, tacit
experiment = tacit.Experiment(
    data=tacit.data.load("breast-cancer", nodes=4),
    model=lambda: nn.Linear(30, 2),
    loss=nn.functional.cross_entropy,
    training=tacit.SGD(lr=0.1, batch_size=16, epochs=1),
    topology=tacit.Star(cohort=2),
    rounds=6,
    seed={seed},
)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hearts.py"
    star = tacit.Star(cohort=2)
    seed = next(s for s in range(1000) if [0 in star.sample(4, s, r) for r in range(3)]
                == [False, False, True])  # fmt: skip
    path.write_text(FILE.format(seed=seed))
    return path


def call(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, done.output
    return done


def test_the_command_says_the_cost_and_then_trains(file: Path) -> None:
    call("run", "hearts.py", "--keep-every", "1", "--record", "runs/hearts/record")
    words = ("retrain", "hearts.py", "--without", "0")
    cost = json.loads(call(*words, "--estimate", "--json").stdout)
    assert {k: cost[k] for k in ("site", "contributed", "from", "rounds")} == {
        "site": "0", "contributed": 3, "from": 2, "rounds": 4
    }  # fmt: skip
    assert cost["seconds"] > 0
    assert not Path("runs/hearts-without-0").exists()
    by_record = call(*words, "--estimate", "--json", "--record", "runs/hearts/record")
    assert json.loads(by_record.stdout) == cost
    told = call(*words).output
    assert "0 first took part in round 3" in told
    assert "4 rounds are to be done again" in told
    rounds = json.loads(Path("runs/hearts-without-0/metrics.json").read_text())["rounds"]
    assert [row["round"] for row in rounds] == [1, 2, 3, 4, 5, 6]
    before = json.loads(Path("runs/hearts/metrics.json").read_text())["rounds"]
    assert rounds[:2] == before[:2]
    model = Path("runs/hearts-without-0/model.safetensors").read_bytes()
    call(*words)  # again, over the finished one
    assert Path("runs/hearts-without-0/model.safetensors").read_bytes() == model


def test_the_new_run_leaves_a_record_of_what_it_is_a_retraining(file: Path) -> None:
    call("run", "hearts.py", "--keep-every", "1", "--record", "old")
    words = ("retrain", "hearts.py", "--without", "0", "--to-record", "new")
    call(*words)
    audit = verify(Path("new"))
    assert audit.findings == ()
    assert dict(audit.checks)["rounds"] == "rounds 2 to 5, counted from 0"
    before, after = ([Envelope.from_bytes(entry).statement for entry in entries(Path(folder))]
                     for folder in ("old", "new"))  # fmt: skip
    rules = after[0].says["rules"]
    assert rules["retrained_from"] == before[0].subjects["experiment"].hex()
    assert rules["retrained_from"] != after[0].subjects["experiment"].hex()
    assert (rules["without"], rules["first_round"]) == ("0", "2")
    opened, closed = (
        {said.says["round"]: said for said in told if said.kind == kind}
        for told, kind in ((after, "round-open"), (before, "aggregate"))
    )
    assert list(opened) == [2, 3, 4, 5]
    assert opened[2].subjects["base"] == closed[1].subjects["model"]
    assert "0" not in {said.says["site"] for said in after if said.kind == "contribution"}
    call(*words)  # again, over the finished one
    assert len(entries(Path("new"))) == len(after)
    assert verify(Path("new")).findings == ()
    call("retrain", "hearts.py", "--without", "0", "--to-record", "old", code=2)


def test_a_record_of_another_experiment_and_no_run_are_refused(file: Path) -> None:
    words = ("retrain", "hearts.py", "--without", "0")
    assert "holds no run of this experiment" in call(*words, code=2).stderr
    call("run", "hearts.py", "--record", "rec", "--set", "rounds=1")
    assert "holds another experiment's record" in call(*words, "--record", "rec", code=2).stderr
