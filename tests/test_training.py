"""Batched and sequential training against plain torch: same batches, same arithmetic."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reference import train_alone
from tacit.data.federation import Split
from tacit.layout import Layout, template
from tacit.models import char_lstm, transformer
from tacit.randomness import key
from tacit.training.batched import Batched
from tacit.training.job import Collect, Job
from tacit.training.losses import next_token
from tacit.training.lowering import choose, least_batch
from tacit.training.optimizers import SGD, Adam, Cosine, StepDecay
from tacit.training.plan import Plan
from tacit.training.sequential import Sequential

SIZES = [23, 1, 0, 50, 7, 10]


def table(sizes=SIZES, shape=(30,), classes=3) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split.pack(
        [
            (
                torch.randn(size, *shape, generator=generator),
                torch.randint(0, classes, (size,), generator=generator),
            )
            for size in sizes
        ]
    )


def tokens(sizes=(13, 3, 0, 20), length=9, vocabulary=12) -> Split:
    generator = torch.Generator().manual_seed(0)
    window = partial(torch.randint, 0, vocabulary, generator=generator)
    return Split.pack([(window((size, length)), window((size, length))) for size in sizes])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 3))


def train(kind, module, loss, split, training, slots=None, **terms):
    """(n, d) end vectors and (n,) losses of all nodes by one lowering."""
    layout = Layout.of(module)
    nodes = np.arange(split.nodes)
    plan = Plan.of(split, nodes, training, 0, 1, least_batch(module))
    job = Job(
        split, plan, training, training.lr, key(0, "dropout", 1), layout.vector(module), **terms
    )
    lowering = (
        Batched(module, layout, loss)
        if kind == "batched"
        else Sequential(module, layout, loss, True)
    )
    if slots:
        lowering.slots = slots
    ends, losses = torch.zeros(len(nodes), layout.size), torch.zeros(len(nodes))
    lowering.train(job, nodes, Collect(ends, losses, None))
    return ends, losses


OPTIMISERS = {
    "plain": (SGD(lr=0.1, batch_size=10), partial(torch.optim.SGD, lr=0.1)),
    "decay": (
        SGD(lr=0.1, batch_size=8, weight_decay=0.05, epochs=2),
        partial(torch.optim.SGD, lr=0.1, weight_decay=0.05),
    ),
    "momentum": (
        SGD(lr=0.1, batch_size=8, momentum=0.9, weight_decay=0.05, epochs=3),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.05),
    ),
    "nesterov": (
        SGD(lr=0.1, batch_size=8, momentum=0.9, nesterov=True, steps=7),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adam": (Adam(lr=0.01, batch_size=8, epochs=2), partial(torch.optim.Adam, lr=0.01)),
    "adam-decay": (
        Adam(lr=0.01, batch_size=None, steps=4, weight_decay=0.1, beta1=0.8),
        partial(torch.optim.Adam, lr=0.01, weight_decay=0.1, betas=(0.8, 0.999)),
    ),
}


@pytest.mark.parametrize("kind", ["batched", "sequential"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_are_those_of_torch(kind, name):
    training, optimizer = OPTIMISERS[name]
    module, split = template(mlp, 0), table()
    ends, _ = train(kind, module, F.cross_entropy, split, training)
    plan = Plan.of(split, np.arange(split.nodes), training, 0, 1)
    for node in range(split.nodes):
        expected = train_alone(module, F.cross_entropy, optimizer, split, plan, node)
        torch.testing.assert_close(
            ends[node], Layout.of(module).vector(expected), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("kind", ["batched", "sequential"])
def test_clipping_is_that_of_torch(kind):
    module, split = template(mlp, 0), table()
    training = SGD(lr=0.5, batch_size=8, clip_norm=0.3)
    ends, _ = train(kind, module, F.cross_entropy, split, training)
    plan = Plan.of(split, np.arange(split.nodes), training, 0, 1)
    optimizer = partial(torch.optim.SGD, lr=0.5)
    for node in range(split.nodes):
        expected = train_alone(module, F.cross_entropy, optimizer, split, plan, node, clip_norm=0.3)
        torch.testing.assert_close(
            ends[node], Layout.of(module).vector(expected), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("slots", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "training", [SGD(lr=0.1, batch_size=4), Adam(lr=0.01, batch_size=4, epochs=2)]
)
def test_slots_change_nothing(slots, training):
    module = template(mlp, 0)
    ends, losses = train("batched", module, F.cross_entropy, table(), training, slots=slots)
    other, other_losses = train("sequential", module, F.cross_entropy, table(), training)
    torch.testing.assert_close(ends, other, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(losses, other_losses, equal_nan=True, atol=1e-5, rtol=1e-5)
    assert losses[2].isnan()  # the node without rows
    assert torch.equal(ends[2], Layout.of(module).vector(module))


@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("training", [SGD(lr=0.1, batch_size=4), SGD(lr=0.1, momentum=0.5)])
def test_models_trained_in_place_are_those_trained_aside(slots, training):
    module, split = template(mlp, 0), table((9, 9, 9, 9, 9))
    layout, nodes = Layout.of(module), np.arange(5)
    start = torch.randn(5, layout.size, generator=torch.Generator().manual_seed(1))
    plan = Plan.of(split, nodes, training, 0, 1)
    lowering = Batched(module, layout, F.cross_entropy)
    lowering.slots = slots
    aside = torch.zeros_like(start)
    job = Job(split, plan, training, training.lr, 0, start)
    lowering.train(job, nodes, Collect(aside, torch.zeros(5), None))
    assert not torch.allclose(aside, start)
    lowering.train(replace(job, in_place=True), nodes, Collect(start, torch.zeros(5), None))
    torch.testing.assert_close(start, aside, atol=1e-6, rtol=1e-5)


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.cell = kind(8, 16, batch_first=True, **options)
        self.out = nn.Linear(16, 12)

    def forward(self, x):
        return self.out(self.cell(self.embedding(x))[0])


class Attention(nn.Module):
    """Tied weights, a parameter used by itself, a mask, and dropout as a function."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.position = nn.Parameter(torch.randn(9, 16) * 0.1)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.register_buffer("mask", torch.triu(torch.full((9, 9), float("-inf")), 1))

    def forward(self, x):
        h = self.embedding(x) + self.position[: x.shape[1]]
        h = h + self.attention(h, h, h, attn_mask=self.mask)[0]
        h = F.dropout(h, 0.1, self.training)
        return F.linear(self.norm(h), self.embedding.weight)


class Residual(nn.Module):
    """A value used twice, methods that ask for shapes, and functions without a rule."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(30, 30), nn.Linear(30, 6)

    def forward(self, x):
        h = torch.relu(self.first(x)) + x
        h = torch.cat([h, h.flip(1)], dim=1).view(x.size(0), 2, -1).mean(dim=1)
        return self.second(h).reshape(h.shape[0], 3, 2).amax(-1)


class Branching(nn.Module):
    """Control flow on values: cannot be traced."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(30, 3)

    def forward(self, x):
        return self.linear(x) if x.shape[0] > 1 else self.linear(x) * 1.0


IMAGES = (1, 12, 12)
MODELS = {
    "norms": (
        lambda: nn.Sequential(
            nn.Linear(30, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 16),
            nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3),
        ),
        table, F.cross_entropy,
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 3)),
        table, F.cross_entropy,
    ),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
            nn.Linear(128, 3),
        ),
        lambda: table((23, 2, 0, 30), IMAGES), F.cross_entropy,
    ),
    "residual": (Residual, table, F.cross_entropy),
    "in place": (
        lambda: nn.Sequential(nn.Linear(30, 16), nn.LeakyReLU(inplace=True), nn.Linear(16, 3)),
        table, F.cross_entropy,
    ),
    "a single layer": (lambda: nn.Linear(30, 3), table, F.cross_entropy),
    "a layer used twice": (
        lambda: nn.Sequential(*2 * [nn.Linear(30, 30)], nn.ReLU(), nn.Linear(30, 3)),
        table, F.cross_entropy,
    ),
    "partly frozen": (
        lambda: nn.Sequential(
            nn.Linear(30, 16).requires_grad_(False), nn.ReLU(), nn.Linear(16, 3)
        ),
        table, F.cross_entropy,
    ),
    "branching": (Branching, table, F.cross_entropy),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2), tokens, next_token),
    "gru": (lambda: Recurrent(nn.GRU, num_layers=2), tokens, next_token),
    "gru without bias": (lambda: Recurrent(nn.GRU, bias=False), tokens, next_token),
    "attention": (Attention, tokens, next_token),
    "char_lstm": (lambda: char_lstm(12, 4, 8, 2), tokens, next_token),
    "transformer": (lambda: transformer(12, 9, 16, 2, 2), tokens, next_token),
    "own loss": (mlp, table, lambda o, y: F.cross_entropy(o, y) + 0.1 * o.pow(2).mean()),
    "one logit": (
        lambda: nn.Sequential(nn.Linear(30, 1), nn.Flatten(0)),
        lambda: Split(table().x, (table().y > 0).float(), table().offsets),
        F.binary_cross_entropy_with_logits,
    ),
    "regression": (
        lambda: nn.Linear(30, 2),
        lambda: Split(table().x, table().x[:, :2] * 2, table().offsets),
        nn.MSELoss(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_batch_rules_agree_with_node_after_node(name):
    model, data, loss = MODELS[name]
    module, split = template(model, 0), data()
    training = SGD(lr=0.1, batch_size=10, epochs=2)
    ends, losses = train("batched", module, loss, split, training)
    other, other_losses = train("sequential", module, loss, split, training)
    moved = (other - Layout.of(module).vector(module)).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(ends, other, atol=3e-6, rtol=1e-4)
    torch.testing.assert_close(losses, other_losses, equal_nan=True, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["norms", "attention"])
@pytest.mark.parametrize(
    "training",
    [
        SGD(lr=0.1, batch_size=10, momentum=0.9, clip_norm=1.0),
        Adam(lr=0.01, batch_size=10, eps=1e-3),
    ],
)
def test_optimisers_with_state_agree_on_buffers_and_tied_weights(name, training):
    model, data, loss = MODELS[name]
    module, split = template(model, 0), data()
    ends, _ = train("batched", module, loss, split, training)
    other, _ = train("sequential", module, loss, split, training)
    torch.testing.assert_close(ends, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["norms", "convolution", "residual", "lstm", "transformer"])
def test_sequential_is_plain_torch(name):
    model, data, loss = MODELS[name]
    module, split = template(model, 0), data()
    training = SGD(lr=0.1, batch_size=10)
    plan = Plan.of(split, np.arange(split.nodes), training, 0, 1, least_batch(module))
    ends, _ = train("sequential", module, loss, split, training)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    for node in range(split.nodes):
        expected = train_alone(module, loss, optimizer, split, plan, node)
        vector = Layout.of(module).vector(expected)
        torch.testing.assert_close(ends[node], vector, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["batched", "sequential"])
def test_proximal_term_correction_and_frozen_weights(kind):
    # One step on all rows with lr 0.1: w1 = w0 - 0.1 * (g + 0.5 (w0 - anchor) + c), g by autograd.
    module, split = template(lambda: nn.Linear(4, 3), 0), table((6, 9), (4,))
    layout = Layout.of(module)
    start, frozen = layout.vector(module), torch.arange(15) < 5
    anchor, correction = torch.ones(15), torch.arange(30.0).view(2, 15)
    ends, _ = train(
        kind, module, F.cross_entropy, split, SGD(lr=0.1, batch_size=None, weight_decay=0.3),
        prox=0.5, anchor=anchor, correction=correction, frozen=frozen,
    )  # fmt: skip
    for node in range(2):
        x, y = split.node(node)
        gradients = torch.autograd.grad(F.cross_entropy(module(x), y), list(module.parameters()))
        g = torch.cat([part.flatten() for part in gradients])
        step = g + 0.5 * (start - anchor) + correction[node] + 0.3 * start
        expected = torch.where(frozen, start, start - 0.1 * step)
        torch.testing.assert_close(ends[node], expected, atol=1e-6, rtol=1e-5)


def test_schedules():
    # Half a cosine from 1 to 0.2 over 4 rounds: at round 2 the cosine is 0, so (1 + 0.2) / 2.
    cosine = SGD(lr=2.0, schedule=Cosine(final=0.2))
    assert [cosine.lr_at(round, 4) for round in (0, 2)] == pytest.approx([2.0, 1.2])
    steps = SGD(lr=8.0, schedule=StepDecay(every=2, factor=0.5))
    assert [steps.lr_at(round, 9) for round in range(5)] == [8, 8, 4, 4, 2]
    for wrong in (partial(Cosine, final=2), partial(StepDecay, every=0), partial(StepDecay, 1, 0)):
        with pytest.raises(ValueError, match="schedule"):
            wrong()


def test_dropout_masks_differ_by_node_step_and_round():
    module = template(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(30, 3)), 0)
    x, y = torch.ones(8, 30), torch.zeros(8, dtype=torch.int64)
    split = Split.pack([(x, y), (x, y)])
    ends, _ = train("batched", module, F.cross_entropy, split, SGD(lr=0.1, batch_size=8))
    assert not torch.allclose(ends[0], ends[1])
    again, _ = train("batched", module, F.cross_entropy, split, SGD(lr=0.1, batch_size=8))
    assert torch.equal(ends, again)


def choose_for(model, split, loss=F.cross_entropy, engine="auto"):
    module = template(model, 0)
    return choose(engine, module, Layout.of(module), loss, split)


def test_dense_models_are_batched_and_heavy_ones_not():
    assert choose_for(mlp, table()).engine == "batched"
    heavy = choose_for(MODELS["convolution"][0], table((4,), IMAGES))
    assert (heavy.engine, heavy.reason.split()[0]) == ("sequential", "Conv2d")
    assert (
        choose_for(lambda: transformer(12, 9, 16, 2, 2), tokens(), next_token).engine
        == "sequential"
    )


class Coupled(nn.Module):
    """Mixes the rows of a batch, so that padding a smaller batch changes its result."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(30, 3)

    def forward(self, x):
        h = self.linear(x)
        return h - h.mean(dim=0)


class Item(nn.Module):
    """Reads a value back into Python, which vmap refuses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(30, 3)

    def forward(self, x):
        h = self.linear(x)
        return h * (1.0 if h.sum().item() > 0 else 2.0)


@pytest.mark.parametrize("model", [Coupled, Item])
def test_what_cannot_be_batched_is_trained_node_after_node(model):
    choice = choose_for(model, table())
    assert choice.engine == "sequential"
    with pytest.raises(ValueError, match="engine: 'batched' was given"):
        choose_for(model, table(), engine="batched")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "training.lr: 0 was given"),
        ({"lr": float("nan")}, "training.lr: nan was given"),
        ({"lr": 1, "batch_size": 0}, "training.batch_size: 0 was given"),
        ({"lr": 1, "epochs": 1, "steps": 2}, "training.steps: epochs=1 and steps=2"),
        ({"lr": 1, "momentum": 1.0}, "training.momentum: 1.0 was given"),
        ({"lr": 1, "nesterov": True}, "needs training.momentum above 0"),
        ({"lr": 1, "weight_decay": -1}, "training.weight_decay: -1 was given"),
        ({"lr": 1, "clip_norm": 0}, "training.clip_norm: 0 was given"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SGD(**settings)
