"""MoNNA and LEARN by hand: three nodes that pull one weight towards 2, 4 and -6."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tacit
from tacit.aggregation.nna import NNA
from tacit.algorithms.learn import LEARN
from tacit.algorithms.monna import MoNNA
from tacit.attacks.base import UpdateAttack
from tacit.layout import Entry, Layout

LR = 0.5
OPTIMA = torch.tensor([[2.0], [4.0], [-6.0]])
# One weight; with a buffer beside it, two coordinates of which one is trained.
WEIGHT = Layout((Entry("w", (1,), 0, True),), 1, 1)
WITH_BUFFER = Layout((*WEIGHT.entries, Entry("b", (1,), 1, False)), 2, 1)


def one_step(layout: Layout = WEIGHT, lr: float = LR):
    """A ``train`` that makes one gradient step on (w - optimum)^2 / 2 and sets buffers to 7."""

    def train(start):
        trained = torch.full_like(start, 7.0)
        trained[:, :1] = start[:, :1] - LR * (start[:, :1] - OPTIMA)
        return SimpleNamespace(matrix=lambda: trained)

    train.layout, train.lr = layout, lr
    return train


class Complete:
    """Everybody hears everybody and aggregates by a rule; counts what is sent."""

    def __init__(self, rule=None):
        self.rule, self.widths = rule or NNA(1), []

    def __call__(self, models, start=None):
        self.widths.append(models.shape[1])
        others = [[j for j in range(len(models)) if j != i] for i in range(len(models))]
        weight = torch.full((len(models), len(models) - 1), 1 / len(models))
        return self.rule(models, models[torch.tensor(others)], weight).result


def column(*values):
    return torch.tensor(values)[:, None]


def test_monna_by_hand():
    algorithm, exchange = MoNNA(beta=0.5), Complete()
    state = algorithm.init(torch.zeros(1), 3, WEIGHT)
    # From 0 the gradients are (-2, -4, 6), the momenta half of that, (-1, -2, 3), and the models
    # (0.5, 1, -1.5). Each takes the mean of its own and the one nearest to it: 0.75 twice, and
    # (-1.5 + 0.5) / 2.
    state, _ = algorithm.round(state, one_step(), exchange)
    torch.testing.assert_close(state["momentum"], column(-1.0, -2.0, 3.0))
    torch.testing.assert_close(state["models"], column(0.75, 0.75, -0.5))
    # The gradients (-1.25, -3.25, 5.5) make momenta of (-1.125, -2.625, 4.25), the models
    # (1.3125, 2.0625, -2.625), and the means 1.6875 twice and (-2.625 + 1.3125) / 2.
    state, _ = algorithm.round(state, one_step(), exchange)
    torch.testing.assert_close(state["momentum"], column(-1.125, -2.625, 4.25))
    torch.testing.assert_close(state["models"], column(1.6875, 1.6875, -0.65625))
    torch.testing.assert_close(algorithm.model(state), torch.tensor([2.71875 / 3]))
    assert algorithm.models(state, one_step()) is state["models"]


def test_monna_mixes_k_times():
    # After the first mix (0.75, 0.75, -0.5); in the second the last one takes (-0.5 + 0.75) / 2.
    algorithm, exchange = MoNNA(beta=0.5, mixes=2), Complete()
    state, _ = algorithm.round(algorithm.init(torch.zeros(1), 3, WEIGHT), one_step(), exchange)
    torch.testing.assert_close(state["models"], column(0.75, 0.75, 0.125))
    assert sum(algorithm.sends(WEIGHT).values()) == sum(exchange.widths) == 2


def test_monna_sends_buffers_as_they_were_trained():
    algorithm = MoNNA(beta=0.5)
    state = algorithm.init(torch.zeros(2), 3, WITH_BUFFER)
    assert state["momentum"].shape == (3, 1)
    state, _ = algorithm.round(state, one_step(WITH_BUFFER), Complete(tacit.Mean()))
    # The weights (0.5, 1, -1.5) have the mean 0.
    torch.testing.assert_close(state["models"], torch.tensor([[0.0, 7.0]]).repeat(3, 1))


def test_monna_takes_one_plain_gradient_step():
    training = tacit.SGD(lr=0.1, batch_size=5, epochs=3)
    assert MoNNA().local(training) == tacit.SGD(lr=0.1, batch_size=5, steps=1)
    MoNNA().check(WEIGHT, training)
    for other in (tacit.SGD(lr=0.1, momentum=0.9), tacit.Adam(lr=0.1)):
        with pytest.raises(tacit.InputError, match=r"^training: .* SGD\(\.\.\.\) without momentum"):
            MoNNA().check(WEIGHT, other)
    # A step of length 0 does not show the gradient.
    state = MoNNA().init(torch.zeros(1), 3, WEIGHT)
    with pytest.raises(tacit.InputError, match="learning rate above 0"):
        MoNNA().round(state, one_step(lr=0.0), Complete())


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"beta": 1}, r"algorithm\.beta: 1 was"), ({"mixes": 0}, r"algorithm\.mixes: 0 was")],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(tacit.InputError, match=message):
        MoNNA(**fields)


def test_learn_by_hand():
    algorithm, exchange = LEARN(), Complete()
    state = algorithm.init(torch.zeros(1), 3, WEIGHT)
    # Round 1 agrees on the models alone: (1, 2, -3) to 1.5 twice and (-3 + 1) / 2.
    state, _ = algorithm.round(state, one_step(), exchange)
    torch.testing.assert_close(state["models"], column(1.5, 1.5, -1.0))
    # Round 2 agrees once on the steps (0.25, 1.25, -2.5): 0.75 twice and -1.125. Models
    # (2.25, 2.25, -2.125), of which the last one takes (-2.125 + 2.25) / 2.
    state, _ = algorithm.round(state, one_step(), exchange)
    torch.testing.assert_close(state["models"], column(2.25, 2.25, 0.0625))


def test_learn_agrees_ceil_log2_t_times_on_the_gradient_and_once_on_the_model():
    algorithm = LEARN()
    state, agreements = algorithm.init(torch.zeros(2), 3, WITH_BUFFER), []
    for _ in range(9):
        exchange = Complete(tacit.Mean())
        state, _ = algorithm.round(state, one_step(WITH_BUFFER), exchange)
        # Steps have the one trained coordinate, models both.
        assert exchange.widths == [1] * (len(exchange.widths) - 1) + [2]
        agreements.append(len(exchange.widths) - 1)
    # log2 of 1 ... 9, rounded up.
    assert agreements == [0, 1, 2, 2, 3, 3, 3, 3, 4]
    # Buffers come as they were trained.
    assert state["models"][:, 1].tolist() == [7, 7, 7]
    assert algorithm.sends(WITH_BUFFER) == {"gradient": 1, "model": 2}


def test_learn_goes_on_counting_from_a_saved_state():
    algorithm = LEARN()
    state = algorithm.init(torch.zeros(1), 3, WEIGHT)
    for _ in range(4):
        state, _ = algorithm.round({k: v.clone() for k, v in state.items()}, one_step(), Complete())
    exchange = Complete()
    algorithm.round(state, one_step(), exchange)
    assert len(exchange.widths) == 3 + 1  # ceil(log2 5) and the models


@pytest.mark.parametrize("algorithm", [MoNNA(beta=0.5), MoNNA(beta=0.5, mixes=2), LEARN()], ids=str)
def test_all_nodes_find_the_optimum_of_all_rows(algorithm):
    rng = np.random.default_rng(0)
    pairs = [(x := rng.normal(size=(8, 2)), x @ rng.normal([1, 2], 0.3)) for _ in range(5)]
    data = tacit.data.from_arrays(pairs, test=pairs[0])
    experiment = tacit.Experiment(
        data=data,
        model=lambda: torch.nn.Linear(2, 1, bias=False),
        loss=F.mse_loss,
        training=tacit.SGD(lr=0.1, batch_size=None, steps=1),
        algorithm=algorithm,
        topology=tacit.Complete(),
        rounds=60,
    )
    # By the mean over a complete graph all nodes have one model, which descends on all rows.
    x, y = (np.concatenate(halves) for halves in zip(*pairs, strict=True))
    optimum = np.linalg.lstsq(x, y, rcond=None)[0]
    vectors = tacit.run(experiment).vectors
    np.testing.assert_allclose(vectors, np.tile(optimum, (5, 1)), atol=1e-3)


@dataclass(frozen=True, kw_only=True)
class Recorder(UpdateAttack):
    """Sends what it trained, and keeps what it saw."""

    views: list = field(default_factory=list)

    def lie(self, view):
        self.views.append(view)
        return view.own


def seen(algorithm, **changes):
    """What node 0 sees in a run on two nodes more."""
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    recorder = Recorder(nodes=("0",), knowledge="own")
    data = tacit.data.from_arrays([(rows, rows.sum(1)) for rows in x], test=(x[0], x[0].sum(1)))
    plan = tacit.Experiment(
        data=replace(data, names=("0", "1", "2")),
        model=lambda: torch.nn.Linear(2, 1, bias=False),
        loss=F.mse_loss,
        training=tacit.SGD(lr=0.1, batch_size=None, steps=1),
        algorithm=algorithm,
        attack=recorder,
        rounds=2,
        **changes,
    )
    tacit.run(plan)
    return plan, recorder.views


def test_a_gradient_of_learn_starts_at_zero_and_a_model_at_that_before_the_step():
    plan, views = seen(LEARN(), topology=tacit.Complete())
    # Round 1 sends a model; round 2 a gradient, then a model.
    assert [view.round for view in views] == [0, 1, 1]
    torch.testing.assert_close(views[0].starts, plan.start()[None])
    assert views[1].starts.tolist() == [[0, 0]]
    assert views[2].starts.any()


def test_a_control_of_scaffold_starts_at_zero():
    _, views = seen(tacit.Scaffold())
    assert [bool(view.starts.any()) for view in views] == [True, False, True, False]
