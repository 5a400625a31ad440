"""What a record's genesis says of an experiment's rules."""

from functools import partial
from typing import Any

import pytest
from torch import nn

import tacit
from tacit.engine.recording import rules
from test_ledger_record import experiment

SITES = tacit.data.at_sites(list("abcde"), target="y", columns=["a"], labels=[0, 1])
CLIP = tacit.Clip(1.0)
GAUSSIAN = partial(tacit.GaussianNoise, delta=1e-5, where="central")


def said(name: str, **changes: Any) -> str:
    return rules(experiment(**changes))[name]


@pytest.mark.parametrize(
    ("protection", "promised"),
    [
        ([], "none"),
        ([CLIP], "none"),
        ([CLIP, GAUSSIAN(epsilon=3)], "epsilon 3, delta 1e-05, for one node"),
        # mu = 1 / sqrt(2) a round and 1 for both; delta = Phi(1/2 - e) - exp(e) Phi(-1/2 - e)
        # (Balle and Wang 2018, theorem 8) is 1e-5 at e = 4.37717, by scipy.stats.norm.
        (
            [CLIP, GAUSSIAN(multiplier=2**0.5)],
            "epsilon 4.377, delta 1e-05, for one node",
        ),
        (
            [CLIP, GAUSSIAN(multiplier=0)],
            "as noise of multiplier 0 has it, delta 1e-05, for one node",
        ),
        ([tacit.DPSGD(norm=1.0, epsilon=2, delta=1e-6)], "epsilon 2, delta 1e-06, for one row"),
        ([tacit.RandomisedResponse(epsilon=1.5)], "epsilon 1.5, delta 0, for one label"),
    ],
)
def test_the_privacy_that_is_promised(protection: list[Any], promised: str) -> None:
    assert said("privacy budget", protection=protection) == promised


def test_what_rows_at_the_sites_decide_is_not_promised_before_they_are_known() -> None:
    private = [tacit.DPSGD(norm=1.0, multiplier=1.1, delta=1e-6)]
    bound = said("privacy budget", protection=private, data=SITES, model=one_column)
    assert bound == "as noise of multiplier 1.1 has it, delta 1e-06, for one row"


def one_column() -> nn.Module:
    return nn.Linear(1, 2)


def test_the_fewest_of_whom_a_round_is_made() -> None:
    assert said("minimum cohort") == "1"
    masked = [tacit.SecureAggregation(threshold=3)]
    assert said("minimum cohort", protection=masked) == "3"
    # n > 2 f + 2: Blanchard et al., NeurIPS 2017, proposition 4.2.
    assert said("minimum cohort", aggregation=tacit.Krum(f=1)) == "5"
    assert said("minimum cohort", algorithm=tacit.FedBuff(buffer=2)) == "2"


@pytest.mark.parametrize(
    ("changes", "valued"),
    [
        ({}, "Shapley()"),
        ({"data": tacit.data.load("breast-cancer", nodes=12)}, "TMC("),
        ({"algorithm": tacit.Gossip(), "topology": tacit.Ring()}, "none"),
        ({"protection": [tacit.SecureAggregation()]}, "none"),
        ({"protection": [CLIP, GAUSSIAN(multiplier=1)]}, "none"),
    ],
)
def test_how_contributions_are_valued(changes: dict[str, Any], valued: str) -> None:
    assert said("valuation", **changes).startswith(valued)


class Mine(tacit.Krum):
    __repr__ = object.__repr__


def test_all_parties_say_the_same_of_a_part_of_ones_own() -> None:
    one, other = (said("aggregation", aggregation=Mine(f=1)) for _ in range(2))
    assert one == other == "<test_recorded_rules.Mine object>"
