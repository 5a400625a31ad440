"""Every public name, in one place. ``tacit`` hands them out when they are first used."""

from tacit import data, models
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
from tacit.topology import (
    Complete,
    Custom,
    DirectedExponential,
    DirectedRing,
    Epidemic,
    ErdosRenyi,
    Exponential,
    Hierarchical,
    Hypercube,
    Pairwise,
    RandomRegular,
    Ring,
    SmallWorld,
    Star,
    TimeVarying,
    Torus,
)
from tacit.training.losses import next_token
from tacit.training.optimizers import SGD, Adam, Cosine, StepDecay

__all__ = [
    "SGD",
    "Adam",
    "Alone",
    "CheckpointError",
    "Complete",
    "ContractError",
    "Cosine",
    "Custom",
    "DirectedExponential",
    "DirectedRing",
    "DivergenceError",
    "Epidemic",
    "ErdosRenyi",
    "Experiment",
    "Exponential",
    "FedAvg",
    "FedSGD",
    "Gossip",
    "Hierarchical",
    "Hypercube",
    "InputError",
    "Mean",
    "MissingDataError",
    "Pairwise",
    "Pooled",
    "RandomRegular",
    "Result",
    "Ring",
    "SmallWorld",
    "Star",
    "StepDecay",
    "TacitError",
    "TimeVarying",
    "Torus",
    "data",
    "models",
    "next_token",
    "run",
]
