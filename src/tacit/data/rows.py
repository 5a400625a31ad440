"""The rows of one source, before they are dealt out to nodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from numpy.typing import NDArray
from torch import Tensor

from tacit.data.federation import Task


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that a partition deals out.

    Attributes:
        x: (N, ...) inputs: float32, or int64 for tokens.
        y: targets: (N,) int64 labels, (N, k) float32 values, or (N, T) int64 tokens.
        task: "classification", "regression" or "sequence".
        classes: number of labels or tokens; 0 for regression.
        columns: names of the input columns, where they have any.
        keys: natural keys, one (N,) array each: the hospital, station or speaker of every row.
        test: the source's own test rows (x, y), where it has some.
        ordered: rows follow each other in time, so a node's test rows are its last ones.
    """

    x: Tensor
    y: Tensor
    task: Task
    classes: int
    columns: tuple[str, ...] = ()
    keys: Mapping[str, NDArray] = field(default_factory=dict)
    test: tuple[Tensor, Tensor] | None = None
    ordered: bool = False
