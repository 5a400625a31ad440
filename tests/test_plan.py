import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.data.federation import Split
from tacit.training.optimizers import SGD
from tacit.training.plan import Plan


def split_of(sizes: list[int]) -> Split:
    return Split.pack([(torch.zeros(size, 1), torch.zeros(size)) for size in sizes])


def batches(plan: Plan, position: int) -> list[list[int]]:
    result = []
    for step in range(int(plan.steps[position])):
        at, size = plan.batch(np.array(position), np.array(step))
        result.append(plan.rows[int(at) : int(at + size)].tolist())
    return result


def test_batches_in_order_without_shuffling():
    # Node 0 owns rows 0..4, node 1 owns 5, node 2 nothing, node 3 owns 6..8.
    plan = Plan.of(
        split_of([5, 1, 0, 3]), np.arange(4), SGD(lr=1, batch_size=2, shuffle=False, epochs=2), 0, 0
    )
    assert batches(plan, 0) == [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]
    assert batches(plan, 1) == [[5], [5]]
    assert batches(plan, 2) == []
    assert batches(plan, 3) == [[6, 7], [8], [6, 7], [8]]


def test_steps_go_over_the_rows_as_often_as_needed():
    plan = Plan.of(
        split_of([3]), np.arange(1), SGD(lr=1, batch_size=2, shuffle=False, steps=5), 0, 0
    )
    assert batches(plan, 0) == [[0, 1], [2], [0, 1], [2], [0, 1]]


def test_all_rows_at_once():
    plan = Plan.of(split_of([3, 2]), np.arange(2), SGD(lr=1, batch_size=None, shuffle=False), 0, 0)
    assert batches(plan, 0) == [[0, 1, 2]]
    assert batches(plan, 1) == [[3, 4]]


def test_batches_below_the_least_are_left_out():
    plan = Plan.of(
        split_of([5, 1, 4]),
        np.arange(3),
        SGD(lr=1, batch_size=2, shuffle=False, epochs=2),
        0,
        0,
        least=2,
    )
    assert batches(plan, 0) == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert batches(plan, 1) == []
    assert batches(plan, 2) == [[6, 7], [8, 9], [6, 7], [8, 9]]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    batch=st.integers(1, 12),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_every_epoch_takes_every_row_of_the_node_once(sizes, batch, epochs, seed):
    split = split_of(sizes)
    nodes = np.arange(len(sizes))[::-1].copy()
    plan = Plan.of(split, nodes, SGD(lr=1, batch_size=batch, epochs=epochs), seed, 4)
    for position, node in enumerate(nodes):
        own = list(range(split.offsets[node], split.offsets[node + 1]))
        rows = [row for batch_rows in batches(plan, position) for row in batch_rows]
        assert len(rows) == epochs * len(own)
        for epoch in range(epochs):
            assert sorted(rows[epoch * len(own) : (epoch + 1) * len(own)]) == own


def test_a_nodes_order_does_not_depend_on_its_company():
    split = split_of([20, 30, 10])
    training = SGD(lr=1, batch_size=4)
    together = Plan.of(split, np.arange(3), training, 0, 1)
    alone = Plan.of(split, np.array([1]), training, 0, 1)
    assert batches(together, 1) == batches(alone, 0)
    other_round = Plan.of(split, np.array([1]), training, 0, 2)
    other_seed = Plan.of(split, np.array([1]), training, 1, 1)
    assert len({str(batches(p, 0)) for p in (alone, other_round, other_seed)}) == 3


@pytest.mark.parametrize("position", range(6))
def test_shuffling_is_uniform(position):
    # Each of 6 rows is at each of 6 places in 1/6 of 3,000 rounds: 500 with a standard deviation of
    # 20.4; 5.5 of them is a false alarm in 26 million, 36 times looked at.
    split = split_of([6])
    seen = np.zeros(6)
    for round in range(3000):
        plan = Plan.of(split, np.array([0]), SGD(lr=1, batch_size=6), 0, round)
        seen[int(plan.rows[position])] += 1
    assert np.abs(seen - 500).max() < 5.5 * 20.4
