import pytest
import torch
from torch import nn

from tacit.errors import InputError
from tacit.layout import Layout, template


def test_vector_and_views_are_the_same_memory():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    layout = Layout.of(module)
    # Linear 6 + 2, BatchNorm weight 2 + bias 2 are trained; mean 2, var 2 are buffers.
    assert (layout.trained, layout.size) == (12, 16)
    vector = layout.vector(module)
    views = layout.views(vector)
    views["0.bias"].fill_(7)
    assert vector[6:8].tolist() == [7, 7]
    layout.bind(module, vector)
    assert module[0].bias.tolist() == [7, 7]
    vector[6] = 5
    assert module[0].bias.tolist() == [5, 7]


def test_counters_ride_in_the_vector_once_made_by_template():
    module = template(lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), 0)
    layout = Layout.of(module)
    assert layout.size == 17
    assert layout.entries[-1].name == "1.num_batches_tracked"


def test_tied_weights_appear_once_and_frozen_ones_not_at_all():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 4)
            self.out = nn.Linear(4, 5, bias=False)
            self.out.weight = self.table.weight
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.register_buffer("mask", torch.full((2, 2), float("-inf")))

    assert [e.name for e in Layout.of(Tied()).entries] == ["table.weight"]


def test_module_is_a_copy():
    module = nn.Linear(2, 1)
    layout = Layout.of(module)
    vector = torch.tensor([1.0, 2.0, 3.0])
    copy = layout.module(module, vector)
    vector.zero_()
    assert copy(torch.tensor([[1.0, 1.0]])).item() == 6
    assert layout.vector(module).tolist() != [0, 0, 0]


def test_masks_by_name_submodule_and_wildcard():
    layout = Layout.of(nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)}))
    assert layout.mask("head").nonzero().flatten().tolist() == [6, 7, 8]
    assert layout.mask("*.bias").nonzero().flatten().tolist() == [4, 5, 8]
    with pytest.raises(InputError, match="no layer is called 'tail'"):
        layout.mask("tail")


def test_template_is_seeded_and_leaves_the_global_stream_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = template(lambda: nn.Linear(2, 2), 5)
    assert torch.rand(1) == expected
    assert torch.equal(first.weight, template(lambda: nn.Linear(2, 2), 5).weight)
    assert not torch.equal(first.weight, template(lambda: nn.Linear(2, 2), 6).weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "model: give a function"),
        (lambda: 3, "returned int, not a Module"),
    ],
)
def test_template_refuses_what_is_no_model(model, message):
    with pytest.raises(InputError, match=message):
        template(model, 0)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Flatten(), "no parameter that requires a gradient"),
        (nn.Linear(2, 2).double(), "weight has dtype torch.float64"),
    ],
)
def test_layout_refuses(module, message):
    with pytest.raises(InputError, match=message):
        Layout.of(module)
