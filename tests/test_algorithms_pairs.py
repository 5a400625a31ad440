"""AD-PSGD against a few lines of NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import small
import tacit
from tacit.algorithms import ADPSGD
from tacit.algorithms.arrivals import one_after_another
from tacit.engine.pairs import PairAveraging
from tacit.engine.run import Session
from tacit.explain import explain
from test_algorithms_gossip import PATH, START, descend, experiment, models_of, regression


def test_a_run_is_that_of_the_paper():
    pairs = regression(4)
    plan = experiment(pairs, algorithm=ADPSGD(spread=2.0), rounds=8)
    models = np.tile(START, (4, 1))
    begun = models.copy()
    links = PATH.graph(4, plan.seed, 0)
    lagged = 0
    for round, arrivals in enumerate(plan.arrivals):
        partners = PairAveraging(links, plan.seed, round).partners(arrivals.nodes)
        for i, j in zip(arrivals.nodes, partners, strict=True):
            assert abs(i - j) == 1  # the path's links
            lagged += not np.array_equal(models[i], begun[i])
            step = descend(pairs[i], begun[i], 1) - begun[i]
            models[i] = models[j] = (models[i] + models[j]) / 2
            models[i] += step
            begun[i] = models[i]
    assert lagged  # some step was learned from a model that others had changed in the meantime
    np.testing.assert_allclose(models_of(tacit.run(plan)), models, atol=1e-5)


def test_averaging_keeps_the_mean():
    # Steps of 1e-12 are none in float32, beside models of about 1.
    plan = small.experiment(
        algorithm=ADPSGD(spread=1.0), topology=tacit.Ring(), rounds=12, evaluate_every=12,
        training=tacit.SGD(lr=1e-12, batch_size=8),
    )  # fmt: skip
    with Session(plan, "batched", 1) as session:
        noise = torch.randn(5, plan.layout.size, generator=torch.Generator().manual_seed(1))
        session.state = {"models": noise, "begun": noise.clone()}
        spread = noise.std(0).mean()
        list(session.rounds())
        models = session.state["models"]
    assert torch.allclose(models.mean(0), noise.mean(0), atol=1e-5)
    assert models.std(0).mean() < 0.1 * spread
    assert session.metrics[-1]["consensus_distance"] < 0.1 * np.sqrt(plan.layout.size)


def test_equally_fast_nodes_take_turns():
    for arrivals in one_after_another(6, 3, 5, 0.0):
        assert sorted(arrivals.nodes.tolist()) == list(range(6))
    uneven = one_after_another(6, 3, 50, 3.0)
    assert {len(arrivals.nodes) for arrivals in uneven} > {5}
    assert all(len(set(a.nodes.tolist())) == len(a.nodes) for a in uneven)
    longer = one_after_another(6, 3, 60, 3.0)
    assert [a.nodes.tolist() for a in uneven] == [a.nodes.tolist() for a in longer[:50]]


def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(tmp_path):
    plan = small.experiment(algorithm=ADPSGD(), topology=tacit.Ring(), rounds=6)
    whole = tacit.run(plan)

    class Stop(Exception):
        pass

    def stop(row):
        if row["round"] == 3:
            raise Stop

    with pytest.raises(Stop):
        tacit.run(plan, folder=tmp_path, on_round=stop)
    assert torch.equal(whole.vectors, tacit.run(plan, folder=tmp_path, resume=True).vectors)


def test_statistics_of_batch_norm_are_those_that_were_learned():
    # Node 0 began when its variance was 10, has averaged to 5 since, and learned 1 from its rows:
    # what it learned holds, and is no difference of -9. The weight, now 0, takes a step of 2.
    def train(start):
        assert start.tolist() == [[3.0, 10.0]]
        return SimpleNamespace(matrix=lambda: torch.tensor([[5.0, 1.0]]))

    train.nodes, train.layout = np.array([0]), SimpleNamespace(trained=1)
    exchange = PairAveraging(PATH.graph(4, 0, 0), 0, 0)
    models = torch.tensor([[0.0, 5.0], [4.0, 7.0], [8.0, 8.0], [9.0, 9.0]])
    begun = torch.full((4, 2), 9.0)
    begun[0] = torch.tensor([3.0, 10.0])
    state, _ = ADPSGD().round({"models": models, "begun": begun}, train, exchange)
    expected = [[4.0, 1.0], [2.0, 6.0], [8.0, 8.0], [9.0, 9.0]]  # its only neighbour is node 1
    assert state["models"].tolist() == expected
    assert state["begun"].tolist() == [[4.0, 1.0], *[[9.0, 9.0]] * 3]


def test_every_message_is_told():
    plan = small.experiment(algorithm=ADPSGD(), topology=tacit.Ring(), rounds=10)
    assert sum(row["bytes"] for row in tacit.run(plan).metrics) == explain(plan).bytes


REFUSED = [
    ({"aggregation": tacit.Median()}, "averages two models at a time"),
    ({"topology": tacit.DirectedRing()}, "fixed graph with links both ways"),
    ({"topology": tacit.Epidemic(2)}, "fixed graph with links both ways"),
    ({"topology": tacit.Star()}, "works without a server"),
    ({"protection": [tacit.Clip(1.0)]}, "sends no update"),
    ({"attack": tacit.attacks.SignFlip(nodes=("a",))}, "does not work with ADPSGD"),
    ({"compression": tacit.TopK(0.1)}, "sends no difference"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED, ids=[r for _, r in REFUSED])
def test_plans_that_cannot_work_are_refused(changes, reason):
    plan = small.experiment(**{"algorithm": ADPSGD(), "topology": tacit.Ring()} | changes)
    with pytest.raises(tacit.InputError, match=reason):
        plan.check()
    with pytest.raises(tacit.InputError, match="spread"):
        ADPSGD(spread=-1.0)
