"""The data contract: what every node's data must agree on before training starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tacit.data.federation import Federation, Split, Task
from tacit.errors import ContractError, InputError


@dataclass(frozen=True, eq=False)
class Part:
    """One node's rows as they were given.

    Attributes:
        where: whose rows these are, for messages: "node 'b'".
        x: (N, ...) inputs.
        y: (N, ...) targets.
        columns: names of the input columns, where they have any.
    """

    where: str
    x: NDArray
    y: NDArray
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contract:
    """What all nodes' data look like.

    Attributes:
        task: "classification", "regression" or "sequence".
        classes: number of labels or tokens, whose codes are 0 to classes - 1; 0 for regression.
        row: shape of one row's input: (columns,), (channels, height, width) or (tokens,).
        target: shape of one row's target: (), (k,) or (T,).
        tokens: inputs are whole token ids rather than numbers.
        columns: names of the input columns in order; () where they have none.
        min_rows: fewest training rows of a node.
        all_classes: every node must have training rows of every label.
    """

    task: Task
    classes: int
    row: tuple[int, ...]
    target: tuple[int, ...]
    tokens: bool = False
    columns: tuple[str, ...] = ()
    min_rows: int = 0
    all_classes: bool = False

    @classmethod
    def infer(
        cls, parts: Sequence[Part], task: Task | None = None, classes: int | None = None
    ) -> Self:
        """The contract that the first node with rows keeps; labels count over all nodes.

        Args:
            parts: the nodes' training rows.
            task: by default from the targets: floats are a regression; whole numbers are labels, or
                a sequence where x and y are both token windows (N, T).
            classes: by default the largest label plus one, and 2 at least.

        Raises:
            InputError: no node has a row, or the task is another word.
        """
        first = next((part for part in parts if len(part.y)), None)
        if first is None:
            raise InputError("data: the federation is empty; give at least one node with one row")
        tokens = first.x.dtype.kind in "iu"
        if task is None:
            if first.y.dtype.kind == "f":
                task = "regression"
            else:
                window = tokens and first.y.ndim == 2 and first.y.shape == first.x.shape
                task = "sequence" if window else "classification"
        if task not in ("classification", "regression", "sequence"):
            raise InputError(
                f"task: {task!r} was given; 'classification', 'regression' or 'sequence' is allowed"
            )
        if task == "regression":
            classes = 0
        elif classes is None:
            coded = [part.y for part in parts]
            if task == "sequence":
                coded += [part.x for part in parts]
            classes = max(2, *(_largest(values) + 1 for values in coded))
        target = {
            "classification": (),
            "regression": first.y.shape[1:] or (1,),
            "sequence": first.x.shape[1:],
        }[task]
        return cls(task, classes, first.x.shape[1:], target, tokens, first.columns)

    @classmethod
    def of(cls, federation: Federation) -> Self:
        """The contract that a federation states by its task, classes, columns and shapes."""
        x, y = federation.train.x, federation.train.y
        return cls(
            federation.task,
            federation.classes,
            tuple(x.shape[1:]),
            tuple(y.shape[1:]),
            not x.is_floating_point(),
            federation.columns,
        )

    def differences(self, part: Part) -> list[str]:
        """One sentence for everything in a node's rows that breaks the contract, by column."""
        if len(part.x) == len(part.y) == 0:
            return []
        found = []
        if len(part.x) != len(part.y):
            found.append(f"x has {len(part.x)} rows, y has {len(part.y)}")
        found += self._input_differences(part) + self._target_differences(part.y)
        return [f"{part.where}, {difference}" for difference in found]

    def shortfalls(self, part: Part) -> list[str]:
        """One sentence for every training row or label that a node lacks."""
        found = []
        if len(part.y) < self.min_rows:
            found.append(f"{part.where}: {len(part.y)} rows, at least {self.min_rows} are needed")
        if self.all_classes and self.task == "classification":
            missing = sorted(set(range(self.classes)) - set(np.unique(part.y).tolist()))
            if missing:
                found.append(f"{part.where}, labels: no row of {', '.join(map(str, missing))}")
        return found

    def _input_differences(self, part: Part) -> list[str]:
        x = part.x
        if x.dtype.kind not in "fiub":
            return [f"x: it holds {_kind(x)}, numbers are needed"]
        if x.ndim < 2:
            return [f"x: its shape is {x.shape}, (rows, columns) is needed"]
        if part.columns and self.columns and part.columns != self.columns:
            return column_differences(part.columns, self.columns)
        if x.shape[1:] != self.row:
            return [f"x: a row's shape is {x.shape[1:]}, the contract has {self.row}"]
        if (x.dtype.kind in "iu") != self.tokens:
            kinds = "decimal numbers", "whole numbers (tokens)"
            return [f"x: it holds {kinds[not self.tokens]}, the contract has {kinds[self.tokens]}"]
        if self.task == "sequence":
            outside = (x < 0) | (x >= self.classes)
            return _misfits(x, outside, "x", f"outside 0 to {self.classes - 1}")
        if self.tokens:
            return _misfits(x, x < 0, "x", "below 0")
        return self._not_finite(x)

    def _not_finite(self, x: NDArray) -> list[str]:
        finite = np.isfinite(x)
        if finite.all():
            return []
        if x.ndim > 2:
            return _misfits(x, ~finite, "x", "not finite")
        return [
            sentence
            for i in np.flatnonzero(~finite.all(0)).tolist()
            for sentence in _misfits(x[:, i], ~finite[:, i], self._column(i), "not finite")
        ]

    def _column(self, index: int) -> str:
        return f"column {self.columns[index]!r}" if self.columns else f"column {index}"

    def _target_differences(self, y: NDArray) -> list[str]:
        regression = self.task == "regression"
        what = {"classification": "labels", "regression": "targets", "sequence": "target tokens"}
        name = what[self.task]
        if y.dtype.kind not in "fiub":
            return [f"{name}: y holds {_kind(y)}, numbers are needed"]
        # A regression on one value may leave the column away.
        shape = y.shape[1:] or ((1,) if regression else ())
        if shape != self.target:
            return [f"{name}: a row's shape is {shape}, the contract has {self.target}"]
        finite = np.isfinite(y)
        if regression or not finite.all():
            return _misfits(y, ~finite, name, "not finite")
        if (y != np.floor(y)).any():
            return _misfits(y, y != np.floor(y), name, "not whole")
        outside = (y < 0) | (y >= self.classes)
        return _misfits(y, outside, name, f"outside 0 to {self.classes - 1}")


def examine(contract: Contract, train: Sequence[Part], test: Sequence[Part]) -> None:
    """Hold every node's training and test rows against the contract.

    Raises:
        ContractError: with one sentence per node and column that breaks it.
    """
    found = []
    for part in train:
        found += contract.differences(part) + contract.shortfalls(part)
    for part in test:
        found += contract.differences(part)
    if found:
        raise ContractError(found)


def check(federation: Federation, contract: Contract | None = None) -> None:
    """Hold a federation against a contract, by default the one that it states itself.

    Raises:
        ContractError: with one sentence per node and column that breaks it.
    """
    nodes = [f"node {name!r}" for name in federation.names]
    shared = federation.test.nodes != federation.nodes
    tests = ["test set"] if shared else [f"test rows of {node}" for node in nodes]
    examine(
        contract or Contract.of(federation),
        _parts(nodes, federation.train, federation.columns),
        _parts(tests, federation.test, federation.columns),
    )


def column_differences(columns: Sequence[str], expected: Sequence[str]) -> list[str]:
    """One sentence for each column that is missing, not expected, or at another place."""
    found = [f"column {name!r}: missing" for name in expected if name not in columns]
    found += [f"column {name!r}: not in the contract" for name in columns if name not in expected]
    if not found:
        found = [
            f"column {name!r}: the contract has {other!r} at its place"
            for name, other in zip(columns, expected, strict=True)
            if name != other
        ]
    return found


def _parts(names: list[str], split: Split, columns: tuple[str, ...]) -> list[Part]:
    return [
        Part(name, x.numpy(), y.numpy(), columns)
        for name, (x, y) in zip(names, split.parts(), strict=True)
    ]


def _misfits(values: NDArray, wrong: NDArray[np.bool_], name: str, what: str) -> list[str]:
    count = int(wrong.sum())
    if count == 0:
        return []
    first = tuple(np.argwhere(wrong)[0].tolist())
    number = "1 value is" if count == 1 else f"{count} values are"
    return [f"{name}: {number} {what} (first {values[first]:g} in row {first[0]})"]


def _kind(values: NDArray) -> str:
    return "text" if values.dtype.kind in "US" else f"values of dtype {values.dtype}"


def _largest(y: NDArray) -> int:
    if y.dtype.kind not in "fiub" or not len(y):
        return -1
    whole = y[np.isfinite(y)]
    return int(whole.max()) if whole.size else -1
