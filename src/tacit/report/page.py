"""One self-contained HTML file about a run or a comparison: no script, no request, no date."""

import importlib.metadata
import math
import platform
from collections.abc import Iterator
from pathlib import Path

from tacit.compare import Comparison, main_metric, over_nodes, result_row, sent
from tacit.engine.run import Result, Row
from tacit.engine.scoring import Scored
from tacit.explain import Disclosure, plan_name, readable
from tacit.report import plots
from tacit.report.contributions import scores
from tacit.report.html import NAMES, number, render, save, signed
from tacit.report.verdicts import verdicts

_SHOWN = 20  # nodes that have a row and bars of their own
_TITLES = {
    Comparison: "was learning together worth it?", Result: "report of a run",
    Scored: "who contributed what?",
}  # fmt: skip


def write(path: str | Path, results: Comparison | Result | Scored, disclosure: Disclosure) -> Path:
    """Write the report, replacing a file that is there only when the new one is whole.

    Args:
        path: of the HTML file; its folder is made if need be.
        results: of a comparison, of one run, or of one whose nodes' updates were scored.
        disclosure: who sees what in the experiment's own plan.

    Raises:
        InputError: the file cannot be written.
    """
    return save(path, page(results, disclosure))


def page(results: Comparison | Result | Scored, disclosure: Disclosure) -> str:
    """The report as HTML; the same results give the same text."""
    scored = results if isinstance(results, Scored) else None
    shown = (
        Comparison({"alone": results.alone, "federated": results.result})
        if isinstance(results, Scored)
        else results
    )
    if isinstance(shown, Comparison):
        runs, nodes, metric = shown.results, shown.nodes(), shown.metric
        own, table = runs[shown.together], shown.table()
        verdict = _worth(scored) if scored else shown.verdict()
        drawn = [runs[way] for way in ("federated", "gossip") if way in runs]
    else:
        own, metric = shown, main_metric(shown)
        way = _way(own)
        runs, drawn = {way: own}, [own]
        verdict, nodes = _facts(own, metric), _node_rows(own, way, metric)
        table = [result_row(way, own, metric)]
    return render(
        "page.html.j2",
        title=_TITLES[type(results)],
        data=own.experiment.data,
        verdict=verdict,
        table=table,
        metric=metric,
        nodes=_ends(nodes, "gain" if isinstance(shown, Comparison) else next(iter(runs))),
        accuracy_instead=any(row["metric"] != metric for row in nodes),
        ways=list(runs),
        compared=isinstance(shown, Comparison),
        plans={name: plan_name(result.experiment) for name, result in runs.items()},
        colours=plots.COLOURS,
        curves=list(_curves(runs, metric)),
        bars=_bars(nodes, list(runs), metric),
        drawings=list(_drawings(drawn)),
        verdicts=verdicts(own) if scored or isinstance(shown, Result) else None,
        scores=scores(scored) if scored else None,
        disclosure=disclosure,
        settings=list(_settings(own)),
        model=repr(own.experiment.template),
    )


def _curves(runs: dict[str, Result], metric: str) -> Iterator[tuple[str, str]]:
    """(SVG, caption) of the main metric and of the loss."""
    baselines = next(iter(runs.values())).baseline
    for name in (metric, "loss"):
        series = {}
        for way, result in runs.items():
            measured = [row for row in result.metrics if name in row]
            series[way] = [row["round"] for row in measured], [row[name] for row in measured]
        base = baselines.get(name)
        title = f"{NAMES[name]} on all test rows after each round"
        svg = plots.curves(series, f"{NAMES[name]}, all test rows", title, base)
        yield svg, f"{title}{'' if base is None else f'; the baseline is {number(base)}'}"


def _bars(nodes: list[Row], ways: list[str], metric: str) -> str:
    label = NAMES[metric]
    if any(row["metric"] != metric for row in nodes):
        label += f" ({NAMES['accuracy']} where it is undefined)"
    if len(nodes) <= _SHOWN:
        return plots.bars(nodes, ways, label, f"{label} of each node")
    if len(ways) > 1:
        gains = [row["gain"] for row in nodes]
        return plots.ranked(gains, f"gain in {label}", "What each node gains over training alone")
    return plots.ranked([row[ways[0]] for row in nodes], label, f"{label} of each node")


def _ends(nodes: list[Row], key: str) -> list[Row]:
    """All nodes, or those with the highest and the lowest values."""
    if len(nodes) <= _SHOWN:
        return nodes
    known = [row for row in nodes if not math.isnan(row[key])]
    ordered = sorted(known, key=lambda row: -row[key])
    return ordered[: _SHOWN // 2] + ordered[_SHOWN // 2 :][-(_SHOWN // 2) :]


def _drawings(results: list[Result]) -> Iterator[tuple[str, str]]:
    """(what it is, SVG) of each topology in use."""
    for result in results:
        experiment = result.experiment
        if experiment.plan is not None and experiment.algorithm.exchanges != "nobody":
            svg = plots.drawing(experiment.plan, experiment.data.names, experiment.seed)
            yield plan_name(experiment), svg


def _settings(result: Result) -> Iterator[tuple[str, str]]:
    """Everything that another person needs to repeat the run."""
    experiment = result.experiment
    data = experiment.data
    yield "data", f"{data.name}: {data.task}, {len(data.train.y):,} training rows"
    yield "nodes", f"{data.nodes:,}"
    yield "plan", plan_name(experiment)
    yield "local training", str(experiment.training)
    yield "aggregation", str(experiment.aggregation)
    yield "loss", str(experiment.description()["loss"])
    yield "rounds", f"{experiment.rounds:,}"
    yield "seed", str(experiment.seed)
    yield "engine", result.engine
    yield "experiment digest", experiment.digest()
    yield "versions", versions()


def versions() -> str:
    """The software that a run depends on, in words."""
    parts = [f"{name} {importlib.metadata.version(name)}" for name in ("tacit", "torch", "numpy")]
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def _facts(result: Result, metric: str) -> list[str]:
    """What a single run reached, in words."""
    last, over = result.metrics[-1], over_nodes(result, metric)
    says = [
        f"{plan_name(result.experiment)} reached {NAMES[metric]} {number(last[metric])} over all"
        f" test rows after {result.experiment.rounds:,} rounds."
    ]
    if metric in result.baseline:
        base = number(result.baseline[metric])
        says.append(f"A model that knows only the training targets reaches {base}.")
    if over.worst is not None:
        says.append(
            f"Over the nodes the mean is {over.mean:.3f}, the worst {over.worst_value:.3f}"
            f" ({result.nodes[over.worst]['node']})."
        )
    return [*says, f"{readable(sent(result))} left the nodes in all."]


def _worth(scored: Scored) -> list[str]:
    """Who gained by learning together, and whose updates were worth something, in words."""
    rows, metric = scored.rows(), NAMES[scored.metric]
    known = [row for row in rows if not math.isnan(row["gain"])]
    gained = sum(row["gain"] > 0 for row in known)
    worth = sum(row["score"] > 0 for row in rows)
    says = [
        f"{gained} of {len(known)} nodes gained by learning together, in {metric}.",
        f"The updates of {worth} of {len(rows)} nodes have a score above zero.",
    ]
    if known:
        least = min(known, key=lambda row: row["gain"])
        what = f"The least gain over training alone is {signed(least['gain'])}"
        says.append(f"{what} ({least['node']}).")
    return says


def _way(result: Result) -> str:
    """Which of the four ways a single run is."""
    algorithm = result.experiment.algorithm
    if algorithm.pools:
        return "pooled"
    return {"server": "federated", "peers": "gossip", "nobody": "alone"}[algorithm.exchanges]


def _node_rows(result: Result, way: str, metric: str) -> list[Row]:
    rows = []
    for node in result.nodes:
        name = "accuracy" if metric == "auc" and math.isnan(node["auc"]) else metric
        kept = {key: node[key] for key in ("node", "rows", "test_rows")}
        rows.append(kept | {"metric": name, way: node[name], "baseline": node[f"baseline_{name}"]})
    return rows
