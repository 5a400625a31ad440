"""``tacit audit`` of DP-SGD: canary rows in a node's private training."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from small import experiment, federation
from tacit.auditing import rows
from tacit.data.federation import Federation, Split
from tacit.engine.local import LocalTrain
from tacit.training import lowering
from tacit.training import plan as drawing
from tacit.training.ghost import ClippedProgram
from tacit.training.lowering import choose
from tacit.training.private import AddressedNoise

# Every row in each of four steps: mu = sqrt(4) / 3, whose epsilon at this delta is 2.75.
WHOLE = tacit.SGD(lr=0.1, batch_size=None)


def plan(multiplier: float = 3.0, training: Any = WHOLE, **changes: Any) -> tacit.Experiment:
    part = tacit.DPSGD(norm=1.0, multiplier=multiplier, delta=1e-5)
    return experiment(protection=[part], training=training, **changes)


PLANS = {
    "one step a round": plan,
    "Poisson batches": lambda: plan(2.0, tacit.SGD(lr=0.1, batch_size=4, epochs=2)),
    "momentum": lambda: plan(2.0, tacit.SGD(lr=0.1, batch_size=4, momentum=0.9)),
    "Adam": lambda: plan(training=tacit.Adam(lr=0.01, batch_size=None)),
    "gossip": lambda: plan(algorithm=tacit.Gossip()),
}
plans = pytest.mark.parametrize(
    "name",
    [
        "one step a round",
        "Poisson batches",
        pytest.param("momentum", marks=pytest.mark.slow),
        pytest.param("Adam", marks=pytest.mark.slow),
        pytest.param("gossip", marks=pytest.mark.slow),
    ],
)


def with_noise(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    draw = AddressedNoise.__call__

    def drawn(self: AddressedNoise, parts: Any, std: Any, *address: Any) -> None:
        draw(self, parts, factor * std, *address)

    monkeypatch.setattr(AddressedNoise, "__call__", drawn)


@plans
def test_the_right_build_stays_below_its_claim(name: str) -> None:
    plain = PLANS[name]()
    found = tacit.audit(plain, canaries=1000)
    assert plain.guard is not None
    assert found.epsilon == plain.guard.epsilon(4)
    assert (found.unit, found.adjacency, found.rounds) == ("row", "add-or-remove", 4)
    assert not found.failed
    assert 0.5 < found.bound < found.epsilon < found.most


@plans
def test_half_the_noise_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_noise(monkeypatch, 0.5)
    assert tacit.audit(PLANS[name](), canaries=2000).failed


@plans
def test_no_noise_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_noise(monkeypatch, 0.0)
    assert tacit.audit(PLANS[name](), canaries=300).failed


@plans
def test_no_clipping_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ClippedProgram.clipped_step

    def whole(
        self: Any, stack: Any, context: Any, loss: Any, x: Any, y: Any, clip: Any, share: Any
    ) -> Any:
        return step(self, stack, context, loss, x, y, 1e9, share)

    monkeypatch.setattr(ClippedProgram, "clipped_step", whole)
    # Else the engine finds out that it does not agree with training row after row.
    monkeypatch.setattr(lowering, "_compare", lambda *given: None)
    assert tacit.audit(PLANS[name](), canaries=600).failed


def test_the_same_noise_in_every_round_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.engine.local.AddressedNoise", lambda stream: AddressedNoise(1))
    assert tacit.audit(plan(), canaries=600).failed


def test_rows_in_every_batch_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # Claimed are batches of 2 of 30 rows; a word of all ones makes every distance 1.
    rare = plan(1.0, tacit.SGD(lr=0.1, batch_size=2), rounds=1)
    assert not tacit.audit(rare, canaries=600).failed
    draw = drawing.words

    def ones(*address: Any) -> Any:
        return draw(*address) | np.uint64(2**64 - 1)

    monkeypatch.setattr(drawing, "words", ones)
    assert tacit.audit(rare, canaries=600).failed


@pytest.mark.slow
def test_node_after_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "choose", lambda engine, *rest: choose("sequential", *rest))
    one = plan(data=federation((5, 5)), rounds=1)
    assert not tacit.audit(one, canaries=200).failed
    with_noise(monkeypatch, 0.0)
    assert tacit.audit(one, canaries=200).failed


def test_a_row_has_as_many_steps_and_the_rate_that_are_claimed() -> None:
    # Rows of the node of 20 enter batches of 8 in 3 steps a round; those of the node of 100 at a
    # lower rate in more steps, which gives away less.
    uneven = plan(2.0, tacit.SGD(lr=0.1, batch_size=8), data=federation((20, 100)))
    session = rows.RowSession(uneven, 50)
    beside = LocalTrain(session.beside, np.array([0]), 0).plan
    assert beside.steps[0] == 3
    assert beside.batch_size[0] / beside.sizes[0] == 8 / 20
    assert beside.sizes[0] >= 20 + 50


def test_tokens_images_and_several_outputs() -> None:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.unflatten(1, (1, 8, 8)))

    images = plan(model=Convolution, data=federation((12, 12), features=64), rounds=1)
    assert not tacit.audit(images, canaries=100).failed
    tokens = Split.pack([(torch.arange(60).view(12, 5) % 7, torch.arange(60).view(12, 5) % 7)])
    text = plan(
        model=lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)),
        loss=tacit.next_token,
        data=Federation(tokens, tokens, ("a",), "sequence", 7),
        rounds=1,
    )
    assert not tacit.audit(text, canaries=100).failed
