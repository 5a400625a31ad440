"""A data set that is known by name."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tacit.data.federation import Task
from tacit.data.files import File
from tacit.data.partition import IID, Partition
from tacit.data.rows import Rows
from tacit.data.scaling import Scaling


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read, and how it is read.

    Attributes:
        name: what ``load`` calls it.
        description: one line.
        task: "classification", "regression" or "sequence".
        rows: rows in all (of the source's own test set, too).
        nodes: nodes of the default partition.
        licence: of the data.
        home: where it comes from and whom to cite.
        parse: the bytes of ``files``, in their order, to rows.
        files: what has to be on the machine; none for bundled sets.
        partition: the default; the natural one where there is one.
        scaling: the default.
        test_fraction: the default share of each node's rows to test on.
    """

    name: str
    description: str
    task: Task
    rows: int
    nodes: int
    licence: str
    home: str
    parse: Callable[..., Rows]
    files: tuple[File, ...] = ()
    partition: Partition = field(default_factory=IID)
    scaling: Scaling = "federated"
    test_fraction: float = 0.25
