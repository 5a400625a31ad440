"""Training rows made worse without a target: noise on the inputs, and repetition."""

from dataclasses import dataclass
from math import floor

import torch
from numpy.random import Generator
from torch import Tensor

from tacit.attacks.base import DataAttack
from tacit.data.federation import Federation
from tacit.errors import InputError, require_number, require_whole


@dataclass(frozen=True, kw_only=True)
class NoisyInputs(DataAttack):
    """x -> x + N(0, sigma^2), drawn once for every entry of every training row.

    Attributes:
        sigma: standard deviation in the units of the inputs, above 0.

    Raises:
        InputError: a setting out of its range.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        require_number("attack.sigma", self.sigma, above=0)

    def poison(
        self, x: Tensor, y: Tensor, classes: int, member: int, members: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        noise = torch.from_numpy(rng.standard_normal(tuple(x.shape), dtype="float32"))
        return x + self.sigma * noise, y

    def fit(self, data: Federation) -> None:
        need_numbers(data, self)


@dataclass(frozen=True, kw_only=True)
class Duplicates(DataAttack):
    """Every training row as many times: more weight wherever nodes count by their data size.

    Attributes:
        times: how often each row appears, 2 or more.

    Raises:
        InputError: a setting out of its range.
    """

    times: int = 10

    def __post_init__(self) -> None:
        require_whole(2, "attack.times", self.times)

    def poison(
        self, x: Tensor, y: Tensor, classes: int, member: int, members: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([x] * self.times), torch.cat([y] * self.times)


def some(rows: Tensor, ratio: float, rng: Generator) -> Tensor:
    """floor(ratio N + 0.5) of (N,) row numbers, drawn without replacement."""
    count = floor(ratio * len(rows) + 0.5)
    return rows[torch.from_numpy(rng.permutation(len(rows))[:count])]


def need_numbers(data: Federation, attack: DataAttack) -> None:
    """Refuse inputs that are tokens (InputError)."""
    if not data.train.x.is_floating_point():
        raise InputError(
            f"attack: {type(attack).__name__} changes inputs that are decimal numbers, but those of"
            f" {data.name} are tokens; use LabelFlip, Duplicates, or an attack on updates"
        )
