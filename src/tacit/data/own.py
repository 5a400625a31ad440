"""Your own data, one pair of arrays or one torch Dataset per node."""

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from tacit.data.contract import Contract, Part, examine
from tacit.data.federation import Federation, Split, Task
from tacit.data.scaling import Scaling, standardise
from tacit.data.split import hold_out
from tacit.errors import InputError

Pair = tuple[ArrayLike | Tensor, ArrayLike | Tensor]


class Options(TypedDict, total=False):
    """What ``from_datasets`` shares with ``from_arrays``, which explains it."""

    test_fraction: float
    names: Sequence[str] | None
    columns: Sequence[str]
    task: Task | None
    classes: int | None
    scaling: Scaling
    contract: Contract | None
    seed: int
    name: str


def from_arrays(
    nodes: Sequence[Pair],
    *,
    test: Pair | list[Pair] | None = None,
    test_fraction: float = 0.25,
    names: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    task: Task | None = None,
    classes: int | None = None,
    scaling: Scaling = "none",
    contract: Contract | None = None,
    seed: int = 0,
    name: str = "data",
) -> Federation:
    """A federation from NumPy arrays or tensors, one (x, y) pair per node.

    Args:
        nodes: x (N, ...): 32- and 64-bit whole numbers are tokens and become int64; all others
            become float32. y: (N,) whole-number labels, (N,) or (N, k) float targets, or (N, T)
            tokens. A node without rows may be a pair of empty lists.
        test: a tuple (x, y) that all nodes share, or a list with a pair per node; by default rows
            of each node are held out.
        test_fraction: the share held out, in [0, 1), by label where there are labels.
        names: of the nodes; by default "0", "1", ...
        columns: names of the input columns.
        task: by default read off y, see ``Contract.infer``.
        classes: number of labels; by default the largest plus one.
        scaling: of the inputs: "federated", "node" or "none".
        contract: what the nodes must agree on; by default what the first node with rows has.
        seed: of the rows held out.
        name: what to call this data set.

    Raises:
        ContractError: nodes whose data do not fit together.
        InputError: no rows at all, or a field that is not allowed.
    """
    names = [str(i) for i in range(len(nodes))] if names is None else list(names)
    if len(names) != len(nodes) or len(set(names)) != len(names):
        raise InputError(
            f"names: {len(names)} names ({len(set(names))} different) were given for {len(nodes)}"
            " nodes; one of its own for each is needed"
        )
    columns = tuple(columns)
    where = [f"node {each!r}" for each in names]
    train = [_part(w, pair, columns) for w, pair in zip(where, nodes, strict=True)]
    if test is None:
        tests = []
    elif isinstance(test, tuple):
        tests = [_part("test set", test, columns)]
    elif len(test) == len(nodes):
        tests = [
            _part(f"test rows of {w}", pair, columns) for w, pair in zip(where, test, strict=True)
        ]
    else:
        raise InputError(
            f"test: {len(test)} pairs were given for {len(nodes)} nodes; give one each in a list,"
            " or a tuple (x, y) for all"
        )
    contract = contract or Contract.infer(train, task, classes)
    examine(contract, train, tests)

    packed = Split.pack([_tensors(part, contract) for part in train])
    if tests:
        measured = Split.pack([_tensors(part, contract) for part in tests])
    else:
        stratify = contract.task == "classification"
        packed, measured = hold_out(
            packed, test_fraction, stratify=stratify, ordered=False, seed=seed
        )
    federation = Federation(
        packed, measured, tuple(names), contract.task, contract.classes, columns, name
    )
    return standardise(federation, scaling)


def from_datasets(
    nodes: Sequence[Dataset],
    *,
    test: Dataset | list[Dataset] | None = None,
    **options: Unpack[Options],
) -> Federation:
    """A federation from torch Datasets of (x, y) items, one per node.

    Args:
        nodes: every item of each is read once, into memory.
        test: a Dataset that all nodes share, or a list with one per node.
        options: as for ``from_arrays``.

    Raises:
        ContractError: nodes whose data do not fit together.
        InputError: no rows at all, or a field that is not allowed.
    """
    pairs = [_items(dataset) for dataset in nodes]
    if test is None:
        return from_arrays(pairs, **options)
    measured = [_items(each) for each in test] if isinstance(test, list) else _items(test)
    return from_arrays(pairs, test=measured, **options)


def _items(dataset: Dataset) -> Pair:
    if isinstance(dataset, IterableDataset):
        items = list(dataset)
    else:
        items = [dataset[i] for i in range(len(cast(Any, dataset)))]
    if not items:
        return [], []
    x, y = default_collate(items)
    return x, y


def _part(where: str, pair: Pair, columns: tuple[str, ...]) -> Part:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InputError(f"{where}: {type(pair).__name__} was given; a pair (x, y) is allowed")
    x, y = (_array(where, half) for half in pair)
    if x.ndim == 0 or y.ndim == 0:
        raise InputError(f"{where}: a single number was given; x and y need an entry for each row")
    if x.dtype.kind in "iu" and x.dtype.itemsize >= 4:
        x = x.astype(np.int64, copy=False)
    elif x.dtype.kind in "fiub":
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which the contract reports
            x = x.astype(np.float32, copy=False)
    return Part(where, x, y, columns)


def _array(where: str, values: ArrayLike | Tensor) -> NDArray:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{where}: rows of unequal lengths were given ({error})") from error


def _tensors(part: Part, contract: Contract) -> tuple[Tensor, Tensor]:
    x_type = np.int64 if contract.tokens else np.float32
    y_type = np.float32 if contract.task == "regression" else np.int64
    x = part.x.astype(x_type).reshape(len(part.x), *contract.row)
    y = part.y.astype(y_type).reshape(len(part.y), *contract.target)
    return torch.from_numpy(x), torch.from_numpy(y)
