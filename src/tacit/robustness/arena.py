"""Attacks against defences on topologies, all on the same data."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from tacit.aggregation import Aggregation, Mean
from tacit.attacks.base import Attack
from tacit.engine.run import run
from tacit.errors import DivergenceError, InputError, require
from tacit.experiment import Experiment, Topology
from tacit.robustness import defaults
from tacit.robustness.cells import Attacks, Cell, Defence, cells
from tacit.robustness.scores import MEASURES, Arena

Row = dict[str, Any]


def arena(
    experiment: Experiment,
    attacks: Mapping[str, Attacks] | None = None,
    defences: Mapping[str, Defence] | None = None,
    topologies: Mapping[str, Topology] | None = None,
    *,
    folder: str | Path | None = None,
    on_cell: Callable[[Row, int, int], None] | None = None,
) -> Arena:
    """Run every attack against every defence on every topology, and each defence unattacked.

    On a graph the algorithm is ``Gossip()`` where the experiment's needs a server, and the other
    way round ``FedAvg()``. Every node's model is measured on all test rows together, for the few of
    one node tell too little about a defence. A cell that cannot work is not applicable, with the
    reason; one in which training diverges, or honest models overflow, counts as accuracy 0.

    Args:
        experiment: the data, the model and the training; its own attacks and rule are left out.
        attacks: by name; by default ten, with as many malicious nodes as the experiment's own
            attack has, or a fifth.
        defences: by name, a rule or a function (k, f) -> rule, for a rule that depends on how many
            inputs a receiver has and how many of them lie. f is the largest number of malicious
            inputs of any honest receiver, lowered to the largest for which there is a rule for k.
        topologies: by name; by default the experiment's own, and a star or a random regular graph
            beside it.
        folder: where finished cells are kept, so that they are not run again; None keeps none.
        on_cell: called with each cell's row, how many are done, and how many there are.

    Raises:
        InputError: an experiment that cannot work without any attack, or a part that is none.
    """
    _named("attacks", attacks, _is_attack, "tacit.attacks such as ALIE(), one or a list")
    _named("defences", defences, _is_defence, "a rule such as Median(), or a function (k, f)")
    _named("topologies", topologies, _is_topology, "a topology such as Ring()")
    if experiment.data.task == "regression":
        raise InputError("data: a regression was given; an arena scores by accuracy")
    data = replace(experiment.data, test=experiment.data.test.pooled())
    plain = experiment.replace(
        data=data, attack=None, aggregation=Mean(), evaluate_every=experiment.rounds
    )
    plain.check()
    found = list(
        cells(
            plain,
            defaults.attacks(experiment) if attacks is None else attacks,
            defaults.defences() if defences is None else defences,
            defaults.topologies(experiment) if topologies is None else topologies,
        )
    )
    kept = Kept(Path(folder) / "cells.jsonl" if folder is not None else None)
    rows = []
    for done, cell in enumerate(found, 1):
        rows.append(kept.row(cell))
        if on_cell:
            on_cell(rows[-1], done, len(found))
    return Arena(plain, rows)


def _named(field: str, parts: Any, fits: Callable[[Any], bool], allowed: str) -> None:
    """Refuse what is no mapping of names to parts; None is the default's."""
    if parts is None:
        return
    require(isinstance(parts, Mapping), field, parts, f"a mapping of names, each to {allowed}")
    for name, part in parts.items():
        require(fits(part), f"{field}[{name!r}]", part, allowed)


def _is_attack(part: Any) -> bool:
    each = part if isinstance(part, Sequence) and part else [part]
    return all(isinstance(attack, Attack) for attack in each)


def _is_defence(part: Any) -> bool:
    return isinstance(part, Aggregation) or (callable(part) and not isinstance(part, type))


def _is_topology(part: Any) -> bool:
    return isinstance(part, Topology)


class Kept:
    """The rows of finished cells, one JSON document a line, by the digest of their experiments."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[str, Row] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        for line in text.split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:  # torn, when an earlier run was killed
                continue
            self.found[row.pop("digest")] = row
        if text and not text.endswith(b"\n"):
            _append(path, b"\n")

    def row(self, cell: Cell) -> Row:
        """The cell's row: from the file, or of a run of it."""
        named = {
            "topology": cell.topology, "defence": cell.defence, "rule": cell.rule,
            "attack": cell.attack, "note": cell.note,
        }  # fmt: skip
        if cell.experiment is None:
            return named | _measured("not applicable")
        digest = cell.experiment.digest() if self.path else ""
        if digest in self.found:
            return named | self.found[digest]
        try:
            row = _play(cell.experiment)
        except InputError as error:
            return named | _measured("not applicable") | {"note": str(error)}
        if self.path:
            _append(self.path, json.dumps({"digest": digest} | row).encode() + b"\n")
        return named | row


def _play(experiment: Experiment) -> Row:
    """What a cell's run measured after its last round; verdicts over all rounds."""
    began = time.perf_counter()
    try:
        rounds = run(experiment).metrics
    except DivergenceError as error:
        row = _measured(
            f"diverged in round {error.round}", {"accuracy": 0.0, "worst_accuracy": 0.0}
        )
    else:
        verdicts = {
            name: fmean(values)
            for name in ("verdict_recall", "verdict_precision")
            if (values := [row[name] for row in rounds if name in row])
        }
        last = rounds[-1] | verdicts
        if last.get("diverged"):
            row = _measured("diverged by the end", last | {"worst_accuracy": 0.0})
        else:
            row = _measured("done", last)
    return row | {"seconds": time.perf_counter() - began}


def _measured(outcome: str, values: Mapping[str, float] = {}) -> Row:
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    return {"outcome": outcome} | {name: known.get(name) for name in MEASURES} | {"seconds": 0.0}


def _append(path: Path, line: bytes) -> None:
    """One write to the end of the file, so that it is there as a whole or torn at the very end."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)
