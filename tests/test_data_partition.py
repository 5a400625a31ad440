import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.data import IID, ByKey, Dirichlet, QuantitySkew, Shards
from tacit.data.rows import Rows
from tacit.errors import InputError


def rows_of(labels, **keys) -> Rows:
    y = torch.as_tensor(labels, dtype=torch.int64)
    keys = {name: np.asarray(values) for name, values in keys.items()}
    return Rows(torch.zeros(len(y), 1), y, "classification", int(y.max()) + 1, keys=keys)


PARTITIONS = [IID(), Dirichlet(0.5, min_rows=0), Shards(2), QuantitySkew(1.0)]


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda p: type(p).__name__)
@settings(max_examples=30, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=60),
    nodes=st.integers(1, 6),
    seed=st.integers(0, 3),
)
def test_every_row_has_exactly_one_owner_and_the_seed_decides(partition, labels, nodes, seed):
    rows = rows_of(labels)
    owned = partition.assign(rows, nodes, seed)
    assert len(owned) == nodes
    assert sorted(np.concatenate(list(owned.values())).tolist()) == list(range(len(labels)))
    assert all((np.diff(own) > 0).all() for own in owned.values())
    again = partition.assign(rows, nodes, seed)
    assert all(np.array_equal(owned[name], again[name]) for name in owned)


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda p: type(p).__name__)
def test_another_seed_deals_otherwise(partition):
    rows = rows_of(np.arange(200) % 4)
    first, second = partition.assign(rows, 4, 0), partition.assign(rows, 4, 1)
    assert any(not np.array_equal(first[name], second[name]) for name in first)


def test_iid_sizes_differ_by_one_row_at_most():
    # 10 = 4 + 3 + 3
    owned = IID().assign(rows_of([0] * 10), 3, 0)
    assert sorted(map(len, owned.values())) == [3, 3, 4]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 50), per_node=st.integers(1, 3))
def test_shards_give_each_node_few_labels(seed, per_node):
    # 10 labels of 12 rows; 10 * per_node shards of 12 / per_node rows: none straddles two labels.
    labels = np.arange(120) % 10
    for own in Shards(per_node).assign(rows_of(labels), 10, seed).values():
        assert len(own) == 12
        assert len(set(labels[own])) <= per_node


def test_a_shard_across_a_boundary_has_two_labels():
    # Labels 0 0 0 1 1 1 in three shards of 2 rows: the middle one has both labels.
    labels = np.array([0, 0, 0, 1, 1, 1])
    kinds = sorted(sorted(labels[own]) for own in Shards(1).assign(rows_of(labels), 3, 0).values())
    assert kinds == [[0, 0], [0, 1], [1, 1]]


def test_small_alpha_is_more_skewed_than_large():
    labels = np.arange(1000) % 10
    rows = rows_of(labels)

    def largest_share(alpha):
        owned = Dirichlet(alpha).assign(rows, 5, 0).values()
        return np.mean([np.bincount(labels[own]).max() / len(own) for own in owned])

    # With alpha 1000 every node has near 10 % of each label.
    assert largest_share(1000.0) < 0.13
    assert largest_share(0.1) > 0.25


def test_dirichlet_shares_have_the_moments_of_the_distribution():
    # Of one label's rows node 0 gets Beta(a, a (n - 1)): with a = 0.5 and n = 4 its mean is 1/4 and
    # its variance (1/4)(3/4) / (4 * 0.5 + 1) = 0.0625.
    rows = rows_of([0] * 1000)
    shares = [
        len(Dirichlet(0.5, min_rows=0).assign(rows, 4, seed)["0"]) / 1000 for seed in range(600)
    ]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.04)
    assert np.var(shares) == pytest.approx(0.0625, abs=0.015)


def test_dirichlet_redraws_until_every_node_has_enough_rows():
    rows = rows_of(np.arange(100) % 2)
    for seed in range(20):
        sizes = [len(own) for own in Dirichlet(0.5, min_rows=5).assign(rows, 4, seed).values()]
        assert min(sizes) >= 5
    with pytest.raises(InputError, match="raise alpha, or lower min_rows"):
        Dirichlet(0.01, min_rows=20).assign(rows, 5, 0)


def test_quantity_skew_is_log_normal_and_leaves_no_node_empty():
    # log of a share has standard deviation sigma; the common normaliser only shifts its mean.
    rows = rows_of(np.zeros(400_000))
    sizes = [len(own) for own in QuantitySkew(1.0).assign(rows, 400, 0).values()]
    assert np.std(np.log(sizes)) == pytest.approx(1.0, abs=0.1)
    sizes = [len(own) for own in QuantitySkew(5.0).assign(rows_of([0] * 30), 20, 0).values()]
    assert min(sizes) == 1


def test_by_key_keeps_values_in_order_and_the_largest_of_them():
    rows = rows_of([0] * 6, hospital=["b", "a", "b", "c", "b", "c"])
    owned = ByKey("hospital").assign(rows, None, 0)
    assert {name: own.tolist() for name, own in owned.items()} == {
        "a": [1],
        "b": [0, 2, 4],
        "c": [3, 5],
    }
    assert list(ByKey("hospital").assign(rows, 2, 0)) == ["b", "c"]
    assert list(ByKey("hospital", min_rows=3).assign(rows, None, 0)) == ["b"]
    numbered = rows_of([0] * 3, level=[2, 10, 2])
    assert list(ByKey("level").assign(numbered, None, 0)) == ["level=2", "level=10"]


@pytest.mark.parametrize(
    ("partition", "nodes", "message"),
    [
        (IID(), 4, "nodes: 4 was given; there are 3 rows, so 1 to 3 is allowed"),
        (IID(), 0, "nodes: 0 was given"),
        (IID(), None, "nodes: none was given"),
        (Shards(2), 2, "2 nodes with 2 shards each need 4 rows; there are 3"),
        (ByKey("sitee"), None, "no natural key 'sitee'; did you mean 'site'"),
        (ByKey("site"), 3, "site has 2 values with 1 or more rows"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(partition, nodes, message):
    with pytest.raises(InputError, match=message):
        partition.assign(rows_of([0, 1, 1], site=["a", "b", "b"]), nodes, 0)


@pytest.mark.parametrize("partition", [Dirichlet(1.0), Shards()])
def test_a_regression_has_no_labels_to_deal_by(partition):
    rows = Rows(torch.zeros(4, 1), torch.zeros(4, 1), "regression", 0)
    with pytest.raises(InputError, match="a regression task has none; use IID"):
        partition.assign(rows, 2, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dirichlet(0),
        lambda: Dirichlet(float("nan")),
        lambda: Dirichlet(1, min_rows=-1),
        lambda: Shards(0),
        lambda: QuantitySkew(-1),
        lambda: ByKey("a", min_rows=0),
    ],
)
def test_fields_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="was given"):
        make()
