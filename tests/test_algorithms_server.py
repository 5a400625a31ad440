"""Algorithms with a server, against a few lines of NumPy and the known optimum of least squares."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.algorithms import (
    FedDyn,
    FedNova,
    FedOpt,
    FedProx,
    Scaffold,
    ServerAdagrad,
    ServerAdam,
    ServerMomentum,
    ServerYogi,
)
from tacit.algorithms.fednova import path_length
from tacit.engine.run import Session

LR = 0.1
OPTIMIZERS = [
    ServerMomentum(lr=0.5, momentum=0.8),
    ServerAdagrad(lr=0.1, beta1=0.3),
    ServerAdam(lr=0.1),
    ServerYogi(lr=0.1),
]
SAMPLING = ["without-replacement", "with-replacement"]
ALGORITHMS = [
    FedProx(mu=0.1),
    *[FedOpt(optimizer) for optimizer in OPTIMIZERS],
    Scaffold(),
    FedNova(),
    FedDyn(alpha=0.1),
]


def name(part):
    return type(getattr(part, "optimizer", part)).__name__


def least_squares(sizes, shift=2.0):
    """(x, y) per node; each node has a solution and input scales of its own."""
    draw = np.random.default_rng(3)
    parts = []
    for rows in sizes:
        x = draw.normal(size=(rows, 3)) * draw.uniform(0.8, 1.2, size=3)
        y = x @ (np.array([1.0, -2.0, 0.5]) + shift * draw.normal(size=3))
        parts.append((x.astype(np.float32), y.astype(np.float32)))
    return parts


def experiment(parts, algorithm, *, rounds=3, topology=None, model=None, **training):
    settings = {"lr": LR, "batch_size": None, "steps": 5, "shuffle": False} | training
    return tacit.Experiment(
        data=tacit.data.from_arrays(parts, test=parts[0], task="regression"),
        model=model or (lambda: nn.Sequential(nn.Linear(3, 1, bias=False))),
        loss=nn.functional.mse_loss,
        training=tacit.SGD(**settings),
        algorithm=algorithm,
        topology=topology,
        rounds=rounds,
        evaluate_every=rounds,
    )


def states(plan):
    """The state before the first round and after each."""
    with Session(plan, "batched", None) as session:
        found = [session.state]
        for _ in session.rounds():
            found.append(session.state)
    return found


def final(plan):
    return plan.algorithm.model(states(plan)[-1]).numpy()


def normed():
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))


def entries(plan):
    """The final model's tensors by name, flat."""
    vector = final(plan)
    return {entry.name: vector[entry.slice] for entry in plan.layout.entries}


def gradient(w, x, y):
    """Of the mean squared error."""
    return 2 / len(y) * x.T @ (x @ w - y)


def descend(w, part, steps=5, extra=lambda w: 0.0):
    for _ in range(steps):
        w = w - LR * (gradient(w, *part) + extra(w))
    return w


def start(plan):
    return plan.start().numpy().astype(np.float64)


def cohorts(plan):
    return [plan.plan.sample(plan.data.nodes, plan.seed, r) for r in range(plan.rounds)]


def cohort_sets(plan):
    """Where nodes keep something between rounds, one that is drawn twice counts once."""
    drawn = cohorts(plan)
    repeats = any(len(set(cohort)) < len(cohort) for cohort in drawn)
    assert repeats == (plan.plan.sampling == "with-replacement")
    return [sorted(set(cohort)) for cohort in drawn]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def optimum(parts):
    """Of all rows together: what the row-weighted mean of the nodes' losses is minimised by."""
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    return np.linalg.lstsq(x.astype(np.float64), y, rcond=None)[0]


# FedProx


def test_fedprox_holds_nodes_back():
    parts = least_squares([20, 10, 30])
    plan = experiment(parts, FedProx(mu=3.0))
    w = start(plan)
    for _ in range(3):
        ends = [descend(w, part, extra=lambda v, w=w: 3.0 * (v - w)) for part in parts]
        w = np.average(ends, axis=0, weights=[20, 10, 30])
    close(final(plan), w)


def test_fedprox_uniform_counts_nodes_alike():
    parts = least_squares([20, 10])
    plan = experiment(parts, FedProx(mu=1.0, uniform=True), rounds=1)
    w = start(plan)
    ends = [descend(w, part, extra=lambda v: v - w) for part in parts]
    close(final(plan), np.mean(ends, axis=0))


def test_fedprox_with_zero_is_fedavg():
    parts = least_squares([20, 10])
    expected = final(experiment(parts, tacit.FedAvg()))
    assert (final(experiment(parts, FedProx(mu=0.0))) == expected).all()


def test_fedprox_reaches_the_proximal_point():
    # argmin of 1/n ||x w - y||^2 + mu/2 ||w - w0||^2 solves (2/n x'x + mu) w = 2/n x'y + mu w0.
    (part,) = parts = least_squares([20])
    x, y = part
    for mu in (0.5, 30.0):
        plan = experiment(parts, FedProx(mu=mu), rounds=1, steps=200, lr=0.05)
        hessian = 2 / 20 * x.T @ x + mu * np.eye(3)
        close(final(plan), np.linalg.solve(hessian, 2 / 20 * x.T @ y + mu * start(plan)))


def test_fedprox_with_a_huge_mu_hardly_moves():
    parts = least_squares([20, 10])
    free, held = (
        experiment(parts, FedProx(mu=mu), rounds=1, steps=200, lr=1e-4) for mu in (0.0, 1e4)
    )
    assert np.abs(final(held) - start(held)).max() < 1e-2 * np.abs(final(free) - start(free)).max()


# FedOpt


def reference_server(optimizer):
    """Reddi et al. 2021, algorithm 2, and Hsu et al. 2019, one coordinate at a time."""
    m, v = np.zeros(3), np.zeros(3)
    if name(optimizer) != "ServerMomentum":
        v += optimizer.tau**2

    def step(delta):
        for i, d in enumerate(delta):
            match name(optimizer):
                case "ServerMomentum":
                    m[i] = optimizer.momentum * m[i] + d
                    delta[i] = optimizer.lr * m[i]
                    continue
                case "ServerAdagrad":
                    v[i] += d * d
                case "ServerAdam":
                    v[i] = optimizer.beta2 * v[i] + (1 - optimizer.beta2) * d * d
                case "ServerYogi":
                    v[i] -= (1 - optimizer.beta2) * d * d * np.sign(v[i] - d * d)
            m[i] = optimizer.beta1 * m[i] + (1 - optimizer.beta1) * d
            delta[i] = optimizer.lr * m[i] / (math.sqrt(v[i]) + optimizer.tau)
        return delta

    return step


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=name)
def test_fedopt_steps_as_the_paper(optimizer):
    parts = least_squares([20, 10, 30])
    plan = experiment(parts, FedOpt(optimizer), rounds=4)
    w, step = start(plan), reference_server(optimizer)
    for _ in range(4):
        mean = np.average([descend(w, part) for part in parts], axis=0, weights=[20, 10, 30])
        w = w + step(mean - w)
    close(final(plan), w)


def test_fedopt_worked_by_hand():
    # One node, x = 1 and y = 1, from w = 0: gradient -2, one step of 0.1 makes a change of 0.2.
    # Adam: m = 0.1 * 0.2 = 0.02; v = 0.99 * 0.001^2 + 0.01 * 0.2^2 = 4.0099e-4,
    # its root 0.02002473; w = 0.5 * 0.02 / (0.02002473 + 0.001) = 0.4756303.
    def zero():
        layer = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(layer.weight)
        return layer

    one = (np.ones((1, 1), np.float32), np.ones(1, np.float32))
    plan = experiment([one], FedOpt(ServerAdam(lr=0.5)), rounds=1, steps=1, model=zero)
    assert final(plan).item() == pytest.approx(0.4756303, rel=1e-5)


def test_fedopt_without_momentum_is_fedavg():
    parts = least_squares([20, 10])
    close(
        final(experiment(parts, FedOpt(ServerMomentum(momentum=0.0)))),
        final(experiment(parts, tacit.FedAvg())),
    )


def test_fedopt_uniform_counts_nodes_alike():
    parts = least_squares([20, 10])
    algorithm = FedOpt(ServerMomentum(lr=0.5), uniform=True)
    plan = experiment(parts, algorithm, rounds=1)
    w = start(plan)
    close(final(plan), w + 0.5 * (np.mean([descend(w, part) for part in parts], axis=0) - w))


@pytest.mark.parametrize(
    "optimizer",
    [
        ServerMomentum(lr=1.0, momentum=0.5),
        ServerAdagrad(lr=0.5),
        ServerAdam(lr=0.1, tau=0.1),
        ServerYogi(lr=0.1, tau=0.1),
    ],
    ids=name,
)
def test_fedopt_reaches_the_optimum(optimizer):
    # One local step a round: the mean change is the pooled gradient, and nothing is biased.
    parts = least_squares([20, 10, 30])
    plan = experiment(parts, FedOpt(optimizer), rounds=200, steps=1)
    np.testing.assert_allclose(final(plan), optimum(parts), atol=1e-3)


# SCAFFOLD


@pytest.mark.parametrize("sampling", SAMPLING)
def test_scaffold_steps_as_the_paper(sampling):
    parts = least_squares([20, 20, 20, 20])
    plan = experiment(parts, Scaffold(server_lr=0.7), rounds=4, topology=tacit.Star(3, sampling))
    x, c, own = start(plan), np.zeros(3), np.zeros((4, 3))
    for cohort in cohort_sets(plan):
        moves, changes = [], []
        for i in cohort:
            correction = c - own[i]
            y = descend(x, parts[i], extra=lambda _, correction=correction: correction)
            new = own[i] - c + (x - y) / (5 * LR)
            moves.append(y - x)
            changes.append(new - own[i])
            own[i] = new
        x = x + 0.7 * np.mean(moves, axis=0)
        c = c + len(cohort) / 4 * np.mean(changes, axis=0)
    state = states(plan)[-1]
    close(state["model"], x)
    close(state["control"], c)
    close(state["node_controls"], own)


def test_scaffold_keeps_the_control_of_a_node_without_steps():
    parts = [*least_squares([20, 20]), ([], [])]
    state = states(experiment(parts, Scaffold()))[-1]
    assert state["node_controls"][2].eq(0).all()
    assert state["node_controls"][:2].ne(0).all()
    close(state["control"], state["node_controls"].mean(0))


def test_scaffold_sends_controls_beside_models():
    # 2 nodes up and down, 3 weights and 3 controls of 4 bytes: 2 * 2 * 6 * 4.
    result = tacit.run(experiment(least_squares([20, 20]), Scaffold(), rounds=1))
    assert result.metrics[0]["bytes"] == 96


@pytest.mark.parametrize(
    ("algorithm", "star"),
    [
        (Scaffold(), None),
        (Scaffold(), tacit.Star(cohort=2, sampling="with-replacement")),
        (FedDyn(alpha=1.0), None),
        (FedDyn(alpha=1.0), tacit.Star(cohort=2)),
    ],
)
def test_no_drift_with_many_local_steps(algorithm, star):
    parts = least_squares([20, 20, 20, 20])
    best = optimum(parts)
    corrected = final(experiment(parts, algorithm, rounds=100, topology=star))
    plain = final(experiment(parts, tacit.FedAvg(), rounds=30))
    assert np.abs(corrected - best).max() < 1e-3
    assert np.abs(plain - best).max() > 0.05


# FedNova


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova_normalises_paths(momentum):
    sizes = [20, 7, 32]
    parts = least_squares(sizes)
    plan = experiment(parts, FedNova(), batch_size=4, steps=None, epochs=2, momentum=momentum)
    p = np.array(sizes) / sum(sizes)
    w = start(plan)
    for _ in range(3):
        directions, lengths = [], []
        for x, y in parts:
            v, velocity, length, reach = w, 0.0, 0.0, 0.0
            for _ in range(2):
                for at in range(0, len(y), 4):
                    velocity = momentum * velocity + gradient(v, x[at : at + 4], y[at : at + 4])
                    v = v - LR * velocity
                    # The same recursion with gradients of 1 adds up the vector a.
                    reach = momentum * reach + 1
                    length += reach
            directions.append((w - v) / length)
            lengths.append(length)
        w = w - p @ lengths * (p @ directions)
    close(final(plan), w)


def test_path_length_worked_by_hand():
    # Momentum 1/2, three steps: a = [1 + 1/2 + 1/4, 1 + 1/2, 1], in sum 4.25.
    steps = torch.tensor([3, 1, 0])
    assert path_length(steps, 0.5).tolist() == [4.25, 1.0, 0.0]
    assert path_length(steps, 0.0).tolist() == [3.0, 1.0, 0.0]


def test_fednova_with_equal_steps_is_fedavg():
    parts = least_squares([20, 10])
    expected = final(experiment(parts, tacit.FedAvg()))
    close(final(experiment(parts, FedNova())), expected)


def test_fednova_undoes_unequal_steps():
    # 4 rows make 1 step an epoch and 20 make 5, so that FedAvg leans to the larger node, beyond
    # its rows. Rows repeat within a node: every batch has the node's own gradient.
    small, (x, y) = least_squares([4, 4])
    parts = [small, (np.tile(x, (5, 1)), np.tile(y, 5))]

    def distance(algorithm):
        plan = experiment(parts, algorithm, rounds=80, batch_size=4, steps=None, lr=0.03)
        return np.abs(final(plan) - optimum(parts)).max()

    assert distance(FedNova()) < 0.2 * distance(tacit.FedAvg())


# FedDyn


@pytest.mark.parametrize("sampling", SAMPLING)
def test_feddyn_steps_as_the_paper(sampling):
    parts = least_squares([20, 20, 20, 20])
    plan = experiment(parts, FedDyn(alpha=0.5), rounds=4, topology=tacit.Star(3, sampling))
    theta, h, known = start(plan), np.zeros(3), np.zeros((4, 3))
    for cohort in cohort_sets(plan):
        ends = []
        for k in cohort:
            # The gradient of - <known, w> + alpha/2 ||w - theta||^2.
            def pull(w, own=known[k], anchor=theta):
                return -own + 0.5 * (w - anchor)

            ends.append(descend(theta, parts[k], extra=pull))
            known[k] = known[k] - 0.5 * (ends[-1] - theta)
        h = h - 0.5 / 4 * sum(end - theta for end in ends)
        theta = np.mean(ends, axis=0) - h / 0.5
    state = states(plan)[-1]
    close(state["model"], theta)
    close(state["h"], h)
    close(state["node_gradients"], known)


def test_feddyn_learns_the_nodes_gradients():
    # At the optimum of the mean loss, nodes know their own gradients there, and h is their mean: 0.
    parts = least_squares([20, 20, 20])
    plan = experiment(parts, FedDyn(alpha=1.0), rounds=60)
    state = states(plan)[-1]
    expected = [gradient(optimum(parts), *part) for part in parts]
    np.testing.assert_allclose(state["node_gradients"], expected, atol=1e-3)
    np.testing.assert_allclose(state["h"], 0, atol=1e-3)


# All of them


@pytest.mark.parametrize(
    ("algorithm", "engine"),
    [*[(each, "batched") for each in ALGORITHMS], (Scaffold(), "sequential")],
    ids=str,
)
def test_an_empty_cohort_changes_nothing(algorithm, engine):
    star = tacit.Star(cohort=1, sampling="poisson")
    plan = experiment(least_squares([20, 20, 20]), algorithm, rounds=12, topology=star)
    empty = [r for r, cohort in enumerate(cohorts(plan)) if len(cohort) == 0]
    assert 0 < empty[0] < 11
    with Session(plan, engine, 2) as session:
        before = session.state
        for row in session.rounds():
            after = session.state
            same = all(torch.equal(before[key], after[key]) for key in before)
            assert same == (row["cohort"] == 0)
            assert all(tensor.isfinite().all() for tensor in after.values())
            before = after


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=name)
def test_nodes_without_rows_do_no_harm(algorithm):
    parts = [*least_squares([20, 1]), ([], [])]
    for cohort, alone in ((1, True), (2, False)):
        plan = experiment(parts, algorithm, rounds=6, topology=tacit.Star(cohort))
        assert any(2 in nodes and (len(nodes) == 1) == alone for nodes in cohorts(plan))
        assert all(tensor.isfinite().all() for tensor in states(plan)[-1].values())


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=name)
def test_batch_norm_statistics_take_the_plain_mean(algorithm):
    # The first layer sees the inputs, so that one step on all of a node's rows makes its running
    # mean 0.9 * 0 + 0.1 * (mean of its inputs), and its variance 0.9 * 1 + 0.1 * (n - 1 form).
    sizes = [20, 10, 30]
    parts = least_squares(sizes)
    alike = isinstance(algorithm, Scaffold | FedDyn)
    weights = None if alike else sizes
    plan = experiment(parts, algorithm, rounds=1, steps=1, model=normed)
    after = entries(plan)
    means = [0.1 * x.mean(0) for x, _ in parts]
    variances = [0.9 + 0.1 * x.var(0, ddof=1) for x, _ in parts]
    close(after["0.running_mean"], np.average(means, axis=0, weights=weights))
    close(after["0.running_var"], np.average(variances, axis=0, weights=weights))


def test_fednova_keeps_variances_between_the_nodes():
    # Going beyond the mean, as parameters may with unequal steps, could make a variance negative.
    def variance(parts, algorithm):
        batches = {"rounds": 1, "batch_size": 4, "steps": None}
        return entries(experiment(parts, algorithm, model=normed, **batches))["0.running_var"]

    small, large = least_squares([4, 80])
    both = variance([small, large], FedNova())
    alone = [variance([part], tacit.FedAvg()) for part in (small, large)]
    assert (np.minimum(*alone) <= both).all()
    assert (both <= np.maximum(*alone)).all()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=name)
def test_a_resumed_run_ends_in_the_same_bits(algorithm, tmp_path):
    def interrupt(row):
        if row["round"] == 2:
            raise Interrupted

    plan = experiment(
        least_squares([20, 10, 30]), algorithm, rounds=4, topology=tacit.Star(cohort=2)
    )
    whole = tacit.run(plan, folder=tmp_path / "whole")
    with pytest.raises(Interrupted):
        tacit.run(plan, folder=tmp_path / "parts", on_round=interrupt)
    resumed = tacit.run(plan, folder=tmp_path / "parts", resume=True)
    assert [row["round"] for row in resumed.metrics] == [1, 2, 3, 4]
    files = [next((tmp_path / each).glob("*.safetensors")) for each in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert torch.equal(whole.model[0].weight, resumed.model[0].weight)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: FedProx(mu=-1.0), "algorithm.mu"),
        (lambda: FedProx(mu=math.inf), "algorithm.mu"),
        (lambda: FedOpt("adam"), "algorithm.optimizer"),
        (lambda: ServerMomentum(momentum=1.0), "algorithm.optimizer.momentum"),
        (lambda: ServerAdam(lr=0.0), "algorithm.optimizer.lr"),
        (lambda: ServerAdagrad(beta1=-0.1), "algorithm.optimizer.beta1"),
        (lambda: ServerYogi(beta2=1.0), "algorithm.optimizer.beta2"),
        (lambda: ServerAdam(tau=0.0), "algorithm.optimizer.tau"),
        (lambda: Scaffold(server_lr=math.nan), "algorithm.server_lr"),
        (lambda: FedDyn(alpha=0.0), "algorithm.alpha"),
    ],
)
def test_settings_out_of_range_are_refused(make, field):
    with pytest.raises(tacit.InputError, match=f"^{field}: .* was given; allowed is "):
        make()


@pytest.mark.parametrize(
    ("algorithm", "training"),
    [
        (Scaffold(), tacit.SGD(lr=0.1, momentum=0.9)),
        (Scaffold(), tacit.SGD(lr=0.1, clip_norm=1.0)),
        (Scaffold(), tacit.Adam(lr=0.1)),
        (FedNova(), tacit.SGD(lr=0.1, momentum=0.9, nesterov=True)),
        (FedNova(), tacit.Adam(lr=0.1)),
    ],
)
def test_training_that_does_not_fit_is_refused(algorithm, training):
    plan = experiment(least_squares([20]), algorithm).replace(training=training)
    with pytest.raises(tacit.InputError, match=f"^training: .*; {name(algorithm)} "):
        tacit.run(plan)
