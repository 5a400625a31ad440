"""``tacit audit``: through masks, of drawn cohorts, what is refused, and the command.

All but masks, which cancel exactly, comes from fixed seeds: no test flickers.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

import tacit
from audited import CENTRAL, DISTRIBUTED, MASKS, plan
from small import experiment, federation
from tacit.auditing.bound import TruePositives
from tacit.cli import app
from tacit.engine import protect
from tacit.protection.secagg import masks


def test_through_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    masked = plan(DISTRIBUTED, MASKS, hidden=50, rounds=1)
    assert not tacit.audit(masked, canaries=30).failed
    draw = protect.discrete_gaussian
    monkeypatch.setattr(protect, "discrete_gaussian", lambda *given: 0 * draw(*given))
    found = tacit.audit(masked, canaries=30)
    assert found.bound == found.most


def test_a_reused_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # The sum is right, and has its noise: what a node sends twice gives it away.
    noised = plan(replace(DISTRIBUTED, multiplier=10), MASKS, hidden=50)
    right = tacit.audit(noised, canaries=30)
    assert not right.failed
    assert right.correct < right.guesses
    key = masks.key
    monkeypatch.setattr(masks, "key", lambda secret, context, purpose: key(b"", b"", purpose))
    found = tacit.audit(noised, canaries=30)
    assert found.failed
    assert found.true_positives[0.001].rate == 1.0


def test_canaries_are_sampled_as_nodes_are() -> None:
    # One node in 16, in each of four rounds: the claim counts on it. Nodes that take part in every
    # round would give away mu = 2 / 0.8, whose epsilon is above 13 at this delta.
    found = tacit.audit(
        plan(
            replace(CENTRAL, multiplier=0.8),
            topology=tacit.Star(cohort=1, sampling="poisson"),
            data=federation((6,) * 16),
            rounds=4,
            hidden=100,
        ),
        canaries=600,
    )
    assert found.epsilon < 4
    assert not found.failed


def test_an_adaptive_norm_is_audited_too() -> None:
    found = tacit.audit(
        plan().replace(protection=[tacit.AdaptiveClip(0.1), CENTRAL]), canaries=1000
    )
    assert 0.5 < found.bound < found.epsilon


def test_too_few_canaries_are_said_to_find_nothing() -> None:
    found = tacit.audit(plan(replace(CENTRAL, multiplier=0.3)), canaries=20)
    assert found.most < found.epsilon
    assert "nothing could be" in found.verdict()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda: plan(), "only noise has; add GaussianNoise"),
        (lambda: experiment(), "only noise has; add GaussianNoise"),
        (lambda: plan(replace(CENTRAL, multiplier=0)), "claims nothing"),
        (
            lambda: experiment(protection=[tacit.DPSGD(norm=1.0, multiplier=0, delta=1e-5)]),
            "claims nothing",
        ),
    ],
)
def test_what_cannot_be_audited_is_refused(
    changed: Callable[[], tacit.Experiment], why: str
) -> None:
    with pytest.raises(tacit.InputError, match=why):
        tacit.audit(changed())


def test_too_few_canaries_are_refused() -> None:
    with pytest.raises(tacit.InputError, match=r"^canaries: "):
        tacit.audit(plan(CENTRAL), canaries=19)
    small = plan(CENTRAL).replace(model=lambda: nn.Linear(4, 2))
    with pytest.raises(tacit.InputError, match="it has 10 numbers"):
        tacit.audit(small)


FILE = """
from torch import nn
import tacit

experiment = tacit.Experiment(
    data=tacit.data.load("wine"),
    model=lambda: nn.Linear(13, 3),
    loss=nn.functional.cross_entropy,
    training=tacit.SGD(lr=0.1),
    protection=[
        tacit.Clip(1.0), tacit.GaussianNoise(multiplier=4, delta=1e-5, where="central")
    ],
    rounds=1,
)
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wine.py"
    file.write_text(FILE)
    call = lambda *more: CliRunner().invoke(app, ["audit", str(file), *more])  # noqa: E731
    done = call("--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["canaries"] == 42
    assert found["failed"] is False
    assert (found["unit"], found["adjacency"]) == ("node", "add-or-remove")
    assert (found["delta"], found["confidence"]) == (1e-5, 0.95)
    assert [row["false_positive_rate"] for row in found["true_positives"]] == [0.001, 0.01]
    draw = protect.gaussian
    monkeypatch.setattr(protect, "gaussian", lambda *given: 0 * draw(*given))
    done = call()
    assert done.exit_code == 1
    assert "claimed: epsilon 0.9" in done.stdout
    assert "true positives at 0.1 % false positives: 100.0 %" in done.stdout
    assert done.stdout.rstrip().split("\n")[-1].startswith("FAILED: ")


def test_a_row_is_audited_by_the_command(tmp_path: Path) -> None:
    file = tmp_path / "wine.py"
    noise = 'tacit.Clip(1.0), tacit.GaussianNoise(multiplier=4, delta=1e-5, where="central")'
    assert noise in FILE
    file.write_text(FILE.replace(noise, "tacit.DPSGD(norm=1.0, multiplier=2.0, delta=1e-5)"))
    done = CliRunner().invoke(app, ["audit", str(file), "--canaries", "100"])
    assert done.exit_code == 0
    assert "for one row added or removed, after 1 rounds" in done.stdout
    file.write_text(FILE.replace(noise, "tacit.Clip(1.0)"))
    assert CliRunner().invoke(app, ["audit", str(file)]).exit_code == 2


def test_the_text() -> None:
    rates = {0.001: TruePositives(0.25, 0.125, 0.5)}
    found = tacit.Audit(3.0, 1e-5, "node", "replace", 0.95, 10, 1000, 250, 200, 1.25, 7.9, rates)
    assert found.to_text().split("\n") == [
        "claimed: epsilon 3.00 at delta 1e-05, for one node replaced, after 10 rounds",
        "lower bound at 95 %: epsilon 1.25 (200 of 250 guesses right, 1,000 canaries;"
        " at most 7.90 could be shown)",
        "true positives at 0.1 % false positives: 25.0 % (12.5 to 50.0 %)",
        "nothing found: the bound 1.25 stays below the claim 3.00.",
    ]
