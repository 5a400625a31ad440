"""What each node contributed to a run in this process, and what it gained by it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.aggregation import Mean
from tacit.algorithms import Alone
from tacit.engine.exchange import StarExchange
from tacit.engine.local import LocalTrain
from tacit.engine.pace import OwnPace
from tacit.engine.perceptron import hits, linear_layers
from tacit.engine.run import Result, Row, Session, require_rows, run
from tacit.engine.valuation import groups, require_scorable, usual
from tacit.errors import require, require_whole
from tacit.experiment import Experiment
from tacit.ledger.contribution import (
    MILLION,
    Coalition,
    Contribution,
    Floats,
    Round,
    millionths,
)
from tacit.ledger.scores import Game, seed
from tacit.ledger.settlement import payouts
from tacit.training.plan import Ints

# Rows times models of one forward pass.
_BLOCK = 2**13
# What a model that has overflowed is worth, where the utility is minus a loss.
_WORST = -1e9


@dataclass(frozen=True, eq=False)
class Scored:
    """A run, and what each node contributed to it.

    Attributes:
        result: of the run.
        alone: of every node by itself.
        method: that scored.
        scores: (n,) summed over the rounds; where groups alone are seen, that of the node's group.
        groups: (n,) each node's group, or None where nodes are scored one by one.
    """

    result: Result
    alone: Result
    method: Contribution
    scores: Floats
    groups: Ints | None

    @property
    def metric(self) -> str:
        """By which gains are told."""
        return "accuracy" if "accuracy" in self.result.nodes[0] else "loss"

    def rows(self) -> list[Row]:
        """One per node: score, share in percent of what was scored above zero, gain over alone."""
        of = range(len(self.scores)) if self.groups is None else self.groups.tolist()
        percent = payouts(dict(zip(of, millionths(self.scores), strict=True)), 100)
        better = -1 if self.metric == "loss" else 1
        found = []
        for i, (together, alone) in enumerate(
            zip(self.result.nodes, self.alone.nodes, strict=True)
        ):
            row: Row = {"node": together["node"], "rows": together["rows"]}
            if self.groups is not None:
                row["group"] = int(self.groups[i])
            row |= {"score": float(self.scores[i]), "percent": percent[of[i]]}
            row |= {"alone": alone[self.metric], "together": together[self.metric]}
            row["gain"] = better * (together[self.metric] - alone[self.metric])
            found.append(row)
        return found


def contributions(
    experiment: Experiment,
    method: Contribution | None = None,
    *,
    record: str | Path | None = None,
    pot: int | None = None,
    on_round: Callable[[str, Row], None] = lambda *_: None,
) -> Scored:
    """Carry an experiment out, score what each node sent in every round, and train each alone.

    Utility is the share of all test rows that a model has right; minus the loss, if it is no
    classifier. Behind masks, groups are scored by their sums.

    Args:
        method: by default exact Shapley values up to 10 nodes or groups in a round, a sample of
            them up to 20, and one gradient for more.
        record: folder of the run's signed record, to which the scores are added; one that the run
            has left before goes on.
        pot: whole units that the record pays out by the scores.
        on_round: called with "together" or "alone", and the metrics of each round.

    Raises:
        InputError: a plan in which nobody sees what could be scored, or a pot without a record.
    """
    require_scorable(experiment)
    require_rows(experiment)
    if pot is not None:
        require(record is not None, "pot", pot, "none without a record, which pays it out")
        require_whole(0, "pot", pot)
    with _Scoring(experiment, method, record) as session:
        for row in session.rounds():
            on_round("together", row)
        result = session.result()
        if session.recorder:
            session.recorder.scored(
                session.method, session.players, session.games, session.scores[session.first], pot
            )
    by_oneself = experiment.replace(
        algorithm=Alone(), topology=None, aggregation=Mean(), attack=None, protection=(),
        compression=None,
    )  # fmt: skip
    alone = run(by_oneself, on_round=lambda row: on_round("alone", row))
    return Scored(result, alone, session.method, session.scores, session.groups)


class _Tried(Round):
    """A round whose coalitions are tried by the run that it is of."""

    session: "_Scoring"

    def worth(self, coalitions: list[Coalition]) -> list[float]:
        hits = self.session.hits(self.base, self.steps, self.shares(coalitions))
        return super().worth(coalitions) if hits is None else hits.tolist()


class _Scoring(Session):
    """A run that scores what its server reads."""

    def __init__(
        self, experiment: Experiment, method: Contribution | None, record: str | Path | None = None
    ) -> None:
        super().__init__(experiment, "auto", None, record=record)
        n, self.groups = experiment.data.nodes, groups(experiment)
        of = np.arange(n) if self.groups is None else self.groups
        found, self.first = np.unique(of, return_index=True)
        names = np.array(experiment.data.names)
        self.players = [names[of == group].tolist() for group in found]
        self.games: list[Game] = []
        self.seed = seed(bytes.fromhex(experiment.digest()))
        self.method = method or usual(experiment)
        self.scores = np.zeros(n)
        classifies = self.evaluator.task == "classification"
        self.layers = linear_layers(experiment.template) if classifies else []

    def _exchange(self, nodes: Ints, train: LocalTrain | OwnPace) -> StarExchange:
        """Listens to the first exchange of the round, which is about the model."""
        exchange = super()._exchange(nodes, train)
        assert isinstance(exchange, StarExchange)
        self._heard: dict[int, Tensor] = {}
        self._base = self.experiment.algorithm.model(self.state).clone()

        def summed(group: Ints, mean: Tensor) -> None:
            assert self.groups is not None
            self._heard.setdefault(int(self.groups[group[0]]), mean.float().clone())

        def heard(node: int, sent: NDArray[Any]) -> None:
            self._heard.setdefault(node, torch.from_numpy(sent.copy()))

        if self.groups is not None and exchange.protector is not None:
            exchange.protector.on_sum = summed
        else:
            exchange.listener = heard
        return exchange

    def _round(self, round: int) -> Row:
        row = super()._round(round)
        if self._heard:
            self._score(round)
        return row

    def _score(self, round: int) -> None:
        players = sorted(self._heard)
        sizes = self.trainer.split.sizes.astype(float)
        if self.groups is not None:
            sizes = np.bincount(self.groups, sizes)
        steps = torch.stack([self._heard[player] for player in players])
        finite = steps.isfinite().all(1, keepdim=True)
        seen = self.tried(self._base, torch.where(finite, steps, 0), sizes[players], round)
        found = self.method.scores(seen)
        self.games.append(Game(round, players, seen.known))
        for player, score in zip(players, found, strict=True):
            self.scores[player if self.groups is None else self.groups == player] += score

    def tried(self, base: Tensor, steps: Tensor, rows: Floats, round: int) -> Round:
        """A round with (d,) base, (k, d) steps of nodes or groups, and (k,) rows of each."""
        seen = _Tried(base, steps, rows, self._utility, self._gradient, self.seed, round)
        seen.session = self
        return seen

    def hits(self, base: Tensor, steps: Tensor, share: Tensor) -> Floats | None:
        """(m,) the utility of coalitions of (m, k) shares, for a perceptron that classifies."""
        test = self.evaluator.test
        models = torch.cat([base.unsqueeze(0), steps])
        share = torch.cat([torch.ones(len(share), 1), share], 1)
        total = torch.zeros(len(share), dtype=torch.float64)
        for x, y in zip(test.x.split(_BLOCK), test.y.split(_BLOCK), strict=True):
            found = self.layers and hits(self.experiment.layout, self.layers, models, share, x, y)
            if not isinstance(found, Tensor):
                return None
            total += found
        return _in_millionths(total / len(test.y))

    def _utility(self, models: Tensor) -> Floats:
        """(m,) share of test rows that (m, d) models have right, or minus their loss."""
        rows = len(self.evaluator.test.y)
        parts = [self._worth(part) for part in models.split(max(1, _BLOCK // rows))]
        return _in_millionths(torch.cat(parts) / rows)

    def _worth(self, models: Tensor) -> Tensor:
        """(m,) float64, summed over the test rows."""
        test, right = self.evaluator.test, self.evaluator.task == "classification"
        total = torch.zeros(len(models), dtype=torch.float64)
        for x, y in zip(test.x.split(_BLOCK), test.y.split(_BLOCK), strict=True):
            outputs = self.choice.lowering.predict(models, x.expand(len(models), *x.shape))
            if right:
                largest, at = outputs.max(-1)  # NaN where there is one
                total += ((at == y) & (largest == largest)).sum(1)
            else:
                each = [self.experiment.loss(output, y) * len(y) for output in outputs]
                total -= torch.stack(each).double()
        return total

    def _gradient(self, model: Tensor) -> Tensor:
        """(d,) of the loss on the test rows; buffers have none."""
        layout, test = self.experiment.layout, self.evaluator.test
        module = layout.module(self.experiment.template, model).eval()
        for x, y in zip(test.x.split(_BLOCK), test.y.split(_BLOCK), strict=True):
            (self.experiment.loss(module(x), y) * (len(y) / len(test.y))).backward()
        named, found = dict(module.named_parameters()), torch.zeros(layout.size)
        for entry in layout.entries:
            gradient = named[entry.name].grad if entry.trained else None
            if gradient is not None:
                found[entry.slice] = gradient.flatten()
        return found


def _in_millionths(worth: Tensor) -> Floats:
    """So that a record holds just what was scored."""
    known = worth.nan_to_num(nan=_WORST).clamp(_WORST, -_WORST)
    return ((known * MILLION).round() / MILLION).numpy()
