"""Data sets by name, as federations."""

from pathlib import Path

from tacit.data import files
from tacit.data.federation import Federation, Split
from tacit.data.names import unknown
from tacit.data.partition import ByKey, Partition
from tacit.data.scaling import Scaling, standardise
from tacit.data.source import Source
from tacit.data.sources import SOURCES
from tacit.data.split import deal, hold_out


def load(
    name: str,
    nodes: int | None = None,
    partition: Partition | None = None,
    *,
    scaling: Scaling | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
) -> Federation:
    """A data set by its name, dealt out to nodes; what is not on the machine is fetched.

    Every node's rows are parted into training and test rows, by label where there are labels and by
    time where rows follow each other. MNIST has its official test set, shared by all nodes, unless
    ``test_fraction`` is given: then the nodes' own rows are parted, and the official set is unused.

    Args:
        name: one of those that ``sources()`` lists.
        nodes: how many; by default as many as the source's natural or usual partition has.
        partition: who gets which rows; by default the natural one, or else IID.
        scaling: of the inputs: "federated", "node" or "none"; by default the first for tables and
            the last for pixels and text. Regression targets keep their unit.
        test_fraction: share of each node's rows to test on, in [0, 1); by default 0.25, and for
            heart-disease 0.34 as in FLamby.
        seed: of the partition and the test rows.

    Raises:
        InputError: an unknown name, or a field that the source does not allow.
        MissingDataError: the data are neither on this machine nor reachable.
    """
    source = _source(name)
    partition = partition or source.partition
    if nodes is None and not isinstance(partition, ByKey):
        nodes = source.nodes
    rows = source.parse(*files.contents(name, source.files))
    owned = partition.assign(rows, nodes, seed)
    train = deal(rows.x, rows.y, list(owned.values()))
    if rows.test is not None and test_fraction is None:
        test = Split.pack([rows.test])
    else:
        train, test = hold_out(
            train,
            source.test_fraction if test_fraction is None else test_fraction,
            stratify=rows.task == "classification",
            ordered=rows.ordered,
            seed=seed,
        )
    federation = Federation(
        train, test, tuple(owned), rows.task, rows.classes, rows.columns, name=name
    )
    return standardise(federation, source.scaling if scaling is None else scaling)


def fetch(name: str) -> list[Path]:
    """Bring a data set's files onto this machine; where they lie (nothing for bundled sets).

    Raises:
        InputError: an unknown name, or a file that is not the published one.
        MissingDataError: a file cannot be reached.
    """
    return files.fetch(name, _source(name).files)


def sources() -> tuple[Source, ...]:
    """The data sets that ``load`` knows."""
    return tuple(SOURCES.values())


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    return SOURCES[name]
