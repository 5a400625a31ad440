"""What an arena found: a table, a score for each defence, and which one to use."""

import csv
import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tacit.experiment import Experiment
from tacit.robustness.cells import NO_ATTACK
from tacit.verdict import noise

Row = dict[str, Any]

MEASURES = (
    "accuracy", "worst_accuracy", "attack_success", "consensus_distance", "verdict_recall",
    "verdict_precision",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Arena:
    """What every attack cost under every defence.

    Attributes:
        experiment: what was attacked.
        cells: one row for each topology, defence and attack; see ``table``.
    """

    experiment: Experiment
    cells: list[Row]

    def table(self) -> list[Row]:
        """One flat row for each cell.

        "topology", "defence", "attack" by name, the "rule" as it is written in code, the "outcome"
        ("done", "diverged in round 3", "diverged by the end", where honest models have overflowed,
        or "not applicable") and a "note" that says why, or what was lowered. Over the honest nodes:
        "accuracy", "worst_accuracy" of the worst of them, "gap", its change against the same
        defence without attack, "attack_success" and "consensus_distance"; "verdict_recall" and
        "verdict_precision" over all rounds; "seconds". None where there is no such value.
        """
        alone = {
            (row["topology"], row["defence"]): row["worst_accuracy"]
            for row in self.cells
            if row["attack"] == NO_ATTACK
        }
        rows = []
        for row in self.cells:
            before, after = alone[row["topology"], row["defence"]], row["worst_accuracy"]
            gap = None if before is None or after is None else after - before
            rows.append(
                {name: row[name] for name in ("topology", "defence", "rule", "attack", "outcome")}
                | {name: row[name] for name in MEASURES[:2]}
                | {"gap": gap}
                | {name: row[name] for name in MEASURES[2:]}
                | {name: row[name] for name in ("seconds", "note")}
            )
        return rows

    def scores(self) -> list[Row]:
        """One flat row for each topology and defence that could be run, the best ones first.

        "score" is the accuracy of the worst honest node in the worst case: over all attacks, the
        adaptive ones included, and over none. "attack" names that case, "unattacked" is the worst
        node's accuracy without attack, "attack_success" the highest of any attack with a target
        (None without one), "tried" the number of attacks.
        """
        rows = []
        for topology in self.topologies:
            scored = [
                self._score(topology, defence)
                for defence in self._names("defence")
                if self._done(topology, defence)
            ]
            rows += sorted(scored, key=lambda row: -row["score"])
        return rows

    def best(self) -> dict[str, list[str]]:
        """Which defence to use here, by its score: sentences for each topology."""
        return {topology: self._best(topology) for topology in self.topologies}

    def to_text(self, width: int = 120) -> str:
        """The worst honest node's accuracy in every cell, in lines of up to ``width`` letters."""
        blocks = []
        for topology in self.topologies:
            attacks, rows = self.grid(topology)
            head = ["", *attacks, "worst case"]
            lines = [
                [row["defence"]]
                + [shown(row["cells"][attack]) for attack in attacks]
                + ["-" if row["score"] is None else f"{row['score']:.3f}"]
                for row in rows
            ]
            blocks += [
                f"{topology}: accuracy of the worst honest node",
                *_tables(head, lines, width),
            ]
            notes = (f"{row['defence']}: {row['note']}" for row in rows if row["note"])
            blocks += [textwrap.fill(note, width, subsequent_indent="  ") for note in notes]
            blocks.append("")
        for topology, sentences in self.best().items():
            blocks.append(textwrap.fill(f"{topology}: {' '.join(sentences)}", width))
        return "\n".join(blocks)

    def to_csv(self) -> str:
        """The table as CSV."""
        text, rows = io.StringIO(), self.table()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "experiment": self.experiment.description(),
            "table": self.table(),
            "scores": self.scores(),
            "best": self.best(),
        }

    @property
    def topologies(self) -> list[str]:
        return self._names("topology")

    def grid(self, topology: str) -> tuple[list[str], list[Row]]:
        """The attacks of a topology's columns, and one row for each defence, the best ones first.

        A row has "defence", "rule", "note", "score" (None where it could not be run) and "cells",
        by attack the rows of ``table``.
        """
        attacks = self._names("attack")
        cells: dict[str, dict[str, Row]] = {}
        for row in self.table():
            if row["topology"] == topology:
                cells.setdefault(row["defence"], {})[row["attack"]] = row
        scores = {r["defence"]: r["score"] for r in self.scores() if r["topology"] == topology}
        ordered = [*scores, *(defence for defence in cells if defence not in scores)]
        return attacks, [
            {
                "defence": defence,
                "rule": cells[defence][NO_ATTACK]["rule"],
                "note": cells[defence][NO_ATTACK]["note"],
                "score": scores.get(defence),
                "cells": cells[defence],
            }
            for defence in ordered
        ]

    def _names(self, kind: str) -> list[str]:
        return list(dict.fromkeys(row[kind] for row in self.cells))

    def _done(self, topology: str, defence: str) -> list[Row]:
        here = (topology, defence)
        rows = [row for row in self.cells if (row["topology"], row["defence"]) == here]
        return [row for row in rows if row["worst_accuracy"] is not None]

    def _score(self, topology: str, defence: str) -> Row:
        rows = self._done(topology, defence)
        worst = min(rows, key=lambda row: row["worst_accuracy"])
        success = [row["attack_success"] for row in rows if row["attack_success"] is not None]
        return {
            "topology": topology,
            "defence": defence,
            "rule": worst["rule"],
            "score": worst["worst_accuracy"],
            "attack": worst["attack"],
            "unattacked": rows[0]["worst_accuracy"],
            "attack_success": max(success, default=None),
            "tried": len(rows) - 1,
        }

    def _best(self, topology: str) -> list[str]:
        scored = [row for row in self.scores() if row["topology"] == topology]
        if not scored:
            return ["None of these defences can be used."]
        first = scored[0]
        name, score = f"{first['defence']}, {first['rule']}", first["score"]
        data = self.experiment.data
        slack = noise("accuracy", score, len(data.test.y))
        use = f"Use {name}."
        if score <= 1 / data.classes + slack:
            use = f"None withstands every attack; the best, {name}, is no better than guessing."
        says = [
            f"{use} In the worst case ({first['attack']}) the worst honest node is right in"
            f" {score:.1%}; without attack in {first['unattacked']:.1%}."
        ]
        equal = [row["defence"] for row in scored[1:] if score - row["score"] <= slack]
        if equal:
            says.append(f"As good, as far as these test rows can tell: {', '.join(equal)}.")
        mean = next((row for row in scored[1:] if row["rule"] == "Mean()"), None)
        if mean:
            says.append(
                f"Without a defence, by Mean(), it is {mean['score']:.1%}, under {mean['attack']}."
            )
        if first["attack_success"] is not None:
            says.append(
                f"Under {first['defence']} a backdoor still had its way with up to"
                f" {first['attack_success']:.1%} of the triggered rows."
            )
        return says


def shown(cell: Row) -> str:
    """A cell in five letters."""
    if cell["outcome"] == "done":
        return f"{cell['worst_accuracy']:.3f}"
    return "-" if cell["outcome"] == "not applicable" else "lost"


def _tables(head: list[str], lines: list[list[str]], width: int) -> Iterator[str]:
    """Columns of words, the first one repeated wherever the next would not fit the width."""
    names = max(len(line[0]) for line in lines)
    columns = list(zip(head, *lines, strict=True))[1:]
    wide = [max(map(len, [*title.split(), *column])) for title, *column in columns]
    start = 0
    while start < len(columns):
        end, used = start, names
        while end < len(columns) and (end == start or used + 2 + wide[end] <= width):
            used += 2 + wide[end]
            end += 1
        titles = [title.split() for title in head[1 + start : 1 + end]]
        tall = max(map(len, titles))
        words = [[""] * (tall - len(title)) + title for title in titles]
        for label, cells in [
            *(("", row) for row in zip(*words, strict=True)),
            *((line[0], line[1 + start : 1 + end]) for line in lines),
        ]:
            padded = (f"  {cell:>{w}}" for cell, w in zip(cells, wide[start:end], strict=True))
            yield f"{label:<{names}}{''.join(padded)}"
        start = end
