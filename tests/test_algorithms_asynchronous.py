"""FedBuff and asynchronous SGD against arithmetic by hand and against a few lines of NumPy."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import small
import tacit
from tacit.algorithms import AsyncSGD, FedAvg, FedBuff
from tacit.algorithms.arrivals import Arrivals, buffered
from tacit.engine.run import Session
from tacit.explain import explain
from test_algorithms_server import descend, experiment, final, least_squares, start

SIZES = (9, 6, 12, 7)


def arrived(nodes, staleness, reach=0, again=None):
    again = np.zeros(len(nodes)) if again is None else again
    nodes, staleness, again = (np.array(part, np.int64) for part in (nodes, staleness, again))
    return Arrivals(nodes, staleness, again, np.empty(0, np.int64), 2, len(nodes), reach)


def given(plan, *arrivals):
    """The experiment with these arrivals in place of those that are drawn."""
    vars(plan)["arrivals"] = arrivals
    return plan


def weight(kind, tau, concurrency):
    if kind == "delay-adaptive":
        return min(1.0, concurrency / tau) if tau else 1.0
    return 1.0 if kind == "constant" else 1 / math.sqrt(1 + tau)


def test_a_step_by_hand():
    # Two nodes. One trained 1 -> 2 from the newest model, the other 0 -> 4 from the one before:
    # 1 + 0.5 / 2 (1 x 1 + 1 / sqrt(2) x 4) = 1.9571.
    layout = SimpleNamespace(trained=1)
    seen = {}

    def train(begin):
        seen["start"] = begin.clone()
        return torch.tensor([[2.0], [4.0]])

    train.staleness, train.layout = torch.tensor([0, 1]), layout
    train.concurrency, train.reach = 2, 1

    def exchange(own, received, share):
        return own * (1 - share.sum()) + share @ received

    state = {"past": torch.tensor([[1.0], [0.0]])}
    state, row = FedBuff(buffer=2, lr=0.5).round(state, train, exchange)
    assert seen["start"].tolist() == [[1.0], [0.0]]
    assert state["past"].squeeze(1).tolist() == pytest.approx([1.957107, 1.0])
    assert row["staleness"] == 0.5


def test_asynchronous_sgd_by_hand():
    # Node 0 has x = 1, y = 2, node 1 has x = 1, y = -1; the loss is (w - y)^2, a node takes one
    # step of 0.25: it goes half of the way to its y. w0 = 0 (by the model below). One of the two
    # trains at a time, in the plan below, so that s = min(1, 1 / tau).
    parts = [(np.ones((1, 1), np.float32), np.array([y], np.float32)) for y in (2.0, -1.0)]
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    plan = experiment(
        parts, AsyncSGD(lr=0.5, concurrency=1), rounds=3, model=model, lr=0.25, steps=1
    )
    one = [replace(a, concurrency=1) for a in (
        arrived([0], [0], 1), arrived([0], [0], 2), arrived([1], [2], 0)
    )]  # fmt: skip
    given(plan, *one)
    # 0 + .5 x 1 = .5; .5 + .5 x (1.25 - .5) = .875; from 0 node 1 goes -.5, at weight 1/2.
    with Session(plan, "batched", None) as session:
        found = []
        for _ in session.rounds():
            found.append(float(plan.algorithm.model(session.state)))
    assert found == pytest.approx([0.5, 0.875, 0.875 - 0.5 * 0.5 * 0.5])


@pytest.mark.parametrize("kind", ["polynomial", "constant", "delay-adaptive"])
@pytest.mark.parametrize("engine", ["batched", "sequential"])
def test_a_run_is_that_of_the_paper(kind, engine):
    parts = least_squares(SIZES)
    settings = {"buffer": 3, "concurrency": 2, "lr": 0.7, "max_staleness": 2, "spread": 2.0}
    plan = experiment(parts, FedBuff(staleness=kind, **settings), rounds=12)
    w = [start(plan)]
    dropped = 0
    for arrivals in plan.arrivals:
        dropped += len(arrivals.dropped)
        steps = []
        for node, tau in zip(arrivals.nodes, arrivals.staleness, strict=True):
            began = w[len(w) - 1 - tau]
            steps.append(weight(kind, tau, 2) * (descend(began, parts[node]) - began))
        w.append(w[-1] + 0.7 / 3 * sum(steps))
    with Session(plan, engine, None) as session:
        list(session.rounds())
        found = plan.algorithm.model(session.state).numpy()
        assert [row["dropped"] for row in session.metrics] == [
            len(arrivals.dropped) for arrivals in plan.arrivals
        ]
    assert {int(tau) for a in plan.arrivals for tau in a.staleness} >= {0, 1}
    np.testing.assert_allclose(found, w[-1], atol=1e-5)


def test_what_is_too_stale_is_dropped():
    # Four train, each arrival is a step: by the third in a row of old ones two steps lie between.
    found = buffered(4, 1, 60, 1, 4, 3.0, 2)
    assert max(int(a.staleness.max()) for a in found) == 2
    assert sum(len(a.dropped) for a in found) > 0
    assert not sum(len(a.dropped) for a in buffered(4, 1, 60, 1, 4, 3.0, 10**6))


@pytest.mark.parametrize("workers", [1, 2])
def test_equally_fast_nodes_make_fedavg(workers):
    plan = small.experiment(algorithm=FedBuff(buffer=5, spread=0.0), rounds=5)
    mean = plan.replace(algorithm=FedAvg(uniform=True))
    models = [plan.layout.vector(tacit.run(p, workers=workers).model) for p in (plan, mean)]
    assert torch.allclose(*models, rtol=0, atol=1e-6)


def test_equal_speeds_with_half_a_buffer():
    # All four are done at once: two make a step, two are one step late, and all get the newest.
    found = buffered(4, 0, 4, 2, 4, 0.0, 20)
    assert [a.staleness.tolist() for a in found] == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert [sorted(found[i].nodes.tolist() + found[i + 1].nodes.tolist()) for i in (0, 2)] == [
        [0, 1, 2, 3], [0, 1, 2, 3],
    ]  # fmt: skip
    assert [a.reach for a in found] == [1, 0, 1, 0]
    assert [a.handed for a in found] == [4, 0, 4, 0]


@pytest.mark.parametrize(("concurrency", "spread"), [(2, 1.0), (7, 0.0), (20, 3.0)])
def test_arrivals_are_a_function_of_their_address(concurrency, spread):
    settings = (3, concurrency, spread, 5)
    found, longer = buffered(20, 4, 30, *settings), buffered(20, 4, 40, *settings)
    other = buffered(20, 5, 30, *settings)
    for mine, theirs in zip(found, longer, strict=False):
        assert mine.nodes.tolist() == theirs.nodes.tolist()
        assert mine.staleness.tolist() == theirs.staleness.tolist()
    assert [a.nodes.tolist() for a in found] != [a.nodes.tolist() for a in other]
    training = 0
    for a in found:
        training += a.handed - len(a.nodes) - len(a.dropped)
        assert 0 <= training <= concurrency
    # What is trained from is kept, and no more: the oldest of all that come later.
    for round in range(30):
        oldest = min([later - int(found[later].staleness.max()) for later in range(round + 1, 30)],
                     default=round + 1)  # fmt: skip
        assert found[round].reach == max(0, round + 1 - oldest)


def test_a_node_that_comes_twice_draws_twice():
    plan = small.experiment(
        data=small.federation((24, 24)), algorithm=FedBuff(buffer=2), rounds=1,
        training=tacit.SGD(lr=0.1, batch_size=4, steps=2),
    )  # fmt: skip
    twice = given(plan, arrived([0, 0], [0, 0], again=[0, 1]))
    same = given(plan.replace(seed=0), arrived([0, 0], [0, 0]))
    one = given(plan.replace(algorithm=AsyncSGD()), arrived([0], [0]))
    models = [plan.layout.vector(tacit.run(p).model) for p in (twice, same, one)]
    assert torch.allclose(models[1], models[2], atol=1e-6)
    assert not torch.allclose(models[0], models[2], atol=1e-3)


def test_noise_is_drawn_for_each_time_that_a_node_comes():
    protection = [tacit.Clip(1.0), tacit.GaussianNoise(multiplier=1.0, delta=1e-5, where="local")]
    plan = small.experiment(
        data=small.federation((24, 24)), algorithm=FedBuff(buffer=2), rounds=1,
        training=tacit.SGD(lr=1e-9, batch_size=4, steps=1), protection=protection,
    )  # fmt: skip
    twice = given(plan.replace(seed=0), arrived([0, 0], [0, 0], again=[0, 1]))
    step = plan.layout.vector(tacit.run(twice).model) - plan.start()
    # The mean of two independent draws, in each of 58 numbers: deviation 1 / sqrt(2); of one draw
    # that counts twice: 1. Three standard errors of a deviation of 58 are 28 %.
    assert float(step.std()) == pytest.approx(math.sqrt(0.5), rel=0.28)


def test_statistics_of_batch_norm_stay_between_those_of_nodes():
    def normed():
        return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))

    plan = small.experiment(
        data=small.federation((20, 22, 30, 24)), model=normed, rounds=40, evaluate_every=40,
        algorithm=AsyncSGD(staleness="constant", spread=3.0),
        training=tacit.SGD(lr=0.01, batch_size=4, epochs=4),
    )  # fmt: skip
    state = tacit.run(plan, engine="sequential", workers=1).model.state_dict()
    assert (state["0.running_var"] > 0.1).all()
    assert (state["0.running_var"] < 4).all()


def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(tmp_path):
    plan = small.experiment(algorithm=FedBuff(buffer=2, spread=2.0), rounds=9)
    whole = tacit.run(plan)
    assert max(a.reach for a in plan.arrivals) > 1

    class Stop(Exception):
        pass

    def stop(row):
        if row["round"] == 4:
            raise Stop

    with pytest.raises(Stop):
        tacit.run(plan, folder=tmp_path, on_round=stop)
    resumed = tacit.run(plan, folder=tmp_path, resume=True)
    assert torch.equal(plan.layout.vector(whole.model), plan.layout.vector(resumed.model))
    assert [{**r, "seconds": 0} for r in whole.metrics] == [
        {**r, "seconds": 0} for r in resumed.metrics
    ]


def test_a_robust_rule_takes_the_buffer():
    plan = small.experiment(
        data=small.federation((30, 30, 30, 30, 30)), rounds=20, evaluate_every=20,
        attack=tacit.attacks.SignFlip(nodes=("a",)),
        algorithm=FedBuff(buffer=5, staleness="constant", spread=0.5),
        aggregation=tacit.Median(), training=tacit.SGD(lr=0.1, batch_size=8, epochs=2),
    )  # fmt: skip
    assert tacit.run(plan).metrics[-1]["accuracy"] > 0.8


MASKS = [tacit.SecureAggregation()]
CENTRAL = [tacit.Clip(1.0), tacit.GaussianNoise(epsilon=5, delta=1e-5, where="central")]
REFUSED = [
    ({"protection": MASKS}, "asynchronous rounds cannot use pairwise masks"),
    ({"protection": [tacit.SecretSharing()]}, "began at several"),
    ({"protection": [tacit.AdaptiveClip()]}, "began at several"),
    ({"protection": CENTRAL}, "a node may come into one sum several times"),
    ({"topology": tacit.Star(cohort=2)}, "nobody is drawn for a round"),
    ({"topology": tacit.Hierarchical(groups=2)}, "nobody is drawn for a round"),
    ({"topology": tacit.Swarm()}, "or leads it"),
    ({"topology": tacit.Ring()}, "needs a server"),
    ({"aggregation": tacit.Median()}, "does not weigh updates by their staleness"),
    ({"compression": tacit.TopK(0.1)}, "counts rounds that all nodes share"),
    ({"algorithm": FedBuff(concurrency=6)}, "allowed is 1 to 5"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_plans_that_cannot_work_are_refused(changes, reason):
    with pytest.raises(tacit.InputError, match=reason):
        small.experiment(**{"algorithm": FedBuff(buffer=3)} | changes).check()


@pytest.mark.parametrize(
    "setting",
    [{"buffer": 0}, {"concurrency": 0}, {"staleness": "linear"}, {"lr": 0.0}, {"spread": -1.0},
     {"max_staleness": -1}],
    ids=str,
)  # fmt: skip
def test_settings_out_of_their_range_are_refused(setting):
    with pytest.raises(tacit.InputError, match=next(iter(setting))):
        FedBuff(**setting)
    with pytest.raises(tacit.InputError, match="buffer"):
        AsyncSGD(buffer=2)


def test_every_message_is_told():
    plan = small.experiment(algorithm=AsyncSGD(max_staleness=3, spread=2.0), rounds=20)
    result = tacit.run(plan)
    assert sum(row["dropped"] for row in result.metrics) > 0
    assert sum(row["bytes"] for row in result.metrics) == explain(plan).bytes


def test_the_busiest_node_is_accounted_for():
    protection = [tacit.DPSGD(norm=1.0, multiplier=1.0, delta=1e-5)]
    plan = small.experiment(
        data=small.federation((30, 30)), algorithm=AsyncSGD(max_staleness=1, spread=5.0),
        protection=protection, rounds=20, evaluate_every=20,
    )  # fmt: skip
    came = np.zeros(2)
    for a in plan.arrivals:
        np.add.at(came, np.concatenate([a.nodes, a.dropped]), 1)
    assert came.max() > 10  # more often than every other round
    guard = plan.guard
    assert guard.turns(20) == came.max()
    # As many rounds of FedAvg, in each of which a node takes part once.
    often = plan.replace(algorithm=FedAvg(), rounds=int(came.max()))
    assert guard.epsilon(20) == often.guard.epsilon(int(came.max()))
    assert tacit.run(plan).metrics[-1]["epsilon"] == guard.epsilon(20)
    said = " ".join(explain(plan).sentences)
    assert f"no node delivers more than {int(came.max())} times" in said


def test_final_models_follow_the_seed():
    plan = small.experiment(algorithm=FedBuff(buffer=2), rounds=6)
    assert np.array_equal(final(plan), final(plan.replace(rounds=6)))
    assert not np.array_equal(final(plan), final(plan.replace(seed=1)))
