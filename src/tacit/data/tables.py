"""Your own tables: CSV or Parquet, one file a node or one file with a node column."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from tacit.data.contract import Contract, column_differences
from tacit.data.federation import Federation, Task
from tacit.data.names import unknown
from tacit.data.own import from_arrays
from tacit.data.scaling import Scaling
from tacit.errors import ContractError, InputError

if TYPE_CHECKING:
    import polars as pl


class Options(TypedDict):
    """What ``from_csv`` hands on to ``from_arrays``."""

    task: Task | None
    scaling: Scaling
    test_fraction: float
    contract: Contract | None
    seed: int
    name: str


Files = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
Categories = Mapping[str, Sequence[object]]

_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def from_csv(
    files: Files,
    *,
    target: str,
    node_column: str | None = None,
    columns: Sequence[str] | None = None,
    categories: Categories | None = None,
    labels: Sequence[object] | None = None,
    task: Task | None = None,
    scaling: Scaling = "federated",
    test_fraction: float = 0.25,
    contract: Contract | None = None,
    seed: int = 0,
    name: str = "data",
) -> Federation:
    """A federation from tables with a header: .csv, .csv.gz or .parquet, told by the file's name.

    Columns are found by their name, so their order in a file does not matter. An empty cell is a
    value that is not finite, which the contract refuses.

    Args:
        files: a list of files, a file for each node's name, a folder (each table a node, called by
            its file's name), or one file with ``node_column``.
        target: the column to predict: whole numbers or words are labels, decimal numbers a
            regression.
        node_column: the column that says whose row it is, in one file that holds all nodes.
        columns: the inputs; by default all columns of the first file but target and node column.
        categories: for a column of words or codes all its values, known before any row is seen:
            each value becomes a column of zeros and ones.
        labels: the target's values, in the order of their codes 0, 1, ...; by default words are
            coded in the sorted order of all that occur at any node.
        task: by default read off the target.
        scaling: of the inputs: "federated", "node" or "none".
        test_fraction: share of each node's rows to test on, in [0, 1).
        contract: what the nodes must agree on; by default what the first node with rows has.
        seed: of the rows held out.
        name: what to call this data set.

    Raises:
        ContractError: nodes whose columns or values do not fit together.
        InputError: a file, a column or a field that cannot be used.
    """
    return federation(
        _tables(files, node_column),
        target=target,
        columns=columns,
        categories=categories,
        labels=labels,
        task=task,
        scaling=scaling,
        test_fraction=test_fraction,
        contract=contract,
        seed=seed,
        name=name,
    )


def federation(
    tables: Mapping[str, "pl.DataFrame"],
    *,
    target: str,
    columns: Sequence[str] | None,
    categories: Categories | None,
    labels: Sequence[object] | None,
    **options: Unpack[Options],
) -> Federation:
    """``from_csv`` of tables that are read, by node."""
    categories = categories or {}
    first = next(iter(tables.values()))
    for wanted in (target, *(columns or ()), *categories):
        if not any(wanted in table.columns for table in tables.values()):
            raise unknown("column", wanted, first.columns)
    if columns is None:
        columns = [column for column in first.columns if column != target]
    else:
        kept = (*columns, target)
        tables = {
            node: table.select([column for column in table.columns if column in kept])
            for node, table in tables.items()
        }
    if labels is None:
        labels = _words(tables, target)

    differences = [
        f"node {node!r}, {difference}"
        for node, table in tables.items()
        for difference in _differences(table, columns, categories, target, labels)
    ]
    if differences:
        raise ContractError(differences)
    return from_arrays(
        [
            (_inputs(table, columns, categories), _targets(table[target], labels))
            for table in tables.values()
        ],
        names=list(tables),
        columns=input_names(columns, categories),
        classes=None if labels is None else len(labels),
        **options,
    )


def _tables(files: Files, node_column: str | None) -> dict[str, "pl.DataFrame"]:
    """Each node's table, without its node column."""
    if node_column is not None:
        if not isinstance(files, str | Path):
            raise InputError("files: several were given; node_column needs a single one")
        return _by_node(read(Path(files)), node_column)
    if isinstance(files, Mapping):
        paths = {node: Path(path) for node, path in files.items()}
    else:
        listed = _folder(Path(files)) if isinstance(files, str | Path) else map(Path, files)
        paths = {}
        for path in listed:
            node = _node_name(path)
            if node in paths:
                raise InputError(
                    f"files: {paths[node]} and {path} would both be node {node!r};"
                    " give a dict of names to files"
                )
            paths[node] = path
    if not paths:
        raise InputError("files: none was given; at least one is needed")
    return {node: read(path) for node, path in paths.items()}


def _folder(path: Path) -> list[Path]:
    if path.is_file():
        raise InputError(
            f"files: {path} is one file; say node_column, or give a file for each node"
        )
    found = sorted(each for each in path.glob("*") if each.name.endswith(_SUFFIXES))
    if not found:
        raise InputError(f"files: the folder {path} has no {', '.join(_SUFFIXES)} file")
    return found


def _node_name(path: Path) -> str:
    return next((path.name.removesuffix(s) for s in _SUFFIXES if path.name.endswith(s)), path.name)


def read(path: Path) -> "pl.DataFrame":
    import polars as pl

    if not path.is_file():
        raise InputError(f"files: there is no file {path}")
    if not path.name.endswith(_SUFFIXES):
        raise InputError(f"files: {path} was given; a name in {', '.join(_SUFFIXES)} is allowed")
    try:
        if path.name.endswith(".parquet"):
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema_length=None)
    except pl.exceptions.NoDataError as error:
        raise InputError(f"files: {path} is empty; a header is needed") from error
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"files: {path} cannot be read as a table ({reason})") from error


def _by_node(table: "pl.DataFrame", column: str) -> dict[str, "pl.DataFrame"]:
    if column not in table.columns:
        raise unknown("column", column, table.columns)
    gaps = table[column].null_count()
    if gaps:
        raise InputError(f"node_column: {column!r} is empty in {gaps} rows; each needs a node")
    groups = table.sort(column, maintain_order=True).partition_by(
        column, as_dict=True, include_key=False, maintain_order=True
    )
    return {str(key): group for (key,), group in groups.items()}


def _words(tables: Mapping[str, "pl.DataFrame"], target: str) -> list[str] | None:
    """The sorted union of the target's values, if some node has words there."""
    import polars as pl

    ys = [table[target] for table in tables.values() if target in table.columns and len(table)]
    if not any(y.dtype == pl.String for y in ys):
        return None
    return sorted({str(value) for y in ys for value in y.drop_nulls().to_list()})


def _differences(
    table: "pl.DataFrame",
    columns: Sequence[str],
    categories: Categories,
    target: str,
    labels: Sequence[object] | None,
) -> list[str]:
    """What keeps a node's table from being read, a sentence for each column."""
    found = column_differences(sorted(table.columns), sorted([*columns, target]))
    if found or not len(table):
        return found
    for column in columns:
        if column in categories:
            found += _strangers(table[column], categories[column])
        else:
            found += _not_numbers(table[column])
    if table[target].null_count():
        found.append(f"target {target!r}: {table[target].null_count()} rows are empty")
    elif labels is None:
        found += _not_numbers(table[target])
    else:
        found += _strangers(table[target], labels)
    return found


def _strangers(values: "pl.Series", allowed: Sequence[object]) -> list[str]:
    words = {str(value) for value in allowed}
    strange = [value for value in values.unique().to_list() if str(value) not in words]
    if not strange:
        return []
    return [
        f"column {values.name!r}: {', '.join(sorted(map(repr, strange)))} is not one of"
        f" {', '.join(map(repr, allowed))}"
    ]


def _not_numbers(values: "pl.Series") -> list[str]:
    import polars as pl

    if values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null):
        return []
    if values.dtype != pl.String:
        return [f"column {values.name!r}: it holds {values.dtype}, numbers are needed"]
    words = (values.cast(pl.Float64, strict=False).is_null() & values.is_not_null()).arg_true()
    if not len(words):
        return []
    return [
        f"column {values.name!r}: it holds words (first {values[words[0]]!r} in row {words[0]});"
        " numbers are needed, or its values in categories"
    ]


def _inputs(
    table: "pl.DataFrame", columns: Sequence[str], categories: Categories
) -> NDArray[np.float32]:
    import polars as pl

    parts: list[NDArray] = []
    for column in columns:
        if column in categories:
            words = np.array([str(value) for value in table[column].to_list()])
            parts += [words == str(value) for value in categories[column]]
        else:
            parts.append(table[column].cast(pl.Float32, strict=False).to_numpy())
    return np.column_stack(parts).astype(np.float32)


def input_names(columns: Sequence[str], categories: Categories) -> list[str]:
    names = []
    for column in columns:
        known = categories.get(column)
        names += [column] if known is None else [f"{column}={value}" for value in known]
    return names


def _targets(values: "pl.Series", labels: Sequence[object] | None) -> NDArray:
    if labels is None:
        return values.to_numpy()
    codes = {str(label): code for code, label in enumerate(labels)}
    return np.array([codes[str(value)] for value in values.to_list()], np.int64)
