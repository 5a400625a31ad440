"""FedBuff: Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS
2022, algorithm 1; asynchronous SGD is the same with a buffer of one."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from tacit.algorithms.arrivals import Arrivals, buffered
from tacit.algorithms.base import Algorithm, AsyncTrain, Metrics, ServerExchange, State
from tacit.errors import InputError, require, require_whole
from tacit.layout import Layout

Staleness = Literal["polynomial", "constant", "delay-adaptive"]


@dataclass(frozen=True, kw_only=True)
class FedBuff(Algorithm):
    """Nodes train at their own pace; the server steps whenever K updates have arrived.

    An update Delta_i = T_i(w_v) - w_v began at an older model w_v, tau steps ago. The step is
    w <- w + lr / K sum_i s(tau_i) Delta_i, in which every update counts alike but for s, whoever
    sent it: a node that is twice as fast counts twice as often. Buffers (BatchNorm statistics) go
    towards the mean of what was delivered. A round is one step of the server.

    Among real machines updates come when they come. In one process time is simulated, by ``spread``
    and the experiment's seed, whatever is learned.

    Attributes:
        buffer: K, updates of a step, from 1.
        concurrency: nodes that train at the same time; None: all.
        staleness: what an update counts that is tau steps old.
            "polynomial": s = 1 / sqrt(1 + tau), the paper's.
            "constant": s = 1.
            "delay-adaptive": s = min(1, concurrency / tau), which keeps the step size of
            asynchronous SGD in inverse proportion to long delays: Koloskova, Stich, Jaggi, "Sharper
            convergence guarantees for asynchronous SGD", NeurIPS 2022.
        lr: server learning rate, above 0.
        max_staleness: an older update is dropped, and counted; from 0.
        spread: of simulated durations, 1 + spread |z| with z standard normal; 0: all nodes are
            equally fast.

    Raises:
        InputError: a setting out of its range.
    """

    buffer: int = 10
    concurrency: int | None = None
    staleness: Staleness = "polynomial"
    lr: float = 1.0
    max_staleness: int = 20
    spread: float = 1.0
    exchanges: ClassVar = "server"

    def __post_init__(self) -> None:
        require_whole(1, "algorithm.buffer", self.buffer)
        if self.concurrency is not None:
            require_whole(1, "algorithm.concurrency", self.concurrency)
        known = self.staleness in get_args(Staleness)
        require(known, "algorithm.staleness", self.staleness, " or ".join(get_args(Staleness)))
        require(0 < self.lr < math.inf, "algorithm.lr", self.lr, "any number above 0")
        require_whole(0, "algorithm.max_staleness", self.max_staleness)
        require(0 <= self.spread < math.inf, "algorithm.spread", self.spread, "any number from 0")

    def arrivals(self, nodes: int, seed: int, rounds: int) -> tuple[Arrivals, ...]:
        most = nodes if self.concurrency is None else self.concurrency
        if most > nodes:
            raise InputError(
                f"algorithm.concurrency: {most} was given; allowed is 1 to {nodes}, the number of"
                " nodes"
            )
        return buffered(nodes, seed, rounds, self.buffer, most, self.spread, self.max_staleness)

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"past": start.unsqueeze(0)}  # models, the newest first, that are trained from

    def round(
        self, state: State, train: AsyncTrain, exchange: ServerExchange
    ) -> tuple[State, Metrics]:
        past, p = state["past"], train.layout.trained
        model, start = past[0], past[train.staleness]
        ends = train(start)
        ends[:, :p] += model[:p] - start[:, :p]
        weight = self.weight(train.staleness, train.concurrency) / self.buffer
        mean = exchange(model, ends, weight)
        new = torch.cat([model[:p] + self.lr * (mean - model)[:p], mean[p:]])
        past = torch.cat([new.unsqueeze(0), past[: train.reach]])
        return {"past": past}, {"staleness": float(train.staleness.float().mean())}

    def weight(self, staleness: Tensor, concurrency: int) -> Tensor:
        """(k,) s(tau), for (k,) steps that the server took in the meantime."""
        tau = staleness.float()
        match self.staleness:
            case "polynomial":
                return (1 + tau).rsqrt()
            case "delay-adaptive":
                return (concurrency / tau).clamp(max=1)
        return torch.ones_like(tau)

    def model(self, state: State) -> Tensor:
        return state["past"][0]


@dataclass(frozen=True, kw_only=True)
class AsyncSGD(FedBuff):
    """Asynchronous SGD with delay-adaptive steps: w <- w + lr s(tau) Delta_i, at every arrival.

    With one SGD step of a node, Delta is its gradient, taken at an older model. By default s is
    that of Koloskova, Stich, Jaggi (NeurIPS 2022), as in ``FedBuff``; see also Mishchenko et al.,
    "Asynchronous SGD beats minibatch SGD under arbitrary delays", NeurIPS 2022.

    FedAsync (Xie, Koyejo, Gupta 2019) differs: it moves the model towards the node's one, by
    lr s(tau) (T_i(w_v) - w), which takes back part of what others changed in the meantime.
    """

    buffer: int = 1
    staleness: Staleness = "delay-adaptive"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.buffer == 1, "algorithm.buffer", self.buffer, "1; use FedBuff for more")
