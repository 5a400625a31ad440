"""Runs whose nodes randomise their labels: what they learn from, what it costs, what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import small
import tacit
from tacit import RandomisedResponse
from tacit.data.federation import Federation, Split
from tacit.engine.protect import noise_seed, randomised
from tacit.engine.run import Session
from tacit.explain import explain
from tacit.protection.budget import PrivacyBudget

LABELS = RandomisedResponse(math.log(3))


def experiment(*protection: Any, **changes: Any) -> tacit.Experiment:
    fields = {"data": small.federation((40, 50, 60)), "protection": protection or [LABELS]}
    return small.experiment(**fields | changes)


def answered(plan: tacit.Experiment) -> Federation:
    return randomised(plan.data, LABELS, noise_seed(plan.seed, bytes.fromhex(plan.digest())))


def vector(result: tacit.Result) -> torch.Tensor:
    return result.experiment.layout.vector(result.model)


def test_a_quarter_of_two_labels_is_another_and_all_else_stays() -> None:
    # p = 3 / (3 + 1). A false alarm of 1e-6, were the draws not fixed by the seed.
    y = torch.arange(20_000) % 2
    split = Split.pack([(torch.zeros(20_000, 1), y)] * 2)
    data = Federation(split, split, ("a", "b"), "classification", 2)
    found = randomised(data, LABELS, 7)
    lies = (found.train.y != split.y).view(2, -1)
    for node in lies:
        assert stats.binomtest(int(node.sum()), 20_000, 1 / 4).pvalue > 1e-6
    assert not lies[0].equal(lies[1])
    assert found.train.x.equal(split.x)
    assert found.test is data.test
    assert data.train.y.equal(split.y)


def test_a_run_trains_on_the_answers_and_on_nothing_else() -> None:
    plan = experiment()
    answers = answered(plan)
    told = plan.replace(data=answers, protection=[])
    assert vector(tacit.run(plan, workers=1)).equal(vector(tacit.run(told, workers=1)))
    with Session(plan, "auto", 1) as session:
        assert session.trainer.split.y.equal(answers.train.y)
        assert session.evaluator.test.y.equal(plan.data.test.y)


def test_the_baseline_too_knows_the_answers_alone() -> None:
    # Five rows of label 1, of which a majority says 0 for some seed.
    rows = torch.zeros(5, 4), torch.ones(5, dtype=torch.long)
    data = Federation(Split.pack([rows]), Split.pack([rows]), ("a",), "classification", 2)
    plans = (experiment(data=data, rounds=1, seed=seed) for seed in range(100))
    plan = next(plan for plan in plans if answered(plan).train.y.sum() < 2.5)
    assert tacit.run(plan).baseline["accuracy"] == 0
    assert tacit.run(plan.replace(protection=[])).baseline["accuracy"] == 1


def test_no_two_experiments_share_their_draws() -> None:
    # A label of which one answer is a lie by the other's coin would be known.
    one, other = (experiment(RandomisedResponse(e)) for e in (1.0, 2.0))
    with Session(one, "auto", 1) as first, Session(other, "auto", 1) as second:
        lies = [s.trainer.split.y != one.data.train.y for s in (first, second)]
    assert (lies[1] & ~lies[0]).any()


def test_a_liar_does_not_answer() -> None:
    flip = tacit.attacks.LabelFlip(nodes=("b",))
    plan = experiment(attack=flip)
    with Session(plan, "auto", 1) as session:
        told = session.trainer.split
    answers = answered(plan)
    assert told.node(1)[1].equal(1 - answers.train.node(1)[1])
    assert told.node(0)[1].equal(answers.train.node(0)[1])


def test_the_run_costs_epsilon_once_however_long_it_is(tmp_path: Path) -> None:
    plan, ledger = experiment(rounds=5), tmp_path / "ledger"
    PrivacyBudget(ledger).grant(plan.data.name, 2.0, 1e-9)
    rows = tacit.run(plan, ledger=ledger).metrics
    assert [row["epsilon"] for row in rows] == [LABELS.epsilon] * 5
    once = PrivacyBudget(ledger).spent(plan.data.name)
    assert LABELS.epsilon <= once <= 1.05 * LABELS.epsilon  # the filter's bound is an upper one
    tacit.run(plan, ledger=ledger)  # the same answers
    assert PrivacyBudget(ledger).spent(plan.data.name) == once
    with pytest.raises(tacit.InputError, match="the budget is 2 at delta"):
        tacit.run(plan.replace(seed=1), ledger=ledger)
    # Of a node with noise of its own, which replacing moves as well.
    nodes = [tacit.Clip(1.0), tacit.GaussianNoise(multiplier=9.0, delta=1e-5, where="local")]
    with pytest.raises(tacit.InputError, match="protects a node was given; its earlier ones"):
        tacit.run(plan.replace(protection=nodes), ledger=ledger)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": tacit.Gossip(), "topology": tacit.Complete()},
        {"protection": [LABELS, tacit.Clip(1.0), tacit.SecureAggregation()]},
        {"algorithm": tacit.PushSum(), "topology": tacit.DirectedRing()},
        {"compression": tacit.TopK(0.5)},
    ],
)
def test_it_goes_with_whatever_is_made_of_the_answers(changes: dict[str, Any]) -> None:
    assert tacit.run(experiment(**changes), workers=1).metrics[-1]["epsilon"] == LABELS.epsilon


def test_explain_says_what_is_protected_and_what_is_not() -> None:
    found = explain(experiment())
    assert found.rows[0].guarantee == "epsilon 1.1 for the label of one row"
    said = found.to_text()
    assert "(epsilon 1.1, delta 0)-differentially private for the label of one training row" in said
    assert "becomes another one with probability 0.25" in said
    assert "Inputs are not protected" in said


@pytest.mark.parametrize(
    ("changes", "says", "instead"),
    [
        (
            {"protection": [LABELS, tacit.DPSGD(norm=1.0, multiplier=1.0, delta=1e-5)]},
            "rows; allowed is one of the two", {"protection": [LABELS]},
        ),
        (
            {
                "protection": [
                    LABELS, tacit.Clip(1.0),
                    tacit.GaussianNoise(multiplier=1.0, delta=1e-5, where="local"),
                ]
            },
            "nodes; allowed is one of the two", {"protection": [LABELS, tacit.Clip(1.0)]},
        ),
    ],
)  # fmt: skip
def test_two_units_in_one_account_are_refused(changes: Any, says: str, instead: Any) -> None:
    with pytest.raises(tacit.InputError, match=says):
        experiment(**changes).check()
    experiment(**instead).check()


def test_targets_that_are_no_labels_are_refused() -> None:
    data = tacit.data.load("diabetes", nodes=3)
    plan = tacit.Experiment(
        data=data, model=lambda: tacit.models.logistic(10, 1), loss=torch.nn.functional.mse_loss,
        training=tacit.SGD(lr=0.1), protection=[LABELS],
    )  # fmt: skip
    with pytest.raises(tacit.InputError, match="no labels of classes; use DPSGD"):
        plan.check()
    plan.replace(protection=[tacit.DPSGD(norm=1.0, multiplier=1.0, delta=1e-5)]).check()
