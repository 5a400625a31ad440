"""The oracle boundary attack: the farthest lie that each receiver's own rule lets through."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import mean_change
from tacit.attacks.search import strongest
from tacit.attacks.view import Knowledge, View
from tacit.errors import require
from tacit.randomness import generator

_DIRECTIONS = ("ascent", "shrink", "common", "away")
# Times the victim's own norm: the largest lie tried. A plain mean is ruined long before.
_REACH = 1e3


@dataclass(frozen=True, kw_only=True)
class OracleBoundary(UpdateAttack):
    """Tell each victim x + s u, with the s that takes the result of its rule farthest along u.

    x is what the victim holds itself (a server: the last global model), u a harmful unit vector.
    s is found by asking the rule 20 times, so that it is near the boundary of what the rule lets
    through: for BALANCE within 0.1 % of gamma exp(-kappa t/T) ||x||; for a plain mean 1,000 times
    ||x||, the largest that is tried; for a median, just beyond the honest values.

    Attributes:
        direction: u is the reverse of the honest nodes' mean change ("ascent"), -x/||x||
            ("shrink"), one vector drawn by the seed for all victims and rounds ("common"), or from
            the honest mean to the victim, which sets the victims apart ("away").

    Raises:
        InputError: another direction.
    """

    direction: Literal["ascent", "shrink", "common", "away"] = "ascent"
    knowledge: Knowledge = "defence"
    least_knowledge: ClassVar[Knowledge] = "defence"
    equivocates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.direction in _DIRECTIONS
        require(known, "attack.direction", self.direction, ", ".join(_DIRECTIONS))

    def lie(self, view: View) -> Tensor:
        victim, honest = view.secrets.targets, view.secrets.vectors
        towards = self._direction(view).expand_as(victim)
        towards = towards / towards.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        norm = victim.norm(dim=-1)
        spread = (honest - honest.mean(0)).norm(dim=-1).mean()
        size = torch.where(norm > 0, norm, spread)
        size = torch.where(size > 0, size, 1.0)
        return strongest(
            view,
            victim,
            towards,
            lambda result: ((result - victim) * towards).sum(-1, dtype=torch.float64),
            0.1 * spread.clamp(1e-6 * size, size),
            _REACH * size,
        )

    def _direction(self, view: View) -> Tensor:
        if self.direction == "ascent":
            return -mean_change(view)
        victim = view.secrets.targets
        if self.direction == "shrink":
            return -victim
        if self.direction == "away":
            return victim - view.secrets.vectors.mean(0)
        drawn = generator(view.seed, "oracle").standard_normal(victim.shape[1])
        return torch.from_numpy(drawn).to(victim.dtype)
