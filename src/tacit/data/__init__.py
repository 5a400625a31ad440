"""What each node holds: sources by name, own data, partitions, scaling, and the data contract."""

from tacit.data.contract import Contract, check
from tacit.data.federation import Federation, Split, Task
from tacit.data.loading import fetch, load, sources
from tacit.data.own import from_arrays, from_datasets
from tacit.data.partition import IID, ByKey, Dirichlet, Partition, QuantitySkew, Shards
from tacit.data.rows import Rows
from tacit.data.scaling import Scaling, Statistics, combine, node_statistics, standardise
from tacit.data.sites import at_sites, fill
from tacit.data.source import Source
from tacit.data.summary import describe, node_table
from tacit.data.tables import from_csv

__all__ = [
    "IID",
    "ByKey",
    "Contract",
    "Dirichlet",
    "Federation",
    "Partition",
    "QuantitySkew",
    "Rows",
    "Scaling",
    "Shards",
    "Source",
    "Split",
    "Statistics",
    "Task",
    "at_sites",
    "check",
    "combine",
    "describe",
    "fetch",
    "fill",
    "from_arrays",
    "from_csv",
    "from_datasets",
    "load",
    "node_statistics",
    "node_table",
    "sources",
    "standardise",
]
