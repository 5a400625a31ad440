"""The privacy that a run claims, held against what guessing finds out: ``audit``."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scipy

from tacit.auditing.bound import (
    TruePositives,
    correct_guesses,
    gaussian_bound,
    gaussian_mu,
    noise_bound,
    true_positives,
)
from tacit.auditing.leak import leak
from tacit.auditing.nodes import NodeSession
from tacit.auditing.rows import RowSession
from tacit.engine.run import Row
from tacit.errors import InputError, require_whole
from tacit.experiment import Experiment
from tacit.protection.guard import Guard

CONFIDENCE = 0.95
FALSE_POSITIVE_RATES = (0.001, 0.01)
# By so many fair coins, some say yes and some say no, but for a chance of 2^-19.
_FEWEST = 20
# Numbers of all canary updates, 0.5 GB.
_MOST_FLOATS = 2**27
_CHANGED = {"add-or-remove": "added or removed", "replace": "replaced"}


@dataclass(frozen=True)
class Audit:
    """What one run gave away of its canaries, beside what it claims to give away at most.

    Attributes:
        epsilon: claimed for the whole run, at ``delta``, of one ``unit``.
        delta: of the claim and of the bound.
        unit: of privacy: a "node" with all of its rows, or a "row".
        adjacency: "add-or-remove" such a unit, or "replace" it by another.
        confidence: of the bound.
        rounds: of the run.
        canaries: how many were added, each with a fair coin that says whether it is there, or which
            of two it is.
        guesses: how many of the coins were guessed.
        correct: how many of the guesses were right.
        bound: the epsilon that these guesses refute: the run's own is larger.
        most: the bound if all guesses had been right.
        true_positives: the share of canaries found, by false-positive rate, with limits.
    """

    epsilon: float
    delta: float
    unit: str
    adjacency: str
    confidence: float
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
            f"claimed: epsilon {self.epsilon:.2f} at delta {self.delta:g}, for one {self.unit}"
            f" {_CHANGED[self.adjacency]}, after {self.rounds:,} rounds",
            f"lower bound at {100 * self.confidence:g} %: epsilon {self.bound:.2f}"
            f" ({self.correct:,} of {self.guesses:,} guesses right, {self.canaries:,} canaries;"
            f" at most {self.most:.2f} could be shown)",
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
    """Run an experiment once with canaries beside its own nodes or rows, and guess their coins.

    Noise on updates is tried with canary nodes (``NodeSession``), DP-SGD with canary rows inside a
    node (``RowSession``). What is released is the result of the run's own protections; its
    likelihood ratios, summed over the rounds, are the scores by which coins are guessed, and
    ``tacit.auditing.bound`` turns right guesses into an epsilon. The claim is that of the
    experiment without canaries. What is learned may differ from a run without them.

    The bound holds for mechanisms that differ from the one stated in their noise alone (Mahloujifar
    et al. 2024). For discrete mechanisms that family is the Gaussian one, which they approach.

    Args:
        experiment: one with ``DPSGD`` or with noise on its nodes' updates.
        canaries: how many, 20 or more; None: 1,000, or 200 behind masks, which take seconds a
            round. Canary nodes are fewer where the model has fewer numbers, or where their updates
            would need more than half a gigabyte.
        on_round: called with each round's metrics.

    Raises:
        InputError: an experiment that claims nothing that could be audited, or no such number.
    """
    if canaries is not None:
        require_whole(_FEWEST, "canaries", canaries)
    experiment.check()
    guard = _auditable(experiment)
    assert guard.budget is not None
    size, delta = guard.setting.dimension, guard.budget.delta
    count = canaries or (200 if guard.secure else 1000)
    if guard.noise:
        count = min(count, size, max(_FEWEST, _MOST_FLOATS // size))
    if count < _FEWEST:
        raise InputError(
            f"model: it has {size} numbers, in which no {_FEWEST} canaries can be told apart"
        )
    epsilon = guard.epsilon(guard.rounds)
    guesses = _guesses(count, epsilon, delta)
    listening: type[NodeSession | RowSession] = NodeSession if guard.noise else RowSession
    session = listening(experiment.replace(evaluate_every=experiment.rounds), count)
    with session:
        for row in session.rounds():
            if on_round:
                on_round(row)
    scores, included = session.scores, session.included
    correct = correct_guesses(scores, included, guesses)
    return Audit(
        epsilon, delta, "node" if guard.noise else "row", guard.release.adjacency, CONFIDENCE,
        guard.rounds, count, guesses, correct,
        least_epsilon(guard, count, guesses, correct),
        least_epsilon(guard, count, guesses, guesses),
        {r: true_positives(scores, included, r, CONFIDENCE) for r in FALSE_POSITIVE_RATES},
    )  # fmt: skip


def _auditable(experiment: Experiment) -> Guard:
    """The experiment's guard, if it claims something."""
    guard = experiment.guard
    if guard is None or guard.budget is None:
        raise InputError(
            "protection: an audit tests an epsilon, which only noise has; add GaussianNoise(...) or"
            f" DPSGD(...) to {list(experiment.protection)!r}"
        )
    if guard.setting.groups or guard.setting.separation > 1:
        raise InputError(
            "topology: groups, or nodes that take turns, were given, but canaries would have none;"
            " audit the plan with Star()"
        )
    if guard.multiplier == 0:
        raise InputError("protection.multiplier: 0 was given, which claims nothing to be audited")
    return guard


def least_epsilon(guard: Guard, canaries: int, guesses: int, correct: int) -> float:
    """Epsilon, refuted for mechanisms that differ from the guard's in their noise."""
    assert guard.budget is not None
    release, delta = guard.release, guard.budget.delta
    if release.mechanism != "laplace" and release.sampler is None:
        return gaussian_bound(canaries, guesses, correct, delta, CONFIDENCE)
    count = guard.rounds * guard.releases
    return noise_bound(
        lambda noise: leak(release, count, noise), canaries, guesses, correct, delta, CONFIDENCE
    )


def _guesses(canaries: int, epsilon: float, delta: float) -> int:
    """As many as would show half of the noise best, if it were Gaussian, and can show no noise."""
    half = 2 * gaussian_mu(epsilon, delta)

    def shown(guesses: int) -> tuple[bool, float]:
        share = guesses / canaries
        # Scores are normal, around half the time: above the limit lies half of the share.
        limit = scipy.optimize.brentq(
            lambda x: scipy.special.ndtr(-x) + scipy.special.ndtr(half - x) - share, -10, 10 + half
        )
        right = math.floor(guesses * scipy.special.ndtr(half - limit) / share)
        most, found = (
            gaussian_bound(canaries, guesses, c, delta, CONFIDENCE) for c in (guesses, right)
        )
        return most > epsilon, found

    return max((2 * (canaries * eighths // 16) for eighths in (8, 6, 4, 2, 1)), key=shown)
