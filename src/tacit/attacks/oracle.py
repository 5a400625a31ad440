"""The oracle boundary attack: the farthest lie that each receiver's own rule lets through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import mean_change
from tacit.attacks.search import strongest
from tacit.attacks.view import Knowledge, Secrets, View
from tacit.errors import require
from tacit.layout import Layout
from tacit.randomness import generator

_DIRECTIONS = ("ascent", "shrink", "common", "away")
_ANCHORS = ("own", "start", "mean")
# Times the victim's own norm: the largest lie tried. A plain mean is ruined long before.
_REACH = 1e3


@dataclass(frozen=True, eq=False)
class Uphill:
    """The direction in which a victim's loss on some rows rises fastest.

    An adversary has rows beside what it sees in a round: those of the nodes that it runs, or
    public ones. The more they are like everybody's, the stronger the attack.

    Attributes:
        module: the model.
        loss: of outputs and targets, averaged over the rows.
        x, y: rows.
    """

    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor

    def __call__(self, models: Tensor) -> Tensor:
        """(m, d) gradients at (m, d) models."""
        layout = Layout.of(self.module)

        def loss(model: Tensor) -> Tensor:
            output = functional_call(self.module, layout.views(model), self.x)
            return self.loss(output, self.y)

        return vmap(grad(loss))(models)


@dataclass(frozen=True, kw_only=True)
class OracleBoundary(UpdateAttack):
    """Tell each victim x + s u, with the s that takes the result of its rule farthest along u.

    x is an anchor near the victim, u a harmful unit vector. s is found by asking the rule 20 times,
    so that it is near the boundary of what the rule lets through: around the victim's own model,
    for BALANCE within 0.1 % of gamma exp(-kappa t/T) ||x||; for a plain mean 1,000 times ||x||, the
    largest that is tried; for a median, just beyond the honest values.

    A rule is aimed at from where it looks: one that measures from the receiver's model before its
    step (``StepBound``) by the anchor "start", one that looks for where most vectors lie by "mean".

    Attributes:
        direction: u is the reverse of the honest nodes' mean change ("ascent"), -x/||x|| of what
            the victim holds ("shrink"), one vector drawn by the seed for all victims and rounds
            ("common"), from the honest mean to the victim, which sets the victims apart ("away"),
            or a function of the (m, d) victims' models, such as ``Uphill``.
        anchor: x is what the victim holds itself ("own"; a server: the last global model), its
            model before its step ("start"; a server takes none: "own"), or the mean of its own
            vector and its honest neighbours' ("mean"; a server: of all honest ones).

    Raises:
        InputError: another direction or anchor.
    """

    direction: Literal["ascent", "shrink", "common", "away"] | Callable[[Tensor], Tensor] = "ascent"
    anchor: Literal["own", "start", "mean"] = "own"
    knowledge: Knowledge = "defence"
    least_knowledge: ClassVar[Knowledge] = "defence"
    equivocates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        known = callable(self.direction) or self.direction in _DIRECTIONS
        allowed = f"{', '.join(_DIRECTIONS)}, or a function of models"
        require(known, "attack.direction", self.direction, allowed)
        require(self.anchor in _ANCHORS, "attack.anchor", self.anchor, ", ".join(_ANCHORS))

    def lie(self, view: View) -> Tensor:
        victim, honest = view.secrets.targets, view.secrets.vectors
        towards = F.normalize(self._direction(view).expand_as(victim), dim=-1, eps=1e-30)
        norm = victim.norm(dim=-1)
        spread = (honest - honest.mean(0)).norm(dim=-1).mean()
        size = torch.where(norm > 0, norm, spread)
        size = torch.where(size > 0, size, 1.0)
        return strongest(
            view,
            self._anchor(view.secrets),
            towards,
            lambda result: ((result - victim) * towards).sum(-1, dtype=torch.float64),
            0.1 * spread.clamp(1e-6 * size, size),
            _REACH * size,
        )

    def _direction(self, view: View) -> Tensor:
        victim = view.secrets.targets
        if callable(self.direction):
            return self.direction(victim)
        if self.direction == "ascent":
            return -mean_change(view)
        if self.direction == "shrink":
            return -victim
        if self.direction == "away":
            return victim - view.secrets.vectors.mean(0)
        drawn = generator(view.seed, "oracle").standard_normal(victim.shape[1])
        return torch.from_numpy(drawn).to(victim.dtype)

    def _anchor(self, secrets: Secrets) -> Tensor:
        if self.anchor == "mean":
            return _heard_mean(secrets)
        if self.anchor == "own" or secrets.graph is None:
            return secrets.targets
        return secrets.starts[np.searchsorted(secrets.nodes, secrets.victims)]


def _heard_mean(secrets: Secrets) -> Tensor:
    """(m, d) for each victim the mean of its own vector and of those that it hears from the honest;
    under a server, (d,)."""
    graph, victims = secrets.graph, secrets.victims
    if graph is None:
        return secrets.vectors.mean(0)
    honest = np.isin(graph.receivers, victims) & np.isin(graph.senders, secrets.nodes)
    at = torch.from_numpy(np.searchsorted(victims, graph.receivers[honest]))
    heard = secrets.vectors[np.searchsorted(secrets.nodes, graph.senders[honest])]
    count = 1 + torch.bincount(at, minlength=len(victims))
    return secrets.targets.index_add(0, at, heard) / count.unsqueeze(-1)
