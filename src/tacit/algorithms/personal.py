"""Personalised models: nodes learn together, and each ends with a model of its own."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, ServerExchange, State, Train
from tacit.algorithms.fedavg import FedAvg
from tacit.errors import InputError, require
from tacit.layout import Layout
from tacit.training.optimizers import Training


@dataclass(frozen=True)
class FineTune(FedAvg):
    """FedAvg; a node's own model is the shared one after one more local training, kept to itself.

    Every measurement trains all nodes once: ``Experiment.evaluate_every`` says how often.
    """

    def keeps(self, layout: Layout) -> tuple[str, ...]:
        return ("its fine-tuned model",)

    def models(self, state: State, train: Train) -> Tensor:
        return train(state["model"]).matrix()


@dataclass(frozen=True)
class Ditto(Algorithm):
    """FedAvg, and beside it a personal model per node that is drawn towards the shared one.

    Li, Hu, Beirami, Smith, "Ditto: fair and robust federated learning through personalization",
    ICML 2021, algorithm 1: a node of the cohort trains its personal model v on its loss
    + lam/2 ||v - w||^2, w the shared model that it received, and then w as in FedAvg. Personal
    models never leave their nodes; those outside the cohort stay as they are.

    Attributes:
        lam: pull towards the shared model, 0 or more; at 0 personal models are trained alone. Local
            steps are stable only where ``training.lr * lam`` is below 2.
        uniform: count every node alike instead of by its rows.

    Raises:
        InputError: a negative or infinite ``lam``.
    """

    lam: float = 0.1
    uniform: bool = False
    exchanges: ClassVar = "server"

    def __post_init__(self) -> None:
        require(0 <= self.lam < math.inf, "algorithm.lam", self.lam, "0 or more")

    def keeps(self, layout: Layout) -> tuple[str, ...]:
        return ("its personal model",)

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"model": start, "personal": start.repeat(nodes, 1)}

    def round(self, state: State, train: Train, exchange: ServerExchange) -> tuple[State, Metrics]:
        model, personal = state["model"], state["personal"].clone()
        nodes = torch.from_numpy(train.nodes)
        drawn = train(personal[nodes], prox=self.lam, anchor=model, overwrite=True)
        personal[nodes] = drawn.matrix()
        model = exchange(model, train(model), train.weights(self.uniform))
        return {"model": model, "personal": personal}, {}

    def model(self, state: State) -> Tensor:
        return state["model"]

    def models(self, state: State, train: Train) -> Tensor:
        return state["personal"]


@dataclass(frozen=True)
class PartlyShared(Algorithm):
    """FedAvg of some coordinates; the others stay with their node and are never sent.

    Nodes outside the cohort keep theirs; those of a node that never trained, and of the shared
    model, are the initial ones.

    Attributes:
        uniform: count every node alike instead of by its rows.
    """

    uniform: bool = field(default=False, kw_only=True)
    exchanges: ClassVar = "server"

    def mask(self, layout: Layout) -> Tensor:
        """(d,) bool: the personal coordinates."""
        raise NotImplementedError

    def fit(self, train: Train, start: Tensor, personal: Tensor) -> Tensor:
        """(k, d) the cohort's models after local training from ``start`` (k, d), which it takes."""
        return train(start, overwrite=True).matrix()

    def check(self, layout: Layout, training: Training) -> None:
        if self.mask(layout)[: layout.trained].all():
            raise InputError(
                f"algorithm: {self} leaves no trained layer to share;"
                " name fewer layers, or use Alone()"
            )

    def sends(self, layout: Layout) -> dict[str, int]:
        return {"common layers": int((~self.mask(layout)).sum())}

    def keeps(self, layout: Layout) -> tuple[str, ...]:
        mask = self.mask(layout)
        return tuple(f"the layer {e.name}" for e in layout.entries if mask[e.slice].all())

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"model": start, "personal": start[self.mask(layout)].repeat(nodes, 1)}

    def round(self, state: State, train: Train, exchange: ServerExchange) -> tuple[State, Metrics]:
        mask, nodes = self.mask(train.layout), torch.from_numpy(train.nodes)
        model, personal = state["model"].clone(), state["personal"].clone()
        trained = self.fit(train, _joined(model, personal[nodes], mask), mask)
        personal[nodes] = trained[:, mask]
        weight = train.weights(self.uniform)
        model[~mask] = exchange(model[~mask], trained[:, ~mask], weight)
        return {"model": model, "personal": personal}, {}

    def model(self, state: State) -> Tensor:
        return state["model"]

    def models(self, state: State, train: Train) -> Tensor:
        return _joined(state["model"], state["personal"], self.mask(train.layout))


@dataclass(frozen=True)
class FedPer(PartlyShared):
    """Named layers stay with their node; all layers train together.

    Arivazhagan, Aggarwal, Singh, Choudhary, "Federated learning with personalization layers", 2019,
    algorithms 1 and 2.

    Attributes:
        personal: names of the layers that stay, as in ``Layout.mask``: "head" is everything under
            the submodule ``head``; shell wildcards are allowed.

    Raises:
        InputError: no name; when the experiment is checked, also a name that the model lacks, or
            nothing left to share.
    """

    personal: tuple[str, ...] = ("head",)

    def __post_init__(self) -> None:
        named = isinstance(self.personal, tuple) and bool(self.personal)
        require(named, "algorithm.personal", self.personal, "a tuple of one or more layer names")

    def mask(self, layout: Layout) -> Tensor:
        return layout.mask(*self.personal)


@dataclass(frozen=True)
class FedRep(FedPer):
    """FedPer in two phases: a node trains its head under a fixed body, then the body under that.

    Collins, Hassani, Mokhtari, Shakkottai, "Exploiting shared representations for personalized
    federated learning", ICML 2021, algorithm 1. Each phase is one whole local training, so that a
    round has twice the steps of FedPer's.
    """

    def fit(self, train: Train, start: Tensor, personal: Tensor) -> Tensor:
        head = personal[: train.layout.trained]
        start = train(start, frozen=~head, overwrite=True).matrix()
        return train(start, frozen=head, overwrite=True).matrix()


@dataclass(frozen=True)
class FedBN(PartlyShared):
    """BatchNorm's weights, biases and statistics stay with their node.

    Li, Jiang, Zhang, Kamp, Dou, "FedBN: federated learning on non-IID features via local batch
    normalization", ICLR 2021, algorithm 1. Layers are known by their running statistics; others
    can be named in ``FedPer``.

    Raises:
        InputError: when the experiment is checked: a model without such layers.
    """

    def mask(self, layout: Layout) -> Tensor:
        suffix = ".running_mean"
        norms = [e.name.removesuffix(suffix) for e in layout.entries if e.name.endswith(suffix)]
        if not norms:
            raise InputError(
                "algorithm: FedBN() was given for a model without BatchNorm's running statistics;"
                " use FedAvg(), or FedPer(personal=...) with the names of the layers that stay"
            )
        return layout.mask(*norms)


def _joined(model: Tensor, personal: Tensor, mask: Tensor) -> Tensor:
    """(k, d) models: ``model`` (d,) with each node's ``personal`` coordinates (k, ...) in it."""
    models = model.repeat(len(personal), 1)
    models[:, mask] = personal
    return models
