"""Runs that pay for their rounds from a data set's privacy ledger."""

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tacit
from small import experiment
from tacit.cli import app
from tacit.protection.budget import PrivacyBudget

NOISE = tacit.GaussianNoise(multiplier=4.0, delta=1e-5, where="central")


def noisy(**changes: object) -> tacit.Experiment:
    return experiment(protection=[tacit.Clip(1.0), NOISE], **changes)


def test_every_round_is_paid_once_however_often_it_is_carried_out(tmp_path: Path) -> None:
    plan, ledger = noisy(rounds=3), tmp_path / "ledger"
    PrivacyBudget(ledger).grant(plan.data.name, 10.0, 1e-5)
    tacit.run(plan, ledger=ledger)
    once = PrivacyBudget(ledger).spent(plan.data.name)
    tacit.run(plan, ledger=ledger)
    assert PrivacyBudget(ledger).spent(plan.data.name) == once
    # Renyi: 3 a / (2 16) + log(1 / delta) / (a - 1) is least near a = 1 + sqrt(log(1e5) 32 / 3).
    order = 1 + math.sqrt(math.log(1e5) * 32 / 3)
    assert once <= 3 * order / 32 + math.log(1e5) / (order - 1)
    assert once >= plan.guard.epsilon(3)
    tacit.run(plan.replace(seed=1), ledger=ledger)
    assert PrivacyBudget(ledger).spent(plan.data.name) > once


def test_a_round_that_is_not_allowed_is_not_carried_out(tmp_path: Path) -> None:
    plan, ledger, seen = noisy(rounds=50), tmp_path / "ledger", []
    PrivacyBudget(ledger).grant(plan.data.name, 2.0, 1e-5)
    with pytest.raises(tacit.InputError, match="the budget is 2 at delta 1e-05"):
        tacit.run(plan, ledger=ledger, on_round=seen.append)
    assert 1 <= len(seen) < 50
    assert PrivacyBudget(ledger).spent(plan.data.name) <= 2
    with pytest.raises(tacit.InputError, match="has no noise to account for"):
        tacit.run(experiment(), ledger=ledger)


def test_rows_and_nodes_do_not_share_an_account(tmp_path: Path) -> None:
    # An update without one of its rows may be two norms away, and noise for nodes counts on one.
    ledger, rows = tmp_path / "ledger", tacit.DPSGD(norm=1.0, multiplier=9.0, delta=1e-5)
    plan = noisy(rounds=1)
    PrivacyBudget(ledger).grant(plan.data.name, 100.0, 1e-5)
    tacit.run(plan.replace(protection=[rows]), ledger=ledger)
    before = PrivacyBudget(ledger).spent(plan.data.name)
    with pytest.raises(tacit.InputError, match="earlier ones protect a row, and the two do not"):
        tacit.run(plan, ledger=ledger)
    assert PrivacyBudget(ledger).spent(plan.data.name) == before


def test_the_command_grants_and_tells(tmp_path: Path) -> None:
    call = lambda *words: CliRunner().invoke(app, ["budget", str(tmp_path / "l"), *words])  # noqa: E731
    assert "epsilon 0 is spent" in call("digits", "--epsilon", "3").stdout
    assert call("digits", "--json").stdout.strip().startswith("{")
    assert call("other").exit_code != 0
