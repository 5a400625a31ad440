import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from tacit.data import from_arrays, from_datasets
from tacit.errors import InputError

X = np.arange(16.0).reshape(8, 2)
Y = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def test_labels_are_a_classification():
    federation = from_arrays([(X, Y), (torch.tensor(X), torch.tensor(Y) * 2)])
    assert (federation.task, federation.classes) == ("classification", 3)
    assert federation.train.x.dtype == torch.float32
    assert federation.train.y.dtype == torch.int64
    assert federation.names == ("0", "1")


@pytest.mark.parametrize("y", [Y / 4, Y[:, None] / 4])
def test_floats_are_a_regression_on_columns(y):
    federation = from_arrays([(X, y)], test_fraction=0)
    assert (federation.task, federation.classes) == ("regression", 0)
    assert federation.train.y.tolist() == [[0.0]] * 4 + [[0.25]] * 4


def test_whole_numbers_can_be_a_regression_and_floats_labels_if_told():
    assert from_arrays([(X, Y)], task="regression").train.y.dtype == torch.float32
    labels = from_arrays([(X, Y.astype(float))], task="classification")
    assert (labels.train.y.dtype, labels.classes) == (torch.int64, 2)


def test_token_windows_are_a_sequence():
    tokens = np.array([[0, 1, 4], [1, 2, 0]], np.int32)
    federation = from_arrays([(tokens, (tokens + 1) % 5)], test_fraction=0)
    assert (federation.task, federation.classes) == ("sequence", 5)
    assert federation.train.x.dtype == federation.train.y.dtype == torch.int64


def test_tokens_with_a_label_stay_whole_numbers():
    federation = from_arrays([(np.array([[3, 1], [2, 2]]), np.array([0, 1]))])
    assert (federation.task, federation.train.x.dtype) == ("classification", torch.int64)


def test_pixels_and_flags_become_floats():
    for kind in (np.uint8, np.bool_):
        assert from_arrays([(X.astype(kind), Y)]).train.x.dtype == torch.float32


def test_held_out_rows_keep_the_label_shares_of_their_node():
    # 7 + 5 rows, a quarter held out: 3 rows, of which 3 * 7/12 = 1.75 and 3 * 5/12 = 1.25 are due.
    y = np.array([0] * 7 + [1] * 5)
    x = np.arange(24.0).reshape(12, 2)
    federation = from_arrays([(x, y)])
    assert torch.bincount(federation.test.y).tolist() == [2, 1]
    assert torch.bincount(federation.train.y).tolist() == [5, 4]
    both = torch.cat([federation.train.x, federation.test.x])
    assert sorted(both[:, 0].tolist()) == x[:, 0].tolist()


def test_the_seed_decides_which_rows_are_held_out_at_each_node_alone():
    first, again = from_arrays([(X, Y), (X, Y)], seed=1), from_arrays([(X, Y), (X, Y)], seed=1)
    assert torch.equal(first.test.x, again.test.x)
    # A node's draw does not depend on who else is there.
    assert torch.equal(from_arrays([(X, Y)], seed=1).test.x, first.test.node(0)[0])
    others = [from_arrays([(X, Y)], seed=seed).test.x for seed in range(2, 8)]
    assert any(not torch.equal(other, first.test.node(0)[0]) for other in others)


def test_one_row_and_no_row_nodes_have_nothing_held_out():
    federation = from_arrays([(X[:1], Y[:1]), ([], []), (X[:2], Y[:2])], test_fraction=0.9)
    assert federation.train.sizes.tolist() == [1, 0, 1]
    assert federation.test.sizes.tolist() == [0, 0, 1]


def test_a_given_test_set_is_shared_or_lies_at_each_node():
    shared = from_arrays([(X, Y), (X, Y)], test=(X[:3], Y[:3]))
    assert shared.shared_test
    assert shared.train.sizes.tolist() == [8, 8]
    own = from_arrays([(X, Y), (X, Y)], test=[(X[:3], Y[:3]), ([], [])])
    assert own.test.sizes.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        ([X], {}, "node '0': ndarray was given; a pair"),
        ([(X, 3)], {}, "node '0': a single number was given"),
        ([([[1, 2], [3]], [0, 1])], {}, "node '0': rows of unequal lengths"),
        ([(X, Y)], {"names": ["a", "b"]}, r"names: 2 names \(2 different\) were given for 1 nodes"),
        ([(X, Y)] * 2, {"names": ["a", "a"]}, r"names: 2 names \(1 different\)"),
        ([(X, Y)], {"test_fraction": 1.0}, "test_fraction: 1.0 was given"),
        ([(X, Y)], {"test": [(X, Y)] * 2}, "test: 2 pairs were given for 1 nodes"),
        ([(X, Y)], {"task": "ranking"}, "task: 'ranking' was given"),
    ],
)
def test_what_cannot_be_used_is_said(nodes, options, message):
    with pytest.raises(InputError, match=message):
        from_arrays(nodes, **options)


class Squares(Dataset):
    """A map-style dataset of NumPy inputs and plain int labels."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int):
        return np.array([index, index**2]), index % 2


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.tensor([7.0, 8.0]), 1


def test_any_torch_dataset_is_a_node():
    tensors = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(Y))
    nodes = [tensors, Stream(), TensorDataset(torch.zeros(0, 2), torch.zeros(0))]
    federation = from_datasets(nodes, test=tensors, names=["t", "s", "empty"])
    assert federation.train.sizes.tolist() == [8, 1, 0]
    assert federation.train.node(1)[0].tolist() == [[7, 8]]
    assert federation.shared_test
    squares = from_datasets([Squares(5), Squares(3)], test=[Squares(1), Squares(0)])
    assert squares.train.x.dtype == torch.int64
    assert squares.train.node(1)[0].tolist() == [[0, 0], [1, 1], [2, 4]]
    assert squares.train.node(1)[1].tolist() == [0, 1, 0]
    assert squares.test.sizes.tolist() == [1, 0]
