"""The report's figures, as inline SVG that follows the page's font and text colour."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy as np

from tacit.engine.run import Row
from tacit.topology import Graph, Hierarchical, Neighbours, Star, Swarm

# Okabe, Ito, "Color universal design", 2008: distinguishable with every common colour blindness.
COLOURS = {"alone": "#e69f00", "federated": "#0072b2", "gossip": "#009e73", "pooled": "#cc79a7"}
_DASHES = {"alone": (1, 1.2), "federated": (), "gossip": (4, 1.5), "pooled": (6, 1.5, 1, 1.5)}
_MARKS = {"alone": "o", "federated": "s", "gossip": "^", "pooled": "D"}
INK = "#010203"  # stands for the page's text colour
_WIDTH = 5.0  # inches, at 96 pixels each
_NAMED, _DRAWN = 24, 60  # nodes that are labelled, and drawn at all
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "tacit", "text.parse_math": False,
    "font.family": "sans-serif", "font.size": 10, "axes.titlesize": 10, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.8,
    "figure.facecolor": "none", "axes.facecolor": "none", "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK,
}  # fmt: skip


def curves(
    series: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    label: str,
    title: str,
    baseline: float | None = None,
) -> str:
    """One line per way over the rounds, ``series[way] = (rounds, values)``.

    A baseline that is far away is left out, so that the lines can be told apart.
    """
    with canvas(3.1) as (figure, svg):
        axes = figure.add_subplot()
        few = max(len(rounds) for rounds, _ in series.values()) <= 12
        for way, (rounds, values) in series.items():
            axes.plot(
                rounds, values, color=COLOURS[way], label=way,
                dashes=_DASHES[way], marker=_MARKS[way] if few else None, markersize=3.5,
            )  # fmt: skip
        low, high = axes.get_ylim()
        if baseline is not None and low - (high - low) < baseline < high + (high - low):
            axes.axhline(baseline, color=INK, alpha=0.6, linewidth=1, label="baseline")
        axes.xaxis.get_major_locator().set_params(integer=True)
        finish(axes, "round", label, grid="both")
    return described(svg, title)


def bars(rows: Sequence[Row], ways: Sequence[str], label: str, title: str) -> str:
    """Bars per node for each way, and its baseline as a black line."""
    height = 0.9 + len(rows) * (0.13 * len(ways) + 0.16)
    with canvas(height) as (figure, svg):
        axes = figure.add_subplot()
        at, thick = np.arange(len(rows)), 0.8 / len(ways)
        for k, way in enumerate(ways):
            values = np.array([row[way] for row in rows])
            place = at + (k - (len(ways) - 1) / 2) * thick
            axes.barh(place, values, thick * 0.86, color=COLOURS[way], label=way)
        base = np.array([row["baseline"] for row in rows])
        known = np.isfinite(base)
        axes.vlines(
            base[known], at[known] - 0.45, at[known] + 0.45, color=INK, linewidth=1.6,
            label="baseline",
        )  # fmt: skip
        axes.set_yticks(at, [short(row["node"]) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        finish(axes, label, "", grid="x")
    return described(svg, title)


def signed(names: Sequence[str], values: Sequence[float], label: str, title: str) -> str:
    """A bar per node, to the left where the value is below zero."""
    with canvas(0.9 + 0.29 * len(names)) as (figure, svg):
        axes, at = figure.add_subplot(), np.arange(len(names))
        colours = [COLOURS["alone" if value < 0 else "federated"] for value in values]
        axes.barh(at, values, 0.7, color=colours)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(at, [short(name) for name in names])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(names) - 0.4, -0.6)
        finish(axes, label, "", grid="x")
    return described(svg, title)


def ranked(values: Sequence[float], label: str, title: str) -> str:
    """For many nodes: one thin bar each, from the lowest value to the highest."""
    known = np.sort([value for value in values if np.isfinite(value)])
    with canvas(3.1) as (figure, svg):
        axes = figure.add_subplot()
        colours = np.where(known < 0, COLOURS["alone"], COLOURS["federated"])
        axes.bar(np.arange(1, len(known) + 1), known, 1.0, color=list(colours))
        axes.axhline(0, color=INK, linewidth=1)
        finish(axes, "nodes, from the lowest value to the highest", label, grid="y")
    return described(svg, title)


def falls(scores: Sequence[Row], title: str) -> str:
    """A line for each defence, from its accuracy without attack down to its worst case."""
    with canvas(1.0 + 0.24 * len(scores)) as (figure, svg):
        axes, at = figure.add_subplot(), np.arange(len(scores))
        before = [row["unattacked"] for row in scores]
        after = [row["score"] for row in scores]
        axes.hlines(at, after, before, color=INK, alpha=0.35, linewidth=1.2)
        for values, colour, mark, label in (
            (before, COLOURS["federated"], "o", "without attack"),
            (after, COLOURS["alone"], "D", "worst case"),
        ):
            axes.scatter(values, at, s=34, color=colour, marker=mark, label=label, zorder=3)
        axes.set_yticks(at, [row["defence"] for row in scores], fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(scores) - 0.4, -0.6))
        finish(axes, "accuracy of the worst honest node", "", grid="x")
    return described(svg, title)


def star(topology: Star | Hierarchical, names: Sequence[str], title: str) -> str:
    """The server in the middle, its nodes around it, and aggregators between, if there are any."""
    n = len(names)
    groups = topology.groups if isinstance(topology, Hierarchical) else 0
    with canvas(3.4) as (figure, svg):
        axes = _square(figure)
        if n > _DRAWN or groups > _DRAWN:
            _summary(axes, n, groups)
        else:
            outer = _circle(n)
            inner = np.zeros((n, 2))
            if isinstance(topology, Hierarchical):
                group = topology.group_of(n)
                heads = np.stack([outer[group == g].mean(0) for g in range(groups)])
                heads *= 0.55 / np.linalg.norm(heads, axis=1, keepdims=True).clip(0.2)
                inner = heads[group]
                _links(axes, heads, np.zeros_like(heads))
                axes.scatter(*heads.T, s=90, color=COLOURS["pooled"], marker="D", zorder=3)
            _links(axes, outer, inner)
            _nodes(axes, outer, names)
        axes.scatter(0, 0, s=420, color=COLOURS["alone"], marker="s", zorder=3)
        hub = "leader, in turn" if isinstance(topology, Swarm) else "server"
        axes.text(0, -0.19, hub, ha="center", va="top", fontsize=9)
    return described(svg, title)


def graph(links: Neighbours, names: Sequence[str], title: str) -> str:
    """The nodes on a circle and the links of one round; many nodes as a histogram of degrees."""
    if links.nodes > _DRAWN:
        with canvas(2.6) as (figure, svg):
            axes = figure.add_subplot()
            degree, count = np.unique(links.out_degree, return_counts=True)
            axes.bar(degree, count, 0.8, color=COLOURS["gossip"])
            axes.xaxis.get_major_locator().set_params(integer=True)
            finish(axes, "neighbours that a node sends to", "nodes", grid="y")
        return described(svg, title)
    with canvas(3.4) as (figure, svg):
        axes, at = _square(figure), _circle(links.nodes)
        if links.symmetric:
            once = links.senders < links.receivers
            _links(axes, at[links.senders[once]], at[links.receivers[once]])
        else:
            style = {"arrowstyle": "-|>", "color": INK, "alpha": 0.5, "shrinkA": 7, "shrinkB": 7}
            for sender, receiver in zip(links.senders, links.receivers, strict=True):
                axes.annotate("", at[receiver], at[sender], arrowprops=style)
        _nodes(axes, at, names)
    return described(svg, title)


def drawing(topology: Star | Hierarchical | Graph, names: Sequence[str], seed: int) -> str:
    """Who talks to whom, in the first round."""
    if isinstance(topology, Graph):
        return graph(topology.graph(len(names), seed, 0), names, "Links between the nodes")
    swarm = isinstance(topology, Swarm)
    title = "The nodes around one that leads" if swarm else "The server and its nodes"
    return star(topology, names, title)


def _summary(axes: Any, nodes: int, groups: int) -> None:
    at = _circle(12)
    _links(axes, at, np.zeros_like(at))
    axes.scatter(*at.T, s=45, color=COLOURS["federated"], zorder=3)
    text = f"{nodes:,} nodes" + (f" in {groups:,} groups" if groups else "")
    axes.text(0, 1.16, f"{text} (12 drawn)", ha="center", fontsize=9)


def _circle(count: int) -> np.ndarray:
    """(count, 2) places, clockwise from the top."""
    angle = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _square(figure: Any) -> Any:
    axes = figure.add_subplot(aspect="equal")
    axes.set(xlim=(-1.75, 1.75), ylim=(-1.3, 1.3))
    axes.axis("off")
    return axes


def _links(axes: Any, start: np.ndarray, end: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    lines = LineCollection(list(np.stack([start, end], axis=1)), color=INK, alpha=0.35)
    lines.set_linewidth(1.0 if len(start) <= 200 else 0.4)
    axes.add_collection(lines)


def _nodes(axes: Any, at: np.ndarray, names: Sequence[str]) -> None:
    axes.scatter(*at.T, s=120 if len(at) <= _NAMED else 45, color=COLOURS["federated"], zorder=3)
    if len(at) > _NAMED:
        return
    for (x, y), name in zip(at, names, strict=True):
        side = "center" if abs(x) < 0.1 else "left" if x > 0 else "right"
        place = "center" if side != "center" else "bottom" if y > 0 else "top"
        axes.text(1.13 * x, 1.13 * y, short(name), ha=side, va=place, fontsize=9)


def finish(axes: Any, x: str, y: str, grid: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis=grid, color=INK, alpha=0.12, linewidth=0.8)
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    order = sorted(range(len(labels)), key=lambda k: labels[k] == "baseline")
    axes.legend(
        [handles[k] for k in order], [labels[k] for k in order],
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=5,
        columnspacing=0.9, handlelength=1.5, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip


def short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


@contextmanager
def canvas(height: float) -> Iterator[tuple[Any, list[str]]]:
    """A figure to draw on, and a list that holds its SVG afterwards."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    found: list[str] = []
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A letter that this font lacks is drawn by the browser.
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, found
        file = StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    found.append(file.getvalue())


def described(svg: list[str], title: str) -> str:
    """The SVG without what only stand-alone files need, in the page's colours, with a name."""
    from markupsafe import escape

    text = svg[0][svg[0].index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text).replace(INK, "currentColor")
    text = re.sub(r'(style="[^"]*?)font-family: [^;"]*; ?', r"\1", text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    head = f'<svg {view[0]} role="img" aria-label="{escape(title)}">'
    return head + f"<title>{escape(title)}</title>" + text[text.index(">") + 1 :]
