"""Runs with correlated noise: its sum, its price, its state, and where it is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

import tacit
from small import experiment as small
from small import federation
from tacit import Clip, CorrelatedNoise, GaussianNoise, Star
from tacit.explain import explain
from tacit.protection.budget import PrivacyBudget
from test_guard import gaussian_epsilon

N, COHORT, ROUNDS = 8, 2, 12  # turns come 4 rounds apart, 3 of them in the run
DELTA = 1e-5
WIDE = nn.Sequential(nn.Linear(4, 2000), nn.Linear(2000, 2))  # d = 14,002
CYCLIC = Star(COHORT, "cyclic")
INDEPENDENT = GaussianNoise(multiplier=2.0, delta=DELTA, where="central")


def experiment(*protection: Any, **changes: Any) -> tacit.Experiment:
    fields: dict[str, Any] = {
        "data": federation((12,) * N), "rounds": ROUNDS, "topology": CYCLIC,
        "protection": protection or [Clip(0.5), noise()], "evaluate_every": 100,
    }  # fmt: skip
    return small(**fields | changes)


def noise(**changes: Any) -> CorrelatedNoise:
    return CorrelatedNoise(**{"multiplier": 2.0, "delta": DELTA} | changes)


def vector(result: tacit.Result) -> torch.Tensor:
    return result.experiment.layout.vector(result.model)


def deviation(part: Any) -> float:
    """Root mean square, over 14,002 coordinates, of the noise in the sum of a run's updates."""
    still = {"model": WIDE, "training": tacit.SGD(lr=1e-30)}  # steps that float32 loses
    plan = experiment(Clip(0.5), part, **still)
    moved = vector(tacit.run(plan, workers=1)) - plan.start()
    return float(moved.double().square().mean().sqrt())


def on_paper() -> float:
    """Deviation of the noise in the sum of the rounds, at multiplier and norm 1.

    C is lower triangular and Toeplitz, 1 and then sum_i s_i d_i^(j - 1), with the table's figures
    for 10 rounds. A node moves C by its columns 0, 4 and 8 together; the sum has the noise of the
    last row of A C^-1.
    """
    decays, scales = np.array([0.456434, 0.936972]), np.array([0.190407, 0.308943])
    column = [1.0, *(float(scales @ decays**j) for j in range(ROUNDS - 1))]
    matrix = np.array([[column[i - j] * (i >= j) for j in range(ROUNDS)] for i in range(ROUNDS)])
    row = np.ones(ROUNDS) @ np.linalg.inv(matrix)
    return float(np.linalg.norm(matrix[:, [0, 4, 8]].sum(1)) * np.linalg.norm(row))


def test_the_noise_of_a_sum_has_the_deviation_of_the_matrix() -> None:
    # In steps of 0.5 norm / 2 nodes. Outside with probability 1e-6.
    expected = 2.0 * on_paper() * 0.5 / COHORT
    least, most = (expected * math.sqrt(chi2.ppf(p, 14_002) / 14_002) for p in (5e-7, 1 - 5e-7))
    assert least <= (found := deviation(noise())) <= most
    # Independent noise has the same epsilon where each of a node's 3 turns has sqrt(3) of it.
    same = GaussianNoise(multiplier=2.0 * math.sqrt(3), delta=DELTA, where="central")
    epsilon = experiment(Clip(0.5), same).guard.epsilon(ROUNDS)
    assert epsilon == pytest.approx(gaussian_epsilon(0.5, DELTA))
    assert found < 0.7 * deviation(same)


def test_the_whole_run_is_one_gaussian_release_that_the_first_round_spends() -> None:
    rows = tacit.run(experiment(), workers=1).metrics
    # Of sensitivity / deviation 1 / 2: Balle, Wang 2018.
    assert [row["epsilon"] for row in rows] == pytest.approx(
        [gaussian_epsilon(0.5, DELTA)] * ROUNDS
    )
    guard = experiment(Clip(0.5), noise(multiplier=None, epsilon=3.0)).guard
    assert gaussian_epsilon(1 / guard.multiplier, DELTA) == pytest.approx(3.0, rel=2e-3)
    with pytest.raises(tacit.InputError, match="not even one round; give a larger epsilon"):
        experiment(Clip(0.5), noise(epsilon=0.5)).check()


def test_turns_cost_independent_noise_what_a_node_gives_away() -> None:
    rows = tacit.run(experiment(Clip(0.5), INDEPENDENT), workers=1).metrics
    turns = [-(-(r + 1) // 4) for r in range(ROUNDS)]  # of the node that is first
    expected = [gaussian_epsilon(math.sqrt(t) / 2, DELTA) for t in turns]
    assert [row["epsilon"] for row in rows] == pytest.approx(expected)


def test_the_ledger_pays_at_once_and_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    plan, ledger, spent = experiment(), tmp_path / "ledger", []
    PrivacyBudget(ledger).grant(plan.data.name, 10.0, DELTA)

    def stop(row: dict[str, Any]) -> None:
        spent.append(PrivacyBudget(ledger).spent(plan.data.name))
        if row["round"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tacit.run(plan, folder=tmp_path / "run", on_round=stop, ledger=ledger, workers=1)
    found = tacit.run(plan, folder=tmp_path / "run", resume=True, ledger=ledger, workers=1)
    assert vector(found).equal(vector(tacit.run(plan, workers=1)))
    assert {*spent, PrivacyBudget(ledger).spent(plan.data.name)} == {spent[0]}
    assert plan.guard.epsilon(1) <= spent[0] <= 1.1 * plan.guard.epsilon(1)
    other = experiment(Clip(0.5), INDEPENDENT)
    with pytest.raises(tacit.CheckpointError, match="another experiment's run"):
        tacit.run(other, folder=tmp_path / "run", resume=True, workers=1)


def test_explain_says_what_is_spent_when_and_what_it_is_worth() -> None:
    said = explain(experiment()).to_text()
    assert "it is its turn (2 of 8 nodes a round)" in said
    assert "takes part or does not, at most once in 4 rounds" in said
    assert "one release, all of which the first round spends" in said
    share = on_paper() / math.sqrt(ROUNDS * 3)
    assert f"{share:.3g} times the deviation of independent noise" in said
    assert "It must be trusted" in said


TURNS = {"topology": CYCLIC}


@pytest.mark.parametrize(
    ("changes", "says", "instead"),
    [
        ({"topology": Star(3)}, 'Star(cohort=2, sampling="cyclic")', TURNS),
        ({"topology": Star(2, "poisson")}, 'Star(cohort=2, sampling="cyclic")', TURNS),
        ({"topology": None}, 'Star(cohort=2, sampling="cyclic")', TURNS),
        ({"topology": None}, "has 1.11 times the deviation of independent noise", TURNS),
        (
            {"topology": Star(3)}, 'or GaussianNoise(where="central")',
            {"protection": [Clip(0.5), INDEPENDENT]},
        ),
        (
            {"protection": [tacit.AdaptiveClip(0.5), noise()]}, "use Clip(0.5)",
            {"protection": [Clip(0.5), noise()]},
        ),
        (
            {"algorithm": tacit.Gossip(), "topology": tacit.Ring()}, "there is no server",
            {"algorithm": tacit.FedAvg()} | TURNS,
        ),
        (
            {"compression": tacit.RandomK(0.5, feedback=False)}, "use QSGD()",
            {"compression": tacit.QSGD()},
        ),
        ({"aggregation": tacit.Median()}, "use Mean()", {"aggregation": tacit.Mean()}),
    ],
)  # fmt: skip
def test_what_is_refused_and_what_works_instead(changes: Any, says: str, instead: Any) -> None:
    with pytest.raises(tacit.InputError) as refusal:
        tacit.run(experiment(**changes))
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    experiment(**changes | instead).check()


@pytest.mark.parametrize("where", ["distributed", "local"])
def test_only_a_server_can_draw_it(where: Any) -> None:
    with pytest.raises(tacit.InputError, match=r"where: '.*' was given; allowed is 'central'"):
        noise(where=where)
