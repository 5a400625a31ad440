"""What each node holds: packed tensors and, for every node, the rows that are its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.data.names import unknown
from tacit.errors import InputError

Task = Literal["classification", "regression", "sequence"]


@dataclass(frozen=True)
class Table:
    """What the table at every site looks like, agreed on before a row is read.

    Attributes:
        target: the column to predict.
        columns: the input columns.
        categories: for a column of words or codes, all its values.
        labels: the target's values in the order of their codes; None: a regression.
        scaling: of the inputs, by each site's own statistics ("node") or not at all ("none").
        test_fraction: share of a site's rows to test on.
        seed: of the rows held out.
    """

    target: str
    columns: tuple[str, ...]
    categories: Mapping[str, tuple[object, ...]]
    labels: tuple[object, ...] | None
    scaling: Literal["node", "none"]
    test_fraction: float
    seed: int


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of several nodes in two flat tensors, each node's rows side by side.

    Attributes:
        x: (N, ...) inputs: float32, or int64 for tokens.
        y: targets: (N,) int64 labels, (N, k) float32 values, or (N, T) int64 tokens.
        offsets: (n + 1,) int64; node i owns the rows from offsets[i] up to offsets[i + 1].
    """

    x: Tensor
    y: Tensor
    offsets: NDArray[np.int64]

    @classmethod
    def pack(cls, parts: Sequence[tuple[Tensor, Tensor]]) -> Self:
        """Lay one (x, y) pair per node side by side."""
        sizes = [len(y) for _, y in parts]
        x, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
        return cls(x.contiguous(), y.contiguous(), np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def nodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) rows of each node."""
        return np.diff(self.offsets)

    def node(self, index: int) -> tuple[Tensor, Tensor]:
        """The inputs and targets of one node, as views."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.x[rows], self.y[rows]

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """One (x, y) pair of views per node."""
        return [self.node(i) for i in range(self.nodes)]

    def pooled(self) -> Self:
        """The same rows as the property of one node."""
        return replace(self, offsets=np.array([0, len(self.y)]))


@dataclass(frozen=True, eq=False)
class Federation:
    """The nodes and the data that each holds.

    Attributes:
        train: the rows that nodes learn from.
        test: the rows that models are measured on: one node per training node, or a single one
            whose rows every node's model is measured on (a shared test set).
        names: one name per training node.
        task: "classification" (y is (N,) labels), "regression" (y is (N, k) values) or
            "sequence" (y is (N, T) tokens).
        classes: number of labels or tokens; 0 for regression.
        columns: names of the input columns, where they have any.
        name: what to call this data set.
        table: what a site's table must look like, where rows are read at the sites alone; some or
            all nodes then have no rows here.
    """

    train: Split
    test: Split
    names: tuple[str, ...]
    task: Task
    classes: int
    columns: tuple[str, ...] = ()
    name: str = "data"
    table: Table | None = None

    def __post_init__(self) -> None:
        if not self.names or (len(self.train.y) == 0 and self.table is None):
            raise InputError("data: the federation is empty; give at least one node with one row")
        if len(self.names) != self.train.nodes:
            raise InputError(
                f"data: {len(self.names)} names were given for {self.train.nodes} nodes"
            )
        if self.test.nodes not in (1, self.train.nodes):
            raise InputError(
                f"data: the test set has {self.test.nodes} nodes; give one for each of the"
                f" {self.train.nodes} nodes or a single shared one"
            )

    @property
    def nodes(self) -> int:
        return self.train.nodes

    @property
    def shared_test(self) -> bool:
        """Whether all nodes' models are measured on the same rows."""
        return self.test.nodes == 1 and self.nodes > 1

    def map(self, change: Callable[[Tensor], Tensor]) -> "Federation":
        """The same federation with every input tensor (train and test) changed."""
        return replace(
            self,
            train=replace(self.train, x=change(self.train.x)),
            test=replace(self.test, x=change(self.test.x)),
        )

    def without(self, name: str) -> "Federation":
        """The federation of the other nodes.

        Raises:
            InputError: no such node, or no other one.
        """
        if name not in self.names:
            raise unknown("site", name, self.names)
        left = [i for i, other in enumerate(self.names) if other != name]
        if not left:
            raise InputError(f"site: {name!r} is the only one")
        train, test = (
            split if split.nodes == 1 else Split.pack([split.node(i) for i in left])
            for split in (self.train, self.test)
        )
        return replace(self, train=train, test=test, names=tuple(self.names[i] for i in left))

    def label_counts(self) -> NDArray[np.int64]:
        """(n, classes) how many training rows of each label every node holds.

        Raises:
            InputError: the task has no labels.
        """
        if self.task != "classification":
            raise InputError(f"data: a {self.task} task has no label counts")
        owner = np.repeat(np.arange(self.nodes), self.train.sizes)
        flat = owner * self.classes + self.train.y.numpy()
        counts = np.bincount(flat, minlength=self.nodes * self.classes)
        return counts.reshape(self.nodes, self.classes)
