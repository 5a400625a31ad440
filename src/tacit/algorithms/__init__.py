"""How rounds follow each other: one file a family, each reading like its paper."""

from tacit.algorithms.adpsgd import ADPSGD
from tacit.algorithms.alone import Alone, Pooled
from tacit.algorithms.base import Algorithm
from tacit.algorithms.fedavg import FedAvg, FedSGD
from tacit.algorithms.fedbuff import AsyncSGD, FedBuff
from tacit.algorithms.feddyn import FedDyn
from tacit.algorithms.fednova import FedNova
from tacit.algorithms.fedopt import (
    FedOpt,
    ServerAdagrad,
    ServerAdam,
    ServerMomentum,
    ServerOptimizer,
    ServerYogi,
)
from tacit.algorithms.fedprox import FedProx
from tacit.algorithms.gossip import Gossip
from tacit.algorithms.learn import LEARN
from tacit.algorithms.monna import MoNNA
from tacit.algorithms.personal import Ditto, FedBN, FedPer, FedRep, FineTune
from tacit.algorithms.pushsum import PushSum
from tacit.algorithms.scaffold import Scaffold

__all__ = [
    "ADPSGD",
    "LEARN",
    "Algorithm",
    "Alone",
    "AsyncSGD",
    "Ditto",
    "FedAvg",
    "FedBN",
    "FedBuff",
    "FedDyn",
    "FedNova",
    "FedOpt",
    "FedPer",
    "FedProx",
    "FedRep",
    "FedSGD",
    "FineTune",
    "Gossip",
    "MoNNA",
    "Pooled",
    "PushSum",
    "Scaffold",
    "ServerAdagrad",
    "ServerAdam",
    "ServerMomentum",
    "ServerOptimizer",
    "ServerYogi",
]
