"""An experiment's protections, checked against each other and against who talks to whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from tacit.errors import InputError
from tacit.protection import (
    DPSGD,
    AdaptiveClip,
    Clip,
    LaplaceNoise,
    Noise,
    Protection,
    SecureAggregation,
)
from tacit.protection.accounting import Release, Sampler, multiplier_for, rounds_within, spent

P = TypeVar("P")


@dataclass(frozen=True)
class Setting:
    """What a guarantee depends on beside the protections.

    Attributes:
        rounds: of the run.
        cohort: nodes that a sum is divided by: all that a round expects.
        fewest: vectors in the smallest sum of any round.
        sampler: how a cohort is drawn, where nobody but a trusted server learns who is in it; None:
            everyone takes part in every round, or others may know who does.
        peers: whether there is no server.
    """

    rounds: int
    cohort: int
    fewest: int
    sampler: Sampler | None
    peers: bool


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
        if setting.peers and isinstance(clip, AdaptiveClip):
            raise _refused(clip, "needs a sum that all nodes see; use Clip without a server")
        return guard

    def _check_noise(self, noise: Noise) -> None:
        name = type(noise).__name__
        order = 1 if isinstance(noise, LaplaceNoise) else 2
        if self.clip is None:
            raise _refused(
                noise,
                "promises nothing about updates of any length;"
                f" add Clip({'1.0, order=1' if order == 1 else '1.0'}) before it",
            )
        if self.clip.order != order:
            raise _refused(noise, f"is measured in the norm of order {order}; use Clip(.., {order})")
        if self.setting.peers and noise.where != "local":
            raise _refused(
                noise,
                f"is {noise.where}, but there is no server whose sum it could protect;"
                f' use {name}(where="local"), or FedAvg() as the algorithm',
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
        if fewest < 3:
            whose = "a neighbourhood" if self.setting.peers else "the smallest cohort"
            raise _refused(
                secure,
                f"hides nothing in a sum of {fewest}, and {whose} has no more;"
                " 3 or more are needed, so that no node finds out another's",
            )
        if not fewest / 2 < self.threshold <= fewest:
            raise InputError(
                f"protection.threshold: {secure.threshold} was given; allowed is"
                f" {fewest // 2 + 1} to {fewest}: more than half, and at most all, of the"
                f" {fewest} in the smallest sum"
            )

    @property
    def threshold(self) -> int:
        """Nodes that must stay, and that must collude to undo the masks."""
        assert self.secure is not None
        return self.secure.threshold or -(-2 * self.setting.fewest // 3)

    @cached_property
    def multiplier(self) -> float:
        """Standard deviation of the noise of what is protected, in units of the norm."""
        noise = self.noise
        assert noise is not None
        if noise.multiplier is not None:
            return noise.multiplier
        assert noise.epsilon is not None
        return multiplier_for(
            noise.epsilon, noise.delta, self.setting.rounds, noise.mechanism, self._sampler
        )

    @property
    def _sampler(self) -> Sampler | None:
        noise = self.noise
        return self.setting.sampler if noise and noise.where == "central" else None

    @property
    def release(self) -> Release:
        """What one round gives away of a node."""
        assert self.noise is not None
        return Release(self.noise.mechanism, self.multiplier, self._sampler)

    def epsilon(self, rounds: int) -> float:
        """What so many rounds have spent."""
        assert self.noise is not None
        return spent(self.release, rounds, self.noise.delta)

    @cached_property
    def rounds(self) -> int:
        """How many rounds the budget allows, at most those of the run."""
        noise, wanted = self.noise, self.setting.rounds
        if noise is None or noise.epsilon is None or noise.multiplier is None:
            return wanted
        return min(wanted, rounds_within(self.release, noise.epsilon, noise.delta))


def _only(protections: Sequence[Any], *kinds: type[P]) -> P | None:
    found = [p for p in protections if isinstance(p, kinds)]
    if len(found) > 1:
        raise InputError(
            f"protection: {found[0]!r} and {found[1]!r} were given; allowed is one of the two"
        )
    return found[0] if found else None


def _refused(part: object, why: str) -> InputError:
    return InputError(f"protection: {part!r} {why}")
