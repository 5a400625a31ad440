"""Data that stay at their sites: what every table must look like, before a row of one is read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tacit.data.contract import Contract
from tacit.data.federation import Federation, Split, Table, Task
from tacit.data.names import unknown
from tacit.data.tables import federation, input_names, read
from tacit.errors import InputError, require


def at_sites(
    names: Sequence[str],
    *,
    target: str,
    columns: Sequence[str],
    labels: Sequence[object] | None = None,
    categories: Mapping[str, Sequence[object]] | None = None,
    scaling: Literal["node", "none"] = "node",
    test_fraction: float = 0.25,
    seed: int = 0,
    name: str = "data",
) -> Federation:
    """A federation whose rows are not here: every site reads a table of its own.

    All that ``from_csv`` finds out by looking at the rows of all nodes must be said.

    Args:
        names: of the sites, in an order that all share.
        target: the column to predict.
        columns: the inputs.
        labels: the target's values, in the order of their codes 0, 1, ...; None: a regression.
        categories: for a column of words or codes all its values.
        scaling: of the inputs, by each site's own mean and scale ("node"), or "none".
        test_fraction: share of each site's rows to test on, in [0, 1).
        seed: of the rows held out.
        name: what to call this data set.

    Raises:
        InputError: a field that cannot be used.
    """
    require(len(set(names)) == len(names) > 0, "names", list(names), "different names, 1 or more")
    require(scaling in ("node", "none"), "scaling", scaling, "'node' or 'none'")
    require(0 <= test_fraction < 1, "test_fraction", test_fraction, "0 up to, not with, 1")
    require(len(columns) > 0, "columns", list(columns), "names of one or more input columns")
    if labels is not None:
        require(len(labels) > 1, "labels", list(labels), "two values or more, or None")
    known = {column: tuple(values) for column, values in (categories or {}).items()}
    for column in known:
        if column not in columns:
            raise unknown("column", column, columns)
    table = Table(
        target, tuple(columns), known, None if labels is None else tuple(labels),
        scaling, test_fraction, seed,
    )  # fmt: skip
    inputs = tuple(input_names(columns, known))
    y = torch.empty(0, 1) if labels is None else torch.empty(0, dtype=torch.int64)
    empty = Split(torch.empty(0, len(inputs)), y, np.zeros(len(names) + 1, np.int64))
    task: Task = "regression" if labels is None else "classification"
    return Federation(empty, empty, tuple(names), task, len(labels or ()), inputs, name, table)


def fill(empty: Federation, files: Mapping[str, str | Path]) -> Federation:
    """The federation with the rows of some of its sites, from their tables.

    Args:
        empty: from ``at_sites``.
        files: .csv, .csv.gz or .parquet, by site.

    Raises:
        ContractError: a table that is not as agreed on.
        InputError: a site that the federation does not have, or a file that cannot be read.
    """
    import polars as pl

    table = empty.table
    if table is None:
        raise InputError("data: files of sites were given, but the experiment's data are all here")
    for site in files:
        if site not in empty.names:
            raise unknown("site", site, empty.names)
    none = pl.DataFrame(schema=dict.fromkeys((*table.columns, table.target), pl.Float32))
    filled = federation(
        {site: read(Path(files[site])) if site in files else none for site in empty.names},
        target=table.target, columns=table.columns, categories=table.categories,
        labels=table.labels, task=empty.task, scaling=table.scaling,
        test_fraction=table.test_fraction, contract=Contract.of(empty), seed=table.seed,
        name=empty.name,
    )  # fmt: skip
    return replace(filled, table=table)


def told(empty: Federation, rows: Sequence[int]) -> Federation:
    """The federation as one knows it who has no rows, but was told how many each site trains on."""
    train = replace(empty.train, offsets=np.concatenate([[0], np.cumsum(rows)]).astype(np.int64))
    return replace(empty, train=train)
