"""``tacit audit``: the right build stays below its claim, and builds that are not are found.

All but masks, which cancel exactly, comes from fixed seeds: no test flickers.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import tacit
from small import experiment, federation
from tacit.auditing.bound import TruePositives
from tacit.cli import app
from tacit.engine import protect

CENTRAL = tacit.GaussianNoise(multiplier=1.5, delta=1e-5, where="central")
# Twice the noise: what is sent alone may be any update, two norms from another.
LOCAL = replace(CENTRAL, where="local", multiplier=2 * (CENTRAL.multiplier or 0))
DISTRIBUTED = replace(CENTRAL, where="distributed")
# All five nodes' shares are needed, so that the sum has no more noise than is claimed.
MASKS = tacit.SecureAggregation(threshold=5)
PARTS = {"central": [CENTRAL], "local": [LOCAL], "distributed": [DISTRIBUTED, MASKS]}


def plan(*parts: Any, **changes: Any) -> tacit.Experiment:
    """Two rounds of 5 nodes with a model of 2,802 numbers."""
    return experiment(
        model=lambda: nn.Sequential(nn.Linear(4, 400), nn.ReLU(), nn.Linear(400, 2)),
        protection=[tacit.Clip(0.1), *parts],
        **{"rounds": 2, "data": federation((20, 7, 3, 4, 30))} | changes,
    )


def unmasked(guard: Any, codec: Any, binding: Any, vectors: dict[int, Any]) -> Any:
    """The sum that masks give, without the seconds that they take."""
    return sum(vectors.values()), tuple(vectors)


@pytest.mark.parametrize("where", PARTS)
def test_the_right_build_stays_below_its_claim(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect, "secure_sum", unmasked)
    plain = plan(*PARTS[where])
    found = tacit.audit(plain, canaries=1000)
    assert plain.guard is not None
    assert found.epsilon == plain.guard.epsilon(2)
    assert (found.delta, found.unit, found.rounds, found.canaries) == (1e-5, "node", 2, 1000)
    assert not found.failed
    # Something is seen of what is truly given away: the test has power.
    assert 0.5 < found.bound < found.epsilon < found.most
    assert found.verdict().startswith("nothing found: the bound ")


@pytest.mark.parametrize("where", PARTS)
def test_half_the_noise_is_found(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect, "secure_sum", unmasked)
    for name in ("gaussian", "discrete_gaussian"):
        draw = getattr(protect, name)
        halved = lambda source, std, shape, draw=draw: draw(source, std / 2, shape)  # noqa: E731
        monkeypatch.setattr(protect, name, halved)
    found = tacit.audit(plan(*PARTS[where]), canaries=2000)
    assert found.failed
    assert found.verdict().startswith("FAILED: ")


@pytest.mark.parametrize("where", PARTS)
def test_no_noise_is_found(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect, "secure_sum", unmasked)
    for name in ("gaussian", "discrete_gaussian"):
        draw = getattr(protect, name)
        nothing = lambda *given, draw=draw: 0 * draw(*given)  # noqa: E731
        monkeypatch.setattr(protect, name, nothing)
    found = tacit.audit(plan(*PARTS[where]), canaries=300)
    assert found.failed
    assert found.correct == found.guesses
    assert found.bound == found.most
    assert found.true_positives[0.001].rate == 1.0


@pytest.mark.parametrize("where", PARTS)
def test_the_same_noise_in_every_round_is_found(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protect, "secure_sum", unmasked)
    seeded = protect.seeded

    def stuck(seed: int, purpose: str, round: int, *rest: int) -> Any:
        return seeded(seed, purpose, 0, *rest)

    monkeypatch.setattr(protect, "seeded", stuck)
    assert tacit.audit(plan(*PARTS[where]), canaries=600).failed


@pytest.mark.parametrize("where", ["central", "local"])
def test_no_clipping_is_found(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Behind masks the codec clips once more.
    whole = lambda units, norm, order: (units, torch.ones(len(units), dtype=torch.bool))  # noqa: E731
    monkeypatch.setattr(protect, "clipped", whole)
    assert tacit.audit(plan(*PARTS[where]), canaries=600).failed


def test_through_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    masked = plan(DISTRIBUTED, MASKS, rounds=1)
    assert not tacit.audit(masked, canaries=60).failed
    draw = protect.discrete_gaussian
    monkeypatch.setattr(protect, "discrete_gaussian", lambda *given: 0 * draw(*given))
    assert tacit.audit(masked, canaries=60).failed


def test_canaries_are_sampled_as_nodes_are() -> None:
    # One node in 16, in each of four rounds: the claim counts on it. Nodes that take part in every
    # round would give away mu = 2 / 0.8, whose epsilon is above 13 at this delta.
    found = tacit.audit(
        plan(
            replace(CENTRAL, multiplier=0.8),
            topology=tacit.Star(cohort=1, sampling="poisson"),
            data=federation((6,) * 16),
            rounds=4,
        ),
        canaries=1000,
    )
    assert found.epsilon < 4
    assert not found.failed


def test_an_adaptive_norm_is_audited_too() -> None:
    found = tacit.audit(
        plan().replace(protection=[tacit.AdaptiveClip(0.1), CENTRAL]), canaries=1000
    )
    assert 0.5 < found.bound < found.epsilon


def test_too_few_canaries_are_said_to_find_nothing() -> None:
    found = tacit.audit(plan(replace(CENTRAL, multiplier=0.3)), canaries=20)
    assert found.most < found.epsilon
    assert "nothing could be" in found.verdict()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda: plan(), "claim it tests"),
        (lambda: experiment(), "claim it tests"),
        (lambda: plan(LOCAL, algorithm=tacit.Gossip()), "under a Star"),
        (lambda: experiment(protection=[tacit.DPSGD(norm=1.0, epsilon=3, delta=1e-5)]), "tests"),
        (
            lambda: experiment(
                protection=[
                    tacit.Clip(1.0, order=1),
                    tacit.LaplaceNoise(multiplier=1, delta=1e-5),
                ]
            ),
            "GaussianNoise",
        ),
        (lambda: plan(CENTRAL, topology=tacit.Star(cohort=4)), "without-replacement"),
        (lambda: plan(replace(CENTRAL, multiplier=0)), "claims nothing"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    changed: Callable[[], tacit.Experiment], why: str
) -> None:
    with pytest.raises(tacit.InputError, match=why):
        tacit.audit(changed())


def test_too_few_canaries_are_refused() -> None:
    with pytest.raises(tacit.InputError, match=r"^canaries: "):
        tacit.audit(plan(CENTRAL), canaries=19)
    small = plan(CENTRAL).replace(model=lambda: nn.Linear(4, 2))
    with pytest.raises(tacit.InputError, match="it has 10 numbers"):
        tacit.audit(small)


FILE = """
from torch import nn
import tacit

experiment = tacit.Experiment(
    data=tacit.data.load("wine"),
    model=lambda: nn.Linear(13, 3),
    loss=nn.functional.cross_entropy,
    training=tacit.SGD(lr=0.1),
    protection=[
        tacit.Clip(1.0), tacit.GaussianNoise(multiplier=4, delta=1e-5, where="central")
    ],
    rounds=1,
)
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wine.py"
    file.write_text(FILE)
    call = lambda *more: CliRunner().invoke(app, ["audit", str(file), *more])  # noqa: E731
    done = call("--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["canaries"] == 42
    assert found["failed"] is False
    assert [row["false_positive_rate"] for row in found["true_positives"]] == [0.001, 0.01]
    done = call("--set", "protection=Clip(1.0)")
    assert done.exit_code == 2
    draw = protect.gaussian
    monkeypatch.setattr(protect, "gaussian", lambda *given: 0 * draw(*given))
    done = call()
    assert done.exit_code == 1
    assert "claimed: epsilon 0.9" in done.stdout
    assert "true positives at 0.1 % false positives: 100.0 %" in done.stdout
    assert done.stdout.rstrip().split("\n")[-1].startswith("FAILED: ")


def test_the_text() -> None:
    rates = {0.001: TruePositives(0.25, 0.125, 0.5)}
    found = tacit.Audit(3.0, 1e-5, "node", 10, 1000, 250, 200, 1.25, 7.9, rates)
    assert found.to_text().split("\n") == [
        "claimed: epsilon 3.00 at delta 1e-05, for one node, after 10 rounds",
        "lower bound at 95 %: epsilon 1.25 (200 of 250 guesses right, 1,000 canaries;"
        " at most 7.90 could be shown)",
        "true positives at 0.1 % false positives: 25.0 % (12.5 to 50.0 %)",
        "nothing found: the bound 1.25 stays below the claim 3.00.",
    ]
