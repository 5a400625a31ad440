"""The floor: what a good engineer writes by hand, without a framework.

One ``nn.Module``, autograd and one ``torch.optim.SGD``, node after node, on one thread. The batches
come as row numbers, so that both sides see the same rows in the same order; drawing them is not
part of the floor's time.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tacit.data.federation import Split
from tacit.training.losses import Loss

Batches = Sequence[Tensor]


class Floor:
    """One model that is every node in turn.

    Its parameters are views of one (d,) vector, in the order of ``module.parameters()``, so that
    resetting and averaging a model is one operation.
    """

    def __init__(self, module: nn.Module, loss: Loss, lr: float, split: Split) -> None:
        self.module, self.loss, self.split = copy.deepcopy(module), loss, split
        parameters = list(self.module.parameters())
        self.vector = nn.utils.parameters_to_vector(parameters).detach()
        nn.utils.vector_to_parameters(self.vector, parameters)
        self.optimizer = torch.optim.SGD(parameters, lr=lr)

    def fedavg(self, start: Tensor, nodes: Sequence[Batches]) -> Tensor:
        """A round of FedAvg: the (d,) plain mean of what the nodes make of ``start`` (d,)."""
        total = torch.zeros_like(start)
        for batches in nodes:
            self._train(start, batches)
            total += self.vector
        return total / len(nodes)

    def gossip(self, models: Tensor, nodes: Sequence[Batches], weight: Tensor) -> Tensor:
        """A round of D-PSGD: W X of the trained models, from models (n, d) and W (n, n)."""
        trained = torch.empty_like(models)
        for model, batches, row in zip(models, nodes, trained, strict=True):
            self._train(model, batches)
            row.copy_(self.vector)
        return weight @ trained

    def _train(self, start: Tensor, batches: Batches) -> None:
        self.vector.copy_(start)
        for rows in batches:
            loss = self.loss(self.module(self.split.x[rows]), self.split.y[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
