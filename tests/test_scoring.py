"""Scores of runs: who is worth something, who is not, and what masks leave to be seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
from typer.testing import CliRunner

import tacit
from tacit.attacks import FreeRider, SignFlip
from tacit.cli import app
from tacit.engine.perceptron import linear_layers
from tacit.engine.scoring import _Scoring, contributions
from tacit.errors import InputError
from tacit.ledger.contribution import CGSV, FirstOrder, Shapley


def experiment(nodes: int = 5, **changes: Any) -> tacit.Experiment:
    settings: dict[str, Any] = {
        "data": tacit.data.load("breast-cancer", nodes=nodes),
        "model": lambda: nn.Linear(30, 2),
        "loss": nn.functional.cross_entropy,
        "training": tacit.SGD(lr=0.1, batch_size=16),
        "rounds": 3,
    }
    return tacit.Experiment(**(settings | changes))


def test_scores_add_up_to_what_the_run_has_gained() -> None:
    plan = experiment()
    found = contributions(plan)
    assert isinstance(found.method, Shapley)
    # Efficiency: in every round the scores sum to U(after) - U(before), which telescopes.
    start = tacit.run(plan.replace(training=tacit.SGD(lr=1e-30, batch_size=16), rounds=1))
    gained = found.result.metrics[-1]["accuracy"] - start.metrics[-1]["accuracy"]
    assert found.scores.sum() == pytest.approx(gained, abs=1e-6)
    plain = tacit.run(plan)
    for one, other in zip(found.result.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("method", [Shapley(), FirstOrder(), CGSV()])
def test_liars_and_free_riders_score_below_the_honest(method: Any) -> None:
    honest = contributions(experiment(), method).scores
    for attack in (SignFlip(nodes=0.2), FreeRider(nodes=0.2)):
        plan = experiment(attack=attack)
        (liar,) = plan.malicious
        found = contributions(plan, method).scores
        assert found[liar] < np.delete(found, liar).min()
        assert found[liar] < honest[liar]


def test_duplicated_rows_share_what_one_copy_was_worth() -> None:
    plan = experiment(4)
    parts = list(plan.data.train.parts())
    parts[1] = parts[0]
    twice = replace(plan.data, train=tacit.data.federation.Split.pack(parts))
    found = contributions(plan.replace(data=twice)).rows()
    # The same rows in another order of batches: nearly the same update, and the same worth.
    assert found[0]["score"] == pytest.approx(found[1]["score"], abs=0.02)


def test_behind_masks_groups_are_scored() -> None:
    masks = [tacit.SecureAggregation(threshold=3)]
    plan = experiment(9, topology=tacit.Hierarchical(groups=3), protection=masks)
    found = contributions(plan)
    assert found.groups is not None
    for group in range(3):
        assert len(set(found.scores[found.groups == group])) == 1
    rows = found.rows()
    assert sum({row["group"]: row["percent"] for row in rows}.values()) == 100
    assert sum({row["group"]: row["score"] for row in rows}.values()) == pytest.approx(
        found.result.metrics[-1]["accuracy"]
        - tacit.run(
            plan.replace(training=tacit.SGD(lr=1e-30, batch_size=16), rounds=1)
        ).metrics[-1]["accuracy"],
        abs=0.02,  # masks round
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": tacit.Gossip()}, "under a server"),
        ({"protection": [tacit.SecureAggregation(threshold=3)]}, "Hierarchical"),
        (
            {
                "protection": [
                    tacit.Clip(1.0),
                    tacit.GaussianNoise(multiplier=1.0, delta=1e-5, where="central"),
                ]
            },
            "noise by the server",
        ),
    ],
)
def test_where_nobody_sees_what_could_be_scored(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        contributions(experiment(**changes))


def test_where_no_rows_are() -> None:
    data = tacit.data.at_sites(
        ["north", "south"], target="y", columns=[f"x{k}" for k in range(30)], labels=["a", "b"]
    )
    with pytest.raises(InputError, match="no site's rows are here; give every site's table"):
        contributions(experiment(data=data))


def test_a_regression_is_scored_by_its_loss() -> None:
    plan = experiment(
        data=tacit.data.load("diabetes", nodes=3), model=lambda: nn.Linear(10, 1),
        loss=nn.functional.mse_loss,
    )  # fmt: skip
    found = contributions(plan)
    assert found.metric == "loss"
    assert all(row["gain"] == row["alone"] - row["together"] for row in found.rows())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("experiment.py").write_text(
        "import tacit, torch.nn as nn\n"
        "experiment = tacit.Experiment(\n"
        '    data=tacit.data.load("breast-cancer", nodes=3), model=lambda: nn.Linear(30, 2),\n'
        "    loss=nn.functional.cross_entropy, training=tacit.SGD(lr=0.1), rounds=2)\n"
    )
    done = CliRunner().invoke(app, ["contributions", "experiment.py"])
    assert done.exit_code == 0, done.output
    assert Shapley.weakness in " ".join(done.stdout.split())
    report = Path("runs/experiment/contributions.html")
    assert done.stdout.endswith(f"Report: {report}\n")
    assert "who contributed what?" in report.read_text()
    assert "gain" in done.stdout
    words = ["contributions", "experiment.py", "--method", "cgsv", "--json"]
    found = json.loads(CliRunner().invoke(app, words).stdout)
    assert found["method"] == "CGSV"
    assert len(found["nodes"]) == 3


@pytest.mark.parametrize("sizes", [(30, 2), (30, 8, 2), (30, 8, 5, 2)])
def test_perceptrons_are_tried_as_other_models_are(sizes: tuple[int, ...]) -> None:
    with _Scoring(experiment(model=lambda: tacit.models.mlp(*sizes)), None) as session:
        assert session.layers
        base = session.experiment.start()
        steps = torch.randn(5, len(base), generator=torch.Generator().manual_seed(1))
        steps[4] = -base  # its model is zero, and of equal outputs the first is the word
        share = torch.cat([torch.eye(5), torch.full((1, 5), 0.2), torch.zeros(1, 5)])
        found = session.hits(base, steps, share)
        assert found is not None
        # A row that is as good as undecided may fall to either side.
        assert np.abs(found - session._utility(base + share @ steps)).max() < 0.02
        zero = float((session.evaluator.test.y == 0).double().mean())
        assert found[4] == pytest.approx(zero, abs=1e-6)
        steps[0, 0] = torch.inf  # nobody else's coalitions suffer
        assert session.hits(base, steps, share) is None


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (nn.Sequential(nn.Linear(30, 4), nn.ReLU(), nn.Linear(4, 2)), ["0", "2"]),
        (nn.Sequential(nn.Flatten(), nn.Linear(30, 2)), ["1"]),
        (nn.Sequential(nn.Linear(30, 4), nn.Tanh(), nn.Linear(4, 2)), []),
        (nn.Sequential(nn.Linear(30, 2, bias=False)), []),
        (nn.Sequential(nn.Linear(30, 2), nn.ReLU()), []),
        (nn.Sequential(nn.Flatten()), []),
        (nn.Linear(30, 2), []),
    ],
)
def test_what_a_perceptron_is(model: nn.Module, layers: list[str]) -> None:
    assert linear_layers(model) == layers
