import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from small import experiment, federation
from tacit.aggregation import Aggregated, Aggregation, Round
from tacit.data.federation import Federation, Split
from tacit.engine.checkpoint import Checkpoint
from tacit.engine.exchange import StarExchange
from tacit.engine.local import LocalTrain
from tacit.engine.run import Session
from tacit.layout import Layout, template
from test_run import Stop, stop_after, vector


# run
def test_a_resumed_run_keeps_the_engine_unless_told_otherwise(tmp_path):
    with pytest.raises(Stop):
        tacit.run(experiment(), engine="sequential", folder=tmp_path, on_round=stop_after(2))
    assert tacit.run(experiment(), folder=tmp_path, resume=True).engine.startswith("sequential")
    again = tacit.run(experiment(), folder=tmp_path, resume=True, engine="batched")
    assert again.engine.startswith("batched")


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with Session(experiment(), "batched", workers=1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_graph_that_changes_is_drawn_anew_each_round():
    base = experiment(algorithm=tacit.Gossip(), topology=tacit.Pairwise(), rounds=6)
    with Session(base, "batched", 1) as session:
        graphs = set()
        for round in range(6):
            exchange = session._exchange(
                np.arange(5), LocalTrain(session.trainer, np.arange(5), round)
            )
            graphs.add(str(exchange.neighbours.senders.tolist()))
    assert len(graphs) > 1


def test_the_consensus_distance_is_the_root_mean_square_over_nodes():
    result = tacit.run(experiment(algorithm=tacit.Gossip(), rounds=2))
    apart = (result.vectors - result.vectors.mean(0)).square().sum(1).mean().sqrt()
    assert result.metrics[-1]["consensus_distance"] == pytest.approx(float(apart), rel=1e-4)


def test_the_training_loss_of_a_round_is_weighted_by_rows():
    # One step on all rows: the loss of a round is that of the start on each node's rows.
    base = experiment(rounds=1, training=tacit.SGD(lr=0.1, batch_size=None))
    data, module = base.data.train, base.template
    with torch.no_grad():
        expected = nn.functional.cross_entropy(module(data.x), data.y)
    for engine, workers in [("batched", 1), ("sequential", 1), ("sequential", 3)]:
        result = tacit.run(base, engine=engine, workers=workers)
        assert result.metrics[0]["train_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_workers_report_the_loss_of_each_node():
    base = experiment(data=federation((40, 5, 12, 30, 3)))
    with Session(base, "sequential", 1) as alone, Session(base, "sequential", 3) as pool:
        losses = []
        for session in (alone, pool):
            from tacit.engine.local import LocalTrain

            train = LocalTrain(session.trainer, np.arange(5), 0)
            train(base.start()).matrix()
            losses.append(train.losses)
    torch.testing.assert_close(*losses)


def test_results_of_workers_are_the_callers_to_keep():
    from tacit.engine.local import LocalTrain

    base = experiment(data=federation((20, 9)))
    with Session(base, "sequential", 2) as session:
        ends = [
            LocalTrain(session.trainer, np.arange(2), round)(start).matrix()
            for round, start in ((0, base.start()), (1, base.start() + 1))
        ]
        assert not torch.allclose(*ends)
        first = LocalTrain(session.trainer, np.arange(2), 0)(base.start()).matrix()
        assert torch.equal(first, ends[0])


def test_models_in_use_are_not_overwritten_by_another_start():
    from tacit.engine.local import LocalTrain

    base = experiment(data=federation((20, 9)))
    with Session(base, "sequential", 2) as session:
        start = base.start().repeat(2, 1)
        first = LocalTrain(session.trainer, np.arange(2), 0)(start, overwrite=True).matrix()
        kept = first.clone()
        other = start + 1
        LocalTrain(session.trainer, np.arange(2), 1)(other, overwrite=True).matrix()
        assert torch.equal(first, kept)


def test_masks_of_dropout_are_new_in_each_round():
    from tacit.engine.local import LocalTrain

    with Session(experiment(), "batched", 1) as session:
        start = session.experiment.start()
        streams = {
            LocalTrain(session.trainer, np.arange(5), round)(start).job.stream for round in range(4)
        }
    assert len(streams) == 4


class Middle(Aggregation):
    """A rule that needs every vector at once, and its weights."""

    def aggregate(self, own, received, weight, round):
        assert weight.sum().item() == pytest.approx(1)
        return Aggregated((weight.unsqueeze(-1) * received).sum(-2), torch.ones_like(weight))


def test_groups_weigh_what_their_rows_weigh():
    base = experiment(topology=tacit.Hierarchical(groups=2), rounds=2)
    ruled = tacit.run(base.replace(aggregation=Middle()))
    torch.testing.assert_close(vector(ruled), vector(tacit.run(base)), atol=1e-6, rtol=1e-5)


def test_weights_that_sum_to_less_than_one_leave_the_rest_to_the_own_vector():
    # 0.5 * own + 0.2 * 1 + 0.3 * 3, in both ways a server can receive updates.
    class Given:
        def sum(self, weight):
            return weight @ self.matrix()

        def matrix(self):
            return torch.tensor([[1.0], [3.0]])

    for received in (Given(), Given().matrix()):
        exchange = StarExchange(tacit.Star(), tacit.Mean(), np.arange(2), Round(), 2)
        result = exchange(torch.tensor([10.0]), received, torch.tensor([0.2, 0.3]))
        assert result.item() == pytest.approx(6.1)


class Dies(nn.Module):
    """Ends every process but the one that imported this file."""

    parent = os.getpid()

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        if os.getpid() != self.parent:
            os._exit(1)
        return self.linear(x)


def test_a_worker_that_dies_over_and_over_ends_the_run(monkeypatch):
    from tacit.engine.workers import Workers

    fork, forks = Workers._fork, []

    def counted(self, index):
        forks.append(index)
        assert len(forks) <= 6, "a dead worker is replaced without end"
        fork(self, index)

    monkeypatch.setattr(Workers, "_fork", counted)
    with pytest.raises(tacit.TacitError, match="died 3 times"):
        tacit.run(experiment(model=Dies), engine="sequential", workers=2)


@pytest.mark.parametrize("failing", ["checkpoint-x-000002.safetensors", "checkpoint.json"])
def test_a_crash_between_the_files_of_a_checkpoint_leaves_the_last_one(
    tmp_path, monkeypatch, failing
):
    state = {"model": torch.ones(3)}
    Checkpoint("x", 1, "batched", [{}], state).write(tmp_path)
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())
    replace = Path.replace

    def crash(self, target):
        if Path(target).name == failing:
            raise OSError("no space left")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(tacit.CheckpointError, match="last good checkpoint is kept"):
        Checkpoint("x", 2, "batched", [{}, {}], {"model": torch.zeros(3)}).write(tmp_path)
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == before


def test_checkpoint_files_are_on_disk_before_they_take_their_names_tensors_first(
    tmp_path, monkeypatch
):
    events, fsync, replace = [], os.fsync, Path.replace

    def synced(descriptor):
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def renamed(self, target):
        events.append(("rename", Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    Checkpoint("x", 1, "batched", [{}], {"model": torch.ones(3)}).write(tmp_path)
    assert events == [
        ("sync", "checkpoint-x-000001.safetensors.part"),
        ("rename", "checkpoint-x-000001.safetensors"),
        ("sync", tmp_path.name),
        ("sync", "checkpoint.json.part"),
        ("rename", "checkpoint.json"),
        ("sync", tmp_path.name),
    ]


# evaluation
@pytest.mark.parametrize("algorithm", [tacit.FedAvg(), tacit.Alone()])
def test_more_test_rows_than_one_pass_takes(algorithm, monkeypatch):
    base = experiment(algorithm=algorithm, rounds=1)
    whole = tacit.run(base)
    monkeypatch.setattr("tacit.training.evaluation._BLOCK", 8)
    parts = tacit.run(base)
    for one, other in zip(whole.nodes, parts.nodes, strict=True):
        names = one.keys() - {"node"}
        assert [one[m] for m in names] == pytest.approx([other[m] for m in names], nan_ok=True)
    assert parts.metrics[-1]["loss"] == pytest.approx(whole.metrics[-1]["loss"], rel=1e-5)


# experiment
def test_the_digest_knows_rows_of_both_splits_and_who_owns_them_and_the_first_model():
    base = experiment()
    data = base.data

    def with_data(train=data.train, test=data.test):
        return base.replace(data=Federation(train, test, data.names, data.task, data.classes))

    def moved(split):
        offsets = split.offsets.copy()
        offsets[1] -= 1
        return Split(split.x, split.y, offsets)

    module = nn.Linear(4, 2)
    other = nn.Linear(4, 2)
    experiments = [
        base,
        with_data(train=moved(data.train)),
        with_data(test=moved(data.test)),
        with_data(test=Split(data.test.x + 1, data.test.y, data.test.offsets)),
        base.replace(model=module),
        base.replace(model=other),
        base.replace(loss=functools.partial(nn.functional.cross_entropy, label_smoothing=0.1)),
        base.replace(loss=functools.partial(nn.functional.cross_entropy, label_smoothing=0.2)),
    ]
    assert len({e.digest() for e in experiments}) == len(experiments)


def test_one_output_too_few_is_refused():
    data = federation()
    three = Federation(data.train, data.test, data.names, data.task, 3)
    with pytest.raises(tacit.InputError, match="but there are 3 classes"):
        experiment(data=three).check()


def test_a_given_contract_is_the_one_that_is_checked():
    contract = tacit.data.Contract("classification", 2, (4,), (), min_rows=2)
    with pytest.raises(tacit.ContractError, match="node 'c'"):
        experiment(contract=contract).check()


# layout
def test_a_name_is_not_the_start_of_another():
    layout = Layout.of(nn.ModuleDict({"head": nn.Linear(2, 1), "header": nn.Linear(2, 2)}))
    assert layout.mask("head").nonzero().flatten().tolist() == [0, 1, 2]


def test_a_module_that_is_given_is_copied():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert template(module, 0) is not module
    assert module[1].num_batches_tracked.dtype == torch.int64


def test_buffers_that_are_not_saved_stay_in_the_module():
    module = nn.Linear(2, 1)
    module.register_buffer("kept", torch.zeros(3))
    module.register_buffer("derived", torch.zeros(4), persistent=False)
    assert [e.name for e in Layout.of(module).entries] == ["weight", "bias", "kept"]


# randomness
def test_purposes_have_streams_of_their_own():
    from tacit.randomness import key

    assert key(0, "a", 1) != key(0, "b", 1)


def test_a_schedule_that_cannot_be_pickled_reaches_workers_as_its_value():
    training = tacit.SGD(lr=0.1, schedule=lambda round, rounds: 1 / (1 + round))
    base = experiment(training=training, rounds=2)
    alone, shared = (tacit.run(base, workers=workers) for workers in (1, 2))
    torch.testing.assert_close(vector(alone), vector(shared), atol=1e-6, rtol=1e-5)


def test_a_worker_that_dies_over_models_trained_in_place_ends_the_run():
    base = experiment(model=Dies, algorithm=tacit.Alone())
    with pytest.raises(tacit.TacitError, match="resume from the last checkpoint"):
        tacit.run(base, engine="sequential", workers=2)


def test_resume_needs_a_folder():
    with pytest.raises(tacit.InputError, match="resume: True was given without a folder"):
        tacit.run(experiment(), resume=True)
