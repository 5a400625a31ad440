"""Is it worth it? Alone, with a server, without one, and pooled, side by side."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from tacit.aggregation import Mean
from tacit.algorithms import Alone, FedAvg, Gossip, Pooled
from tacit.engine.run import Result, Row, run
from tacit.experiment import Experiment
from tacit.explain import explain
from tacit.topology import Graph, Ring
from tacit.training.metrics import Summary, summary
from tacit.verdict import noise, verdict


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """The same experiment "alone", "federated", by "gossip" and "pooled".

    Every node has the same budget of local training in each round that it takes part in. The
    experiment's own algorithm stands for its kind; the other kind is FedAvg with everybody, or
    Gossip on a ring.
    """
    exchanges, plan = experiment.algorithm.exchanges, experiment.plan
    graph = isinstance(plan, Graph)
    return {
        "alone": experiment.replace(algorithm=Alone(), topology=None),
        "federated": experiment
        if exchanges == "server"
        else experiment.replace(
            algorithm=FedAvg(), topology=None if graph else plan, aggregation=Mean()
        ),
        "gossip": experiment
        if exchanges == "peers"
        else experiment.replace(
            algorithm=Gossip(), topology=plan if graph else Ring(), aggregation=Mean()
        ),
        "pooled": experiment.replace(algorithm=Pooled(), topology=None),
    }


def compare(
    experiment: Experiment, on_round: Callable[[str, Row], None] | None = None
) -> "Comparison":
    """Run the four variants of an experiment.

    Args:
        experiment: its own algorithm is one of the four.
        on_round: called with the variant's name and each round's metrics.

    Raises:
        InputError: a variant that cannot work.
        DivergenceError: a node's loss is no longer finite.
    """
    results = {
        name: run(variant, on_round=partial(on_round, name) if on_round else None)
        for name, variant in variants(experiment).items()
    }
    peers = experiment.algorithm.exchanges == "peers"
    return Comparison(results, "gossip" if peers else "federated")


@dataclass(frozen=True, eq=False)
class Comparison:
    """The results of the same experiment carried out in four ways.

    Attributes:
        results: "alone", "federated", "gossip" and "pooled", in this order.
        together: which of them is the experiment's own way, "federated" or "gossip".
    """

    results: dict[str, Result]
    together: str = "federated"

    @property
    def metric(self) -> str:
        """What is compared: AUC where some node has one in all four, else accuracy; or R2."""
        return main_metric(*self.results.values())

    def table(self) -> list[Row]:
        """One flat row per way.

        Values over all test rows ("accuracy" and "auc", or "mae" and "r2"), then the main metric
        over the nodes: "mean" by test rows, "worst" and at which "worst_node", "spread" (standard
        deviation); "bytes" sent in all (for "pooled", the rows themselves) and "seconds".
        """
        return [result_row(name, result, self.metric) for name, result in self.results.items()]

    def nodes(self) -> list[Row]:
        """One flat row per node: its rows, and its "metric" in each of the four ways.

        "gain" is that of learning together over alone, "noise" what its test rows cannot tell
        from zero (see ``noise``), "baseline" that of the majority label or mean target. A node
        whose test rows have a single class has no AUC and is compared by accuracy.
        """
        rows = []
        for each in zip(*(result.nodes for result in self.results.values()), strict=True):
            metric = self.metric
            if metric == "auc" and any(math.isnan(row["auc"]) for row in each):
                metric = "accuracy"
            values = {name: row[metric] for name, row in zip(self.results, each, strict=True)}
            known, test_rows = each[0], each[0]["test_rows"]
            rows.append(
                {"node": known["node"], "rows": known["rows"], "test_rows": test_rows}
                | {"metric": metric, **values}
                | {
                    "gain": values[self.together] - values["alone"],
                    "noise": noise(metric, values["alone"], test_rows),
                    "baseline": known[f"baseline_{metric}"],
                }
            )
        return rows

    def verdict(self) -> list[str]:
        """Whether learning together was worth it, in plain words."""
        return verdict(self)

    def over_nodes(self, name: str) -> Summary:
        """The main metric of one way over the nodes where it is defined."""
        return over_nodes(self.results[name], self.metric)


def main_metric(*results: Result) -> str:
    """What results are compared by: AUC if some node has one in all of them, else accuracy; R2."""
    if results[0].experiment.data.task == "regression":
        return "r2"
    per_node = zip(*(result.nodes for result in results), strict=True)
    has_auc = any(
        not any(math.isnan(row.get("auc", math.nan)) for row in each) for each in per_node
    )
    return "auc" if has_auc else "accuracy"


def over_nodes(result: Result, metric: str) -> Summary:
    """One metric of a result over the nodes where it is defined."""
    values = np.array([row[metric] for row in result.nodes])
    return summary(metric, values, np.array([row["test_rows"] for row in result.nodes]))


def result_row(name: str, result: Result, metric: str) -> Row:
    """One result as a flat row; see ``Comparison.table``."""
    last, over = result.metrics[-1], over_nodes(result, metric)
    return {
        "name": name,
        **{shown: last[shown] for shown in ("accuracy", "auc", "mae", "r2") if shown in last},
        "metric": metric,
        "mean": over.mean,
        "worst": over.worst_value,
        "worst_node": "" if over.worst is None else result.nodes[over.worst]["node"],
        "spread": over.deviation,
        "bytes": sent(result),
        "seconds": result.seconds,
    }


def sent(result: Result) -> int:
    """Bytes that left the nodes: the run's messages, or the rows themselves where it pools."""
    if result.experiment.algorithm.pools:
        return explain(result.experiment).bytes
    return sum(row["bytes"] for row in result.metrics)
