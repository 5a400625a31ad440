"""Lies that look at nothing but the liar's own vector."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import drawn, from_all, mean_change
from tacit.attacks.view import Knowledge, View
from tacit.errors import require, require_number
from tacit.randomness import generator


@dataclass(frozen=True, kw_only=True)
class SignFlip(UpdateAttack):
    """Send the opposite.

    Defined on gradients, so the change is flipped: start - (own - start), or start - mu with mu the
    mean change. Li et al., "RSA", AAAI 2019 (own); ByzFL's SignFlipping (mean). He, Karimireddy,
    Jaggi 2022 flip the model itself in a gossip: -own.

    Attributes:
        of: what is flipped: each liar's own "update", the "mean" update, or the own "model".
        knowledge: "colluders" or more for the mean, over the honest nodes from "all" on.

    Raises:
        InputError: another ``of``, or a mean that the liars cannot know.
    """

    of: Literal["update", "mean", "model"] = "update"
    knowledge: Knowledge = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.of in ("update", "mean", "model"), "attack.of", self.of, "update, mean or model"
        )
        knows = self.of != "mean" or self.knowledge != "own"
        require(knows, "attack.knowledge", self.knowledge, "colluders, all or defence for the mean")

    def lie(self, view: View) -> Tensor:
        if self.of == "model":
            return -view.own
        if self.of == "mean":
            return from_all(view, view.sample_starts.mean(0) - mean_change(view))
        return 2 * view.starts - view.own


@dataclass(frozen=True, kw_only=True)
class Gaussian(UpdateAttack):
    """Send normal noise of mean 0, drawn anew for every liar and round.

    Blanchard et al., "Machine learning with adversaries", NeurIPS 2017, section 5, as gradients;
    sent here as the vector itself, as in Fang et al., "Byzantine-robust decentralized federated
    learning", CCS 2024.

    Attributes:
        variance: of each coordinate; above 0.

    Raises:
        InputError: a variance out of its range.
    """

    variance: float = 200.0
    knowledge: Knowledge = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.variance", self.variance, above=0)

    def lie(self, view: View) -> Tensor:
        d, deviation = view.own.shape[1], math.sqrt(self.variance)
        return drawn(view, "gaussian lie", lambda random: random.normal(0, deviation, d))


@dataclass(frozen=True, kw_only=True)
class Zero(UpdateAttack):
    """Send an update of zeros: the model as it was before training. See ``Constant`` for a model of
    zeros."""

    knowledge: Knowledge = "own"

    def lie(self, view: View) -> Tensor:
        return view.starts.clone()


@dataclass(frozen=True, kw_only=True)
class Constant(UpdateAttack):
    """Send one value: infinity or NaN, which spread through a careless rule, 1e30, whose squares
    overflow, or any other.

    Attributes:
        value: any number, infinite and NaN included.
        coordinates: "all" of them, or "one", drawn by the seed, in an otherwise honest vector.

    Raises:
        InputError: other coordinates.
    """

    value: float = math.inf
    coordinates: Literal["all", "one"] = "all"
    knowledge: Knowledge = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        a_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        require(a_number, "attack.value", self.value, "any number, infinite and NaN included")
        known = self.coordinates in ("all", "one")
        require(known, "attack.coordinates", self.coordinates, "all or one")

    def lie(self, view: View) -> Tensor:
        if self.coordinates == "all":
            return torch.full_like(view.own, self.value)
        lie = view.own.clone()
        lie[:, generator(view.seed, "constant lie").integers(lie.shape[1])] = self.value
        return lie
