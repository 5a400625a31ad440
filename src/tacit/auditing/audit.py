"""The privacy that a run claims, held against what guessing finds out: ``audit``."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.auditing.bound import TruePositives, correct_guesses, gaussian_bound, true_positives
from tacit.auditing.canaries import Canaries
from tacit.engine.protect import Protector
from tacit.engine.run import Row, Session
from tacit.errors import InputError, require_whole
from tacit.experiment import Experiment
from tacit.protection import GaussianNoise, SkellamNoise
from tacit.protection.codec import Codec
from tacit.protection.guard import Guard
from tacit.protection.release import Poisson
from tacit.randomness import generator
from tacit.topology import Star
from tacit.training.plan import Ints

CONFIDENCE = 0.95
FALSE_POSITIVE_RATES = (0.001, 0.01)
# What canaries send, in clipping norms: a build that does not clip must give itself away.
_LENGTH = 10
# By so many fair coins, some say yes and some say no, but for a chance of 2^-19.
_FEWEST = 20
# Numbers of all canary updates, 0.5 GB.
_MOST_FLOATS = 2**27
# A bound must be able to pass the claim by so much, if there are guesses enough for it.
_MARGIN = 2.5


@dataclass(frozen=True)
class Audit:
    """What one run gave away of its canaries, beside what it claims to give away at most.

    Attributes:
        epsilon: claimed for the whole run, at ``delta``, of one ``unit``.
        delta: of the claim and of the bound.
        unit: of privacy.
        rounds: of the run.
        canaries: how many nodes were added, each with a fair coin that says whether it takes part.
        guesses: how many of the coins were guessed.
        correct: how many of the guesses were right.
        bound: the epsilon that these guesses refute at 95 % confidence: the run's own is larger.
        most: the bound if all guesses had been right.
        true_positives: the share of canaries found, by false-positive rate, with 95 % limits.
    """

    epsilon: float
    delta: float
    unit: str
    rounds: int
    canaries: int
    guesses: int
    correct: int
    bound: float
    most: float
    true_positives: dict[float, TruePositives]

    @property
    def failed(self) -> bool:
        """Whether the claim is refuted."""
        return self.bound > self.epsilon

    def verdict(self) -> str:
        """What it comes to, in a sentence."""
        if self.failed:
            return (
                f"FAILED: the run gives away more than it claims: its epsilon is above"
                f" {self.bound:.2f}, not at most {self.epsilon:.2f}."
            )
        if self.most <= self.epsilon:
            return (
                f"nothing found, and nothing could be: with {self.canaries:,} canaries no bound is"
                f" above {self.most:.2f}; take more of them, a larger model or a smaller epsilon."
            )
        return (
            f"nothing found: the bound {self.bound:.2f} stays below the claim {self.epsilon:.2f}."
        )

    def to_text(self) -> str:
        """The figures and the verdict, for people."""
        lines = [
            f"claimed: epsilon {self.epsilon:.2f} at delta {self.delta:g}, for one {self.unit},"
            f" after {self.rounds:,} rounds",
            f"lower bound at 95 %: epsilon {self.bound:.2f} ({self.correct:,} of {self.guesses:,}"
            f" guesses right, {self.canaries:,} canaries; at most {self.most:.2f} could be shown)",
        ]
        for rate, found in self.true_positives.items():
            lines.append(
                f"true positives at {100 * rate:g} % false positives: {100 * found.rate:.1f} %"
                f" ({100 * found.least:.1f} to {100 * found.most:.1f} %)"
            )
        return "\n".join([*lines, self.verdict()])

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        found = [
            {"false_positive_rate": rate, "rate": t.rate, "least": t.least, "most": t.most}
            for rate, t in self.true_positives.items()
        ]
        return vars(self) | {
            "true_positives": found, "failed": self.failed, "verdict": self.verdict(),
        }  # fmt: skip


def audit(
    experiment: Experiment,
    *,
    canaries: int | None = None,
    on_round: Callable[[Row], None] | None = None,
) -> Audit:
    """Run an experiment once with canary nodes beside its own, and guess which took part.

    In each round, those whose coin says so send ten clipping norms along a direction of their own,
    forwards and backwards in turn, so that models that move and noise that repeats cancel. What is
    released is the result of the run's own protections, scored in clipping norms and summed over
    the rounds; the bound of ``tacit.auditing.bound`` turns the guesses into an epsilon.

    The claim is that of the experiment without canaries. They make its sums longer, but its noise,
    which is measured in what one node may send, stays what it was: canaries add none to a
    distributed sum, and a divisor that counts them scales sum and noise alike. What is learned
    differs from a run without them. With local noise, whose claim is about what one node sends,
    the ones that stay out send zeros.

    The bound's family is the Gaussian one (Mahloujifar et al. 2024): for the discrete mechanisms,
    which approach it, and for subsampled ones it is an approximation.

    Args:
        experiment: a star with Gaussian or Skellam noise on its nodes' updates.
        canaries: added nodes, 20 or more; None: 1,000, or 200 behind masks, which take seconds a
            round. Fewer are taken where the model has fewer numbers, or where their updates would
            need more than half a gigabyte.
        on_round: called with each round's metrics.

    Raises:
        InputError: an experiment that claims nothing that could be audited, or no such number.
    """
    if canaries is not None:
        require_whole(_FEWEST, "canaries", canaries)
    experiment.check()
    guard = _auditable(experiment)
    assert guard.noise is not None
    size, delta = guard.setting.dimension, guard.noise.delta
    canaries = canaries or (200 if guard.secure else 1000)
    canaries = min(canaries, size, max(_FEWEST, _MOST_FLOATS // size))
    if canaries < _FEWEST:
        raise InputError(
            f"model: it has {size} numbers, in which no {_FEWEST} canaries can be told apart"
        )
    epsilon = guard.epsilon(guard.rounds)
    guesses = _guesses(canaries, epsilon, delta)
    session = _Session(experiment.replace(evaluate_every=experiment.rounds), canaries)
    with session:
        for row in session.rounds():
            if on_round:
                on_round(row)
    scores, included = session.total.numpy(), session.canaries.included
    correct = correct_guesses(scores, included, guesses)
    return Audit(
        epsilon, delta, "node", guard.rounds, canaries, guesses, correct,
        gaussian_bound(canaries, guesses, correct, delta, CONFIDENCE),
        gaussian_bound(canaries, guesses, guesses, delta, CONFIDENCE),
        {r: true_positives(scores, included, r, CONFIDENCE) for r in FALSE_POSITIVE_RATES},
    )  # fmt: skip


def _auditable(experiment: Experiment) -> Guard:
    """The experiment's guard, if its claim can be audited."""
    guard, noise = experiment.guard, experiment.guard and experiment.guard.noise
    star = isinstance(experiment.plan, Star)
    if guard is None or not star or not isinstance(noise, GaussianNoise | SkellamNoise):
        raise InputError(
            "protection: an audit works under a Star() with GaussianNoise(...) or SkellamNoise(...)"
            " on the nodes' updates, whose claim it tests; this experiment has"
            f" {experiment.plan!r} and {list(experiment.protection)!r}"
        )
    if noise.multiplier == 0:
        raise InputError("protection.multiplier: 0 was given, which claims nothing to be audited")
    if not isinstance(guard.release.sampler, Poisson | None):
        raise InputError(
            "topology.sampling: 'without-replacement' was given with central noise, where canaries"
            " beside the nodes would change the claim; use 'poisson', or no cohort"
        )
    return guard


def _guesses(canaries: int, epsilon: float, delta: float) -> int:
    """A quarter of the canaries, more where that could never pass the claim."""
    for share in (0.25, 0.5, 0.75):
        guesses = 2 * math.floor(canaries * share / 2)
        if gaussian_bound(canaries, guesses, guesses, delta, CONFIDENCE) > epsilon + _MARGIN:
            return guesses
    return 2 * (canaries // 2)


class _Session(Session):
    """A run whose server also hears canaries.

    Attributes:
        total: (m,) float64 scores, summed over the rounds so far.
        rate: probability with which a canary whose coin says yes takes part in a round.
        sums: the run's guard, with room in its sums for the canaries.
    """

    def __init__(self, experiment: Experiment, count: int) -> None:
        super().__init__(experiment, "auto", None)
        assert self.guard is not None
        setting = self.guard.setting
        self.canaries = Canaries.draw(experiment.seed, count, setting.dimension)
        self.total = torch.zeros(count, dtype=torch.float64)
        sampler = self.guard.release.sampler
        self.rate = sampler.q if isinstance(sampler, Poisson) else 1.0
        cohort = setting.cohort + round(self.rate * count)
        self.sums = replace(
            self.guard, setting=replace(setting, cohort=cohort, most=setting.most + count)
        )

    def protector(self, round: Round) -> Protector:
        return _Listening(self.sums, round, self.digest, self.malicious, audited=self)


@dataclass
class _Listening(Protector):
    """Adds the canaries of a round, and scores what is released of it."""

    audited: _Session = field(kw_only=True)

    def steps(self, updates: Tensor, nodes: Ints) -> Tensor:
        here, rows = self._canaries()
        released = super().steps(torch.cat([updates, rows]), np.append(nodes, here))
        self._score(released[len(nodes) :] / self.norm)
        return released[: len(nodes)]

    def mean(
        self, updates: Tensor, weight: Tensor, nodes: Ints, start: Tensor | None = None
    ) -> Tensor | None:
        (here, rows), norm = self._canaries(), self.norm
        weight = torch.cat([weight, torch.ones(len(here))])
        released = super().mean(torch.cat([updates, rows]), weight, np.append(nodes, here), start)
        if released is not None:
            self._score(released * (self.guard.setting.cohort / norm))
        return released

    @property
    def _sign(self) -> int:
        return 1 - 2 * (self.round.index % 2)

    def _canaries(self) -> tuple[Ints, Tensor]:
        """(k,) ids, which come after those of the nodes, and (k, d) updates."""
        canaries = self.audited.canaries
        everyone = np.arange(len(canaries.included))
        if self.guard.noise and self.guard.noise.where == "local":
            rows = canaries.vectors(everyone)
            rows[torch.from_numpy(~canaries.included)] *= -1  # as far apart as two updates can be
            here = everyone
        else:
            source = generator(self.round.seed, "canary cohort", self.round.index)
            drawn = source.random(len(everyone)) < self.audited.rate
            here = everyone[canaries.included & drawn]
            rows = canaries.vectors(here)
        nodes = self.audited.experiment.data.nodes
        return nodes + here, rows * (self._sign * _LENGTH * self.norm)

    def _score(self, released: Tensor) -> None:
        self.audited.total += self._sign * torch.from_numpy(self.audited.canaries.scores(released))

    def _share(self, node: int, codec: Codec) -> NDArray[np.unsignedinteger]:
        share = super()._share(node, codec)
        return share if node < self.audited.experiment.data.nodes else np.zeros_like(share)
