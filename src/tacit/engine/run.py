"""Carries an experiment out in this process: rounds, measured, checkpointed, resumable."""

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tacit.algorithms.base import Metrics, State
from tacit.engine.checkpoint import Checkpoint
from tacit.engine.exchange import GraphExchange, StarExchange
from tacit.engine.local import LocalTrain, Trainer
from tacit.engine.workers import Workers
from tacit.errors import InputError
from tacit.experiment import Experiment
from tacit.topology import Graph, Hierarchical, Neighbours, Star
from tacit.training.evaluation import Evaluator, Scores
from tacit.training.lowering import Choice, Engine, choose, least_batch
from tacit.training.metrics import summary
from tacit.training.plan import Ints

Row = dict[str, Any]

# The eigenvalues of a mixing matrix of this size take a fraction of a second.
_MOST_NODES_FOR_A_GAP = 1024
# Operations a round from which worker processes pay; some milliseconds on one core.
_WORTH_A_PROCESS = 10**8


class MetricRows(list[Row]):
    """One flat dict per round."""

    def to_pandas(self) -> Any:
        """The rows as a ``pandas.DataFrame``; needs pandas."""
        import pandas

        return pandas.DataFrame(self)


@dataclass(frozen=True, eq=False)
class Result:
    """What a run learned.

    Attributes:
        experiment: what was run.
        metrics: one row per round.
        nodes: one row per node: its name, rows, and the last measured scores; where nodes have
            models of their own, the shared model's beside them under "shared_" names.
        baseline: what a model that knows only the training targets reaches, pooled.
        model: the shared model, or the mean of the nodes' models.
        vectors: (n, d) each node's own model, or None where all use the shared one.
        engine: "batched" or "sequential", and why.
        seconds: spent in rounds, evaluation included.
    """

    experiment: Experiment
    metrics: MetricRows
    nodes: list[Row]
    baseline: dict[str, float]
    model: nn.Module
    vectors: Tensor | None
    engine: str
    seconds: float

    @property
    def models(self) -> list[nn.Module]:
        """One module per node; the same one where all use the shared model."""
        names = self.experiment.data.names
        if self.vectors is None:
            return [self.model] * len(names)
        layout, template = self.experiment.layout, self.experiment.template
        return [layout.module(template, vector).eval() for vector in self.vectors]


def run(
    experiment: Experiment,
    *,
    engine: Engine = "auto",
    folder: str | Path | None = None,
    resume: bool = False,
    on_round: Callable[[Row], None] | None = None,
    workers: int | None = None,
) -> Result:
    """Carry an experiment out.

    Args:
        experiment: what to run; it is checked first.
        engine: "batched" trains many nodes in one call, "sequential" one after another; "auto"
            takes the faster one that gives the same result.
        folder: where to keep a checkpoint after each round; None keeps none.
        resume: go on from the checkpoint in ``folder``, if there is one, to the same final bits.
        on_round: called with each round's metrics.
        workers: processes that train; by default one per core where a round is worth it.

    Raises:
        InputError: a plan that cannot work.
        DivergenceError: a node's loss is no longer finite; the last checkpoint is kept.
        CheckpointError: a checkpoint cannot be written, read, or is another experiment's.
    """
    if engine not in ("auto", "batched", "sequential"):
        raise InputError(f"engine: {engine!r} was given; allowed is auto, batched or sequential")
    if resume and folder is None:
        raise InputError("resume: True was given without a folder; give the folder of the run")
    experiment.check()
    path = Path(folder) if folder is not None else None
    found = Checkpoint.read(path, experiment.digest()) if path and resume else None
    if found and engine == "auto":
        engine = found.engine  # type: ignore[assignment]
    with Session(experiment, engine, workers) as session:
        if found:
            session.state, session.metrics = found.state, MetricRows(found.metrics)
        digest = experiment.digest() if path else ""
        for row in session.rounds():
            if path:
                Checkpoint(
                    digest, len(session.metrics), session.choice.engine, session.metrics,
                    session.state,
                ).write(path)  # fmt: skip
            if on_round:
                on_round(row)
        return session.result()


class Session:
    """A run in progress: the state between rounds, and what carries a round out."""

    def __init__(self, experiment: Experiment, engine: Engine, workers: int | None) -> None:
        self.experiment = experiment
        data, layout = experiment.data, experiment.layout
        template = experiment.template
        self.training = experiment.algorithm.local(experiment.training)
        self.choice: Choice = choose(engine, template, layout, experiment.loss, data.train)
        self.small = self.choice.engine == "batched" and self._operations() < _WORTH_A_PROCESS
        if workers is None:
            workers = 1 if self.small else os.cpu_count() or 1
        # A daemon (a member of a multiprocessing.Pool) may have no processes of its own.
        able = hasattr(os, "memfd_create") and not multiprocessing.current_process().daemon
        workers = min(workers, data.nodes) if able else 1
        self.workers = Workers(self.choice.lowering, workers) if workers > 1 else None
        pools = experiment.algorithm.pools
        self.trainer = Trainer(
            data.train.pooled() if pools else data.train,
            ("all nodes pooled",) if pools else data.names,
            layout, self.training, self.choice.lowering, self.workers,
            seed=experiment.seed, rounds=experiment.rounds, least=least_batch(template),
        )  # fmt: skip
        self.evaluator = Evaluator(data, template, layout, experiment.loss, self.choice.lowering)
        self.state: State = experiment.algorithm.init(experiment.start(), data.nodes, layout)
        self.metrics = MetricRows()
        self.shared: Scores | None = None
        self.own: Scores | None = None
        self._graph: Neighbours | None = None
        self._spectral_gap: float | None = None

    def __enter__(self) -> "Session":
        self._threads_before = torch.get_num_threads()
        if self.small:  # handing out an operation of microseconds costs more than it saves
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads_before)
        if self.workers:
            self.workers.close()

    def _operations(self) -> float:
        """About how many a round's training takes, for a dense model."""
        data, training = self.experiment.data, self.training
        cohort = getattr(self.experiment.plan, "cohort", None) or data.nodes
        rows = float(data.train.sizes.mean())
        if training.steps is None:
            rows *= training.epochs or 1
        else:
            rows = training.steps * min(training.batch_size or rows, rows)
        return 6 * self.experiment.layout.trained * rows * cohort

    def rounds(self) -> Iterator[Row]:
        """Carry out the rounds that are left, and yield the metrics of each."""
        for round in range(len(self.metrics), self.experiment.rounds):
            began = time.perf_counter()
            row = self._round(round)
            row["seconds"] = time.perf_counter() - began
            self.metrics.append(row)
            yield row

    def result(self) -> Result:
        """What was learned, after the last round."""
        experiment = self.experiment
        if self.own is None and self.shared is None:
            self._evaluate(experiment.rounds - 1)
        vectors = self._models(experiment.rounds - 1)
        model = experiment.layout.module(
            experiment.template, experiment.algorithm.model(self.state)
        ).eval()
        return Result(
            experiment, self.metrics, self._node_rows(), self.evaluator.baseline.pooled, model,
            vectors, f"{self.choice.engine}: {self.choice.reason}",
            sum(row["seconds"] for row in self.metrics),
        )  # fmt: skip

    def _round(self, round: int) -> Row:
        algorithm, topology = self.experiment.algorithm, self.experiment.plan
        n = self.trainer.split.nodes
        if isinstance(topology, Star | Hierarchical):
            nodes = topology.sample(n, self.experiment.seed, round)
        else:
            nodes = np.arange(n)
        train = LocalTrain(self.trainer, nodes, round)
        exchange = self._exchange(nodes, round)
        self.state, reported = algorithm.round(self.state, train, exchange)
        row: Row = {"round": round + 1, "cohort": len(nodes), "train_loss": train.mean_loss()}
        row["bytes"] = exchange.bytes if exchange else 0
        row |= reported
        last = round + 1 == self.experiment.rounds
        if last or (round + 1) % self.experiment.evaluate_every == 0:
            row |= self._evaluate(round)
            if isinstance(exchange, GraphExchange):
                row |= self._agreement(exchange, round)
        return row

    def _exchange(self, nodes: Ints, round: int) -> StarExchange | GraphExchange | None:
        experiment, topology = self.experiment, self.experiment.plan
        n = experiment.data.nodes
        if isinstance(topology, Graph):
            if self._graph is None or not topology.static:
                self._graph = topology.graph(n, experiment.seed, round)
            return GraphExchange(self._graph, experiment.aggregation, round)
        if topology is None:
            return None
        return StarExchange(topology, experiment.aggregation, nodes, round, n)

    def _agreement(self, exchange: GraphExchange, round: int) -> Metrics:
        """How far apart the nodes' models are, and how fast the graph brings them together."""
        models = self._models(round)
        assert models is not None
        mean = models.mean(0)
        squares = sum(float((part - mean).square().sum()) for part in models.split(64))
        row = {"consensus_distance": math.sqrt(squares / len(models))}
        plan = self.experiment.plan
        if isinstance(plan, Graph) and plan.static and len(models) <= _MOST_NODES_FOR_A_GAP:
            if self._spectral_gap is None:
                self._spectral_gap = exchange.spectral_gap()
            row["spectral_gap"] = self._spectral_gap
        return row

    def _evaluate(self, round: int) -> Metrics:
        """Measure the state's models; returns pooled, worst-node and spread values."""
        algorithm = self.experiment.algorithm
        vectors = self._models(round)
        self.own = self.evaluator(vectors) if vectors is not None else None
        if vectors is None or algorithm.exchanges == "server":
            self.shared = self.evaluator(algorithm.model(self.state))
        row: Metrics = {}
        scores = self.own or self.shared
        assert scores is not None
        for name, values in scores.nodes.items():
            over_nodes = summary(name, values, scores.rows)
            row[name] = scores.pooled[name]
            row[f"worst_{name}"] = over_nodes.worst_value
            row[f"spread_{name}"] = over_nodes.deviation
        if self.own and self.shared:
            row |= {f"shared_{name}": value for name, value in self.shared.pooled.items()}
        return row

    def _models(self, round: int) -> Tensor | None:
        """(n, d) the nodes' own models, or None."""
        everyone = LocalTrain(self.trainer, np.arange(self.trainer.split.nodes), round)
        return self.experiment.algorithm.models(self.state, everyone)

    def _node_rows(self) -> list[Row]:
        data = self.experiment.data
        rows: list[Row] = []
        scores = self.own or self.shared
        assert scores is not None
        for node, name in enumerate(data.names):
            row: Row = {"node": name, "rows": int(data.train.sizes[node])}
            at = node if len(scores.rows) > 1 else 0
            row["test_rows"] = int(scores.rows[at])
            row |= {metric: float(values[at]) for metric, values in scores.nodes.items()}
            if self.own and self.shared:
                shared_at = node if len(self.shared.rows) > 1 else 0
                row |= {f"shared_{m}": float(v[shared_at]) for m, v in self.shared.nodes.items()}
            baseline = self.evaluator.baseline
            baseline_at = node if len(baseline.rows) > 1 else 0
            row |= {f"baseline_{m}": float(v[baseline_at]) for m, v in baseline.nodes.items()}
            rows.append(row)
        return rows
