"""What a comparison says, in plain words and no more than its test rows can tell."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tacit.explain import listed, plan_name, readable

if TYPE_CHECKING:
    from tacit.compare import Comparison

Row = dict[str, Any]

_NAMES = {"auc": "AUC", "accuracy": "accuracy", "r2": "R2", "mae": "mean absolute error"}


def verdict(found: "Comparison") -> list[str]:
    """Did learning together help, whom, against what, and at which price: one sentence each."""
    parts = (_whether, _whom, _baseline, _pooling, _other_way, _price, _limits)
    return [sentence for part in parts for sentence in part(found)]


def noise(metric: str, value: float, rows: int) -> float:
    """How large a difference chance explains: a standard error on ``rows``, and at least one row.

    sqrt(v (1 - v) / N) for a share v, which is close for AUC, too (Hanley, McNeil, Radiology 1982,
    equation 1); 2 sqrt(v) (1 - v) / sqrt(N) for an R2 of v (Olkin, Finn, Psychological Bulletin
    1995). NaN without a value.
    """
    if math.isnan(value) or rows == 0:
        return math.nan
    share = min(max(value, 0.0), 1.0)
    deviation = 2 * math.sqrt(share) * (1 - share)
    if metric != "r2":
        deviation = math.sqrt(share * (1 - share))
    return max(deviation / math.sqrt(rows), 1 / rows)


def _whether(found: "Comparison") -> list[str]:
    together, alone = found.over_nodes(found.together).mean, found.over_nodes("alone").mean
    if math.isnan(together - alone):
        return [f"No node has test rows on which {_NAMES[found.metric]} is defined: no verdict."]
    gained, lost = _moved(found, 1), _moved(found, -1)
    slack, all_nodes = _slack(found), len(found.nodes())
    if together - alone > slack:
        word = "helped" + (" on the whole, but not everybody" if lost else "")
    elif together - alone < -slack:
        word = "hurt" + (" on the whole, but not everybody" if gained else "")
    elif gained and lost:
        word = "helped some nodes and hurt others, and made little difference on the whole"
    elif gained:
        word = f"helped {len(gained)} of {_count(all_nodes, 'node')} and hurt none that we can tell"
    elif lost:
        word = f"hurt {len(lost)} of {_count(all_nodes, 'node')} and helped none that we can tell"
    else:
        word = "made no difference that these test rows can show"
    return [
        f"Learning together {word}: the nodes' mean {_NAMES[found.metric]} is {together:.3f}"
        f" {_how(found)}, and {alone:.3f} alone."
    ]


def _whom(found: "Comparison") -> list[str]:
    known = [row for row in found.nodes() if not math.isnan(row["gain"])]
    gained, lost = _moved(found, 1), _moved(found, -1)
    same = len(known) - len(gained) - len(lost)
    return [
        f"Of {_count(len(known), 'node')}, {len(gained)} gained more than the standard error of"
        f" their test rows{_gains(gained)}, {len(lost)} lost more{_gains(lost)}, and for {same}"
        " the difference is too small to tell."
    ]


def _baseline(found: "Comparison") -> list[str]:
    result = found.results[found.together]
    task = result.experiment.data.task
    metric = "mae" if task == "regression" else "accuracy"
    base = result.baseline[metric]
    together, alone = (found.results[n].metrics[-1][metric] for n in (found.together, "alone"))
    if task == "regression":
        better = together < base
        says = (
            f"Always answering the mean target is off by {base:.3g} on average; learning together"
            f" is off by {together:.3g}, alone by {alone:.3g}."
        )
    else:
        rows = len(result.experiment.data.test.y)
        better = together - base > noise(metric, base, rows)
        answer = "token" if task == "sequence" else "label"
        says = (
            f"Always answering the most common {answer} is right in {base:.1%} of the cases;"
            f" learning together is right in {together:.1%}, alone in {alone:.1%}."
        )
    return [says if better else f"{says} Together is no better than that guess."]


def _pooling(found: "Comparison") -> list[str]:
    alone, together, pooled = (
        found.over_nodes(name).mean for name in ("alone", found.together, "pooled")
    )
    slack = _slack(found)
    if math.isnan(pooled - together):
        return []
    head = f"Pooling all rows in one place reaches {pooled:.3f}"
    if abs(pooled - together) <= slack:
        return [f"{head}: learning together is as good, as far as these test rows can tell."]
    if pooled < together:
        return [f"{head}, less than learning together after as many rounds."]
    if together > alone:
        way = (together - alone) / (pooled - alone)
        return [f"{head}: learning together goes {way:.0%} of the way there from alone."]
    return [f"{head}, {pooled - together:.3f} above learning together."]


def _other_way(found: "Comparison") -> list[str]:
    other = "federated" if found.together == "gossip" else "gossip"
    value = found.over_nodes(other).mean
    server = "With" if other == "federated" else "Without"
    plan = plan_name(found.results[other].experiment)
    return [f"{server} a server ({plan}) the nodes' mean {_NAMES[found.metric]} is {value:.3f}."]


def _price(found: "Comparison") -> list[str]:
    result = found.results[found.together]
    sent = {row["name"]: row["bytes"] for row in found.table()}
    total, nodes = sent[found.together], result.experiment.data.nodes
    return [
        f"The price: {readable(total)} sent in all, {readable(total / nodes)} a node, and no row;"
        f" pooling moves {readable(sent['pooled'])} of rows, once and for good."
    ]


def _limits(found: "Comparison") -> list[str]:
    data, nodes = found.results["alone"].experiment.data, found.nodes()
    says = []
    cohorts = [row["cohort"] for row in found.results[found.together].metrics]
    if np.mean(cohorts) < data.nodes:
        says.append(
            f"A round of learning together trained {np.mean(cohorts):.3g} of {data.nodes:,} nodes"
            " on average; alone, all nodes trained in every round."
        )
    if data.shared_test:
        says.append(f"All nodes are measured on the same {len(data.test.y):,} test rows.")
    one_class = [row["node"] for row in nodes if row["metric"] != found.metric and row["test_rows"]]
    if one_class:
        says.append(
            f"{_count(len(one_class), 'node')} ({listed(one_class)}) with a single class among the"
            " test rows: AUC is not defined there, and accuracy stands in for it."
        )
    without = [row["node"] for row in nodes if not row["test_rows"]]
    if without:
        says.append(
            f"{_count(len(without), 'node')} without test rows ({listed(without)}) cannot be"
            " judged."
        )
    smallest = min((row["test_rows"] for row in nodes if row["test_rows"]), default=0)
    if 0 < smallest < 100:
        little = f"a difference below {1 / smallest:.2g}, one row, means nothing"
        if data.task == "regression":
            little = "differences mean little"
        says.append(f"The smallest test set has {_count(smallest, 'row')}: there {little}.")
    return says


def _slack(found: "Comparison") -> float:
    """What chance explains of a difference of means over the nodes."""
    rows = [row["test_rows"] for row in found.nodes() if row["metric"] == found.metric]
    shared = found.results["alone"].experiment.data.shared_test
    count = max(rows, default=0) if shared else sum(rows)
    return noise(found.metric, found.over_nodes("alone").mean, count)


def _moved(found: "Comparison", sign: int) -> list[Row]:
    """The nodes that gained (1) or lost (-1) more than noise, those that moved most first."""
    one_row = 1 + 1e-9  # a difference of exactly one row, rounded up, is no more than one row
    moved = [row for row in found.nodes() if sign * row["gain"] > row["noise"] * one_row]
    return sorted(moved, key=lambda row: -sign * row["gain"])


def _how(found: "Comparison") -> str:
    return "with a server" if found.together == "federated" else "without a server"


def _gains(rows: list[Row]) -> str:
    if not rows:
        return ""
    return f" ({listed(['{node}: {gain:+.3f}'.format(**row) for row in rows])})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"
