"""FedNova: Wang et al., "Tackling the objective inconsistency problem in heterogeneous federated
optimization", NeurIPS 2020, section 5, with section 4.1 for SGD with momentum."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, ServerExchange, State, Train
from tacit.errors import InputError
from tacit.layout import Layout
from tacit.training.optimizers import SGD, Training


@dataclass(frozen=True)
class FedNova(Algorithm):
    """FedAvg in which a node that takes more steps does not count for more.

    With p_i a node's share of the rows and |a_i| the length of its path in gradients,

        model <- model + tau_eff * sum_i p_i (w_i - model) / |a_i|,    tau_eff = sum_i p_i |a_i|.

    Where all take the same number of steps this is FedAvg.
    """

    exchanges: ClassVar = "server"

    def check(self, layout: Layout, training: Training) -> None:
        if not isinstance(training, SGD) or training.nesterov:
            raise InputError(
                f"training: {training!r} was given; FedNova knows the length of a node's path for"
                " SGD alone, plain or with momentum but not nesterov"
            )

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"model": start}

    def round(self, state: State, train: Train, exchange: ServerExchange) -> tuple[State, Metrics]:
        if not train.steps.any():
            return state, {}
        assert isinstance(train.training, SGD)
        model, p = state["model"], train.layout.trained
        share = train.weights()
        length = path_length(torch.from_numpy(train.steps), train.training.momentum)
        weight = torch.where(length > 0, share / length, 0)

        # The sum in two factors: a mean, which buffers take as it is, and how far to go towards it.
        mean = exchange(model, train(model), weight / weight.sum())
        step = (share @ length) * weight.sum() * (mean - model)[:p]
        return {"model": torch.cat([model[:p] + step, mean[p:]])}, {}

    def model(self, state: State) -> Tensor:
        return state["model"]


def path_length(steps: Tensor, momentum: float) -> Tensor:
    """|a|_1: how many gradients (k,) ``steps`` of SGD add up to.

    A gradient acts in all later steps too: tau steps are worth
    [tau - rho (1 - rho^tau) / (1 - rho)] / (1 - rho) at momentum rho, and tau without.
    """
    tau = steps.double()
    later = momentum * (1 - momentum**tau) / (1 - momentum)
    return ((tau - later) / (1 - momentum)).float()
