"""Tacit: learning from data that cannot move.

Names are imported when they are first used, so that ``import tacit`` and ``tacit --help`` stay fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tacit import data, losses, models
    from tacit.aggregation import Mean
    from tacit.algorithms import Alone, FedAvg, FedSGD, Gossip, Pooled
    from tacit.engine.run import Result, run
    from tacit.errors import (
        CheckpointError,
        ContractError,
        DivergenceError,
        InputError,
        MissingDataError,
        TacitError,
    )
    from tacit.experiment import Experiment
    from tacit.topology import Star
    from tacit.training.optimizers import SGD, Adam

_HOMES = {
    "tacit.aggregation": ["Mean"],
    "tacit.algorithms": ["Alone", "FedAvg", "FedSGD", "Gossip", "Pooled"],
    "tacit.engine.run": ["Result", "run"],
    "tacit.errors": [
        "CheckpointError",
        "ContractError",
        "DivergenceError",
        "InputError",
        "MissingDataError",
        "TacitError",
    ],
    "tacit.experiment": ["Experiment"],
    "tacit.topology": ["Star"],
    "tacit.training.optimizers": ["SGD", "Adam"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ["data", "models"]

__all__ = sorted([*_HOME, *_MODULES])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"tacit.{name}")
    raise AttributeError(f"module 'tacit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
