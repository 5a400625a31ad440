"""Who was turned away, and when: the verdicts of a run as a picture of senders and rounds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.engine.run import Result, Row
from tacit.report.plots import COLOURS, INK, canvas, described, short

_SHOWN, _COLUMNS = 40, 40  # nodes, and rounds or groups of rounds
_LEVELS = 10  # shades
_AWAY = 0.5  # acceptance below which a sender was turned away


def verdicts(result: Result) -> dict[str, Any] | None:
    """The picture, its caption, and a row for each node shown; None where nothing was recorded."""
    if result.verdicts is None:
        return None
    accepted = result.verdicts.double().numpy()
    names = result.experiment.data.names
    liars = set() if result.malicious is None else set(map(int, result.malicious))
    shown = _shown(accepted, liars)
    columns = _binned(accepted[:, shown])
    labels = [_label(names[node], node in liars) for node in shown]
    rounds = len(accepted)
    per = math.ceil(rounds / _COLUMNS)
    each = "round" if per == 1 else f"{per} rounds"
    return {
        "svg": heat(columns, labels, per, "How far each sender was let through in each round"),
        "caption": f"How far each sender was let through in each {each}: the stronger the colour,"
        " the more of its honest receivers turned it away; empty where it did not send.",
        "rounds": rounds,
        "nodes": [_row(names[node], node in liars, accepted[:, node]) for node in shown],
    }


def heat(columns: NDArray[np.float64], labels: Sequence[str], per: int, title: str) -> str:
    """Squares of (columns, nodes) acceptance, one outline for each shade, ``per`` rounds each."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    count, nodes = columns.shape
    with canvas(0.9 + 0.19 * nodes) as (figure, svg):
        axes = figure.add_subplot()
        shade = np.round((1 - columns) * _LEVELS)
        for level in range(_LEVELS + 1):
            x, y = np.nonzero(shade == level)
            if not len(x):
                continue
            corners = np.array([[0.0, 0.06], [1, 0.06], [1, 0.94], [0, 0.94]])
            squares = np.stack([x, y], axis=1)[:, None] + corners
            axes.add_patch(
                PathPatch(
                    Path.make_compound_path_from_polys(squares),
                    facecolor=COLOURS["alone"] if level else INK,
                    alpha=level / _LEVELS if level else 0.08,
                    linewidth=0,
                )
            )
        axes.set(xlim=(0, count), ylim=(nodes, 0), xlabel="round")
        axes.set_yticks(np.arange(nodes) + 0.5, labels, fontsize=9)
        step = max(1, math.ceil(count / 8))
        at = np.arange(0, count, step)
        axes.set_xticks(at + 0.5, [str(1 + each * per) for each in at])
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
    return described(svg, title)


def _shown(accepted: NDArray[np.float64], liars: set[int]) -> list[int]:
    """The malicious nodes, then those that were turned away most, each from most to least."""
    known = np.nan_to_num(accepted, nan=1.0).mean(0)
    order = sorted(range(accepted.shape[1]), key=lambda node: (node not in liars, known[node]))
    return order[:_SHOWN]


def _binned(accepted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over groups of rounds, of those in which a node sent; NaN where it never did."""
    per = math.ceil(len(accepted) / _COLUMNS)
    groups = np.arange(0, len(accepted), per)
    sent = np.add.reduceat(np.isfinite(accepted).astype(float), groups)
    total = np.add.reduceat(np.nan_to_num(accepted), groups)
    return np.where(sent > 0, total / np.maximum(sent, 1), np.nan)


def _label(name: str, malicious: bool) -> str:
    return f"{short(name)} (malicious)" if malicious else short(name)


def _row(name: str, malicious: bool, accepted: NDArray[np.float64]) -> Row:
    away = accepted < _AWAY
    sent = np.isfinite(accepted)
    return {
        "node": name,
        "malicious": malicious,
        "accepted": float(accepted[sent].mean()) if sent.any() else math.nan,
        "away": int(away.sum()),
        "first": int(np.argmax(away)) + 1 if away.any() else None,
    }
