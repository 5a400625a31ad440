"""Personalised algorithms against their papers' formulas in NumPy, and what they keep to a node."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tacit
from tacit.algorithms import Ditto, FedAvg, FedBN, FedPer, FedRep, FineTune
from tacit.data import from_arrays
from tacit.engine.local import LocalTrain
from tacit.engine.run import Session
from tacit.experiment import Experiment

LR = 0.05
BODY = np.array([[0.5, -0.25], [0.75, 1.0]])
HEAD = np.array([[1.0, -0.5]])
ROWS = (4, 6, 10)
SHARE = np.array(ROWS) / sum(ROWS)


def regression() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three nodes of unequal size that disagree about the weights."""
    rng = np.random.default_rng(0)
    pairs = []
    for node, rows in enumerate(ROWS):
        x = rng.normal(size=(rows, 2))
        pairs.append((x, x @ np.array([1.0 + node, 2.0 - node])))
    return pairs


def two_layers() -> nn.Module:
    """y = h B x: B is the 2 x 2 body and h the 1 x 2 head."""
    model = nn.Sequential(
        OrderedDict(body=nn.Linear(2, 2, bias=False), head=nn.Linear(2, 1, bias=False))
    )
    model.body.weight.data = torch.tensor(BODY, dtype=torch.float32)
    model.head.weight.data = torch.tensor(HEAD, dtype=torch.float32)
    return model


def experiment(pairs, algorithm, **fields) -> Experiment:
    settings = {
        "model": two_layers,
        "training": tacit.SGD(lr=LR, batch_size=None, steps=2),
        "rounds": 3,
    }
    data = from_arrays(pairs, test=pairs[0])
    return Experiment(data=data, algorithm=algorithm, loss=F.mse_loss, **settings | fields)


def gradients(pair, body: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of mean((h B x - y)^2) to the body and the head."""
    x, y = pair
    residual = 2 / len(y) * (x @ body.T @ head.T - y[:, None])
    return head.T @ residual.T @ x, residual.T @ x @ body.T


def check_models(result: tacit.Result, models) -> None:
    """Every node's own (body, head), in the layout's order."""
    expected = np.stack([np.concatenate([body.ravel(), head.ravel()]) for body, head in models])
    np.testing.assert_allclose(result.vectors.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_fedper_averages_the_body_alone():
    pairs = regression()
    result = tacit.run(experiment(pairs, FedPer()))
    body, heads = BODY, [HEAD] * 3
    for _ in range(3):
        bodies = []
        for node, pair in enumerate(pairs):
            own, head = body, heads[node]
            for _ in range(2):
                to_body, to_head = gradients(pair, own, head)
                own, head = own - LR * to_body, head - LR * to_head
            bodies.append(own)
            heads[node] = head
        body = np.einsum("n,nij->ij", SHARE, bodies)
    check_models(result, [(body, head) for head in heads])
    # The shared model has the initial head: no head ever left its node.
    np.testing.assert_allclose(result.model.body.weight.detach(), body, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.model.head.weight.detach(), HEAD)
    # 3 nodes receive and send the 4 weights of the body, not the 2 of the head.
    assert [row["bytes"] for row in result.metrics] == [2 * 3 * 4 * 4] * 3


def test_fedrep_trains_the_head_and_then_the_body():
    pairs = regression()
    result = tacit.run(experiment(pairs, FedRep()))
    body, heads = BODY, [HEAD] * 3
    for _ in range(3):
        bodies = []
        for node, pair in enumerate(pairs):
            own = body
            for _ in range(2):
                heads[node] = heads[node] - LR * gradients(pair, own, heads[node])[1]
            for _ in range(2):
                own = own - LR * gradients(pair, own, heads[node])[0]
            bodies.append(own)
        body = np.einsum("n,nij->ij", SHARE, bodies)
    check_models(result, [(body, head) for head in heads])


def test_ditto_draws_personal_models_to_the_shared_one():
    pairs, lam = regression(), 0.7
    result = tacit.run(experiment(pairs, Ditto(lam=lam)))
    shared, personal = (BODY, HEAD), [(BODY, HEAD)] * 3
    for _ in range(3):
        trained = []
        for node, pair in enumerate(pairs):
            v, w = personal[node], shared
            for _ in range(2):
                v = tuple(
                    part - LR * (slope + lam * (part - centre))
                    for part, slope, centre in zip(v, gradients(pair, *v), shared, strict=True)
                )
                w = tuple(
                    part - LR * slope for part, slope in zip(w, gradients(pair, *w), strict=True)
                )
            personal[node] = v
            trained.append(w)
        shared = tuple(np.einsum("n,nij->ij", SHARE, part) for part in zip(*trained, strict=True))
    check_models(result, personal)
    np.testing.assert_allclose(result.model.body.weight.detach(), shared[0], rtol=1e-5, atol=1e-5)
    # Only the shared model travels: 6 weights to 3 nodes and back.
    assert result.metrics[0]["bytes"] == 2 * 3 * 4 * 6


@pytest.mark.parametrize("algorithm", [FedPer(uniform=True), Ditto(uniform=True)], ids=str)
def test_uniform_counts_nodes_alike(algorithm):
    plan = experiment(regression(), algorithm, rounds=1)
    alone = tacit.run(plan.replace(algorithm=tacit.Alone())).vectors
    shared = plan.layout.vector(tacit.run(plan).model)
    body = plan.layout.mask("body")
    torch.testing.assert_close(shared[body], alone[:, body].mean(0))


def test_fine_tuning_trains_the_shared_model_once_more():
    pairs = regression()
    result = tacit.run(experiment(pairs, FineTune()))
    shared = tacit.run(experiment(pairs, FedAvg())).model
    torch.testing.assert_close(result.model.state_dict(), shared.state_dict(), rtol=0, atol=0)
    models = []
    for pair in pairs:
        body, head = (p.detach().double().numpy() for p in shared.parameters())
        for _ in range(2):
            to_body, to_head = gradients(pair, body, head)
            body, head = body - LR * to_body, head - LR * to_head
        models.append((body, head))
    check_models(result, models)


@pytest.mark.parametrize(
    "training",
    [
        tacit.SGD(lr=LR, batch_size=None, steps=3, weight_decay=0.1, clip_norm=1.0),
        tacit.SGD(lr=LR, batch_size=None, steps=3, weight_decay=0.1, momentum=0.9),
        tacit.Adam(lr=LR, batch_size=None, steps=3, weight_decay=0.013),
    ],
    ids=["clip", "momentum", "adam"],
)
def test_the_frozen_half_keeps_its_bits(training):
    plan = experiment(regression(), FedRep(), training=training)
    with Session(plan, "batched", None) as session:
        train = LocalTrain(session.trainer, np.arange(3), 0)
        start = plan.start().repeat(3, 1)
        head = plan.layout.mask("head")
        first = train(start, frozen=~head).matrix()
        assert torch.equal(first[:, ~head], start[:, ~head])
        assert not torch.equal(first[:, head], start[:, head])
        both = FedRep().fit(train, start.clone(), head)
    assert torch.equal(both[:, head], first[:, head])
    assert not torch.isclose(both[:, ~head], start[:, ~head]).any()


@pytest.mark.parametrize("algorithm", [FedPer(), FedRep(), Ditto()], ids=str)
def test_nodes_outside_the_cohort_keep_what_is_theirs(algorithm):
    topology = tacit.Star(cohort=1)
    plan = experiment(regression(), algorithm, topology=topology, rounds=1)
    (trained,) = topology.sample(3, plan.seed, 0)
    vectors = tacit.run(plan).vectors
    head = plan.layout.mask("head")
    for node in range(3):
        assert torch.equal(vectors[node, head], plan.start()[head]) == (node != trained)


@pytest.mark.parametrize("engine", ["batched", "sequential"])
@pytest.mark.parametrize("algorithm", [FedPer(), FedRep(), Ditto(), FineTune()], ids=str)
def test_an_empty_cohort_changes_nothing(algorithm, engine):
    topology = tacit.Star(cohort=1, sampling="poisson")
    seed = next(s for s in range(50) if not len(topology.sample(3, s, 0)))
    plan = experiment(regression(), algorithm, topology=topology, rounds=1, seed=seed)
    result = tacit.run(plan, engine=engine)
    assert torch.equal(plan.layout.vector(result.model), plan.start())
    assert result.metrics[0]["bytes"] == 0


def normalised() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            body=nn.Linear(2, 3), norm=nn.BatchNorm1d(3), act=nn.ReLU(), head=nn.Linear(3, 1)
        )
    )


def test_fedbn_keeps_weights_biases_and_statistics():
    pairs = regression()
    plan = experiment(pairs, FedBN(), model=normalised, rounds=1)
    result = tacit.run(plan)
    alone = tacit.run(plan.replace(algorithm=tacit.Alone())).vectors
    norm = plan.layout.mask("norm")
    # 3 channels with weight, bias, mean and variance, and one count of batches.
    assert int(norm.sum()) == 4 * 3 + 1
    assert torch.equal(result.vectors[:, norm], alone[:, norm])
    names = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    for name in names:
        values = result.vectors[:, plan.layout.mask(name)]
        assert (values[0] != values[1]).any()
        assert (values[1] != values[2]).any()
    mean = torch.tensor(SHARE, dtype=torch.float32) @ alone[:, ~norm]
    torch.testing.assert_close(result.vectors[:, ~norm], mean.expand(3, -1))
    # body 2 x 3 + 3 and head 3 + 1 travel to 3 nodes and back.
    assert result.metrics[0]["bytes"] == 2 * 3 * 4 * (9 + 4)


def conflicting() -> tacit.data.Federation:
    """Four nodes that see the same inputs, two of which call each class by the other's name."""
    rng = np.random.default_rng(1)
    pairs = []
    for node in range(4):
        x = rng.normal(size=(80, 2))
        x[:, 0] += np.sign(x[:, 0])
        pairs.append((x, (x[:, 0] > 0).astype(int) ^ (node % 2)))
    return from_arrays(pairs, test_fraction=0.5)


@pytest.mark.parametrize(
    "algorithm", [FineTune(), Ditto(lam=0.1), FedPer(), FedRep()], ids=lambda a: type(a).__name__
)
def test_own_models_win_at_every_node_where_labels_conflict(algorithm):
    plan = Experiment(
        data=conflicting(), algorithm=algorithm, loss=F.cross_entropy, rounds=8, evaluate_every=8,
        model=lambda: nn.Sequential(
            OrderedDict(body=nn.Linear(2, 8), act=nn.Tanh(), head=nn.Linear(8, 2))
        ),
        training=tacit.SGD(lr=0.5, batch_size=20, epochs=2),
    )  # fmt: skip
    result = tacit.run(plan)
    # One model for all is right on two nodes where it is wrong on the other two: half in all.
    shared = tacit.run(plan.replace(algorithm=FedAvg()))
    assert shared.metrics[-1]["accuracy"] < 0.7
    for own, other in zip(result.nodes, shared.nodes, strict=True):
        assert own["accuracy"] >= 0.9
        assert own["accuracy"] >= other["accuracy"]
    assert np.mean([row["shared_accuracy"] for row in result.nodes]) < 0.7


def test_the_shared_scores_beside_a_node_are_those_of_the_shared_model():
    plan = experiment(regression(), Ditto())
    result, fedavg = tacit.run(plan), tacit.run(plan.replace(algorithm=FedAvg()))
    assert [row["shared_loss"] for row in result.nodes] == [row["loss"] for row in fedavg.nodes]
    assert all(row["loss"] != row["shared_loss"] for row in result.nodes)


@pytest.mark.parametrize(
    "algorithm", [FineTune(), Ditto(), FedPer(("head", "norm")), FedRep(), FedBN()], ids=str
)
def test_a_resumed_run_ends_in_the_same_bits(algorithm, tmp_path):
    plan = experiment(
        regression(), algorithm, model=normalised, rounds=4, topology=tacit.Star(cohort=2),
        training=tacit.SGD(lr=LR, batch_size=3, momentum=0.5),
    )  # fmt: skip

    def interrupt(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tacit.run(plan, folder=tmp_path, on_round=interrupt)
    resumed, whole = tacit.run(plan, folder=tmp_path, resume=True), tacit.run(plan)
    assert len(resumed.metrics) == 4
    assert torch.equal(resumed.vectors, whole.vectors)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: FedPer("head"), r"algorithm\.personal: 'head' was given"),
        (lambda: FedRep(()), r"algorithm\.personal: \(\) was given"),
        (lambda: Ditto(lam=-1.0), r"algorithm\.lam: -1\.0 was given"),
        (lambda: experiment(regression(), FedPer(("hat",))).check(), "no layer is called 'hat'"),
        (lambda: experiment(regression(), FedPer(("*",))).check(), "no trained layer to share"),
        (lambda: experiment(regression(), FedBN()).check(), "without BatchNorm"),
    ],
)
def test_what_cannot_work_is_refused(wrong, message):
    with pytest.raises(tacit.InputError, match=message):
        wrong()
