"""The experiments of ``tacit demo``: eight places, bundled data, a minute at most."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch.nn.functional import cross_entropy

from tacit import data, models
from tacit.aggregation import Balance
from tacit.algorithms import Gossip
from tacit.attacks.simple import SignFlip
from tacit.engine.run import run
from tacit.errors import DivergenceError
from tacit.experiment import Experiment
from tacit.ledger.recorder import LOG
from tacit.ledger.verify import Audit, verify
from tacit.protection import DPSGD, SecureAggregation
from tacit.topology import Complete
from tacit.training.optimizers import SGD

# Of ``private``; its run is recorded.
MOST_PRIVATE = "epsilon 2, masked"

STORY = (
    "Eight post offices of very unequal size learn to read handwritten digits, each from its own"
    " letters: the 1,797 digits of the UCI test set (bundled with scikit-learn), dealt out by"
    " QuantitySkew(sigma=1.0); each office keeps 40 % of its rows for testing."
)


def experiment(seed: int = 0) -> Experiment:
    """FedAvg over eight offices with 19 to 409 training rows (for seed 0).

    A small office has too few letters to learn from alone, a large one has enough: so the first
    should gain, and the second should not.
    """
    dealt = data.load("digits", 8, data.QuantitySkew(sigma=1.0), test_fraction=0.4, seed=seed)
    return Experiment(
        data=replace(dealt, names=tuple(f"office {number}" for number in range(1, 9))),
        model=lambda: models.mlp(64, 64, 10),
        loss=cross_entropy,
        training=SGD(lr=0.1, batch_size=16),
        rounds=30,
        seed=seed,
    )


def poisoned(experiment: Experiment) -> dict[str, Experiment]:
    """The same federation without a server, before and after a third of its nodes starts to lie.

    All nodes hear all others, and the liars send their models with every sign reversed. The seed
    draws who lies: 3 of 8.
    """
    honest = experiment.replace(algorithm=Gossip(), topology=Complete())
    attacked = honest.replace(attack=SignFlip(nodes=1 / 3, of="model"))
    return {
        "mean, nobody lies": honest,
        "mean, a third lies": attacked,
        "BALANCE, a third lies": attacked.replace(aggregation=Balance()),
    }


def withstand(
    experiment: Experiment, on_round: Callable[[str, dict[str, Any]], None] = lambda *_: None
) -> list[dict[str, Any]]:
    """Run ``poisoned``: a row for each, with the accuracy of the nodes that are honest in all.

    Each of them is scored on its own test rows, all of which count alike. A run that diverges has
    accuracy 0 and says so.
    """
    plans = poisoned(experiment)
    liars = plans["mean, a third lies"].malicious
    rows = []
    for name, plan in plans.items():
        row: dict[str, Any] = {"run": name, "accuracy": 0.0, "diverged": False}
        try:
            nodes = run(plan, on_round=partial(on_round, name)).nodes
        except DivergenceError:
            row["diverged"] = True
        else:
            honest = [node for at, node in enumerate(nodes) if at not in liars]
            scores = [node["accuracy"] for node in honest]
            row["accuracy"] = float(np.average(scores, weights=[n["test_rows"] for n in honest]))
        rows.append(row)
    return rows


def private(experiment: Experiment) -> dict[str, Experiment]:
    """The same federation in fewer rounds of larger batches, at two privacy budgets for each row.

    Nodes train by DP-SGD and send masked updates, so that the server sees sums alone. delta is
    below one in the number of training rows of the federation.
    """
    plan = experiment.replace(rounds=15, training=SGD(lr=0.2, batch_size=64))
    masks = SecureAggregation()
    return {"no privacy": plan} | {
        f"epsilon {epsilon}, masked": plan.replace(
            protection=[DPSGD(norm=1.0, epsilon=epsilon, delta=5e-4), masks]
        )
        for epsilon in (8, 2)
    }


def protect(
    experiment: Experiment,
    record: Path,
    on_round: Callable[[str, dict[str, Any]], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Run ``private``: a row for each, with the pooled accuracy and what was spent.

    Args:
        record: folder for the record of the last one; what is there is replaced.
    """
    rows = []
    plans = private(experiment)
    if (record / LOG).exists():
        shutil.rmtree(record)
    for name, plan in plans.items():
        kept = record if plan is plans[MOST_PRIVATE] else None
        last = run(plan, on_round=partial(on_round, name), record=kept).metrics[-1]
        rows.append({"run": name, "accuracy": last["accuracy"], "epsilon": last.get("epsilon")})
    return rows


def price(rows: list[dict[str, Any]]) -> str:
    """What ``protect`` found, in a sentence."""
    plain, wide, narrow = (f"{row['accuracy']:.1%}" for row in rows)
    return (
        "Protected: the server sees the sum of masked updates alone, and no single letter can be"
        " told from what any office sends, but for epsilon (delta 0.0005). That costs accuracy:"
        f" {plain} of digits right without privacy, {wide} at epsilon 8, {narrow} at epsilon 2."
    )


def tamper(record: Path) -> tuple[Audit, Audit]:
    """Audits of a record, and of a copy of it in which one byte of a contribution is changed."""
    with TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(record, Path(folder) / "copy"))
        with closing(sqlite3.connect(copy / LOG)) as log, log:
            place, entry = log.execute(
                "SELECT place, entry FROM entries LIMIT 1 OFFSET 5"
            ).fetchone()
            changed = bytearray(entry)
            changed[100] ^= 1
            log.execute("UPDATE entries SET entry = ? WHERE place = ?", (bytes(changed), place))
        return verify(record), verify(copy)


def witnessed(audits: tuple[Audit, Audit]) -> str:
    """What ``tamper`` found, in a sentence."""
    whole, changed = audits
    assert whole.head is not None
    verdict = "the record holds" if not whole.findings else f"FAIL: {whole.findings[0]}"
    return (
        f"Recorded: the last run left {whole.head.size} signed entries, whose head a quorum of the"
        f" offices has cosigned. An outsider checks them: {verdict}. Then one byte of one entry is"
        f" changed: {changed.findings[0]}."
    )


def moral(rows: list[dict[str, Any]]) -> str:
    """What ``withstand`` found, in a sentence."""
    before, broken, defended = (
        f"{row['accuracy']:.1%}" + " (training diverged)" * row["diverged"] for row in rows
    )
    return (
        "Poisoned: without a server, a third of the offices sends its model with every sign"
        f" reversed. With the plain mean, the honest offices fall from {before} of digits right to"
        f" {broken}; with BALANCE, where each office turns away models too far from its own, they"
        f" get {defended} right. A liar who keeps just within that distance is not turned away."
    )
