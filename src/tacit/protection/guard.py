"""An experiment's protections, checked against each other and against who talks to whom."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tacit.errors import InputError
from tacit.protection import (
    DPSGD,
    AdaptiveClip,
    Clip,
    LaplaceNoise,
    Noise,
    Protection,
    SecureAggregation,
    SkellamNoise,
)
from tacit.protection.codec import Codec
from tacit.protection.release import Grid, Poisson, Release, Sampler, WithoutReplacement

# Up to so many nodes everybody masks with everybody.
COMPLETE = 100


@dataclass(frozen=True)
class Setting:
    """What a guarantee depends on beside the protections.

    Attributes:
        rounds: of the run.
        cohort: nodes that a round expects, by which a noised sum is divided.
        fewest, most: vectors in the smallest and the largest sum of any round.
        sampler: how a cohort is drawn; None: everybody takes part in every round.
        peers: whether there is no server.
        dimension: numbers of an update.
        rate: probability with which a row of the smallest node enters a batch.
        steps: training steps of that node in a round.
    """

    rounds: int
    cohort: int
    fewest: int
    most: int
    sampler: Sampler
    peers: bool
    dimension: int
    rate: float
    steps: int


@dataclass(frozen=True)
class Guard:
    """The protections by what they do, None for those that are not there."""

    setting: Setting
    clip: Clip | AdaptiveClip | None = None
    noise: Noise | None = None
    secure: SecureAggregation | None = None
    example: DPSGD | None = None

    @classmethod
    def of(cls, protections: Sequence[Protection], setting: Setting) -> "Guard":
        """Sort out the protections of an experiment.

        Raises:
            InputError: two that do the same, or that do not hold together; with what would.
        """
        clip = _only(protections, Clip, AdaptiveClip)
        noise = _only(protections, Noise)
        secure = _only(protections, SecureAggregation)
        guard = cls(setting, clip, noise, secure, _only(protections, DPSGD))
        if noise is not None:
            guard._check_noise(noise)
        if secure is not None:
            guard._check_secure(secure)
        if guard.noise and guard.example:
            raise _refused(
                guard.example, f"protects rows and {guard.noise!r} nodes; allowed is one of the two"
            )
        if setting.peers and isinstance(clip, AdaptiveClip):
            raise _refused(clip, "needs a sum that all nodes see; use Clip() without a server")
        if guard.rounds < 1:
            raise _refused(
                noise or guard.example, "allows not even one round; give a larger epsilon"
            )
        return guard

    def _check_noise(self, noise: Noise) -> None:
        name = type(noise).__name__
        order = 1 if isinstance(noise, LaplaceNoise) else 2
        if self.clip is None:
            raise _refused(
                noise,
                "promises nothing about updates of any length; add"
                f" Clip({'1.0, order=1' if order == 1 else '1.0'})",
            )
        if self.clip.order != order:
            raise _refused(
                noise, f"is measured in the norm of order {order}; use Clip(order={order})"
            )
        if self.setting.peers and noise.where != "local":
            raise _refused(
                noise,
                f"is {noise.where}, but there is no server whose sum it could protect; use"
                f' {name}(where="local"), or FedAvg() as the algorithm',
            )
        if noise.where == "distributed" and self.secure is None:
            raise _refused(
                noise,
                "protects the sum alone, and without masks the server sees each update with a small"
                f' share of it; add SecureAggregation(), or use {name}(where="local"), or'
                ' where="central" if the server is trusted',
            )

    def _check_secure(self, secure: SecureAggregation) -> None:
        fewest = self.setting.fewest
        whose = "neighbourhood" if self.setting.peers else "cohort"
        if fewest < 3:
            raise _refused(
                secure,
                f"hides nothing in a sum of {fewest}, as in the smallest {whose}; 3 or more are"
                " needed, so that no node finds out another's update",
            )
        if self.threshold > fewest:
            raise InputError(
                f"protection.threshold: {secure.threshold} was given; allowed is 3 to {fewest},"
                f" the smallest {whose}"
            )

    @property
    def budget(self) -> Noise | DPSGD | None:
        """What is to be spent, if anything."""
        return self.noise or self.example

    @property
    def releases(self) -> int:
        """How often a round makes its ``release``: once, or at every training step."""
        return 1 if self.noise else self.setting.steps

    @property
    def guards_updates(self) -> bool:
        """Whether something happens to updates, and not to training alone."""
        return bool(self.clip or self.noise or self.secure)

    @property
    def threshold(self) -> int:
        """The fewest nodes whose sum is opened."""
        assert self.secure is not None
        return self.secure.threshold or max(3, math.ceil(2 * self.setting.fewest / 3))

    def codec(self, dimension: int) -> Codec:
        """How vectors of so many numbers become integers: in units of the norm, if one is kept."""
        most, noise = self.setting.most, self.noise
        if self.secure and (self.setting.peers or not (self.clip or noise)):
            limit = self.secure.limit
            return Codec.for_sum(math.inf, most, dimension, coordinate_range=limit, max_weight=1.0)
        if noise is None:
            return Codec.for_sum(1.0, most, dimension, max_weight=1.0)
        if noise.where != "distributed":
            reach = 1 + 8 * self._gaussian * (noise.where == "local")
            return Codec.for_sum(math.inf, most, dimension, coordinate_range=reach)
        # The grid follows from the noise and the noise from the grid, which makes it a little more.
        std = 1.1 * self._gaussian * math.sqrt(most / self.threshold)
        codec = Codec.for_sum(1.0, most, dimension, noise_std=std)
        if isinstance(noise, SkellamNoise):  # whose tables end at 2^13
            share = std * codec.scale / math.sqrt(most)
            codec = replace(
                codec, exponent=codec.exponent - max(0, math.ceil(math.log2(share)) - 12)
            )
        return codec

    @cached_property
    def _gaussian(self) -> float:
        """The multiplier of noise on real numbers."""
        from tacit.protection.accounting import multiplier_for

        noise = self.noise
        assert noise is not None
        if noise.multiplier is not None:
            return noise.multiplier
        assert noise.epsilon is not None
        return multiplier_for(
            noise.epsilon, noise.delta, self.setting.rounds, self._sampler,
            "laplace" if isinstance(noise, LaplaceNoise) else "gaussian", self._adjacency,
        )  # fmt: skip

    @property
    def _sampler(self) -> Sampler:
        """The sampler, where nobody but a trusted server learns who takes part."""
        central = self.noise is not None and self.noise.where == "central"
        return self.setting.sampler if central else None

    @property
    def _adjacency(self) -> str:
        drawn = isinstance(self._sampler, WithoutReplacement)
        return "replace" if drawn else "add-or-remove"

    @cached_property
    def release(self) -> Release:
        """What one round gives away of a node, or of a row by one step of ``DPSGD``."""
        from tacit.protection.accounting import multiplier_for

        setting, noise, example = self.setting, self.noise, self.example
        if noise is None:
            assert example is not None
            sampler = Poisson(setting.rate)
            if example.multiplier is not None:
                return Release("gaussian", example.multiplier, sampler)
            assert example.epsilon is not None
            count = setting.rounds * setting.steps
            return Release(
                "gaussian", multiplier_for(example.epsilon, example.delta, count, sampler), sampler
            )
        if noise.where != "distributed":
            mechanism = "laplace" if isinstance(noise, LaplaceNoise) else "gaussian"
            return Release(mechanism, self._gaussian, self._sampler, self._adjacency)
        mechanism = "skellam" if noise.mechanism == "skellam" else "discrete_gaussian"
        codec = self.codec(setting.dimension)
        grid = Grid(codec.dimension, codec.norm_bound * codec.scale, self.threshold)
        multiplier = noise.multiplier
        if multiplier is None:
            assert noise.epsilon is not None
            multiplier = multiplier_for(
                noise.epsilon, noise.delta, setting.rounds, None, mechanism, grid=grid
            )
        return Release(mechanism, multiplier, grid=grid)

    def epsilon(self, rounds: int) -> float:
        """What so many rounds have spent; infinite without noise."""
        from tacit.protection.accounting import spent

        assert self.budget is not None
        if self.budget.multiplier == 0:
            return math.inf
        return spent(self.release, rounds * self.releases, self.budget.delta)

    @cached_property
    def rounds(self) -> int:
        """How many rounds the budget allows, at most those of the run."""
        from tacit.protection.accounting import rounds_within

        budget, wanted = self.budget, self.setting.rounds
        if budget is None or budget.epsilon is None or budget.multiplier is None:
            return wanted
        if budget.multiplier == 0:
            return 0
        within = rounds_within(self.release, budget.epsilon, budget.delta)
        return min(wanted, within // self.releases)


def _only(protections: Sequence[Any], *kinds: type[Any]) -> Any:
    found = [p for p in protections if isinstance(p, kinds)]
    if len(found) > 1:
        raise InputError(
            f"protection: {found[0]!r} and {found[1]!r} were given; allowed is one of the two"
        )
    return found[0] if found else None


def _refused(part: object, why: str) -> InputError:
    return InputError(f"protection: {part!r} {why}")
