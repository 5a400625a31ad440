"""How rounds follow each other: one file a family, each reading like its paper."""

from tacit.algorithms.alone import Alone, Pooled
from tacit.algorithms.base import Algorithm
from tacit.algorithms.fedavg import FedAvg, FedSGD
from tacit.algorithms.gossip import Gossip

__all__ = ["Algorithm", "Alone", "FedAvg", "FedSGD", "Gossip", "Pooled"]
