"""Runs in this process: what comes out, and what survives interruption."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from small import experiment, federation
from tacit.engine.checkpoint import Checkpoint
from tacit.layout import Layout


def vector(result: tacit.Result) -> torch.Tensor:
    return Layout.of(result.model).vector(result.model)


def test_fedavg_of_one_step_is_gradient_descent_on_the_pooled_loss():
    # Every node takes one step on all its rows; the mean weighted by rows is the pooled gradient.
    base = experiment(algorithm=tacit.FedSGD(), rounds=3, training=tacit.SGD(lr=0.3))
    result = tacit.run(base)
    module, data = base.layout.module(base.template, base.start()), base.data.train
    for _ in range(3):
        module.zero_grad()
        nn.functional.cross_entropy(module(data.x), data.y).backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.3 * parameter.grad
    torch.testing.assert_close(
        vector(result), Layout.of(module).vector(module), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    "algorithm", [tacit.FedAvg(), tacit.Gossip(), tacit.Alone(), tacit.Pooled()]
)
def test_both_engines_and_any_number_of_workers_give_the_same_model(algorithm):
    base = experiment(algorithm=algorithm, training=tacit.SGD(lr=0.1, batch_size=8, momentum=0.5))
    batched = tacit.run(base, engine="batched", workers=1)
    for engine, workers in [("batched", 2), ("sequential", 1), ("sequential", 3)]:
        other = tacit.run(base, engine=engine, workers=workers)
        torch.testing.assert_close(vector(batched), vector(other), atol=1e-6, rtol=1e-5)
        if batched.vectors is not None:
            torch.testing.assert_close(batched.vectors, other.vectors, atol=1e-6, rtol=1e-5)


def test_a_schedule_sets_the_learning_rate_of_a_round():
    base = experiment(algorithm=tacit.FedSGD(), rounds=2, training=tacit.SGD(lr=0.4))
    decayed = tacit.SGD(lr=0.4, schedule=tacit.StepDecay(every=1, factor=0.5))
    first = tacit.run(base.replace(rounds=1))
    second = tacit.run(base.replace(training=decayed))
    # The second round at half the rate moves half as far as it would at the whole one.
    whole = vector(tacit.run(base)) - vector(first)
    torch.testing.assert_close(vector(second) - vector(first), whole / 2, atol=1e-6, rtol=1e-5)


def test_what_a_result_holds():
    result = tacit.run(experiment(evaluate_every=3))
    assert [row["round"] for row in result.metrics] == [1, 2, 3, 4]
    assert [("accuracy" in row) for row in result.metrics] == [False, False, True, True]
    # 5 nodes, up and down, 4 bytes for each of 4*8 + 8 + 8*2 + 2 = 58 numbers.
    assert {row["bytes"] for row in result.metrics} == {2 * 5 * 4 * 58}
    assert [(row["node"], row["rows"]) for row in result.nodes] == [
        ("a", 20), ("b", 7), ("c", 1), ("d", 0), ("e", 30),
    ]  # fmt: skip
    assert math.isnan(result.nodes[3]["accuracy"])
    assert result.metrics[-1]["accuracy"] > result.baseline["accuracy"]
    assert result.models[0] is result.model
    # The pooled accuracy by hand, from the model itself.
    test = result.experiment.data.test
    correct = (result.model(test.x).argmax(1) == test.y).double().mean()
    assert result.metrics[-1]["accuracy"] == pytest.approx(correct.item())


def test_gossip_reports_agreement_and_a_model_for_each_node():
    result = tacit.run(experiment(algorithm=tacit.Gossip(), topology=tacit.Complete()))
    # A complete graph of 5 with Metropolis weights 1/5 averages in one round: the gap is 1 and the
    # nodes agree to rounding. Each of 20 links carries 58 numbers.
    assert result.metrics[-1]["spectral_gap"] == pytest.approx(1)
    assert result.metrics[-1]["consensus_distance"] < 1e-6
    assert result.metrics[-1]["bytes"] == 20 * 4 * 58
    ring = tacit.run(experiment(algorithm=tacit.Gossip()))
    assert ring.metrics[-1]["consensus_distance"] > 1e-3
    first, last = (Layout.of(m).vector(m) for m in (ring.models[0], ring.models[-1]))
    assert not torch.equal(first, last)
    torch.testing.assert_close(torch.stack([first, last]), ring.vectors[[0, 4]])


def test_a_shared_test_set_measures_every_nodes_model():
    data = federation((12, 9, 15))
    shared = tacit.data.Federation(
        data.train, data.test.pooled(), data.names, data.task, data.classes
    )
    result = tacit.run(experiment(data=shared, algorithm=tacit.Alone()))
    for row, model in zip(result.nodes, result.models, strict=True):
        correct = (model(data.test.x).argmax(1) == data.test.y).double().mean()
        assert row["accuracy"] == pytest.approx(correct.item())
    mean = np.mean([row["accuracy"] for row in result.nodes])
    assert result.metrics[-1]["accuracy"] == pytest.approx(mean)


def test_each_nodes_model_is_measured_on_its_own_rows():
    result = tacit.run(experiment(algorithm=tacit.Alone()))
    for node, (row, model) in enumerate(zip(result.nodes, result.models, strict=True)):
        x, y = result.experiment.data.test.node(node)
        if len(y):
            correct = (model(x).argmax(1) == y).double().mean()
            assert row["accuracy"] == pytest.approx(correct.item())


def test_an_empty_poisson_cohort_changes_nothing():
    base = experiment(topology=tacit.Star(cohort=1, sampling="poisson"), rounds=12)
    result = tacit.run(base)
    empty = [row for row in result.metrics if row["cohort"] == 0]
    assert empty  # P[none in 12 rounds] = (1 - 0.8^5)^12 < 1 %; the seed is fixed
    assert all(math.isnan(row["train_loss"]) and row["bytes"] == 0 for row in empty)
    assert vector(result).isfinite().all()


def test_hierarchical_mean_is_the_mean():
    base = experiment(topology=tacit.Hierarchical(groups=2))
    result = tacit.run(base)
    torch.testing.assert_close(vector(result), vector(tacit.run(experiment())))
    # 5 nodes to 2 aggregators and 2 aggregators to the top, both ways.
    assert result.metrics[0]["bytes"] == 2 * 7 * 4 * 58


@pytest.mark.parametrize("engine", ["batched", "sequential"])
def test_a_rule_that_stacks_sees_every_update(engine):
    base = experiment(aggregation=tacit.Median(), rounds=1, data=federation((9, 8, 7)))
    each = tacit.run(base.replace(algorithm=tacit.Alone()), engine=engine).vectors
    result = tacit.run(base, engine=engine)
    torch.testing.assert_close(vector(result), each.median(0).values)
    gossip = tacit.run(base.replace(algorithm=tacit.Gossip()), engine=engine)
    # On a ring of three every node keeps a third and receives the other two, whose median is their
    # mean.
    torch.testing.assert_close(gossip.vectors[0], each.mean(0))


def test_divergence_names_node_and_round_and_keeps_the_checkpoint(tmp_path):
    data = federation((20, 20))
    data.train.x[25] = 1e25  # a row of node b that no learning rate survives
    base = experiment(data=data, rounds=30, training=tacit.SGD(lr=0.1, batch_size=1))
    with pytest.raises(
        tacit.DivergenceError, match="the loss of node 'b' is not finite in round"
    ) as error:
        tacit.run(base, folder=tmp_path)
    assert error.value.node == "b"
    if error.value.round > 1:
        found = Checkpoint.read(tmp_path, base.digest())
        assert found.round == error.value.round - 1
        assert all(tensor.isfinite().all() for tensor in found.state.values())


@pytest.mark.parametrize("engine", ["batched", "sequential"])
def test_weights_that_overflow_in_the_last_step_never_reach_a_checkpoint(tmp_path, engine):
    data = federation()
    data.train.x.mul_(1e4)  # gradients above 1e2 times 3e38: infinite weights, after a finite loss
    base = experiment(data=data, training=tacit.SGD(lr=3e38, batch_size=None))
    with pytest.raises(tacit.DivergenceError, match="node 'a' is not finite in round 1"):
        tacit.run(base, engine=engine, folder=tmp_path)
    assert not list(tmp_path.iterdir())


class Stop(Exception):
    pass


def stop_after(round):
    def on_round(row):
        if row["round"] == round:
            raise Stop

    return on_round


@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Gossip(), tacit.Pooled()])
@pytest.mark.parametrize("engine", ["auto", "sequential"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, algorithm, engine):
    base = experiment(algorithm=algorithm)
    whole = tacit.run(base, engine=engine)
    with pytest.raises(Stop):
        tacit.run(base, engine=engine, folder=tmp_path, on_round=stop_after(2))
    rounds = []
    resumed = tacit.run(
        base, folder=tmp_path, resume=True, on_round=lambda r: rounds.append(r["round"])
    )
    assert rounds == [3, 4]
    assert torch.equal(vector(whole), vector(resumed))
    keep = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.metrics]
    again = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.metrics]
    np.testing.assert_equal(again, keep)
    np.testing.assert_equal(resumed.nodes, whole.nodes)
    finished = tacit.run(base, folder=tmp_path, resume=True)
    assert torch.equal(vector(finished), vector(whole))


SCRIPT = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    import tacit
    from small import experiment

    def on_round(row):
        if row["round"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    tacit.run(experiment(), engine={engine!r}, folder={folder!r}, on_round=on_round)
"""


@pytest.mark.parametrize("engine", ["batched", "sequential"])
def test_kill_9_loses_at_most_the_round_under_way(tmp_path, engine):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), engine=engine)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    resumed = tacit.run(experiment(), folder=tmp_path, resume=True)
    assert torch.equal(vector(resumed), vector(tacit.run(experiment(), engine=engine)))


def test_another_experiments_checkpoint_is_refused(tmp_path):
    tacit.run(experiment(rounds=1), folder=tmp_path)
    with pytest.raises(tacit.CheckpointError, match="another experiment's run"):
        tacit.run(experiment(rounds=1, seed=1), folder=tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["json", "tensors", "gone"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    tacit.run(experiment(rounds=1), folder=tmp_path)
    record, tensors = tmp_path / "checkpoint.json", next(tmp_path.glob("*.safetensors"))
    if damage == "json":
        record.write_text(record.read_text()[:20])
    elif damage == "tensors":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    else:
        tensors.unlink()
    with pytest.raises(tacit.CheckpointError, match=r"damaged|are gone"):
        tacit.run(experiment(rounds=1), folder=tmp_path, resume=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """The operating system refuses to write more than some bytes to a file, as a full disk does."""
    base = experiment()
    with pytest.raises(Stop):
        tacit.run(base, folder=tmp_path, on_round=stop_after(2))
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(tacit.CheckpointError, match=r"cannot be written .* last good"):
            tacit.run(base, folder=tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == before


def test_checkpoints_are_json_and_safetensors_and_only_the_last_is_kept(tmp_path):
    tacit.run(experiment(), folder=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"checkpoint-{experiment().digest()[:8]}-000004.safetensors",
        "checkpoint.json",
    ]
    record = json.loads((tmp_path / "checkpoint.json").read_text())
    assert (record["round"], record["experiment"]) == (4, experiment().digest())


def test_a_killed_worker_is_replaced_and_its_work_done_again():
    from tacit.engine.run import Session

    base = experiment(data=federation((30, 30, 30)), rounds=3)
    with Session(base, "sequential", workers=2) as session:
        rounds = session.rounds()
        next(rounds)
        os.kill(session.workers.processes[0].pid, signal.SIGKILL)
        list(rounds)
        result = session.result()
    torch.testing.assert_close(vector(result), vector(tacit.run(base, engine="batched")))


def test_workers_end_with_the_run():
    from tacit.engine.run import Session

    with Session(experiment(), "sequential", workers=2) as session:
        next(session.rounds())
        processes = session.workers.processes
        assert all(process.is_alive() for process in processes)
    assert not any(process.is_alive() for process in processes)


def test_an_error_inside_a_worker_is_reported():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            if self.training and x.shape[0] == 8:
                raise RuntimeError("no such luck")
            return self.linear(x)

    with pytest.raises(tacit.TacitError, match="no such luck"):
        tacit.run(experiment(model=Fails), engine="sequential", workers=2)
