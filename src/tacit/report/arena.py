"""The page of an arena: what every attack cost under every defence, as coloured tables.

A heat map of HTML cells rather than of shapes: it is read aloud as the table that it is, keeps its
letters at their size on a narrow screen, and needs no second copy of the figures.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tacit.explain import plan_name
from tacit.report import plots
from tacit.report.html import render, save
from tacit.report.page import versions
from tacit.robustness.cells import NO_ATTACK
from tacit.robustness.scores import Arena

Row = dict[str, Any]

# From useless over a pale middle to perfect; Okabe and Ito's vermillion and blue.
_SCALE = np.array([[213, 94, 0], [247, 243, 234], [0, 114, 178]], dtype=float)


def write(path: str | Path, found: Arena) -> Path:
    """Write the page, replacing a file that is there only when the new one is whole.

    Raises:
        InputError: the file cannot be written.
    """
    return save(path, page(found))


def page(found: Arena) -> str:
    """The page as HTML; the same arena gives the same text."""
    experiment = found.experiment
    chance = 1 / max(experiment.data.classes, 2)
    scale = [(value, _style(value, chance)) for value in np.linspace(chance, 1, 5).tolist()]
    return render(
        "arena.html.j2",
        data=experiment.data,
        best=found.best(),
        maps=[_map(found, topology, chance) for topology in found.topologies],
        scale=scale,
        table=found.table(),
        settings=[
            ("data", f"{experiment.data.name}: {len(experiment.data.train.y):,} training rows"),
            ("nodes", f"{experiment.data.nodes:,}"),
            ("plan", plan_name(experiment)),
            ("local training", str(experiment.training)),
            ("rounds", f"{experiment.rounds:,}"),
            ("seed", str(experiment.seed)),
            ("experiment digest", experiment.digest()),
            ("versions", versions()),
        ],
        model=repr(experiment.template),
    )


def _map(found: Arena, topology: str, chance: float) -> Row:
    """One topology: its figure, the columns, and rows of cells with their colours."""
    attacks, rows = found.grid(topology)
    scores = [row for row in found.scores() if row["topology"] == topology]
    title = f"{topology}: the worst node's accuracy without attack, and in the worst case"
    return {
        "topology": topology,
        "figure": plots.falls(scores, title) if scores else "",
        "title": title,
        "attacks": attacks,
        "rows": [
            row
            | {
                "cells": [_cell(row["cells"][attack], chance) for attack in attacks],
                "style": "" if row["score"] is None else _style(row["score"], chance),
            }
            for row in rows
        ],
        "hits": any(
            cell["attack_success"] is not None for row in rows for cell in row["cells"].values()
        ),
        "notes": list(_notes(rows)),
    }


def _cell(row: Row, chance: float) -> Row:
    value = row["worst_accuracy"]
    if value is None:
        return {"value": None, "style": ""}
    gap = None if row["attack"] == NO_ATTACK else row["gap"]
    return {
        "value": value,
        "lost": row["outcome"] != "done",
        "gap": gap,
        "success": row["attack_success"],
        "style": _style(value, chance),
    }


def _notes(rows: list[Row]) -> Iterator[str]:
    """Why cells are empty or lost, and what was lowered."""
    for row in rows:
        if row["note"]:
            yield f"{row['defence']}: {row['note']}."
        for attack, cell in row["cells"].items():
            if cell["outcome"] == "done" or cell["note"] == row["note"] != "":
                continue
            why = f" ({cell['note']})" if cell["outcome"] == "not applicable" else ""
            yield f"{row['defence']} under {attack}: {cell['outcome']}{why}."


def _style(value: float, chance: float) -> str:
    """CSS colours of a cell: its accuracy, from guessing (or worse) to perfect."""
    share = float(np.clip((value - chance) / (1 - chance), 0, 1)) * (len(_SCALE) - 1)
    low = min(int(share), len(_SCALE) - 2)
    colour = _SCALE[low] + (share - low) * (_SCALE[low + 1] - _SCALE[low])
    red, green, blue = (round(part) for part in colour)
    # Relative luminance and contrast: WCAG 2.2. White and black ink are equal at 0.179.
    linear = np.where(colour <= 10, colour / 3294.6, ((colour / 255 + 0.055) / 1.055) ** 2.4)
    ink = "#000" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "#fff"
    return f"background:#{red:02x}{green:02x}{blue:02x};color:{ink}"
