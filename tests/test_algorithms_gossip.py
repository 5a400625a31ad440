"""Gossip and push-sum against the papers' formulas, written out in NumPy on linear regression."""

from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tacit
from tacit.aggregation import Round
from tacit.algorithms import Gossip, PushSum
from tacit.data import from_arrays
from tacit.engine.exchange import GraphExchange
from tacit.experiment import Experiment
from tacit.layout import Layout

LR = 0.05
START = np.array([0.5, -1.0])
# A path of 4 nodes has degrees 1, 2, 2, 1, so that every link weighs 1 / (1 + 2).
PATH = tacit.Custom(nx.path_graph(4))
PATH_W = np.array([[2, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 2]]) / 3


def regression(nodes: int, rows: int = 8) -> list[tuple[np.ndarray, np.ndarray]]:
    """Nodes that disagree about the weights, and see inputs of different spread."""
    rng = np.random.default_rng(nodes)
    pairs = []
    for node in range(nodes):
        x = rng.normal(size=(rows, 2)) * (1 + node / nodes)
        pairs.append((x, x @ (np.array([1.0, 2.0]) + 0.3 * rng.normal(size=2))))
    return pairs


def experiment(pairs, **fields) -> Experiment:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor(START[None], dtype=torch.float32)
    settings = {
        "training": tacit.SGD(lr=LR, batch_size=None, steps=1),
        "rounds": 3,
        "topology": PATH,
    }
    data = from_arrays(pairs, test=pairs[0])
    return Experiment(data=data, model=model, loss=F.mse_loss, **settings | fields)


def gradient(pair, w: np.ndarray) -> np.ndarray:
    """Of mean((x w - y)^2)."""
    x, y = pair
    return 2 / len(y) * x.T @ (x @ w - y)


def descend(pair, w: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        w = w - LR * gradient(pair, w)
    return w


def models_of(result: tacit.Result) -> np.ndarray:
    assert result.vectors is not None
    return result.vectors.numpy()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def stub_train(layout: Layout | None = None, step: torch.Tensor | float = 0.0):
    """A ``train`` that moves every model by ``step``."""

    def train(start, overwrite=False):
        return SimpleNamespace(matrix=lambda: start + step)

    train.layout = layout or SimpleNamespace(trained=10**9)
    return train


@pytest.mark.parametrize("steps", [1, 2])
def test_mix_after_trains_then_averages(steps):
    pairs = regression(4)
    training = tacit.SGD(lr=LR, batch_size=None, steps=steps)
    result = tacit.run(experiment(pairs, algorithm=Gossip(), training=training))
    x = np.tile(START, (4, 1))
    for _ in range(3):
        x = PATH_W @ np.stack([descend(pair, w, steps) for pair, w in zip(pairs, x, strict=True)])
    np.testing.assert_allclose(models_of(result), x, rtol=1e-5, atol=1e-5)


def test_mix_before_is_algorithm_1_of_lian_et_al():
    pairs = regression(4)
    result = tacit.run(experiment(pairs, algorithm=Gossip(mix="before")))
    x = np.tile(START, (4, 1))
    for _ in range(3):
        x = PATH_W @ x - LR * np.stack([gradient(p, w) for p, w in zip(pairs, x, strict=True)])
    np.testing.assert_allclose(models_of(result), x, rtol=1e-5, atol=1e-5)


def test_mix_before_adds_the_whole_local_step():
    pairs = regression(4)
    training = tacit.SGD(lr=LR, batch_size=None, steps=3)
    result = tacit.run(experiment(pairs, algorithm=Gossip(mix="before"), training=training))
    x = np.tile(START, (4, 1))
    for _ in range(3):
        moved = np.stack([descend(pair, w, 3) - w for pair, w in zip(pairs, x, strict=True)])
        x = PATH_W @ x + moved
    np.testing.assert_allclose(models_of(result), x, rtol=1e-5, atol=1e-5)


def test_mix_before_keeps_the_statistics_of_each_node():
    pairs = regression(4)
    fields = {
        "model": lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)),
        "rounds": 2,
    }
    mixed = experiment(pairs, algorithm=Gossip(mix="before")).replace(**fields)
    alone = experiment(pairs, algorithm=tacit.Alone(), topology=None).replace(**fields)
    trained = mixed.layout.trained
    statistics = models_of(tacit.run(mixed))[:, trained:]
    # With the inputs as the first layer, its statistics do not depend on any weight.
    np.testing.assert_array_equal(statistics, models_of(tacit.run(alone))[:, trained:])
    # The path has 6 directed links; only trained coordinates are sent.
    assert tacit.run(mixed).metrics[0]["bytes"] == 6 * 4 * trained


def test_momentum_makes_it_dfedavgm():
    # Sun et al. 2021, algorithm 1: y_{k+1} = y_k - eta g(y_k) + theta (y_k - y_{k-1}), where
    # y_{-1} = y_0 = x_t.
    pairs, theta = regression(4), 0.8
    training = tacit.SGD(lr=LR, batch_size=None, steps=3, momentum=theta)
    result = tacit.run(experiment(pairs, algorithm=Gossip(), training=training, rounds=2))
    x = np.tile(START, (4, 1))
    for _ in range(2):
        trained = []
        for pair, w in zip(pairs, x, strict=True):
            before = now = w
            for _ in range(3):
                step = -LR * gradient(pair, now) + theta * (now - before)
                before, now = now, now + step
            trained.append(now)
        x = PATH_W @ np.stack(trained)
    np.testing.assert_allclose(models_of(result), x, rtol=1e-5, atol=1e-5)


def test_pairwise_gossip_averages_pairs_and_an_odd_node_rests():
    topology, models = tacit.Pairwise(), torch.randn(5, 3, generator=seeded())
    expected = models.clone()
    for sender, receiver in zip(*topology.links(5, 7, 2), strict=True):
        expected[receiver] = (models[sender] + models[receiver]) / 2
    assert (expected == models).all(1).sum() == 1
    exchange = GraphExchange(topology.graph(5, 7, 2), tacit.Mean(), Round(2))
    state, _ = Gossip().round({"models": models}, stub_train(), exchange)
    torch.testing.assert_close(state["models"], expected)


def test_epidemic_learning_averages_what_arrived_with_the_own_model():
    topology, models = tacit.Epidemic(2), torch.randn(9, 3, generator=seeded())
    senders, receivers = topology.links(9, 0, 4)
    heard = np.bincount(receivers, minlength=9)
    assert heard.min() < heard.max()  # or uniform weights could not be told from others
    expected = torch.stack(
        [models[[node, *senders[receivers == node].tolist()]].mean(0) for node in range(9)]
    )
    exchange = GraphExchange(topology.graph(9, 0, 4), tacit.Mean(), Round(4))
    state, _ = Gossip().round({"models": models}, stub_train(), exchange)
    torch.testing.assert_close(state["models"], expected)


def test_push_sum_is_algorithm_1_of_assran_et_al():
    # 0 sends to 1 and 2, 1 to 2, 2 to 0; each splits evenly among those and itself.
    graph = nx.DiGraph([(0, 1), (0, 2), (1, 2), (2, 0)])
    p = np.array([[1 / 3, 0, 1 / 2], [1 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1 / 2]])
    pairs = regression(3)
    plan = experiment(pairs, algorithm=PushSum(), topology=tacit.Custom(graph))
    result = tacit.run(plan)
    x, w = np.tile(START, (3, 1)), np.ones((3, 1))
    for _ in range(3):
        z = x / w
        x = p @ (x - LR * np.stack([gradient(pair, m) for pair, m in zip(pairs, z, strict=True)]))
        w = p @ w
    np.testing.assert_allclose(models_of(result), x / w, rtol=1e-5, atol=1e-5)
    shared = result.model.weight.detach().numpy()[0]
    np.testing.assert_allclose(shared, x.sum(0) / 3, rtol=1e-5, atol=1e-5)
    # 4 links, each with 2 weights and w.
    assert result.metrics[0]["bytes"] == 4 * 4 * 3


@pytest.mark.parametrize(
    ("topology", "rounds"),
    [
        # One peer a round at distance 1, 2, 4: after log2(8) rounds all have the exact mean.
        (tacit.DirectedExponential(), 3),
        (tacit.DirectedRing(), 150),
        (tacit.Epidemic(2), 60),
        (tacit.Ring(), 100),
    ],
)
def test_push_sum_reaches_the_mean_of_all_nodes(topology, rounds):
    numerator = torch.randn(8, 5, generator=seeded())
    mean = numerator.mean(0)
    state = {"numerator": numerator, "weight": torch.ones(8, 1)}
    algorithm, train = PushSum(), stub_train()
    for round in range(rounds):
        exchange = GraphExchange(topology.graph(8, 0, round), tacit.Mean(), Round(round))
        state, _ = algorithm.round(state, train, exchange)
        assert float(state["weight"].sum()) == pytest.approx(8, abs=1e-4)
        torch.testing.assert_close(algorithm.model(state), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        algorithm.models(state, train), mean.expand(8, -1), rtol=0, atol=1e-5
    )


def test_push_sum_averages_buffers_without_leaving_their_range():
    # The trained value of the buffer (second coordinate) is 1 everywhere, whatever it was before.
    layout = SimpleNamespace(trained=1)
    weight = torch.tensor([[0.2], [1.8]])
    models = torch.tensor([[0.0, 10.0], [0.0, 2.0]])
    train = stub_train(layout, torch.tensor([[0.0, -9.0], [0.0, -1.0]]))
    exchange = GraphExchange(tacit.DirectedRing().graph(2, 0, 0), tacit.Mean(), Round(0))
    state, _ = PushSum().round({"numerator": models * weight, "weight": weight}, train, exchange)
    torch.testing.assert_close(PushSum().models(state, train)[:, 1], torch.ones(2))


@pytest.mark.parametrize(
    ("algorithm", "topology"),
    [
        (Gossip(), tacit.Ring()),
        (Gossip(mix="before"), tacit.Ring()),
        (Gossip(), tacit.Pairwise()),
        (Gossip(), tacit.Epidemic(2)),
        (PushSum(), tacit.DirectedRing()),
        (PushSum(), tacit.Epidemic(2)),
    ],
    ids=str,
)
def test_every_node_finds_the_optimum_of_all_rows(algorithm, topology):
    pairs = regression(6)
    x, y = (np.concatenate(halves) for halves in zip(*pairs, strict=True))
    optimum = np.linalg.lstsq(x, y, rcond=None)[0]

    def schedule(round, rounds):
        return 1 / (1 + round / 4)

    training = tacit.SGD(lr=0.1, batch_size=None, steps=1, schedule=schedule)
    plan = experiment(pairs, algorithm=algorithm, topology=topology, training=training)
    result = tacit.run(plan.replace(rounds=60))
    # Nodes stay about lr G / gap from the optimum (Yuan, Ling, Yin, "On the convergence of
    # decentralized gradient descent", 2016), where G is the largest gradient of a node there and
    # the gap of a ring of 6 is 2/3 (1 - cos(60 degrees)) = 1/3.
    largest = max(np.linalg.norm(gradient(pair, optimum)) for pair in pairs)
    tolerance = 3 * training.lr_at(60, 60) * largest
    # Without averaging a node ends at its own optimum, which is farther away.
    own = [np.linalg.lstsq(*pair, rcond=None)[0] for pair in pairs]
    assert tolerance < np.linalg.norm(own - optimum, axis=1).min()
    assert np.linalg.norm(models_of(result) - optimum, axis=1).max() < tolerance
    distance = [row["consensus_distance"] for row in result.metrics]
    assert distance[-1] < distance[0] / 10


@pytest.mark.parametrize(
    ("algorithm", "topology"),
    [
        (Gossip(), tacit.Epidemic(2)),
        (Gossip(mix="before"), PATH),
        (PushSum(), tacit.DirectedExponential()),
    ],
)
def test_a_resumed_run_ends_in_the_same_bits(algorithm, topology, tmp_path):
    training = tacit.SGD(lr=LR, batch_size=3, momentum=0.5)
    plan = experiment(
        regression(4), algorithm=algorithm, topology=topology, rounds=4, training=training
    )

    def interrupt(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tacit.run(plan, folder=tmp_path, on_round=interrupt)
    resumed = tacit.run(plan, folder=tmp_path, resume=True)
    assert len(resumed.metrics) == 4
    assert torch.equal(resumed.vectors, tacit.run(plan).vectors)


def test_another_mix_is_refused():
    with pytest.raises(tacit.InputError, match=r"algorithm\.mix: 'during' was given"):
        Gossip(mix="during")
