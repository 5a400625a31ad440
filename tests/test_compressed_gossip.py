"""Gossip over compressed differences (CHOCO) in runs: it learns, resumes, and counts its bytes."""

from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import nn

import tacit
from small import experiment as small
from small import federation
from tacit.compression import Compressor
from tacit.explain import explain

COMPRESSORS = [tacit.TopK(0.2), tacit.RandomK(0.3), tacit.QSGD(levels=15), tacit.DRIVE()]
SIZES = (20, 12, 9, 16, 30, 11)
D = 58
TREE = nx.Graph([(0, 1), (1, 2), (1, 3), (3, 4), (4, 5)])
RING = {"topology": tacit.Ring()}
LOCAL = tacit.GaussianNoise(multiplier=1.0, delta=1e-5, where="local")


def experiment(**changes: Any) -> tacit.Experiment:
    fields: dict[str, Any] = {"data": federation(SIZES), "algorithm": tacit.Gossip(), **RING}
    return small(**fields | changes)


def vectors(plan: tacit.Experiment, **how: Any) -> torch.Tensor:
    found = tacit.run(plan, **{"workers": 1} | how).vectors
    assert found is not None
    return found


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_it_learns_and_agrees(compressor: Compressor) -> None:
    plan = experiment(compression=compressor, rounds=60, evaluate_every=60)
    row, alone = (
        tacit.run(plan).metrics[-1],
        tacit.run(plan.replace(algorithm=tacit.Alone(), topology=None, compression=None)),
    )
    assert row["accuracy"] >= 0.85  # 0.5 is chance
    assert alone.vectors is not None
    apart = (alone.vectors - alone.vectors.mean(0)).square().sum(1).mean().sqrt()
    assert row["consensus_distance"] < 0.7 * apart


@pytest.mark.parametrize("compressor", [tacit.TopK(1.0), tacit.RandomK(1.0)], ids=repr)
def test_what_loses_nothing_is_plain_gossip(compressor: Compressor) -> None:
    plain, sent = (vectors(experiment(compression=c)) for c in (None, compressor))
    torch.testing.assert_close(sent, plain, rtol=1e-5, atol=1e-6)


class Once(tacit.SGD):
    """Nothing is learned after the first round."""

    def lr_at(self, round: int, rounds: int) -> float:
        return super().lr_at(round, rounds) if round == 0 else 0.0


def told(change: torch.Tensor) -> torch.Tensor:
    """The larger half of the numbers of each row, zero elsewhere."""
    top = change.abs().topk(D // 2, dim=1).indices
    return torch.zeros_like(change).scatter(1, top, change.gather(1, top))


def test_two_rounds_by_hand() -> None:
    # Two nodes on one link, W = [[1/2, 1/2], [1/2, 1/2]]; copies begin as the initial model, and
    # half of the numbers of a change are told: gamma = 0.5 / (2 - 0.5) = 1/3.
    training = Once(lr=0.1, batch_size=8)
    plan = experiment(data=federation((20, 12)), compression=tacit.TopK(0.5), training=training)
    models = vectors(
        plan.replace(algorithm=tacit.Alone(), topology=None, compression=None, rounds=1)
    )
    copies = plan.start().expand(2, D)
    for rounds in (1, 2):
        copies = copies + told(models - copies)
        models = models + (copies.flip(0) - copies) / 2 / 3
        found = vectors(plan.replace(rounds=rounds))
        torch.testing.assert_close(found, models, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_a_resumed_run_ends_with_the_same_bits(compressor: Compressor, tmp_path: Path) -> None:
    plan = experiment(compression=compressor)

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tacit.run(plan, folder=tmp_path, on_round=stop, workers=1)
    assert vectors(plan, folder=tmp_path, resume=True).equal(vectors(plan))


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
@pytest.mark.parametrize(
    "topology",
    [tacit.Ring(), tacit.Custom(TREE)],
    ids=["ring", "tree"],
)
def test_bytes_are_the_messages_to_every_neighbour(
    compressor: Compressor, topology: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, lengths = experiment(compression=compressor, topology=topology), []
    encode = type(compressor).encode

    def counting(*arguments: Any) -> Any:
        messages = encode(*arguments)
        lengths.append([len(message) for message in messages])
        return messages

    monkeypatch.setattr(type(compressor), "encode", counting)
    rows = tacit.run(plan).metrics
    degrees = [2] * 6 if topology == tacit.Ring() else [1, 3, 1, 2, 2, 1]
    sent = [sum(d * size for d, size in zip(degrees, told, strict=True)) for told in lengths[-4:]]
    assert [row["bytes"] for row in rows] == sent
    said = explain(plan)
    assert said.bytes == sum(sent) < 4 * D * sum(degrees) * plan.rounds
    assert repr(compressor) in said.rows[0].what


def test_explain_says_what_neighbours_keep() -> None:
    said = explain(experiment(compression=tacit.RandomK(0.5))).to_text()
    assert "difference to the copy that all neighbours have (58 numbers)" in said
    assert "is no protection" in said
    assert "by 0.333 of the way (gamma of CHOCO)" in said  # 0.5 / (2 - 0.5)


def test_buffers_travel_whole() -> None:
    changes = {
        "rounds": 1,
        "model": lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
    }
    plan = experiment(compression=tacit.DRIVE(), **changes)
    p = plan.layout.trained
    sent, plain = vectors(plan), vectors(experiment(**changes))
    torch.testing.assert_close(sent[:, p:], plain[:, p:])
    assert not torch.allclose(sent[:, :p], plain[:, :p])
    assert explain(plan).bytes == tacit.run(plan).metrics[0]["bytes"]


def test_local_noise_goes_before_the_copies() -> None:
    # A model has its noise when its change is told, so that copies say no more than it does.
    plan = experiment(
        compression=tacit.TopK(1.0),
        protection=[tacit.Clip(1.0), LOCAL],
        rounds=1,
        topology=tacit.Complete(),
    )
    moved = vectors(plan) - vectors(plan.replace(protection=[tacit.Clip(1.0)]))
    # All six models are the mean of six: a deviation of 6^-1/2 = 0.41, within 4 of its own.
    assert 0.25 < float(moved.square().mean().sqrt()) < 0.6
    assert tacit.run(plan).metrics[0]["epsilon"] == plan.guard.epsilon(1)


@pytest.mark.parametrize(
    ("changes", "message", "instead"),
    [
        (
            {"compression": tacit.SignCompression()}, r"use TopK\(0.1\), RandomK\(0.1\) or DRIVE",
            {"compression": tacit.DRIVE()},
        ),
        (
            {"compression": tacit.PowerSGD()}, r"leave out less than there is",
            {"compression": tacit.TopK(0.1)},
        ),
        (
            {"compression": tacit.RandomK(0.1, feedback=False)}, r"leave out less",
            {"compression": tacit.RandomK(0.1)},
        ),
        ({"topology": tacit.Epidemic(2)}, r"use a fixed graph, such as Ring\(\)", RING),
        ({"aggregation": tacit.Median()}, r"use Mean\(\)", {"aggregation": tacit.Mean()}),
        ({"aggregation": tacit.Median()}, r"or leave it out", {"compression": None}),
        (
            {"attack": tacit.attacks.SignFlip(nodes=("b",))}, r"such as LabelFlip\(\)",
            {"attack": tacit.attacks.LabelFlip(nodes=("b",))},
        ),
        (
            {"protection": [tacit.SecureAggregation()], "topology": tacit.Complete()},
            r"or use FedAvg\(\) with RandomK\(0.1\)",
            {
                "algorithm": tacit.FedAvg(), "topology": tacit.Star(),
                "compression": tacit.RandomK(0.1),
            },
        ),
    ],
)  # fmt: skip
def test_what_is_refused_and_what_works_instead(changes: Any, message: str, instead: Any) -> None:
    plan = experiment(**{"compression": tacit.TopK(0.1)} | changes)
    with pytest.raises(tacit.InputError, match=message) as error:
        tacit.run(plan)
    assert "\n" not in str(error.value)
    tacit.run(plan.replace(rounds=1, **instead))
