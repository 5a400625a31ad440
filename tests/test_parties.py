"""What ``tacit explain`` says of each party, where protections change it."""

import re

import pytest

import small
import tacit
from tacit import Clip, GaussianNoise, SecureAggregation, Star
from tacit.explain import explain

DELTA = 1e-3
ROWS = tacit.DPSGD(norm=1.0, multiplier=2.0, delta=DELTA)
CENTRAL = (Clip(1.0), GaussianNoise(multiplier=2.0, delta=DELTA, where="central"))
LOCAL = (Clip(1.0), GaussianNoise(multiplier=2.0, delta=DELTA, where="local"))
SHARES = (Clip(1.0), GaussianNoise(multiplier=2.0, delta=DELTA), SecureAggregation())
MASKS = (SecureAggregation(),)


def told(*protection, **changes):
    data = small.federation((12, 20, 8, 16, 9, 10, 7, 11))
    return explain(small.experiment(**{"data": data, "protection": protection} | changes))


def words(*protection, **changes):
    return " ".join(told(*protection, **changes).sentences)


def test_an_outsider_reads_the_models_that_a_server_sends_beside_masks():
    outsider = [s for s in told(*MASKS).sentences if s.startswith("An outsider")]
    assert len(outsider) == 1
    assert "every new model that the server sends, in the clear" in outsider[0]
    peers = words(*MASKS, algorithm=tacit.Gossip(), topology=tacit.RandomRegular(4))
    assert "the server sends" not in peers


@pytest.mark.parametrize("parts", [CENTRAL, LOCAL, SHARES, (ROWS,)])
def test_a_noised_model_has_its_guarantee_on_the_way_back(parts):
    promised = [row.guarantee for row in told(*parts).rows if row.sender == "the server"]
    assert promised
    assert all("differentially private for one" in words for words in promised)


def test_a_model_without_noise_has_none():
    for parts in (MASKS, (Clip(1.0),), (tacit.DPSGD(norm=1.0, multiplier=0.0, delta=DELTA),)):
        assert told(*parts).rows[1].guarantee == "none"
        assert "epsilon" not in told(*parts).rows[0].guarantee


def test_private_training_protects_under_aggregators_of_groups():
    plan = told(ROWS, topology=tacit.Hierarchical(groups=3))
    assert "No protection" not in " ".join(plan.sentences)
    assert all("differentially private for one row" in row.guarantee for row in plan.rows)
    open_plan = words(topology=tacit.Hierarchical(groups=3))
    assert "No protection" in open_plan


def test_noise_of_multiplier_0_leaves_the_attacks():
    assert "reconstruct" in words(tacit.DPSGD(norm=1.0, multiplier=0.0, delta=DELTA))


def test_pooled_rows_are_not_what_training_protects():
    pooled = words(ROWS, algorithm=tacit.Pooled())
    assert "what a node sends is" not in pooled
    assert "Everybody but whoever pools: the model is" in pooled
    assert "what a node sends is" not in words(ROWS, algorithm=tacit.Alone())


def test_noise_hides_single_nodes_in_small_rounds():
    rare = {"topology": Star(cohort=2, sampling="poisson")}
    assert "gives it away" in words(Clip(1.0), **rare)
    assert "gives it away" not in words(*CENTRAL, **rare)


def test_bytes_end_with_the_budget():
    noise = GaussianNoise(epsilon=3.0, multiplier=3.0, delta=DELTA, where="central")
    plan = small.experiment(protection=[Clip(1.0), noise], rounds=50)
    assert 1 <= plan.guard.rounds < 50
    assert explain(plan).bytes == sum(row["bytes"] for row in tacit.run(plan, workers=1).metrics)
    assert f"in {plan.guard.rounds} rounds, from all parties" in explain(plan).sentences[-1]


def test_what_noise_does_not_cover_is_told():
    for parts in (CENTRAL, LOCAL, SHARES, (ROWS,)):
        assert "The noise covers neither the report nor" in words(*parts)
    assert "The noise covers neither" not in words(*MASKS)
    assert "How many rows a node has is not hidden" in words(ROWS)


def test_what_else_the_seed_gives_away_is_told():
    drawn = {"topology": Star(cohort=4, sampling="poisson")}
    assert "Noise and cohorts in this process are drawn from the seed" in words(*CENTRAL, **drawn)
    assert "Noise and batches in this process are drawn from the seed" in words(ROWS)
    assert "Noise in this process is drawn from the seed" in words(*LOCAL)


def test_nobody_sees_a_model_behind_masks_among_peers():
    peers = words(*MASKS, algorithm=tacit.Gossip(), topology=tacit.Complete())
    assert "sees all models" not in peers
    assert "two neighbourhoods that differ in one node give its model away" in peers
    assert "neighbourhoods" not in words(*MASKS)


def test_whose_noise_hides_what():
    assert "which takes part or does not" in words(*CENTRAL)
    # A server that knows who takes part is told no such thing.
    assert "whose update counts or is zero" in words(*SHARES)
    assert "which may be any others" in words(*LOCAL)


def test_colluders_are_counted_in_the_worst_sum():
    # Of 8 with threshold 6, 2 x 6 - 8 = 4 open them; of 5 with threshold 3, one is enough.
    assert "up to 3 that help a lying server" in words(*MASKS)
    weak = words(SecureAggregation(3), data=small.federation((8, 8, 8, 8, 8)))
    assert "with the help of one node it can" in weak


def test_colluders_that_know_their_shares_leave_the_noise_of_the_others():
    plan = small.experiment(data=small.federation((9,) * 8), protection=SHARES)
    assert plan.guard.threshold == 6
    found = re.search(
        "against one epsilon is (.+?), against 3 it is (.+?)[.]? ",
        " ".join(explain(plan).sentences),
    )
    assert found
    one, half = map(float, found.groups())
    # Noise of 5 shares in 6, and of 3: as if the run had 6/5 and 6/3 as many rounds.
    assert plan.guard.epsilon(4) < one < plan.guard.epsilon(5)
    assert half == pytest.approx(plan.guard.epsilon(8), rel=0.01)


def test_a_delta_that_allows_to_publish_somebody_is_told():
    noise = GaussianNoise(multiplier=2.0, delta=0.2, where="central")
    assert "delta 0.2 allows to publish one of the 8 nodes" in words(Clip(1.0), noise)
    assert "allows to publish" not in words(*CENTRAL)
    rows = tacit.DPSGD(norm=1.0, multiplier=2.0, delta=0.05)
    assert "delta 0.05 allows to publish one of the 20 rows" in words(rows)
