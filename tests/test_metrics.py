from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from tacit.training.metrics import baseline, classification, regression, sequence, summary

NAN = float("nan")


@st.composite
def classified(draw, outputs):
    """Scores full of ties (quarters from -1 to 1), labels, and nodes of 0 to 12 rows."""
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=6))
    rows = sum(sizes)
    score = draw(arrays(np.float32, (rows, outputs), elements=st.integers(-4, 4).map(float)))
    y = draw(arrays(np.int64, rows, elements=st.integers(0, max(outputs, 2) - 1)))
    return score / 4, y, np.cumsum([0, *sizes])


def parts(offsets):
    return [slice(start, stop) for start, stop in pairwise(offsets)]


@settings(deadline=None)
@given(classified(outputs=2))
def test_two_classes_agree_with_scikit_learn(data):
    score, y, offsets = data
    result = classification(score, y, offsets)
    for i, rows in enumerate(parts(offsets)):
        truth, predicted = y[rows], (score[rows, 1] > score[rows, 0]).astype(int)
        if len(truth) == 0:
            assert all(np.isnan(values[i]) for values in result.values())
            continue
        assert result["accuracy"][i] == pytest.approx(accuracy_score(truth, predicted))
        assert result["f1"][i] == pytest.approx(f1_score(truth, predicted, zero_division=0))
        if len(set(truth)) == 1:
            assert np.isnan(result["auc"][i])
        else:
            expected = roc_auc_score(truth, score[rows, 1].astype(float) - score[rows, 0])
            assert result["auc"][i] == pytest.approx(expected)


@settings(deadline=None)
@given(classified(outputs=4))
def test_more_classes_agree_with_scikit_learn(data):
    score, y, offsets = data
    result = classification(score, y, offsets)
    probability = softmax(score.astype(float), axis=1) if len(y) else score
    for i, rows in enumerate(parts(offsets)):
        truth, predicted = y[rows], score[rows].argmax(axis=1)
        if len(truth) == 0:
            assert all(np.isnan(values[i]) for values in result.values())
            continue
        assert result["accuracy"][i] == pytest.approx(accuracy_score(truth, predicted))
        macro = f1_score(truth, predicted, average="macro", zero_division=0)
        assert result["f1"][i] == pytest.approx(macro)
        present = sorted(set(truth))
        if len(present) == 1:
            assert np.isnan(result["auc"][i])
        elif len(present) == 4:
            expected = roc_auc_score(truth, probability[rows], multi_class="ovr", average="macro")
            assert result["auc"][i] == pytest.approx(expected)
        else:
            each = [roc_auc_score(truth == c, probability[rows, c]) for c in present]
            assert result["auc"][i] == pytest.approx(np.mean(each))


def test_ten_classes_with_every_class_present_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    score, y = rng.normal(size=(600, 10)), np.tile(np.arange(10), 60)
    auc = classification(score, y, np.array([0, 250, 600]))["auc"]
    for value, rows in zip(auc, [slice(0, 250), slice(250, 600)], strict=True):
        expected = roc_auc_score(y[rows], softmax(score, axis=1)[rows], multi_class="ovr")
        assert value == pytest.approx(expected)


@settings(deadline=None)
@given(classified(outputs=1))
def test_a_single_logit_is_the_margin_between_two(data):
    score, y, offsets = data
    one = classification(score, y, offsets)
    two = classification(np.hstack([np.zeros_like(score), score]), y, offsets)
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])


def test_two_classes_by_hand():
    # Node 0: positives score 3 and 1, negatives 1 and 0. Pairs: 3>1, 3>0, 1=1, 1>0, so
    # AUC = 3.5/4. Predicted 1, 1, 1, 0: accuracy 3/4; F1 = 2*2 / (2 + 3) = 0.8.
    # Node 1 has no rows. Node 2 has class 0 alone: accuracy 1/2, F1 0 (nothing to hit), no AUC.
    score = np.array([[3.0], [1.0], [1.0], [0.0], [-1.0], [2.0]])
    y = np.array([1, 1, 0, 0, 0, 0])
    result = classification(score, y, np.array([0, 4, 4, 6]))
    np.testing.assert_allclose(result["accuracy"], [0.75, NAN, 0.5])
    np.testing.assert_allclose(result["auc"], [0.875, NAN, NAN])
    np.testing.assert_allclose(result["f1"], [0.8, NAN, 0.0])


def test_pooled_is_the_same_function_with_one_node():
    # All six rows: positives 3 and 1, negatives 1, 0, -1, 2. 3 beats 4; 1 beats 2 and ties 1:
    # AUC = 6.5/8. Predicted 1, 1, 1, 0, 0, 1: accuracy 4/6; F1 = 2*2 / (2 + 4).
    score = np.array([[3.0], [1.0], [1.0], [0.0], [-1.0], [2.0]])
    result = classification(score, np.array([1, 1, 0, 0, 0, 0]), np.array([0, 6]))
    assert result["auc"] == pytest.approx([0.8125])
    assert result["accuracy"] == pytest.approx([2 / 3])
    assert result["f1"] == pytest.approx([2 / 3])


def test_a_score_that_is_no_number_undoes_its_own_node_only():
    score = np.array([[0.0, 1.0], [NAN, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for padding in (0, 1):  # two classes, then three
        padded = np.pad(score, ((0, 0), (0, padding)), constant_values=-np.inf)
        result = classification(padded, np.array([1, 0, 0, 1]), np.array([0, 2, 4]))
        for values in result.values():
            np.testing.assert_array_equal(values, [NAN, 1.0])


def test_infinite_logits_of_one_sign_are_a_nan_and_not_a_warning():
    result = classification(np.full((2, 2), np.inf), np.array([0, 1]), np.array([0, 2]))
    assert all(np.isnan(values).all() for values in result.values())


def test_no_rows_at_all():
    none = np.array([0, 0, 0])
    results = [
        classification(np.zeros((0, 1)), np.zeros(0, np.int64), none),
        classification(np.zeros((0, 3)), np.zeros(0, np.int64), none),
        regression(np.zeros((0, 2)), np.zeros((0, 2)), none),
        sequence(np.zeros((0, 5), np.int64), np.zeros((0, 5), np.int64), none),
    ]
    for result in results:
        for values in result.values():
            np.testing.assert_array_equal(values, [NAN, NAN])


def test_regression_agrees_with_scikit_learn():
    rng = np.random.default_rng(1)
    y = 1e4 + rng.normal(size=(30, 3)).astype(np.float32)
    prediction = y + rng.normal(size=(30, 3)).astype(np.float32)
    offsets = np.array([0, 10, 10, 12, 30])
    result = regression(prediction, y, offsets)
    for i, rows in enumerate(parts(offsets)):
        if i == 1:
            assert np.isnan(result["mae"][i])
            assert np.isnan(result["r2"][i])
            continue
        truth, guess = y[rows].astype(float), prediction[rows].astype(float)
        assert result["mae"][i] == pytest.approx(mean_absolute_error(truth, guess))
        assert result["r2"][i] == pytest.approx(r2_score(truth, guess))


def test_r2_needs_two_rows_and_targets_that_vary():
    # Node 0: errors 0 and 2; MAE 1; targets 1 and 5 lie 2 off their mean: R2 = 1 - 4/8.
    # Node 1: one row. Node 2: constant 0.1, whose float mean is not 0.1 (0.1*3/3 > 0.1).
    y = np.array([[1.0], [5.0], [7.0], [0.1], [0.1], [0.1]])
    prediction = np.array([[1.0], [3.0], [6.0], [0.1], [0.1], [0.1]])
    result = regression(prediction, y, np.array([0, 2, 3, 6]))
    np.testing.assert_allclose(result["mae"], [1.0, 1.0, 0.0])
    np.testing.assert_allclose(result["r2"], [0.5, NAN, NAN])


def test_one_constant_output_leaves_r2_undefined():
    y = np.array([[1.0, 3.0], [2.0, 3.0]])
    assert np.isnan(regression(y, y, np.array([0, 2]))["r2"]).all()


def test_sequence_counts_positions():
    predicted = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    y = np.array([[1, 2, 0], [4, 0, 0], [0, 0, 0]])
    # Node 0 hits 2 + 1 of 6 positions, node 1 none of 3, node 2 has no rows.
    accuracy = sequence(predicted, y, np.array([0, 2, 3, 3]))["accuracy"]
    np.testing.assert_allclose(accuracy, [0.5, 0.0, NAN])


def test_majority_baseline():
    train, y = np.array([2, 2, 1, 0, 2]), np.array([2, 2, 0, 0, 1])
    result = baseline("classification", 3, train, y, np.array([0, 3, 5]))
    # Always 2. Node 0 (2, 2, 0): F1 of 2 is 2*2 / (2 + 3) = 0.8, of 0 it is 0; mean 0.4.
    np.testing.assert_allclose(result["accuracy"], [2 / 3, 0.0])
    np.testing.assert_allclose(result["auc"], [0.5, 0.5])
    np.testing.assert_allclose(result["f1"], [0.4, 0.0])


def test_majority_baseline_of_two_classes():
    result = baseline("classification", 2, np.array([1, 1, 0]), np.array([1, 0]), np.array([0, 2]))
    # Always 1: F1 = 2*1 / (1 + 2).
    assert [float(values[0]) for values in result.values()] == pytest.approx([0.5, 0.5, 2 / 3])


def test_mean_baseline():
    train = np.array([[1.0], [2.0], [6.0]], np.float32)  # mean 3
    y = np.array([[2.0], [4.0], [3.0], [7.0]], np.float32)
    result = baseline("regression", 0, train, y, np.array([0, 2, 4]))
    # Node 1: errors 0 and 4, its own mean is 5: R2 = 1 - 16 / (4 + 4).
    np.testing.assert_allclose(result["mae"], [1.0, 2.0])
    np.testing.assert_allclose(result["r2"], [0.0, -1.0])


def test_most_common_token_baseline():
    train, y = np.array([[3, 3], [1, 3]]), np.array([[3, 0], [3, 3]])
    accuracy = baseline("sequence", 4, train, y, np.array([0, 1, 2]))["accuracy"]
    np.testing.assert_allclose(accuracy, [0.5, 1.0])


def test_summary_weights_by_rows_and_leaves_nan_out():
    values, rows = np.array([0.5, NAN, 0.9, 0.9]), np.array([10, 5, 30, 0])
    # Nodes 0 and 2 count: (0.5*10 + 0.9*30) / 40 = 0.8; deviation (0.9 - 0.5) / 2.
    result = summary("accuracy", values, rows)
    assert result.mean == pytest.approx(0.8)
    assert result.deviation == pytest.approx(0.2)
    assert (result.worst, result.worst_value) == (0, 0.5)


@pytest.mark.parametrize(
    ("metric", "worst"),
    [("accuracy", 1), ("auc", 1), ("f1", 1), ("r2", 1), ("loss", 2), ("mae", 2)],
)
def test_the_worst_node_has_the_highest_loss_or_the_lowest_score(metric, worst):
    assert summary(metric, np.array([0.2, 0.1, 0.3]), np.array([1, 1, 1])).worst == worst


def test_summary_of_nothing_and_of_an_infinite_loss():
    nothing = summary("auc", np.array([NAN]), np.array([3]))
    assert nothing.worst is None
    assert np.isnan([nothing.mean, nothing.deviation, nothing.worst_value]).all()
    diverged = summary("loss", np.array([1.0, np.inf]), np.array([1, 1]))
    assert (diverged.worst, diverged.worst_value) == (1, np.inf)
