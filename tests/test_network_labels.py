"""Randomised response among real machines: each site answers once, from secret randomness."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load

import tacit
from tacit.data import Split
from tacit.errors import InputError
from tacit.network.labels import answered
from tacit.network.rounds import pay
from tacit.protection.accounting import filtered
from tacit.protection.budget import PrivacyBudget
from test_network_rounds import alone, experiment
from test_network_run import Bench, model

PLAN = experiment(protection=[tacit.RandomisedResponse(1.0)])


def test_a_run_learns_from_the_answers_that_sites_keep(tmp_path):
    bench = Bench(PLAN, tmp_path, patience=60)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    parts = []
    for name, (x, _) in zip(PLAN.data.names, PLAN.data.train.parts(), strict=True):
        (file,) = (tmp_path / name).glob("labels-*")
        assert file.stat().st_mode & 0o777 == 0o600
        labels = load(file.read_bytes())["labels"]
        parts.append((x, labels))
    told = PLAN.replace(protection=[], data=replace(PLAN.data, train=Split.pack(parts)))
    changed = int((told.data.train.y != PLAN.data.train.y).sum())
    # One label in 1 + e; that none of more than 100 is changed has probability 0.73^100 = 2e-14.
    assert changed
    whole = PLAN.layout.vector(tacit.run(told).model)
    assert torch.allclose(model(PLAN, kept, bench.store), whole, atol=1e-5)
    assert [row["epsilon"] for row in bench.store.metrics()] == [1.0] * 3


def test_answers_are_kept_and_come_from_no_seed(tmp_path):
    data = alone(PLAN.data, 1)
    (tmp_path / "other").mkdir()
    first, again = (answered(PLAN, data, 1, tmp_path) for _ in range(2))
    other = answered(PLAN, data, 1, tmp_path / "other")
    assert torch.equal(first.train.y, again.train.y)
    # Of 32 labels each differs with probability 2 x .73 x .27 = .39: none with 0.61 ** 32 = 1e-7.
    assert not torch.equal(first.train.y, other.train.y)
    assert torch.equal(first.test.y, data.test.y)
    with pytest.raises(InputError, match="rows"):
        answered(PLAN, alone(PLAN.data, 0), 0, tmp_path)
    (file,) = tmp_path.glob("labels-*")
    file.write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match="damaged"):
        answered(PLAN, data, 1, tmp_path)


def paid(plan, rounds, folder):
    ledger = PrivacyBudget(folder / "budget.db")
    ledger.grant(plan.data.name, 20.0, 1e-5)
    for round in rounds:
        pay(ledger, plan, round)
    with pytest.raises(InputError, match="node"):  # an account of rows, or labels, of which it is
        ledger.spend(plan.data.name, plan.digest(), 9, plan.guard.release, unit="node")
    return ledger.spent(plan.data.name)


def test_labels_are_paid_for_once(tmp_path):
    once = filtered([(PLAN.guard.release, 1)], 1e-5)
    assert once < 1.1  # of the 1.0 that one answer costs; see PrivacyBudget
    assert paid(PLAN, [1, 2, 2], tmp_path) == once


def test_rows_are_paid_for_in_every_round(tmp_path):
    plan = experiment(protection=[tacit.DPSGD(norm=1.0, multiplier=2.0, delta=1e-5)])
    three = filtered([(plan.guard.release, 3 * plan.guard.releases)], 1e-5)
    assert paid(plan, [0, 1, 1, 2], tmp_path) == three
