"""Runs whose nodes send compressed differences: they learn, resume, and count what is sent."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tacit
from small import experiment, federation
from tacit.aggregation.rule import Round
from tacit.compression import Compressor
from tacit.engine.exchange import StarExchange
from tacit.engine.uplink import Uplink
from tacit.explain import explain
from tacit.protection.secagg import simulate as protocol

COMPRESSORS = [
    tacit.TopK(0.2), tacit.RandomK(0.3), tacit.RandomK(0.5, feedback=False), tacit.QSGD(levels=3),
    tacit.SignCompression(), tacit.DRIVE(), tacit.PowerSGD(1),
]  # fmt: skip
# The model has 4 * 8 + 8 + 8 * 2 + 2 = 58 numbers.
D = 58
NOISE = {"multiplier": 1.0, "delta": 1e-5}


def vector(result: tacit.Result) -> torch.Tensor:
    return result.experiment.layout.vector(result.model)


def step(**changes: Any) -> torch.Tensor:
    """(d,) how one round changes the model."""
    plan = experiment(rounds=1, **changes)
    return vector(tacit.run(plan)) - plan.start()


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_it_learns(compressor: Compressor) -> None:
    plan = experiment(compression=compressor, rounds=40, evaluate_every=40)
    assert tacit.run(plan).metrics[-1]["accuracy"] >= 0.85  # 0.5 is chance


@pytest.mark.parametrize("compressor", [tacit.TopK(1.0), tacit.RandomK(1.0), tacit.PowerSGD(8)])
def test_what_loses_nothing_changes_nothing(compressor: Compressor) -> None:
    plain, sent = (vector(tacit.run(experiment(compression=c))) for c in (None, compressor))
    torch.testing.assert_close(sent, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_a_resumed_run_ends_with_the_same_bits(compressor: Compressor, tmp_path: Path) -> None:
    plan = experiment(compression=compressor, topology=tacit.Star(cohort=3))

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tacit.run(plan, folder=tmp_path, on_round=stop)
    resumed = tacit.run(plan, folder=tmp_path, resume=True)
    assert vector(resumed).equal(vector(tacit.run(plan)))


@pytest.mark.parametrize("topology", [tacit.Star(cohort=3), tacit.Hierarchical(groups=2)], ids=repr)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_bytes_are_the_messages_and_what_comes_back(
    compressor: Compressor, topology: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, lengths = experiment(compression=compressor, topology=topology), []
    compress = type(compressor).compress

    def counting(*arguments: Any) -> Any:
        messages, memory = compress(*arguments)
        lengths.extend(map(len, messages))
        return messages, memory

    monkeypatch.setattr(type(compressor), "compress", counting)
    rows = tacit.run(plan).metrics
    # Float32 from the server to 3 nodes; or up and down between 2 aggregators and the top, and down
    # to 5 nodes.
    dense = 4 * D * (3 if isinstance(topology, tacit.Star) else 2 * 2 + 5)
    assert sum(row["bytes"] for row in rows) == sum(lengths) + dense * plan.rounds
    assert explain(plan).bytes == sum(row["bytes"] for row in rows)
    assert explain(plan).rows[0].message_bytes == lengths[0] < 4 * D


def test_the_size_of_a_message_on_paper() -> None:
    # TopK(0.25): round(58 / 4) = 14 positions, shorter as a bitmap of 8 bytes than at 6 bits each
    # (11 bytes), and 14 float32. The sign: a float32 and 58 bits.
    for compressor, size in ((tacit.TopK(0.25), 8 + 56), (tacit.SignCompression(), 4 + 8)):
        row = explain(experiment(compression=compressor)).rows[0]
        assert row.message_bytes == size
        assert repr(compressor) in row.what


def test_buffers_travel_whole() -> None:
    changes = {
        "data": federation((20, 12, 30)), "rounds": 1,
        "model": lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
    }  # fmt: skip
    plan = experiment(compression=tacit.SignCompression(), **changes)
    p = plan.layout.trained
    assert plan.layout.size == p + 8 + 8 + 1  # running means, variances, and a count
    sent, plain = vector(tacit.run(plan)), vector(tacit.run(experiment(**changes)))
    torch.testing.assert_close(sent[p:], plain[p:])
    assert not torch.allclose(sent[:p], plain[:p])
    assert explain(plan).bytes == tacit.run(plan).metrics[0]["bytes"]


def test_what_is_left_out_is_sent_later() -> None:
    # With lr = 0 in the second round nothing is learned there: what moves then is the memory.
    class Second(tacit.SGD):
        def lr_at(self, round: int, rounds: int) -> float:
            return super().lr_at(round, rounds) if round == 0 else 0.0

    changes = {"training": Second(lr=0.1, batch_size=8), "compression": tacit.TopK(0.5)}
    one, two = (vector(tacit.run(experiment(rounds=r, **changes))) for r in (1, 2))
    whole = vector(tacit.run(experiment(rounds=1, training=changes["training"])))
    assert not torch.allclose(one, whole)
    torch.testing.assert_close(two, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compressor", [tacit.TopK(0.2), tacit.QSGD()], ids=repr)
def test_rules_and_liars_meet_what_the_server_reads(compressor: Compressor) -> None:
    plan = experiment(
        data=federation((20,) * 6), compression=compressor, aggregation=tacit.Median(), rounds=20,
        attack=tacit.attacks.SignFlip(nodes=("b",)), evaluate_every=20,
    )  # fmt: skip
    assert tacit.run(plan).metrics[-1]["accuracy"] >= 0.8


def test_an_update_of_no_finite_length_is_turned_away() -> None:
    layout, nodes, round = experiment().layout, torch.arange(3).numpy(), Round()
    uplink = Uplink(tacit.TopK(1.0), layout, round, 3)
    exchange = StarExchange(tacit.Star(), tacit.Mean(), nodes, round, 3, uplink=uplink)
    models = torch.ones(3, D)
    models[1, 5] = torch.inf
    assert exchange(torch.zeros(D), models, torch.full((3,), 1 / 3)).equal(torch.ones(D))


def test_clipping_bounds_what_a_message_says() -> None:
    # One level of a bucket's norm: what QSGD says is longer than what it was told, up to sqrt(d).
    moved = step(compression=tacit.QSGD(levels=1), protection=[tacit.Clip(1e-3)])
    assert 1e-4 < moved.norm() <= 1e-3 * (1 + 1e-4)


@pytest.mark.parametrize("where", ["central", "local"])
def test_noise_stays_in_the_coordinates_that_are_sent(where: Any) -> None:
    compression = tacit.RandomK(0.5, feedback=False)
    noise = tacit.GaussianNoise(where=where, **NOISE)
    moved = step(compression=compression, protection=[tacit.Clip(1.0), noise])
    assert int((moved.abs() > 1e-6).sum()) == D // 2


def test_masks_of_random_k_are_as_short_as_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, simulate = [], protocol.simulate

    def watched(session: Any, *arguments: Any, **more: Any) -> Any:
        lengths.append(session.length)
        return simulate(session, *arguments, **more)

    monkeypatch.setattr(protocol, "simulate", watched)
    compression = tacit.RandomK(0.5)
    masked = step(compression=compression, protection=[tacit.SecureAggregation(3)])
    assert lengths == [D // 2 + 1]  # the weight is one more
    torch.testing.assert_close(masked, step(compression=compression), rtol=0, atol=1e-5)


def test_distributed_noise_is_accounted_for_in_the_short_vector() -> None:
    protection = [
        tacit.Clip(1.0), tacit.SecureAggregation(3), tacit.GaussianNoise(epsilon=30, delta=1e-5)
    ]  # fmt: skip
    plan = experiment(compression=tacit.RandomK(0.5, feedback=False), protection=protection)
    assert plan.guard is not None
    assert plan.guard.release.grid is not None
    assert plan.guard.release.grid.dimension == plan.guard.codec(D // 2).dimension
    assert tacit.run(plan).metrics[-1]["epsilon"] <= 30


MASKS = [tacit.SecureAggregation(3)]
CENTRAL = [tacit.Clip(1.0), tacit.GaussianNoise(where="central", **NOISE)]
LOCAL = [tacit.Clip(1.0), tacit.GaussianNoise(where="local", **NOISE)]
UNBIASED = {"compression": tacit.RandomK(0.1, feedback=False)}


@pytest.mark.parametrize(
    ("changes", "message", "instead"),
    [
        (
            {"compression": tacit.TopK(0.1), "algorithm": tacit.Gossip("before")},
            r"sends no difference to a model that its receivers know; use FedAvg\(\)",
            {"algorithm": tacit.FedAvg()},
        ),
        (
            {"compression": tacit.TopK(0.1), "algorithm": tacit.Alone()},
            r"or Gossip\(mix='after'\) as the algorithm",
            {"algorithm": tacit.Gossip()},
        ),
        (
            {"compression": tacit.QSGD(), "algorithm": tacit.Scaffold()},
            r"Scaffold sends model and control.*use FedAvg\(\)",
            {"algorithm": tacit.FedAvg()},
        ),
        (
            {"compression": tacit.QSGD(), "algorithm": tacit.FedPer(personal=("2",))},
            r"FedPer sends common layers.*use FedAvg\(\)",
            {"algorithm": tacit.FedAvg()},
        ),
        (
            {"compression": tacit.TopK(0.1), "protection": MASKS},
            r"which coordinates changed most.*use RandomK\(0.1\)",
            {"compression": tacit.RandomK(0.1)},
        ),
        (
            {"compression": tacit.DRIVE(), "protection": MASKS},
            r"the sum of its messages is no message.*use RandomK\(0.1\)",
            {"compression": tacit.RandomK(0.1)},
        ),
        (
            {"compression": tacit.RandomK(0.1), "protection": CENTRAL},
            r"its memory carries .*GaussianNoise; use RandomK\(0.1, feedback=False\)",
            UNBIASED,
        ),
        (
            {"compression": tacit.QSGD(), "protection": LOCAL},
            r"fills its message up again; use RandomK\(0.1, feedback=False\)",
            UNBIASED,
        ),
        (
            {"compression": tacit.QSGD(), "protection": LOCAL},
            r'or GaussianNoise\(where="central"\)',
            {"protection": CENTRAL},
        ),
    ],
)
def test_what_is_refused_and_what_works_instead(
    changes: dict[str, Any], message: str, instead: dict[str, Any]
) -> None:
    with pytest.raises(tacit.InputError, match=message) as error:
        tacit.run(experiment(**changes))
    assert "\n" not in str(error.value)
    tacit.run(experiment(**changes | instead))


def test_what_is_no_compressor_is_refused() -> None:
    with pytest.raises(
        tacit.InputError, match=r"compression: 'zip' was given; allowed is None, or"
    ):
        experiment(compression="zip")


def test_noise_in_training_bears_any_compression() -> None:
    # What a node makes of noised gradients says no more of its rows than they do.
    protection = [tacit.DPSGD(norm=1.0, multiplier=1.0, delta=1e-5)]
    data = federation((20, 12, 30))
    tacit.run(experiment(data=data, compression=tacit.TopK(0.1), protection=protection, rounds=1))


def test_a_description_tells_compressions_apart() -> None:
    plans = [experiment(compression=c) for c in (None, tacit.TopK(0.1), tacit.TopK(0.2))]
    assert len({plan.digest() for plan in plans}) == 3
    assert plans[1].description()["compression"] == {"type": "TopK", "share": 0.1}
