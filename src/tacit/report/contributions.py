"""The report's section on what the nodes' updates were worth."""

from typing import Any

from tacit.engine.scoring import Scored
from tacit.report import plots

_SHOWN = 20  # nodes that have a row and a bar of their own


def scores(scored: Scored) -> dict[str, Any]:
    """What the page shows of them: the nodes by score, a figure, and the method's weakness."""
    rows = sorted(scored.rows(), key=lambda row: -row["score"])
    names = scored.result.experiment.data.names
    malicious = {names[node] for node in scored.result.malicious}
    shown = rows if len(rows) <= _SHOWN else rows[: _SHOWN // 2] + rows[-(_SHOWN // 2) :]
    method = type(scored.method).__name__
    label, title = "score, over all rounds", f"Score of each node by {method}"
    if shown == rows:
        every = [row["node"] for row in rows], [row["score"] for row in rows]
        svg = plots.signed(*every, label, title)
    else:
        svg = plots.ranked([row["score"] for row in rows], label, title)
    return {
        "svg": svg,
        "caption": f"{title}: what its updates were worth to the shared model",
        "nodes": [row | {"malicious": row["node"] in malicious} for row in shown],
        "grouped": scored.groups is not None,
        "metric": scored.metric,
        "method": method,
        "weakness": scored.method.weakness,
    }
