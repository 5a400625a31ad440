"""Carries an experiment out in this process: rounds, measured, checkpointed, resumable."""

import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tacit.aggregation.rule import Round
from tacit.algorithms import ADPSGD
from tacit.algorithms.base import Metrics, State
from tacit.attacks.poison import poisoned, probes
from tacit.data.federation import Federation, Split
from tacit.engine.adversary import Adversary
from tacit.engine.checkpoint import KEPT, Checkpoint, kept_at
from tacit.engine.exchange import FLOAT_BYTES, GraphExchange, StarExchange, Verdict
from tacit.engine.local import LocalTrain, Trainer
from tacit.engine.pace import OwnPace
from tacit.engine.pairs import PairAveraging
from tacit.engine.protect import Protector, noise_seed, randomised
from tacit.engine.recording import excluded, listen, listen_late, recorder, turned_away
from tacit.engine.uplink import PublicCopies, Uplink
from tacit.engine.workers import Workers
from tacit.errors import InputError, require_whole
from tacit.experiment import Experiment
from tacit.protection.budget import PrivacyBudget
from tacit.randomness import generator
from tacit.topology import Graph, Neighbours
from tacit.training.evaluation import Evaluator, Scores
from tacit.training.lowering import Choice, Engine, choose, least_batch
from tacit.training.metrics import summary
from tacit.training.plan import Ints
from tacit.training.private import Private

Row = dict[str, Any]

# What a metric counts as where a model's outputs are no numbers; AUC and R2 stay undefined.
_DIVERGED = {"accuracy": 0.0, "f1": 0.0, "loss": math.inf, "mae": math.inf}
# Names in a checkpoint beside the algorithm's own.
MEMORY, VERDICTS = "aggregation.", "verdicts"

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
        metrics: one row per round. A model whose outputs have overflowed counts as wrong where they
            are no numbers; "diverged", present where it is not 0, says on how many nodes' test rows
            a loss is not finite.
        nodes: one row per node: its name, rows, and the last measured scores; where nodes have
            models of their own, the shared model's beside them under "shared_" names.
        baseline: what a model that knows only the training targets reaches, pooled.
        model: the shared model, or the mean of the nodes' models.
        vectors: (n, d) each node's own model, or None where all use the shared one.
        engine: "batched" or "sequential", and why.
        seconds: spent in rounds, evaluation included.
        malicious: (b,) ids of the malicious nodes.
        verdicts: (rounds, n) how far each sender was let through by honest receivers, on average,
            NaN where it did not send; None where the rule judges nobody.
    """

    experiment: Experiment
    metrics: MetricRows
    nodes: list[Row]
    baseline: dict[str, float]
    model: nn.Module
    vectors: Tensor | None
    engine: str
    seconds: float
    malicious: Ints
    verdicts: Tensor | None

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
    ledger: str | Path | None = None,
    record: str | Path | None = None,
    openings: str | Path | None = None,
    keep_every: int | None = None,
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
        ledger: file of the privacy ledger (``PrivacyBudget``) that pays for each round before it
            begins, on the account of the data set's name. A round that is carried out again draws
            the same noise, and is paid once.
        record: folder of the run's signed record (``tacit.ledger``), for ``tacit verify``.
        openings: file for what the server's sums of masked vectors are computed again from, by
            ``tacit verify --openings``; it opens nobody's update.
        keep_every: rounds from one checkpoint that stays to the next; None: only the last stays.
            A site's influence is removed from the last one before it took part.

    Raises:
        InputError: a plan that cannot work, or a ledger that does not allow the next round.
        DivergenceError: a node's loss is no longer finite; the last checkpoint is kept.
        CheckpointError: a checkpoint cannot be written, read, or is another experiment's.
    """
    if engine not in ("auto", "batched", "sequential"):
        raise InputError(f"engine: {engine!r} was given; allowed is auto, batched or sequential")
    if resume and folder is None:
        raise InputError("resume: True was given without a folder; give the folder of the run")
    require_whole(1, "keep_every", keep_every, none=True)
    experiment.check()
    require_rows(experiment)
    path = Path(folder) if folder is not None else None
    found = Checkpoint.read(path, experiment.digest()) if path and resume else None
    if path and not found:  # what stayed there is of a run that this one replaces
        shutil.rmtree(path / KEPT, ignore_errors=True)
    if found and engine == "auto":
        engine = found.engine  # type: ignore[assignment]
    if ledger is not None and not (experiment.guard and experiment.guard.plans):
        raise InputError(
            "ledger: it was given, but the experiment has no noise to account for; add"
            " GaussianNoise, DPSGD or RandomisedResponse to its protection"
        )
    with Session(experiment, engine, workers, ledger, record, openings) as session:
        if found:
            session.restore(found)
        digest = experiment.digest() if path else ""
        for row in session.rounds():
            if path:
                done = len(session.metrics)
                checkpoint = Checkpoint(
                    digest, done, session.choice.engine, session.metrics, session.tensors()
                )
                if keep_every and done % keep_every == 0:
                    checkpoint.write(kept_at(path, done))
                checkpoint.write(path)
            if on_round:
                on_round(row)
        return session.result()


def require_rows(experiment: Experiment) -> None:
    """Refuse an experiment whose rows are all at their sites.

    Raises:
        InputError: no site's rows are here.
    """
    if not len(experiment.data.train.y):
        raise InputError(
            "data: no site's rows are here; give every site's table, as in --data SITE=PATH or"
            " tacit.data.fill"
        )


class Session:
    """A run in progress: the state between rounds, and what carries a round out."""

    def __init__(
        self,
        experiment: Experiment,
        engine: Engine,
        workers: int | None,
        ledger: str | Path | None = None,
        record: str | Path | None = None,
        openings: str | Path | None = None,
    ) -> None:
        self.experiment = experiment
        if openings is not None and record is None:
            raise InputError("openings: a file was given without a record; give record as well")
        self.ledger = PrivacyBudget(Path(ledger)) if ledger is not None else None
        data, layout = experiment.data, experiment.layout
        template = experiment.template
        self.training = experiment.algorithm.local(experiment.training)
        self.malicious, self.honest = experiment.malicious, experiment.honest
        self.guard, private = experiment.guard, None
        self.digest = bytes.fromhex(experiment.digest()) if self.guard else b""
        if self.guard and self.guard.labels:
            seed = noise_seed(experiment.seed, self.digest)
            data = randomised(data, self.guard.labels, seed)
        measured = _honest(data, self.honest)
        data = poisoned(data, experiment.attacks, experiment.placed, experiment.seed)
        self.adversary = Adversary(experiment) if experiment.attacks else None
        self.memory: dict[str, Tensor] = {}
        self.verdicts: list[Tensor] = []
        if self.guard and self.guard.example:
            private = Private(self.guard.example.norm, self.guard.multiplier)
        self.choice: Choice = choose(engine, template, layout, experiment.loss, data.train, private)
        self.small = self.choice.engine == "batched" and self._operations() < _WORTH_A_PROCESS
        if workers is None:
            workers = 1 if self.small else os.cpu_count() or 1
        # A daemon (a member of a multiprocessing.Pool) may have no processes of its own.
        able = hasattr(os, "memfd_create") and not multiprocessing.current_process().daemon
        workers = min(workers, data.nodes) if able else 1
        # Of what may be refused the last, since it stays open, for this run alone.
        masked = Path(openings) if openings is not None else None
        self.recorder = recorder(experiment, Path(record), masked) if record is not None else None
        self.workers = Workers(self.choice.lowering, workers) if workers > 1 else None
        pools = experiment.algorithm.pools
        self.trainer = Trainer(
            data.train.pooled() if pools else data.train,
            ("all nodes pooled",) if pools else data.names,
            layout, self.training, self.choice.lowering, self.workers,
            seed=experiment.seed, rounds=experiment.rounds, least=least_batch(template),
            honest=self.honest if experiment.attacks and not pools else None, private=private,
            noise_seed=noise_seed(experiment.seed, self.digest),
        )  # fmt: skip
        self.evaluator = self._evaluator(measured)
        triggered = probes(measured, experiment.attacks)
        self.success = self._evaluator(replace(measured, test=triggered)) if triggered else None
        self.state: State = experiment.algorithm.init(experiment.start(), data.nodes, layout)
        self.metrics = MetricRows()
        self.shared: Scores | None = None
        self.own: Scores | None = None
        self._graph: Neighbours | None = None
        self._spectral_gap: float | None = None

    def _evaluator(self, data: Federation) -> Evaluator:
        e = self.experiment
        return Evaluator(data, e.template, e.layout, e.loss, self.choice.lowering)

    def __enter__(self) -> Self:
        self._threads_before = torch.get_num_threads()
        if self.small:  # handing out an operation of microseconds costs more than it saves
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads_before)
        if self.recorder:
            self.recorder.finish()
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

    def tensors(self) -> State:
        """Everything that the next round depends on: the algorithm's, the rule's, the verdicts."""
        kept = {MEMORY + name: tensor for name, tensor in self.memory.items()}
        if self.verdicts:
            kept[VERDICTS] = torch.stack(self.verdicts)
        return self.state | kept

    def restore(self, found: Checkpoint) -> None:
        """Go on from what ``tensors`` gave."""
        self.metrics = MetricRows(found.metrics)
        state = dict(found.state)
        if VERDICTS in state:
            self.verdicts = list(state.pop(VERDICTS))
        for name in [name for name in state if name.startswith(MEMORY)]:
            self.memory[name.removeprefix(MEMORY)] = state.pop(name)
        self.state = state

    def rounds(self) -> Iterator[Row]:
        """Carry out the rounds that are left, and yield the metrics of each."""
        for round in range(len(self.metrics), self.last):
            began = time.perf_counter()
            row = self._round(round)
            row["seconds"] = time.perf_counter() - began
            self.metrics.append(row)
            yield row

    def result(self) -> Result:
        """What was learned, after the last round."""
        experiment = self.experiment
        if self.own is None and self.shared is None:
            self._evaluate(self.last - 1)
        vectors = self._models(self.last - 1)
        model = experiment.layout.module(
            experiment.template, experiment.algorithm.model(self.state)
        ).eval()
        if self.verdicts:
            self.verdicts += self._unjudged(self.last)
        return Result(
            experiment, self.metrics, self._node_rows(), self.evaluator.baseline.pooled, model,
            vectors, f"{self.choice.engine}: {self.choice.reason}",
            sum(row["seconds"] for row in self.metrics), self.malicious,
            torch.stack(self.verdicts) if self.verdicts else None,
        )  # fmt: skip

    @property
    def last(self) -> int:
        """Rounds that are carried out: as many as a privacy budget allows."""
        return self.guard.rounds if self.guard else self.experiment.rounds

    def _round(self, round: int) -> Row:
        algorithm = self.experiment.algorithm
        if self.ledger and self.guard:  # paid first, so that a crash loses budget and no privacy
            digest, guard, name = self.digest.hex(), self.guard, self.experiment.data.name
            if times := (guard.turns(round + 1) - guard.turns(round)) * guard.releases:
                self.ledger.spend(
                    name, digest, round, guard.release, times, f"{digest}:{round}", guard.unit
                )
        nodes = self.experiment.cohort(round)
        train: LocalTrain | OwnPace = LocalTrain(self.trainer, nodes, round)
        arrivals = self.experiment.arrivals[round] if self.experiment.arrivals else None
        late = arrivals if algorithm.exchanges == "server" else None
        if late:
            train = OwnPace(self.trainer, late, round)
        exchange = self._exchange(nodes, train)
        if self.recorder:
            self.recorder.open(round, self._model())
            if late:
                assert isinstance(exchange, StarExchange)
                begun = listen_late(self.recorder, exchange, round, late)
            else:
                listen(self.recorder, exchange)
        self.state, reported = algorithm.round(self.state, train, exchange)
        row: Row = {"round": round + 1, "cohort": len(nodes), "train_loss": train.mean_loss()}
        row["bytes"] = exchange.bytes if exchange else 0
        row |= reported
        if late:
            row["dropped"] = len(late.dropped)
            row["bytes"] += FLOAT_BYTES * self.experiment.layout.size * late.unused
        if exchange and exchange.verdict is not None:
            row |= self._judge(exchange.verdict, round)
            if self.guard and self.guard.proof:
                row["refused"] = int((exchange.verdict.accepted == 0).sum())
        if self.guard and (self.guard.budget or self.guard.labels):
            row["epsilon"] = self.guard.epsilon(round + 1)
        last = round + 1 == self.last
        if last or (round + 1) % self.experiment.evaluate_every == 0:
            row |= self._evaluate(round)
            if isinstance(exchange, GraphExchange | PairAveraging):
                row |= self._agreement(exchange, round)
        if self.recorder:
            if late:
                assert isinstance(exchange, StarExchange)
                out = {begun[i]: why for i, why in turned_away(exchange).items()}
                self.recorder.close(round, {}, self._model(), out)
            else:
                self.recorder.close(round, excluded(exchange), self._model())
            if "accuracy" in row:
                self.recorder.evaluated(row, "accuracy")
        return row

    def _model(self) -> bytes:
        """The shared model, or the mean of the nodes' models, as bytes."""
        return self.experiment.algorithm.model(self.state).numpy().tobytes()

    def _exchange(
        self, nodes: Ints, train: LocalTrain | OwnPace
    ) -> StarExchange | GraphExchange | PairAveraging | None:
        experiment, topology = self.experiment, self.experiment.plan
        rule, n = experiment.aggregation, experiment.data.nodes
        if topology is None:
            return None
        if isinstance(experiment.algorithm, ADPSGD):
            assert isinstance(topology, Graph)
            links = topology.graph(n, experiment.seed, train.round)
            return PairAveraging(links, experiment.seed, train.round)
        graph = isinstance(topology, Graph)
        round = Round(
            train.round, experiment.rounds, experiment.seed,
            loss=self._loss(train.round) if "loss" in rule.uses else None,
            root=self._root(train.round) if "root" in rule.uses and not graph else None,
            memory=self.memory,
        )  # fmt: skip
        protector, compressor = self.protector(round), experiment.compression
        exchange: StarExchange | GraphExchange
        if isinstance(topology, Graph):
            if self._graph is None or not topology.static:
                self._graph = topology.graph(n, experiment.seed, train.round)
            copies = PublicCopies(compressor, experiment.layout, round) if compressor else None
            exchange = GraphExchange(self._graph, rule, round, self.adversary, protector, copies)
        else:
            uplink = Uplink(compressor, experiment.layout, round, n) if compressor else None
            exchange = StarExchange(
                topology, rule, nodes, round, n, self.adversary, protector, uplink
            )
        lies = self.adversary is not None and self.adversary.lies
        looks = "start" in rule.uses or lies or protector is not None or compressor is not None
        if looks and isinstance(exchange, GraphExchange) and isinstance(train, LocalTrain):
            train.keeps_start = True
            exchange.train = train
        return exchange

    def protector(self, round: Round) -> Protector | None:
        """What carries the protections of updates out in a round; None where there are none."""
        if self.guard is None or not self.guard.guards_updates:
            return None
        return Protector(self.guard, round, self.digest, self.malicious)

    def _loss(self, round: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Losses of models on a batch of each receiver's rows, drawn afresh in every round."""
        split, size = self.trainer.split, self.training.batch_size
        layout, lowering = self.experiment.layout, self.choice.lowering

        def batch(node: int) -> tuple[Tensor, Tensor]:
            x, y = split.node(node)
            draw = generator(self.experiment.seed, "aggregation-batch", round, node)
            rows = torch.from_numpy(draw.permutation(len(y))[:size])
            return x[rows], y[rows]

        def measure(receivers: Tensor, models: Tensor) -> Tensor:
            nodes = receivers.reshape(-1).tolist()
            flat = models.reshape(len(nodes), -1, layout.size)
            losses = torch.zeros(flat.shape[:2])
            for i, node in enumerate(nodes):
                x, y = batch(node)
                if len(y):
                    outputs = lowering.predict(flat[i], x.expand(flat.shape[1], *x.shape))
                    losses[i] = torch.stack([self.experiment.loss(o, y) for o in outputs])
            return losses.view(models.shape[:-1])

        return measure

    def _root(self, round: int) -> Callable[[Tensor], Tensor]:
        """Training on the server's clean root rows, as a node trains on its own."""
        rows, trainer = self.experiment.root, self.trainer
        assert rows is not None  # by Experiment.check
        root = Trainer(
            Split.pack([rows]), ("the server's root rows",), trainer.layout,
            self.training, trainer.lowering, None, seed=trainer.seed,
            rounds=trainer.rounds, least=trainer.least,
        )  # fmt: skip
        return lambda model: LocalTrain(root, np.array([0]), round)(model).matrix()[0]

    def _judge(self, verdict: Verdict, round: int) -> Metrics:
        """How well the rule told liars from honest nodes, over the links to honest receivers.

        Turned away is what counts less than half as much as its receiver's inputs on average.
        """
        n = self.trainer.split.nodes
        kept = torch.from_numpy(~np.isin(verdict.receivers, self.malicious))
        accepted, senders = verdict.accepted[kept], torch.from_numpy(verdict.senders)[kept]
        total = torch.zeros(n).index_add_(0, senders, accepted.float())
        count = torch.zeros(n).index_add_(0, senders, torch.ones(len(senders)))
        self.verdicts += [*self._unjudged(round), total / count]
        if self.adversary is None:
            return {}
        # A rule may let a part of every vector through, as the median does of its coordinates.
        receivers = torch.from_numpy(verdict.receivers[kept.numpy()]) + 1
        share = torch.zeros(n + 1).index_add_(0, receivers, accepted.float())
        share /= torch.zeros(n + 1).index_add_(0, receivers, torch.ones(len(receivers)))
        away = (accepted < 0.5 * share[receivers]) | (accepted == 0)
        liar = torch.from_numpy(np.isin(senders.numpy(), self.malicious))
        row: Metrics = {}
        if liar.any():
            row["verdict_recall"] = float(away[liar].float().mean())
        if away.any():
            row["verdict_precision"] = float(liar[away].float().mean())
        return row

    def _unjudged(self, round: int) -> Tensor:
        """The rows of the rounds up to this one in which nobody sent anything to be judged."""
        return torch.full((round - len(self.verdicts), self.trainer.split.nodes), torch.nan)

    def _agreement(self, exchange: GraphExchange | PairAveraging, round: int) -> Metrics:
        """How far apart the nodes' models are, and how fast the graph brings them together."""
        models = self._models(round)
        assert models is not None
        models = models[torch.from_numpy(self.honest)]
        mean = models.mean(0)
        squares = sum(float((part - mean).square().sum()) for part in models.split(64))
        row = {"consensus_distance": math.sqrt(squares / len(models))}
        plan = self.experiment.plan
        if isinstance(exchange, PairAveraging):
            return row
        if isinstance(plan, Graph) and plan.static and len(models) <= _MOST_NODES_FOR_A_GAP:
            if self._spectral_gap is None:
                self._spectral_gap = exchange.spectral_gap()
            row["spectral_gap"] = self._spectral_gap
        return row

    def _evaluate(self, round: int) -> Metrics:
        """Measure the state's models; returns pooled, worst-node and spread values."""
        algorithm = self.experiment.algorithm
        vectors = self._models(round)
        self.own = self._measure(self.evaluator, vectors) if vectors is not None else None
        if vectors is None or algorithm.exchanges == "server":
            self.shared = self._measure(self.evaluator, algorithm.model(self.state))
        row: Metrics = {}
        scores = self.own or self.shared
        assert scores is not None
        if diverged := int((~np.isfinite(scores.nodes["loss"]) & (scores.rows > 0)).sum()):
            row["diverged"] = diverged
        for name, values in scores.nodes.items():
            over_nodes = summary(name, values, scores.rows)
            row[name] = scores.pooled[name]
            row[f"worst_{name}"] = over_nodes.worst_value
            row[f"spread_{name}"] = over_nodes.deviation
        if self.success:
            models = algorithm.model(self.state) if vectors is None else vectors
            row["attack_success"] = self._measure(self.success, models).pooled["accuracy"]
        if self.own and self.shared:
            row |= {f"shared_{name}": value for name, value in self.shared.pooled.items()}
        return row

    def _measure(self, evaluator: Evaluator, models: Tensor) -> Scores:
        """Scores of (d,) or (n, d) models; of honest nodes alone, where test rows are shared."""
        shared = models.dim() == 2 and evaluator.test.nodes < len(models)
        if not shared or not len(self.malicious):
            return _counted(evaluator(models))
        found = _counted(evaluator(models[torch.from_numpy(self.honest)]))
        rows = np.zeros(len(models), np.int64)
        rows[self.honest] = found.rows
        nodes = {name: np.full(len(models), np.nan) for name in found.nodes}
        for name, values in found.nodes.items():
            nodes[name][self.honest] = values
        return Scores(rows, nodes, found.pooled)

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
            if self.adversary:
                row["malicious"] = node in self.malicious
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


def _counted(scores: Scores) -> Scores:
    """The scores, those of overflowed models counted as wrong."""
    nodes, pooled = dict(scores.nodes), dict(scores.pooled)
    for name in _DIVERGED.keys() & nodes.keys():
        lost = np.isnan(nodes[name]) & (scores.rows > 0)
        nodes[name] = np.where(lost, _DIVERGED[name], nodes[name])
        if lost.any() and name != "f1":  # which is no mean over rows, and stays undefined
            pooled[name] = summary(name, nodes[name], scores.rows).mean
    return Scores(scores.rows, nodes, pooled)


def _honest(data: Federation, honest: Ints) -> Federation:
    """The federation with the test rows of honest nodes alone."""
    if len(honest) == data.nodes or data.shared_test:
        return data
    mine = set(honest.tolist())
    parts = [
        (x, y) if node in mine else (x[:0], y[:0]) for node, (x, y) in enumerate(data.test.parts())
    ]
    return replace(data, test=Split.pack(parts))
