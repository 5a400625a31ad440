"""How good predictions are, for many nodes in one call.

Rows of several nodes lie side by side: node i owns the rows from ``offsets[i]`` up to
``offsets[i + 1]``. Each function returns one float64 value per node, NaN where the metric is not
defined there (no rows, for instance). Pooled metrics are the same functions with offsets [0, N].
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tacit.data.federation import Task

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
PerNode = NDArray[np.float64]
Numbers = NDArray[Any]

HIGHER_IS_BETTER = {
    "accuracy": True,
    "auc": True,
    "f1": True,
    "r2": True,
    "loss": False,
    "mae": False,
}


def classification(score: Floats, y: Ints, offsets: Ints) -> dict[str, PerNode]:
    """Accuracy, AUC and F1 of each node.

    Two classes: AUC ranks the rows by the logit of class 1 (minus that of class 0), F1 is that of
    class 1. More classes: AUC is the mean, over the classes present in the node, of each class
    against the rest, ranked by its softmax probability; F1 is the mean over the classes that are
    present or predicted. As in scikit-learn, a class never hit has an F1 of 0.

    Args:
        score: (N, classes) logits, or (N, 1) where a positive logit means class 1.
        y: (N,) labels in [0, classes).
        offsets: (n + 1,) each node's first row, and N.

    Returns:
        "accuracy", "auc" and "f1", each (n,) in [0, 1]; all NaN where the node has no rows or a
        score is not a number; AUC is NaN where the node's labels are all the same.
    """
    score = score.astype(np.float64)
    classes = max(score.shape[1], 2)
    owner = _owner(offsets)
    with np.errstate(invalid="ignore"):  # infinite logits
        if classes == 2:
            ranking = score[:, -1:] - score[:, :1] if score.shape[1] == 2 else score
            predicted = (ranking[:, 0] > 0).astype(np.int64)
            auc = _auc(ranking[:, 0], y == 1, owner, offsets)
        else:
            ranking = np.exp(score - score.max(axis=1, keepdims=True))
            ranking /= ranking.sum(axis=1, keepdims=True)
            predicted = score.argmax(axis=1)
            against_rest = [_auc(ranking[:, c], y == c, owner, offsets) for c in range(classes)]
            auc = _nanmean(np.stack(against_rest, axis=1))
    correct = np.where(np.isnan(ranking).any(axis=1), np.nan, predicted == y)
    accuracy = node_mean(correct, offsets)
    f1 = _f1(predicted, y, owner, len(offsets) - 1, classes)
    return {
        "accuracy": accuracy,
        "auc": np.where(np.isnan(accuracy), np.nan, auc),
        "f1": np.where(np.isnan(accuracy), np.nan, f1),
    }


def regression(prediction: Floats, y: Floats, offsets: Ints) -> dict[str, PerNode]:
    """Mean absolute error and R2 of each node, both averaged over the k outputs.

    Args:
        prediction: (N, k).
        y: (N, k) targets.
        offsets: (n + 1,) each node's first row, and N.

    Returns:
        "mae" (n,) in the target's unit and "r2" (n,) up to 1; R2 is NaN where a node has fewer than
        two rows or one of its outputs does not vary.
    """
    y = y.astype(np.float64)
    error = y - prediction
    # Measured from the node's first row, a constant target is exactly zero, whatever its value.
    target = y - y[offsets[_owner(offsets)]]
    mean = np.stack([node_mean(column, offsets) for column in target.T], axis=1)
    spread = target - mean[_owner(offsets)]
    r2 = []
    for residual, deviation in zip(error.T, spread.T, strict=True):
        unexplained, total = node_mean(residual**2, offsets), node_mean(deviation**2, offsets)
        r2.append(1 - _ratio(unexplained, total))
    return {
        "mae": node_mean(np.abs(error).mean(axis=1), offsets),
        "r2": np.mean(r2, axis=0),
    }


def sequence(predicted: Ints, y: Ints, offsets: Ints) -> dict[str, PerNode]:
    """Share of each node's positions whose token was predicted: {"accuracy": (n,)}.

    Args:
        predicted: (N, T) tokens, the argmax of the logits.
        y: (N, T) tokens.
        offsets: (n + 1,) each node's first row, and N.
    """
    return {"accuracy": node_mean((predicted == y).mean(axis=1), offsets)}


def baseline(
    task: Task, classes: int, train: Numbers, y: Numbers, offsets: Ints
) -> dict[str, PerNode]:
    """What a model that knows only the training targets reaches on each node.

    It always predicts the most common training label or token (the lowest of several), or the mean
    training target.

    Args:
        task: which of the metrics above.
        classes: number of labels or tokens; not used for regression.
        train: all nodes' training targets, shaped like ``y``.
        y: (N,) labels, (N, k) values or (N, T) tokens to measure on.
        offsets: (n + 1,) each node's first row in ``y``, and N.
    """
    if task == "regression":
        mean = train.mean(axis=0, dtype=np.float64)
        return regression(np.broadcast_to(mean, y.shape), y, offsets)
    majority = np.bincount(train.reshape(-1), minlength=classes).argmax()
    if task == "sequence":
        return sequence(np.broadcast_to(majority, y.shape), y, offsets)
    score = np.broadcast_to(np.eye(classes)[majority], (len(y), classes))
    return classification(score, y, offsets)


class Summary(NamedTuple):
    """One metric over all nodes where it is defined.

    Attributes:
        mean: the nodes' values, weighted by their rows.
        deviation: standard deviation across nodes, each counted once.
        worst: index of the worst node (the first of equals), None if no node has a value.
        worst_value: that node's value.
    """

    mean: float
    deviation: float
    worst: int | None
    worst_value: float


def summary(metric: str, values: PerNode, rows: Ints) -> Summary:
    """The mean, the spread and the worst of (n,) values of ``metric`` on nodes of (n,) rows.

    The mean of "accuracy", "loss" or "mae" is the pooled value; that of "auc", "f1" or "r2" is not.

    Args:
        metric: a key of ``HIGHER_IS_BETTER``, which says what worst means.
        values: (n,) one value per node; NaN is left out.
        rows: (n,) how many rows each value was measured on.
    """
    nodes = np.flatnonzero(~np.isnan(values) & (rows > 0))
    if len(nodes) == 0:
        return Summary(np.nan, np.nan, None, np.nan)
    known = values[nodes]
    worst = known.argmin() if HIGHER_IS_BETTER[metric] else known.argmax()
    with np.errstate(invalid="ignore"):  # an infinite loss has no deviation
        deviation = known.std()
    return Summary(
        mean=float(np.average(known, weights=rows[nodes])),
        deviation=float(deviation),
        worst=int(nodes[worst]),
        worst_value=float(known[worst]),
    )


def _owner(offsets: Ints) -> Ints:
    """(N,) the node of each row."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _ratio(numerator: Numbers, denominator: Numbers) -> PerNode:
    """The quotient, NaN where the denominator is not positive."""
    undefined = np.full(denominator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def node_mean(values: Numbers, offsets: Ints) -> PerNode:
    """(n,) means of (N,) values over each node's rows."""
    total = np.bincount(_owner(offsets), weights=values, minlength=len(offsets) - 1)
    return _ratio(total, np.diff(offsets))


def _nanmean(values: PerNode) -> PerNode:
    """Row means over the entries that are numbers, silently NaN where none is."""
    return _ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1))


def _auc(score: Floats, positive: NDArray[np.bool_], owner: Ints, offsets: Ints) -> PerNode:
    """P(a positive row scores above a negative one) + P(they tie) / 2, in each node.

    From the Mann-Whitney statistic with midranks: Hanley and McNeil, "The meaning and use of the
    area under a receiver operating characteristic (ROC) curve", Radiology 143, 1982.
    """
    nodes = len(offsets) - 1
    order = np.argsort(score)
    # A stable sort of a narrow integer is a radix sort: several times faster than np.lexsort.
    order = order[np.argsort(owner[order].astype(np.min_scalar_type(nodes)), kind="stable")]
    ranked = score[order]
    differs = (ranked[1:] != ranked[:-1]) | (owner[1:] != owner[:-1])
    first = np.flatnonzero(np.concatenate([[True], differs]))  # of each run of tied rows
    length = np.diff(first, append=len(score))
    midrank = np.repeat(first + (length + 1) / 2, length) - offsets[owner]
    rank_sum = np.bincount(owner, weights=midrank * positive[order], minlength=nodes)
    positives = np.bincount(owner, weights=positive, minlength=nodes)
    wins = rank_sum - positives * (positives + 1) / 2
    return _ratio(wins, positives * (np.diff(offsets) - positives))


def _f1(predicted: Ints, y: Ints, owner: Ints, nodes: int, classes: int) -> PerNode:
    """(n,) F1 of class 1 for two classes, else the mean over classes present or predicted."""

    def count(label: Ints, weight: NDArray[np.bool_] | None = None) -> Numbers:
        cell = owner * classes + label
        return np.bincount(cell, weight, nodes * classes).reshape(nodes, classes)

    hits = count(y, predicted == y)
    f1 = _ratio(2 * hits, count(y) + count(predicted))
    return np.nan_to_num(f1[:, 1]) if classes == 2 else _nanmean(f1)
