import numpy as np
import pytest
import torch

from tacit.data import combine, from_arrays, load, node_statistics, standardise
from tacit.errors import InputError


def two_nodes(**options):
    # Columns: [0, 4] and [8]; [5, 5] and [5]. Test rows one each.
    return from_arrays(
        [([[0.0, 5.0], [4.0, 5.0]], [0, 1]), ([[8.0, 5.0]], [1])],
        test=[([[4.0, 5.0]], [0]), ([[8.0, 6.0]], [1])],
        **options,
    )


def test_combined_statistics_are_those_of_all_rows():
    x = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(0)) * 7 + 100
    mean, scale = combine([node_statistics(part) for part in x.split([1, 9, 20])]).mean_and_scale()
    expected = x.double().numpy()
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale, expected.std(0), rtol=1e-9)


def test_federated_scaling_uses_all_nodes_training_rows():
    # Column 0: mean (0 + 4 + 8) / 3 = 4, variance (16 + 0 + 16) / 3 = 32/3. Column 1 is constant:
    # its mean 5 is taken away and its scale is 1, so the test value 6 becomes 1.
    scaled = two_nodes(scaling="federated")
    unit = 4 / np.sqrt(32 / 3)
    np.testing.assert_allclose(scaled.train.x, [[-unit, 0], [0, 0], [unit, 0]], atol=1e-6)
    np.testing.assert_allclose(scaled.test.x, [[0, 0], [unit, 1]], atol=1e-6)


def test_node_scaling_uses_the_own_training_rows():
    # Node 0: mean 2, scale 2. Node 1 has one row: mean 8, scale 1.
    scaled = two_nodes(scaling="node")
    np.testing.assert_allclose(scaled.train.x, [[-1, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(scaled.test.x, [[1, 0], [0, 1]])


def test_no_scaling_changes_nothing_and_targets_keep_their_unit():
    raw = two_nodes()
    assert standardise(raw, "none") is raw
    assert torch.equal(standardise(raw, "federated").train.y, raw.train.y)


def test_a_constant_that_floats_cannot_hold_is_still_constant():
    x = torch.full((1000, 1), 0.1) * 1e4
    _, scale = combine([node_statistics(part) for part in x.split(7)]).mean_and_scale()
    assert scale.item() == 1


def test_an_empty_node_has_statistics_and_a_scale():
    nothing = node_statistics(torch.zeros(0, 2))
    some = node_statistics(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    mean, scale = combine([nothing, some]).mean_and_scale()
    np.testing.assert_allclose(mean, [2, 2])
    np.testing.assert_allclose(scale, [1, 1])
    empty = from_arrays([([[1.0], [3.0]], [0, 1]), ([], [])], scaling="node", test_fraction=0)
    np.testing.assert_allclose(empty.train.x, [[-1], [1]])


@pytest.mark.parametrize(
    ("options", "scaling", "message"),
    [
        ({}, "global", "'global' was given; 'federated', 'node' or 'none' is allowed"),
        ({"test": (np.zeros((1, 1)), np.array([0]))}, "node", "the test set is shared"),
    ],
)
def test_scaling_that_does_not_fit_is_refused(options, scaling, message):
    federation = from_arrays([([[1.0]], [0]), ([[2.0]], [1])], **options)
    with pytest.raises(InputError, match=message):
        standardise(federation, scaling)


def test_tokens_are_not_scaled():
    tokens = from_arrays([(np.array([[1, 2], [2, 1]]), np.array([0, 1]))])
    with pytest.raises(InputError, match="token inputs allow 'none' alone"):
        standardise(tokens, "federated")


def test_on_heart_disease_federated_scaling_beats_scaling_at_each_node(data_folder):
    """Hospitals differ in age and pressure for a reason; scaling each alone wipes that out."""
    from sklearn.linear_model import LogisticRegression

    def accuracy(scaling, seed):
        data = load("heart-disease", scaling=scaling, seed=seed)
        model = LogisticRegression(max_iter=1000).fit(data.train.x.numpy(), data.train.y.numpy())
        return model.score(data.test.x.numpy(), data.test.y.numpy())

    seeds = range(8)
    federated = np.mean([accuracy("federated", seed) for seed in seeds])
    node = np.mean([accuracy("node", seed) for seed in seeds])
    assert federated - node > 0.02
