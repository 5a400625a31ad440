"""Evaluation of whole runs, against the plainest way to compute the same numbers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from torch import nn

import tacit
from small import experiment, federation
from tacit.data.federation import Federation, Split


def check_classification(result: tacit.Result, score) -> None:
    """Compare a result's rows with scikit-learn, node by node; score maps a model and x to (N,)."""
    test = result.experiment.data.test
    for node, (row, model) in enumerate(zip(result.nodes, result.models, strict=True)):
        x, y = test.node(node)
        if not len(y):
            assert math.isnan(row["loss"])
            continue
        with torch.no_grad():
            ranking = score(model, x)
            loss = result.experiment.loss(model(x), y)
        labels = y.long().numpy()
        predicted = (ranking > 0).numpy()
        assert row["loss"] == pytest.approx(float(loss), rel=1e-5)
        assert row["accuracy"] == pytest.approx(np.mean(predicted == labels))
        assert row["f1"] == pytest.approx(f1_score(labels, predicted, zero_division=0.0))
        if 0 < labels.sum() < len(labels):
            assert row["auc"] == pytest.approx(roc_auc_score(labels, ranking.numpy()))


@pytest.mark.parametrize("engine", ["batched", "sequential"])
@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Alone()])
def test_classification(engine, algorithm):
    result = tacit.run(experiment(algorithm=algorithm), engine=engine)
    check_classification(result, lambda model, x: model(x)[:, 1] - model(x)[:, 0])


def test_a_loss_of_the_users_own():
    def loss(output, target):
        return F.cross_entropy(output, target) + 0.1 * output.square().mean()

    result = tacit.run(experiment(loss=loss, algorithm=tacit.Alone()))
    assert result.engine.startswith("batched")
    check_classification(result, lambda model, x: model(x)[:, 1] - model(x)[:, 0])


@pytest.mark.parametrize("engine", ["batched", "sequential"])
def test_dropout_and_batch_norm_are_in_evaluation_mode(engine):
    def model():
        return nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
        )

    result = tacit.run(experiment(model=model, algorithm=tacit.Alone()), engine=engine)
    check_classification(result, lambda model, x: model(x)[:, 1] - model(x)[:, 0])


@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Gossip()])
def test_regression(algorithm):
    data = federation((20, 1, 0, 15))
    train, test = (Split(s.x, s.x @ torch.ones(4, 2), s.offsets) for s in (data.train, data.test))
    values = Federation(train, test, data.names, "regression", 0)
    base = experiment(
        data=values, model=lambda: nn.Linear(4, 2), loss=nn.MSELoss(), algorithm=algorithm
    )
    result = tacit.run(base)
    for node in (0, 3):
        x, y = values.test.node(node)
        with torch.no_grad():
            predicted = result.models[node](x)
        row = result.nodes[node]
        assert row["mae"] == pytest.approx(float((predicted - y).abs().mean()), rel=1e-5)
        assert row["r2"] == pytest.approx(r2_score(y.numpy(), predicted.numpy()), rel=1e-4)
        assert row["loss"] == pytest.approx(float(F.mse_loss(predicted, y)), rel=1e-5)
    assert math.isnan(result.nodes[1]["r2"])  # one row has no variance


@pytest.mark.parametrize("engine", ["batched", "sequential"])
@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Alone()])
def test_sequences(engine, algorithm):
    generator = torch.Generator().manual_seed(0)

    def text(windows):
        start = torch.randint(0, 5, (windows, 1), generator=generator)
        tokens = (start + torch.arange(7)) % 5  # the next token is the last plus one
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    parts = [text(windows) for windows in (12, 3, 0)]
    data = Federation(Split.pack(parts), Split.pack(parts), ("a", "b", "c"), "sequence", 5)
    base = tacit.Experiment(
        data=data,
        model=lambda: nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5)),
        loss=tacit.next_token,
        training=tacit.Adam(lr=0.1, batch_size=4, epochs=5),
        algorithm=algorithm,
        rounds=3,
    )
    result = tacit.run(base, engine=engine)
    assert result.nodes[0]["accuracy"] == 1
    with torch.no_grad():
        loss = tacit.next_token(result.models[1](parts[1][0]), parts[1][1])
    assert result.nodes[1]["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_the_worst_node_and_the_spread():
    result = tacit.run(experiment())
    row, nodes = result.metrics[-1], [r for r in result.nodes if r["test_rows"]]
    assert row["worst_accuracy"] == min(r["accuracy"] for r in nodes)
    assert row["worst_loss"] == max(r["loss"] for r in nodes)
    assert row["spread_accuracy"] == pytest.approx(np.std([r["accuracy"] for r in nodes]))


def test_the_majority_baseline_knows_the_training_labels_alone():
    result = tacit.run(experiment(rounds=1))
    data = result.experiment.data
    majority = int(data.train.y.float().mean() > 0.5)
    expected = (data.test.y == majority).double().mean()
    assert result.baseline["accuracy"] == pytest.approx(expected.item())
    _, y = data.test.node(0)
    row = result.nodes[0]
    assert row["baseline_accuracy"] == pytest.approx((y == majority).double().mean().item())
