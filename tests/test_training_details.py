from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tacit
from reference import train_alone
from small import experiment
from tacit.data.federation import Split
from tacit.layout import Layout, template
from tacit.training.batched import Batched
from tacit.training.dropout import Address
from tacit.training.job import Collect, Job
from tacit.training.losses import stacked
from tacit.training.optimizers import SGD, Adam, clip_rows
from tacit.training.plan import Plan, span
from test_plan import batches, split_of
from test_training import mlp, table, tokens, train


# plan
def test_each_epoch_has_an_order_of_its_own():
    plan = Plan.of(split_of([40]), np.arange(1), SGD(lr=1, batch_size=40, epochs=2), 0, 0)
    first, second = batches(plan, 0)
    assert first != second


def test_a_span_is_a_slice_only_where_the_index_counts_upwards():
    assert span(np.array([3, 4, 5])) == slice(3, 6)
    for index in ([0, 2, 1, 3], [3, 2, 1], [0, 2]):
        assert span(np.array(index)).tolist() == index


# training
def test_both_decay_rates_of_adam_are_those_of_torch():
    training = Adam(lr=0.01, batch_size=8, beta1=0.5, beta2=0.7, eps=0.1)
    optimizer = partial(torch.optim.Adam, lr=0.01, betas=(0.5, 0.7), eps=0.1)
    module, split = template(mlp, 0), table((23,))
    ends, _ = train("batched", module, F.cross_entropy, split, training)
    plan = Plan.of(split, np.arange(1), training, 0, 1)
    expected = train_alone(module, F.cross_entropy, optimizer, split, plan, 0)
    torch.testing.assert_close(ends[0], Layout.of(module).vector(expected), atol=1e-6, rtol=1e-5)


def test_clipping_leaves_short_gradients_alone():
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    clip_rows(gradient, 1.0)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


LOSSES = {
    "ignored labels": nn.CrossEntropyLoss(ignore_index=1),
    "ignored labels, a partial": partial(F.cross_entropy, ignore_index=1),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])),
    "smoothing": nn.CrossEntropyLoss(label_smoothing=0.2),
    "a sum": nn.CrossEntropyLoss(reduction="sum"),
    "a mean": nn.CrossEntropyLoss(),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_stacked_loss_is_each_models_own(name, ragged):
    output = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0, 1, 2, 2, 1, 0], [2, 0, 0, 1, 2, 2]])
    sizes = (6, 4) if ragged else (6, 6)
    valid = torch.tensor([[float(row < size) for row in range(6)] for size in sizes])
    losses, gradient = stacked(LOSSES[name])(output, target, valid if ragged else None)
    for model, size in enumerate(sizes):
        own = output[model].clone().requires_grad_()
        expected = LOSSES[name](own[:size], target[model, :size])
        torch.testing.assert_close(losses[model], expected.detach())
        torch.testing.assert_close(gradient[model], torch.autograd.grad(expected, own)[0])


@pytest.mark.parametrize("mask", ["bool", "float"])
def test_attention_masks_of_both_kinds(mask):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(12, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            hidden = torch.triu(torch.ones(9, 9, dtype=torch.bool), 1)
            floats = torch.zeros(9, 9).masked_fill(hidden, -torch.inf)
            self.register_buffer("mask", hidden if mask == "bool" else floats)
            self.out = nn.Linear(8, 12)

        def forward(self, x):
            h = self.embedding(x)
            return self.out(self.attention(h, h, h, attn_mask=self.mask)[0])

    module, training = template(Masked, 0), SGD(lr=0.5, batch_size=10)
    ends, _ = train("batched", module, tacit.next_token, tokens(), training)
    other, _ = train("sequential", module, tacit.next_token, tokens(), training)
    torch.testing.assert_close(ends, other, atol=3e-6, rtol=1e-4)


def test_a_padding_entry_of_an_embedding_stays():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(12, 8, padding_idx=3), nn.Linear(8, 12)

        def forward(self, x):
            return self.out(self.embedding(x))

    module, training = template(Padded, 0), SGD(lr=0.5, batch_size=10)
    ends, _ = train("batched", module, tacit.next_token, tokens(), training)
    other, _ = train("sequential", module, tacit.next_token, tokens(), training)
    torch.testing.assert_close(ends, other, atol=3e-6, rtol=1e-4)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_terms_of_a_nodes_own_follow_it_from_slot_to_slot(slots):
    # With two slots the third node begins late, and moves when the first is done.
    split, generator = table((40, 24, 24)), torch.Generator().manual_seed(1)
    module, training = template(mlp, 0), SGD(lr=0.1, batch_size=4, momentum=0.5)
    d = Layout.of(module).trained
    terms = {
        "prox": 0.5,
        "anchor": torch.randn(3, d, generator=generator),
        "correction": torch.randn(3, d, generator=generator),
    }
    ends, _ = train("batched", module, F.cross_entropy, split, training, slots=slots, **terms)
    other, _ = train("sequential", module, F.cross_entropy, split, training, **terms)
    torch.testing.assert_close(ends, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(9, 40, 9), (40, 9, 9, 40, 1, 3)])
def test_nodes_of_unequal_steps_are_not_trained_over_each_other(sizes):
    module, split = template(mlp, 0), table(sizes)
    layout, nodes, training = Layout.of(module), np.arange(len(sizes)), SGD(lr=0.1, batch_size=4)
    start = torch.randn(len(sizes), layout.size, generator=torch.Generator().manual_seed(1))
    job = Job(split, Plan.of(split, nodes, training, 0, 1), training, 0.1, 0, start)
    aside, losses = torch.zeros_like(start), torch.zeros(len(sizes))
    Batched(module, layout, F.cross_entropy).train(job, nodes, Collect(aside, losses, None))
    job = replace(job, in_place=True)
    Batched(module, layout, F.cross_entropy).train(job, nodes, Collect(start, losses, None))
    torch.testing.assert_close(start, aside, atol=1e-6, rtol=1e-5)


def test_dropout_differs_by_node_step_and_call_and_keeps_the_mean():
    def mask(node, step, calls_before=0, stream=7):
        address = Address(stream, np.array([node]), np.array([step]))
        for _ in range(calls_before):
            address.apply(torch.ones(1, 1000), 0.2)
        return address.apply(torch.ones(1, 1000), 0.2)

    masks = [mask(0, 0), mask(1, 0), mask(0, 1), mask(0, 0, 1), mask(0, 0, stream=8)]
    assert len({str(m.bool().int().tolist()) for m in masks}) == 5
    assert masks[0].unique().tolist() == [0.0, 1.25]  # 1 / (1 - 0.2)
    assert torch.equal(masks[0], mask(0, 0))
    # 5,000 draws of mean 1 and deviation 0.5: 0.035 is 5 standard deviations.
    assert abs(torch.cat(masks).mean() - 1) < 0.035


class Noisy(nn.Module):
    """Draws of its own, behind control flow that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(30, 3)

    def forward(self, x):
        return self.linear(x + torch.randn_like(x) if x.shape[0] > 0 else x)


def test_a_models_own_draws_are_addressed_by_node_and_leave_the_global_stream_alone():
    x, y = torch.ones(8, 30), torch.zeros(8, dtype=torch.int64)
    split, training = Split.pack([(x, y), (x, y)]), SGD(lr=0.1, batch_size=8)
    module, before = template(Noisy, 0), torch.get_rng_state()
    ends, _ = train("sequential", module, F.cross_entropy, split, training)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(ends[0], ends[1])
    torch.manual_seed(5)
    again, _ = train("sequential", module, F.cross_entropy, split, training)
    assert torch.equal(ends, again)


def test_draws_of_a_model_that_cannot_be_traced_do_not_depend_on_the_global_stream():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x + torch.randn_like(x) if self.training and len(x) > 0 else x)

    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        result = tacit.run(experiment(model=Small, rounds=2), workers=1)
        ends.append(Layout.of(result.model).vector(result.model))
    assert torch.equal(*ends)


def test_frozen_coordinates_do_not_count_in_the_norm_that_is_clipped():
    module, split = template(lambda: nn.Linear(4, 3), 0), table((6,), (4,))
    start, frozen = Layout.of(module).vector(module), torch.arange(15) < 8
    for kind in ("batched", "sequential"):
        ends, _ = train(
            kind, module, F.cross_entropy, split,
            SGD(lr=1.0, batch_size=None, clip_norm=1e-3), frozen=frozen,
        )  # fmt: skip
        # All of the clipped step, of length lr * clip_norm, is taken by the others.
        assert (ends[0] - start).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_layer_used_twice_behind_another_one():
    def model():
        shared = nn.Linear(16, 16)
        return nn.Sequential(nn.Linear(30, 16), shared, nn.Tanh(), shared, nn.Linear(16, 3))

    module, training = template(model, 0), SGD(lr=0.5, batch_size=10, weight_decay=0.1)
    ends, _ = train("batched", module, F.cross_entropy, table(), training)
    other, _ = train("sequential", module, F.cross_entropy, table(), training)
    torch.testing.assert_close(ends, other, atol=3e-6, rtol=1e-4)


class Unused(nn.Module):
    """A head that no gradient reaches."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(30, 3), nn.Linear(30, 3)

    def forward(self, x):
        self.unused(x)
        return self.used(x)


@pytest.mark.parametrize(
    "training", [SGD(lr=0.1, batch_size=4, weight_decay=0.1, momentum=0.9), Adam(lr=0.01, eps=1e-3)]
)
def test_weights_that_no_gradient_reaches_gather_none(training):
    module = template(Unused, 0)
    ends, _ = train("batched", module, F.cross_entropy, table(), training, prox=0.5)
    other, _ = train("sequential", module, F.cross_entropy, table(), training, prox=0.5)
    torch.testing.assert_close(ends, other, atol=1e-5, rtol=1e-4)


def test_a_layer_named_relu_is_what_it_is():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.last = nn.Linear(30, 8), nn.LeakyReLU(0.5), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.relu(self.first(x)))

    module, training = template(Named, 0), SGD(lr=0.5, batch_size=10)
    ends, _ = train("batched", module, F.cross_entropy, table(), training)
    other, _ = train("sequential", module, F.cross_entropy, table(), training)
    torch.testing.assert_close(ends, other, atol=3e-6, rtol=1e-4)


def test_dropout_inside_recurrent_layers_and_attention_is_addressed():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(4, 8, num_layers=2, dropout=0.4, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True)
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            h = self.cell(x.unsqueeze(1).expand(-1, 3, -1))[0]
            return self.out(self.attention(h, h, h, need_weights=False)[0][:, -1])

    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        result = tacit.run(experiment(model=Dropped, rounds=2), workers=1 + seed)
        ends.append(Layout.of(result.model).vector(result.model))
    torch.testing.assert_close(*ends, atol=1e-6, rtol=1e-5)


def test_a_loss_that_looks_at_values_is_measured_row_by_row():
    def loss(output, target):
        wrong = output.argmax(1) != target
        return F.cross_entropy(output, target) * (1.0 + wrong.float().mean().item())

    result = tacit.run(experiment(loss=loss, rounds=1))
    assert result.metrics[0]["loss"] > 0
