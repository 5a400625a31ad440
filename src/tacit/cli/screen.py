"""What people see: progress while rounds run, tables and sentences at the end."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from tacit.compare import Comparison, main_metric
from tacit.engine.run import Result
from tacit.explain import readable
from tacit.robustness.scores import Arena

Row = dict[str, Any]
OnRound = Callable[[str, Row], None]

_NAMES = {"auc": "AUC", "accuracy": "accuracy", "r2": "R2", "mae": "MAE"}
_LISTED = 16  # nodes in a table; of more, those at both ends


@contextmanager
def progress(
    names: list[str], rounds: int, done: int = 0, quiet: bool = False
) -> Iterator[OnRound]:
    """A bar for each named run on standard error, where that is a terminal.

    Yields:
        What to call with a run's name and each round's metrics.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("round {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[score]}", style="cyan"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        disable=quiet or not console.is_terminal,
    ) as bars:
        tasks: dict[str, TaskID] = {
            name: bars.add_task(name, total=rounds, completed=done, start=False, score="")
            for name in names
        }

        def on_round(name: str, row: Row) -> None:
            task = tasks[name]
            bars.start_task(task)
            bars.update(task, completed=row["round"])
            scores = [f"{_NAMES[m]} {row[m]:.3f}" for m in ("auc", "accuracy", "r2") if m in row]
            if scores:
                bars.update(task, score=" ".join(scores))

        yield on_round


@contextmanager
def cell_progress(quiet: bool = False) -> Iterator[Callable[[Row, int, int], None]]:
    """A bar for the cells of an arena on standard error, where that is a terminal.

    Yields:
        What to call with each cell's row, how many are done, and how many there are.
    """
    console = Console(stderr=True)
    with Progress(
        BarColumn(),
        TextColumn("cell {task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.description}", style="cyan"),
        console=console,
        disable=quiet or not console.is_terminal,
    ) as bars:
        task = bars.add_task("", total=0)

        def on_cell(row: Row, done: int, cells: int) -> None:
            name = f"{row['topology']}, {row['defence']}, {row['attack']}"
            bars.update(task, completed=done, total=cells, description=name)

        yield on_cell


def show_arena(found: Arena) -> None:
    """The worst node's accuracy in each cell, and which defence to use."""
    say(found.to_text(_console().width))


def show_run(result: Result) -> None:
    """A run's scores on each node, and over all test rows."""
    metrics = _metrics(result)
    title = f"{result.experiment.data.name}: scores on test rows after the last round"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("node", overflow="fold")
    for name in ("rows", "test rows", *(_NAMES[m] for m in metrics), f"baseline {_guess(result)}"):
        table.add_column(name, justify="right")
    guess = f"baseline_{metrics[-1]}"
    main = main_metric(result)
    nodes = result.nodes
    if len(nodes) > _LISTED:
        nodes = sorted(nodes, key=lambda row: _last_nan(row[main]))
    for row in _ends(table, nodes):
        scores = [_score(row[metric]) for metric in metrics]
        table.add_row(
            escape(row["node"]),
            str(row["rows"]),
            str(row["test_rows"]),
            *scores,
            _score(row[guess]),
        )
    table.add_section()
    data, last = result.experiment.data, result.metrics[-1]
    table.add_row(
        "all", str(len(data.train.y)), str(len(data.test.y)), *(_score(last[m]) for m in metrics),
        _score(result.baseline[metrics[-1]]), style="bold",
    )  # fmt: skip
    _console().print(table)
    sent = sum(row["bytes"] for row in result.metrics)
    say(
        f"{len(result.metrics):,} rounds in {result.seconds:.1f} s, {readable(sent)} sent."
        f" Training was {result.engine}."
    )


def show_comparison(found: Comparison) -> None:
    """The four ways side by side on each node and over all test rows, then the verdict."""
    first = next(iter(found.results.values()))
    metrics = _metrics(first)
    title = f"{' and '.join(_NAMES[m] for m in metrics)} on each node's test rows"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("node", overflow="fold", min_width=11)
    table.add_column("train", justify="right")
    table.add_column("test", justify="right")
    for name in (*found.results, _guess(first)):
        table.add_column(name, justify="right", min_width=len(name))
    guess = f"baseline_{metrics[-1]}"
    by_way = (result.nodes for result in found.results.values())
    nodes = list(zip(found.nodes(), *by_way, strict=True))
    if len(nodes) > _LISTED:
        nodes.sort(key=lambda node: _last_nan(-node[0]["gain"]))
    for judged, *rows in _ends(table, nodes):
        cells = {
            name: " ".join(_score(row[metric]) for metric in metrics)
            for name, row in zip(found.results, rows, strict=True)
        }
        if abs(judged["gain"]) > judged["noise"] + 1e-9:  # a row exactly is no more than a row
            colour = "green" if judged["gain"] > 0 else "red"
            cells[found.together] = f"[{colour}]{cells[found.together]}[/]"
        sizes = str(judged["rows"]), str(judged["test_rows"])
        table.add_row(escape(judged["node"]), *sizes, *cells.values(), _score(rows[0][guess]))
    table.add_section()
    data = first.experiment.data
    overall = found.table()
    scores = [" ".join(_score(row[metric]) for metric in metrics) for row in overall]
    table.add_row(
        "all", str(len(data.train.y)), str(len(data.test.y)), *scores,
        _score(first.baseline[metrics[-1]]), style="bold",
    )  # fmt: skip
    table.add_row("sent", "", "", *(readable(row["bytes"]) for row in overall), "")
    _console().print(table)
    for sentence in ["", *found.verdict()]:
        say(sentence and f"- {sentence}")


def say(text: str) -> None:
    """A text; on a terminal, wrapped between words."""
    console = Console()
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def show_rows(rows: list[Row]) -> None:
    """Flat dicts with the same keys as a table."""
    table = Table(*rows[0], box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    _console().print(table)


def _console() -> Console:
    """Of standard output; where that is no terminal, wide enough for every table."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _metrics(result: Result) -> list[str]:
    return [m for m in ("auc", "accuracy", "r2", "mae") if m in result.metrics[-1]]


def _guess(result: Result) -> str:
    return "mean target" if result.experiment.data.task == "regression" else "majority"


def _ends(table: Table, rows: list[Any]) -> Iterator[Any]:
    """All rows, or the first and the last few with a line between them that says how many not."""
    half = _LISTED // 2
    if len(rows) <= _LISTED:
        yield from rows
        return
    yield from rows[:half]
    table.add_row(f"... {len(rows) - 2 * half:,} more")
    yield from rows[-half:]


def _score(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _last_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
