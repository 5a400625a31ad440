"""Example-level DP-SGD against a loop over rows in float64, on paper, and by statistics."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from small import experiment
from tacit.data.federation import Split
from tacit.engine.local import LocalTrain, Trainer
from tacit.engine.workers import Workers
from tacit.errors import InputError
from tacit.layout import Layout, template
from tacit.models import char_lstm, transformer
from tacit.randomness import key
from tacit.training.batched import Batched
from tacit.training.ghost import ClippedProgram, GhostConv, GhostEmbedding, GhostLinear
from tacit.training.job import Collect, Job
from tacit.training.losses import next_token, stacked
from tacit.training.lowering import choose
from tacit.training.optimizers import SGD, Adam
from tacit.training.plan import Plan
from tacit.training.private import AddressedNoise, Private
from tacit.training.program import Stack
from tacit.training.rules import Context
from tacit.training.sequential import Sequential

SIZES = (11, 1, 0, 20, 7)


class Untraceable(nn.Module):
    """Control flow that depends on shapes in a way that fx cannot follow, and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(6, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(len(x.shape)):
            x = x * 1.1
        return torch.tanh(self.layer(x)) * self.scale


class Refusing(nn.Module):
    """A branch on values, which neither fx nor vmap can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if float(x.detach().sum()) > 0 else 2 * self.layer(x)


class Tied(nn.Module):
    """One matrix as the embedding and as the output, one layer applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.twice = nn.Embedding(12, 5), nn.Linear(5, 5)
        self.head = nn.Linear(5, 12)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(self.embedding(x))))))


def cnn() -> nn.Module:
    # 64 output pixels of 4 x 9 weights: the rows' gradients are cheaper; 4 pixels of 12 x 144: the
    # Gram products are.
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 16, 3, stride=2, padding=1), nn.GroupNorm(2, 16), nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=(2, 1), dilation=(2, 1), bias=False),
        nn.Conv2d(12, 12, 3, groups=3, padding="same"), nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip


def padded() -> nn.Module:
    return nn.Sequential(nn.Embedding(12, 6, padding_idx=3), nn.Linear(6, 30), nn.Linear(30, 12))


MODELS = {
    "linear": (lambda: nn.Linear(6, 3), (6,)),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)), (6,)),
    "cnn": (cnn, (1, 8, 8)),
    "custom": (Untraceable, (6,)),
    "lstm": (lambda: char_lstm(12, 4, 6, 2), None),
    "transformer": (lambda: transformer(12, 9, 8, 2, 1), None),
    "tied": (Tied, None),
    "padded": (padded, None),
}


def table(shape, sizes=SIZES) -> Split:
    """Rows of a shape with one of three labels, or windows of 9 of 12 tokens."""
    draw = torch.Generator().manual_seed(0)
    window = partial(torch.randint, 0, 12, generator=draw)
    if shape is None:
        return Split.pack([(window((size, 9)), window((size, 9))) for size in sizes])
    label = partial(torch.randint, 0, 3, generator=draw)
    return Split.pack(
        [(torch.randn(size, *shape, generator=draw), label((size,))) for size in sizes]
    )


def setting(name):
    make, shape = MODELS[name]
    return template(make, 0), F.cross_entropy if shape else next_token, table(shape)


def train(kind, module, loss, split, private, training=None, slots=None, noise=None, **terms):
    """(n, d) end vectors, (n,) losses and the plan of all nodes by one lowering."""
    training = training or SGD(lr=0.5, batch_size=4)
    layout, nodes = Layout.of(module), np.arange(split.nodes)
    plan = Plan.of(split, nodes, training, 0, 1, poisson=True)
    noise = noise or AddressedNoise(key(0, "dp-sgd", 1))
    start = terms.pop("start", layout.vector(module))
    job = Job(
        split, plan, training, training.lr, key(0, "dropout", 1), start,
        private=private, noise=noise, **terms,
    )  # fmt: skip
    lowering = (
        Batched(module, layout, loss)
        if kind == "batched"
        else Sequential(module, layout, loss, True)
    )
    if slots:
        lowering.slots = slots
    ends, losses = torch.zeros(len(nodes), layout.size), torch.zeros(len(nodes))
    lowering.train(job, nodes, Collect(ends, losses, None))
    return ends, losses, plan


def row_gradients(module, loss, x, y):
    """Each row's own gradient, (B, p) in the module's dtype."""
    parameters = dict(module.named_parameters())

    def alone(values, x, y):
        output = torch.func.functional_call(module, values, (x.unsqueeze(0),))
        return loss(output, y.unsqueeze(0))

    found = [torch.func.grad(alone)(parameters, a, b) for a, b in zip(x, y, strict=True)]
    return torch.stack([torch.cat([g[n].flatten() for n in parameters]) for g in found])


def naive(module, loss, split, plan, node, lr, clip):
    """The end vector in float64: every row's gradient, clipped, summed, over the expected size."""
    module = copy.deepcopy(module).double()
    x, y = split.x.double() if split.x.is_floating_point() else split.x, split.y
    for step in range(plan.steps[node]):
        at, size = plan.batch(np.array(node), np.array(step))
        rows = plan.rows[int(at) : int(at + size)]
        if not len(rows):
            continue
        gradients = row_gradients(module, loss, x[rows], y[rows])
        factor = (clip / gradients.norm(dim=1)).clamp(max=1)
        update = (gradients * factor[:, None]).sum(0) / plan.batch_size[node]
        vector = nn.utils.parameters_to_vector(module.parameters()).detach() - lr * update
        nn.utils.vector_to_parameters(vector, module.parameters())
    return nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize("kind", ["batched", "sequential"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_are_those_of_a_loop_over_rows(kind, name):
    module, loss, split = setting(name)
    layout = Layout.of(module)
    x, y = split.node(3)
    # Half of the rows are clipped at first.
    clip = float(row_gradients(module, loss, x, y).detach().norm(dim=1).median())
    ends, _, plan = train(kind, module, loss, split, Private(clip, 0.0), slots=2)
    moved = 0.0
    for node in range(split.nodes):
        expected = naive(module, loss, split, plan, node, 0.5, clip).float()
        torch.testing.assert_close(ends[node], expected, atol=2e-6, rtol=1e-5)
        moved = max(moved, float((expected - layout.vector(module)).abs().max()))
    assert moved > 1e-2


def test_layers_with_an_identity_use_it():
    def kinds(name):
        program = ClippedProgram(setting(name)[0], Layout.of(setting(name)[0]))
        return [type(operation) for operation in program.operations]

    assert kinds("mlp").count(GhostLinear) == 2
    assert kinds("cnn").count(GhostConv) == 3  # the fourth has groups
    assert kinds("padded").count(GhostEmbedding) == 1
    assert GhostLinear not in kinds("tied")
    assert GhostEmbedding not in kinds("tied")


def test_a_model_that_vmap_refuses_trains_node_after_node(caplog):
    module, split = template(Refusing, 0), table((6,))
    private = Private(0.3, 0.0)
    layout = Layout.of(module)
    choice = choose("auto", module, layout, F.cross_entropy, split, private)
    assert choice.engine == "sequential"
    assert "cannot be batched" in caplog.text
    ends, _, plan = train("sequential", module, F.cross_entropy, split, private)
    expected = naive(module, F.cross_entropy, split, plan, 3, 0.5, 0.3).float()
    torch.testing.assert_close(ends[3], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm"])
def test_a_private_model_is_batched_after_a_probe(name):
    module, loss, split = setting(name)
    choice = choose("auto", module, Layout.of(module), loss, split, Private(0.1, 1.0))
    assert choice.engine == "batched"


def test_the_probe_notices_a_broken_clip(monkeypatch, caplog):
    broken = ClippedProgram.clipped_step

    def loose(self, stack, context, loss, x, y, clip, share):
        return broken(self, stack, context, loss, x, y, 2 * clip, share)

    monkeypatch.setattr(ClippedProgram, "clipped_step", loose)
    module, loss, split = setting("mlp")
    choice = choose("auto", module, Layout.of(module), loss, split, Private(0.1, 1.0))
    assert choice.engine == "sequential"
    assert "otherwise" in caplog.text


@pytest.mark.parametrize(
    "training",
    [
        SGD(lr=0.2, batch_size=4, momentum=0.9, nesterov=True, epochs=2),
        SGD(lr=0.2, batch_size=4, weight_decay=0.1),
        SGD(lr=0.2, batch_size=None, steps=3, momentum=0.5, weight_decay=0.1),
        Adam(lr=0.01, batch_size=4, epochs=2, weight_decay=0.01),
        SGD(lr=0.2, batch_size=4, clip_norm=0.05),
    ],
)
@pytest.mark.parametrize("slots", [1, 3])
def test_both_lowerings_agree_with_noise_under_every_optimiser(training, slots):
    module, loss, split = setting("mlp")
    private = Private(0.3, 0.7)
    ends, losses, _ = train("batched", module, loss, split, private, training, slots)
    other, other_losses, _ = train("sequential", module, loss, split, private, training)
    torch.testing.assert_close(ends, other, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(losses, other_losses, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert not torch.equal(ends[0], ends[1])
    assert losses[2].isnan()  # the node without rows
    torch.testing.assert_close(ends[2], Layout.of(module).vector(module), atol=0, rtol=0)


def test_weight_decay_and_an_algorithms_terms_come_after_the_clip():
    # A loss without gradient: what remains is w <- w - lr * (decay w + prox (w - a) + c).
    module, split = template(lambda: nn.Linear(6, 3), 0), table((6,), (4,))
    p = Layout.of(module).trained
    w, anchor, correction = torch.full((p,), 2.0), torch.full((p,), 5.0), torch.full((p,), 30.0)
    training = SGD(lr=0.1, batch_size=4, steps=1, weight_decay=0.5)
    for kind in ("batched", "sequential"):
        ends, _, _ = train(
            kind, module, lambda output, y: output.sum() * 0, split, Private(1e-3, 0.0), training,
            start=w, prox=0.25, anchor=anchor, correction=correction,
        )  # fmt: skip
        # 2 - 0.1 * (0.5 * 2 + 0.25 * (2 - 5) + 30) = -1.025
        torch.testing.assert_close(ends[0], torch.full((p,), -1.025))


def test_dropout_has_a_mask_for_each_row():
    module = template(
        lambda: nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.ReLU(), nn.Linear(64, 3)), 0
    )
    split = table((6,))
    split.x[:] = split.x[0]
    split.y[:] = 1
    private = Private(0.5, 0.0)
    ends = [
        train(kind, module, F.cross_entropy, split, private, slots=slots)[0]
        for kind, slots in (("batched", 2), ("batched", 5), ("sequential", None))
    ]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ends[0], ends[2], atol=1e-6, rtol=1e-5)
    # Four equal rows under one mask would leave half of the hidden units without a gradient.
    one_step = SGD(lr=1.0, batch_size=None, steps=1)
    end, _, _ = train("batched", module, F.cross_entropy, split, private, one_step)
    layout = Layout.of(module)
    hidden = (end[3] - layout.vector(module))[layout.entries[1].slice]
    alive = (module[0](split.x[:1])[0] > 0).sum()
    assert (hidden != 0).sum() == alive  # 20 masks: all dropped with chance 2^-20 a unit


def summed(module, loss, x, y, clip):
    """The un-noised sum of clipped gradients of one batch, as a step takes it."""
    layout = Layout.of(module)
    weight = layout.vector(module).unsqueeze(0)
    target = torch.zeros_like(weight)
    stack = Stack(layout.views(weight), layout.views(target), decay=0.0)
    batch = x.unsqueeze(0), y.unsqueeze(0), clip, torch.ones(1, len(x))
    with torch.no_grad():
        ClippedProgram(module, layout).clipped_step(
            stack, Context(training=True), stacked(loss), *batch
        )
    return target[0]


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied", "custom"])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 1e3]),
    clip=st.sampled_from([1e-3, 0.1, 10.0]), row=st.integers(0, 4),
)  # fmt: skip
def test_one_row_moves_the_sum_by_no_more_than_the_clip(name, seed, scale, clip, row):
    module, loss, _ = setting(name)
    draw = torch.Generator().manual_seed(seed)
    shape = MODELS[name][1]
    if shape is None:
        x = torch.randint(0, 12, (6, 9), generator=draw)
        y = torch.randint(0, 12, (6, 9), generator=draw)
    else:
        x = torch.randn(6, *shape, generator=draw) * scale
        y = torch.randint(0, 3, (6,), generator=draw)
    whole = summed(module, loss, x[:5], y[:5], clip)
    others = [i for i in range(5) if i != row]
    without = summed(module, loss, x[others], y[others], clip)
    replaced = summed(module, loss, x[[*others, 5]], y[[*others, 5]], clip)
    assert (whole - without).norm() <= clip * (1 + 1e-4)
    assert (whole - replaced).norm() <= 2 * clip * (1 + 1e-4)


def test_a_row_longer_than_the_clip_has_exactly_its_length():
    # One row, x = (3, 4), squared error of 2 against 0 with weights (0, 0) and bias 2: the gradient
    # is 2 * 2 * (3, 4, 1), of norm 4 sqrt(26) = 20.4; clipped to 1 it is (3, 4, 1) / sqrt(26).
    module = nn.Linear(2, 1)
    module.weight.data.zero_()
    module.bias.data.fill_(2.0)
    module = template(module, 0)
    x, y = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 1)
    expected = torch.tensor([3.0, 4.0, 1.0])
    torch.testing.assert_close(summed(module, F.mse_loss, x, y, 1.0), expected / math.sqrt(26))
    torch.testing.assert_close(summed(module, F.mse_loss, x, y, 21.0), 4 * expected)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False, track_running_stats=False),
     nn.InstanceNorm1d(8, track_running_stats=True)],
)  # fmt: skip
def test_layers_that_mix_rows_are_refused_by_name(layer):
    module = template(nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)), 0)
    with pytest.raises(InputError, match=rf"layer '1' \({type(layer).__name__}\).*GroupNorm"):
        choose("auto", module, Layout.of(module), F.cross_entropy, table((6,)), Private(1, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("clip", 0.0), ("clip", -1.0), ("clip", math.inf), ("clip", math.nan),
     ("multiplier", -0.1), ("multiplier", math.nan), ("multiplier", math.inf)],
)  # fmt: skip
def test_settings_are_checked(field, value):
    with pytest.raises(InputError, match=rf"private\.{field}: .* was given"):
        Private(**{"clip": 1.0, "multiplier": 1.0} | {field: value})


def poisson(sizes, batch, steps, seed=0, round=1) -> Plan:
    split = table((1,), sizes)
    training = SGD(lr=1.0, batch_size=batch, steps=steps)
    return Plan.of(split, np.arange(len(sizes)), training, seed, round, poisson=True)


def test_sampled_batches_are_binomial_and_rows_independent():
    steps = 4000
    plan = poisson((50, 0, 20, 3), 5, steps)
    for node, rows, chance in ((0, 50, 0.1), (2, 20, 0.25), (3, 3, 1.0)):
        at, size = plan.batch(np.full(steps, node), np.arange(steps))
        # Five standard errors: a false alarm has chance 6e-7 for the mean. For the variance of a
        # Binomial(n, q), whose excess kurtosis is (1 - 6 q (1 - q)) / (n q (1 - q)), likewise.
        variance = rows * chance * (1 - chance)
        assert abs(size.mean() - rows * chance) <= 5 * math.sqrt(variance / steps)
        if not variance:
            continue
        excess = (1 - 6 * chance * (1 - chance)) / variance
        error = variance * math.sqrt((2 + excess) / steps)
        assert abs(size.var() - variance) <= 5 * error
        taken = plan.rows[int(at[0]) : int(at[-1] + size[-1])].numpy() - plan.offsets[node]
        assert taken.min() == 0
        assert taken.max() == rows - 1
        counts = np.bincount(taken)
        # Every row is Binomial(steps, q): 5.7 standard errors of 70 rows is 1e-6 in all.
        assert abs(counts - steps * chance).max() <= 5.7 * math.sqrt(steps * chance * (1 - chance))
        held = np.zeros((steps, rows))
        held[np.repeat(np.arange(steps), size), taken] = 1
        assert (held.sum(1) == size).all()  # no row twice in a step
        # Neighbours in a step, and a row's neighbouring steps, are uncorrelated: of some 200,000
        # products the mean's standard error is variance / sqrt(steps * rows).
        held -= chance
        for product in (held[:, 1:] * held[:, :-1], held[1:] * held[:-1]):
            assert abs(product.mean()) <= 5 * chance * (1 - chance) / math.sqrt(product.size)


def test_a_plan_of_one_node_is_that_of_all():
    everyone, again = poisson((50, 0, 20, 3), 5, 40), poisson((50, 0, 20, 3), 5, 40)
    part = again.only(np.array([2]))
    for step in range(40):
        at, size = everyone.batch(np.array(2), np.array(step))
        other, other_size = part.batch(np.array(2), np.array(step))
        assert size == other_size
        rows = everyone.rows[int(at) : int(at + size)]
        assert torch.equal(rows, part.rows[int(other) : int(other + size)])
    assert not torch.equal(everyone.rows, poisson((50, 0, 20, 3), 5, 40, round=2).rows)
    assert len(poisson((0,), 5, 3).rows) == 1


@pytest.mark.parametrize("kind", ["batched", "sequential"])
def test_noise_has_the_stated_deviation_and_empty_batches_get_it(kind):
    # No gradient: w_T - w_0 = -lr * sum over T steps of N(0, (sigma C / B)^2).
    module = template(lambda: nn.Linear(60, 50), 0)
    split = Split.pack([(torch.zeros(40, 60), torch.zeros(40).long())] * 2)
    training = SGD(lr=2.0, batch_size=1, steps=4)  # a batch is empty with chance 0.98^40 = 0.36
    ends, _, plan = train(
        kind, module, lambda output, y: output.sum() * 0, split, Private(0.3, 1.5), training
    )
    _, size = plan.batch(np.repeat([0, 1], 4), np.tile(np.arange(4), 2))
    assert (size == 0).any()
    moved = ends - Layout.of(module).vector(module)
    std = 2.0 * math.sqrt(4) * 1.5 * 0.3
    n = moved.numel()  # 6,100; five standard errors of mean and variance: false alarm 1.2e-6 both
    assert abs(moved.mean()) <= 5 * std / math.sqrt(n)
    assert abs(moved.var() / std**2 - 1) <= 5 * math.sqrt(2 / n)
    correlation = (moved[0] @ moved[1]) / std**2 / math.sqrt(n / 2)
    assert abs(correlation) <= 5


def drawn(widths, nodes, steps, std=None, round=0):
    """(C, w) noise for the addresses, drawn for blocks of these widths."""
    parts = [torch.zeros(len(nodes), width) for width in widths]
    std = torch.ones(len(nodes), 1) if std is None else torch.tensor(std).unsqueeze(1)
    AddressedNoise(key(7, "dp-sgd", round))(parts, std, np.array(nodes), np.array(steps))
    return torch.cat(parts, 1)


def test_addressed_noise_is_normal():
    out = drawn([200_000], [3, 4], [0, 1], std=[1.0, 3.0])
    z = np.sort((out / torch.tensor([[1.0], [3.0]])).flatten().double().numpy())
    # Kolmogorov-Smirnov: P[sqrt(n) D > t] <= 2 exp(-2 t^2) (Massart 1990); 1e-6 at t = 2.694.
    normal = 0.5 * (1 + torch.erf(torch.from_numpy(z) / math.sqrt(2))).numpy()
    steps_up = np.arange(1, len(z) + 1) / len(z)
    distance = max(abs(steps_up - normal).max(), abs(steps_up - 1 / len(z) - normal).max())
    assert distance * math.sqrt(len(z)) <= 2.694
    # Fourth moment 3 with variance 96 a draw, five standard errors.
    assert abs((z**4).mean() - 3) <= 5 * math.sqrt(96 / len(z))


def test_numbers_near_in_any_way_are_uncorrelated():
    # Next to each other, four apart (a block of the cipher), of neighbouring steps and nodes: each
    # mean of n products has a standard error of 1/sqrt(n); past 5.3 of them 1.2e-7, 5e-7 in all.
    out = drawn([100_000], [3, 3, 4], [0, 1, 0]).double()
    for one, other in (
        (out[0, 1:], out[0, :-1]), (out[0, 4:], out[0, :-4]), (out[0], out[1]), (out[0], out[2]),
    ):  # fmt: skip
        assert abs((one * other).mean()) <= 5.3 / math.sqrt(len(one))


@pytest.mark.parametrize("block", [2**20, 60_000, 1])
def test_noise_depends_on_its_address_alone(block, monkeypatch):
    monkeypatch.setattr("tacit.training.private._BLOCK", block)
    nodes, steps = [3, 4, 3], [0, 0, 1]
    whole = drawn([20_011], nodes, steps)
    assert torch.equal(whole, drawn([1, 3, 0, 20_000, 7], nodes, steps))
    assert torch.equal(whole[1:], drawn([20_011], nodes[1:], steps[1:]))
    assert torch.equal(whole[:, :1003], drawn([1003], nodes, steps))
    assert whole.flatten().unique().numel() > 0.95 * whole.numel()  # nothing is drawn twice
    assert not torch.equal(whole, drawn([20_011], nodes, steps, round=1))


def test_a_jobs_own_source_of_noise_is_asked():
    module, loss, split = setting("mlp")
    asked = []

    def ones(parts, std, nodes, steps):
        asked.append((nodes.tolist(), steps.tolist(), sum(part.shape[1] for part in parts)))
        for part in parts:
            part.add_(std)

    training = SGD(lr=1.0, batch_size=4, steps=1)
    private = Private(0.3, 2.0)
    silent, _, _ = train("batched", module, loss, split, replace(private, multiplier=0), training)
    ends, _, plan = train("batched", module, loss, split, private, training, noise=ones)
    # Down by sigma C over the expected batch: 4, or the node's single row.
    for node, batch in ((0, 4), (1, 1), (3, 4)):
        expected = torch.full_like(ends[node], -2.0 * 0.3 / batch)
        torch.testing.assert_close(ends[node] - silent[node], expected, atol=1e-6, rtol=1e-5)
    assert plan.batch_size[1] == 1
    width = Layout.of(module).trained
    assert sum(columns for nodes, _, columns in asked if 0 in nodes) == width


@pytest.mark.parametrize("training", [SGD(lr=0.2, batch_size=4), Adam(lr=0.01, batch_size=4)])
def test_worker_processes_give_the_same_models(training):
    module, loss, split = setting("mlp")
    layout = Layout.of(module)
    lowering = Batched(module, layout, loss)
    workers = Workers(lowering, 2)
    found = []
    try:
        for pool in (None, workers):
            trainer = Trainer(
                split, tuple("abcde"), layout, training, lowering, pool,
                seed=3, rounds=1, least=1, private=Private(0.3, 0.7),
            )  # fmt: skip
            train = LocalTrain(trainer, np.arange(split.nodes), 0)
            found.append(train(layout.vector(module)).matrix())
    finally:
        workers.close()
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_rounds_and_seeds_have_noise_of_their_own():
    e = experiment()
    layout, start = e.layout, e.start()
    lowering = Batched(e.template, layout, e.loss)

    def end(seed, round):
        trainer = Trainer(
            e.data.train, e.data.names, layout, e.training, lowering, None,
            seed=seed, rounds=2, least=1, private=Private(1e-9, 1e8), noise_seed=seed,
        )  # fmt: skip
        return LocalTrain(trainer, np.arange(e.data.nodes), round)(start).matrix() - start

    first, again, later, other = end(0, 0), end(0, 0), end(0, 1), end(1, 0)
    assert torch.equal(first, again)
    for others in (later, other):
        cosine = F.cosine_similarity(first[0], others[0], dim=0)
        assert abs(cosine) < 0.9


def test_the_sum_is_that_of_opacus():
    opacus = pytest.importorskip("opacus")
    from opacus.optimizers import DPOptimizer

    module, loss, split = setting("mlp")
    x, y = split.node(3)
    theirs = opacus.GradSampleModule(copy.deepcopy(module))
    optimizer = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=1.0),
        noise_multiplier=0.0, max_grad_norm=0.4, expected_batch_size=1,
    )  # fmt: skip
    loss(theirs(x.clone().requires_grad_()), y).backward()
    optimizer.step()
    start = nn.utils.parameters_to_vector(module.parameters())
    expected = start - nn.utils.parameters_to_vector(theirs.parameters())
    # Opacus divides by norm + 1e-6.
    torch.testing.assert_close(
        summed(module, loss, x, y, 0.4), expected.detach(), atol=1e-5, rtol=1e-5
    )
