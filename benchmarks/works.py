"""The experiments that are timed, on random data of the right shapes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tacit import (
    SGD,
    Experiment,
    FedAvg,
    Gossip,
    RandomRegular,
    Star,
    models,
    next_token,
)
from tacit.data import Federation
from tacit.data.federation import Split

# Rounds are taken one by one, as many as the caller wants, and none of them evaluates.
_ENDLESS = 10**9


@dataclass(frozen=True)
class Work:
    """One row of the table.

    Attributes:
        name: for ``--only``.
        title: what it is.
        required, aim: times the floor's speed.
        make: makes the experiment.
        heavy: whether a round takes seconds, so that fewer are timed.
    """

    name: str
    title: str
    required: float
    aim: float
    make: Callable[[], Experiment]
    heavy: bool = False


def _sizes(nodes: int, rows: int, sigma: float) -> np.ndarray:
    """(nodes,) row counts with mean ``rows``, log-normal if sigma is above 0; at least one each."""
    share = np.random.default_rng(0).lognormal(0.0, sigma, nodes)
    return np.maximum(1, np.round(share * nodes * rows / share.sum())).astype(np.int64)


def _federation(x: Tensor, y: Tensor, sizes: np.ndarray, task: str, classes: int) -> Federation:
    train = Split(x, y, np.concatenate([[0], np.cumsum(sizes)]))
    test = Split(x[:10], y[:10], np.array([0, 10]))
    names = tuple(str(node) for node in range(len(sizes)))
    return Federation(train, test, names, task, classes)


def labelled(
    nodes: int, rows: int, shape: tuple[int, ...], classes: int, sigma: float = 0.0
) -> Federation:
    """Normal inputs of a shape and uniform labels."""
    sizes = _sizes(nodes, rows, sigma)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(int(sizes.sum()), *shape, generator=draw)
    y = torch.randint(classes, (len(x),), generator=draw)
    return _federation(x, y, sizes, "classification", classes)


def _text(nodes: int, rows: int, length: int, vocabulary: int = 65) -> Federation:
    """Uniform tokens in windows of a length; the target of each is the next one."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (nodes * rows, length + 1), generator=draw)
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return _federation(x, y, _sizes(nodes, rows, 0.0), "sequence", vocabulary)


def fedavg(
    data: Federation, model: Callable[[], nn.Module], cohort: int | None = None
) -> Experiment:
    """One epoch of batches of 10, then the plain mean."""
    return Experiment(
        data=data,
        model=model,
        loss=next_token if data.task == "sequence" else nn.functional.cross_entropy,
        training=SGD(lr=0.05, batch_size=10, epochs=1),
        algorithm=FedAvg(uniform=True),
        topology=Star(cohort),
        rounds=_ENDLESS,
        evaluate_every=_ENDLESS,
    )


def _gossip(data: Federation, model: Callable[[], nn.Module]) -> Experiment:
    """One step of a batch of 10, then the mean with four neighbours."""
    return fedavg(data, model).replace(
        training=SGD(lr=0.05, batch_size=10, steps=1),
        algorithm=Gossip(),
        topology=RandomRegular(4),
    )


WORKS = (
    Work(
        "2nn-10", "2NN, 10 of 100 nodes x 600", 3.5, 4.5,
        lambda: fedavg(labelled(100, 600, (784,), 10), models.two_nn, 10),
    ),
    Work(
        "2nn-100", "2NN, 100 of 100 nodes x 600", 3.5, 4.2,
        lambda: fedavg(labelled(100, 600, (784,), 10), models.two_nn), heavy=True,
    ),
    Work(
        "lr", "LR 784-10, 100 of 1,000 nodes x 60", 8, 14,
        lambda: fedavg(labelled(1000, 60, (784,), 10), lambda: models.logistic(784, 10), 100),
    ),
    Work(
        "mlp", "MLP 30-64-2, 1,000 nodes x 100", 30, 55,
        lambda: fedavg(labelled(1000, 100, (30,), 2), lambda: models.mlp(30, 64, 2)),
        heavy=True,
    ),
    Work(
        "mlp-skew", "the same, log-normal sizes", 10, 20,
        lambda: fedavg(labelled(1000, 100, (30,), 2, sigma=1.0), lambda: models.mlp(30, 64, 2)),
        heavy=True,
    ),
    Work(
        "cnn", "CNN 32/64, 50 nodes x 50", 1.6, 1.9,
        lambda: fedavg(labelled(50, 50, (1, 28, 28), 10), models.cnn), heavy=True,
    ),
    Work(
        "lstm", "char-LSTM 256, 10 nodes x 100", 1.6, 1.9,
        lambda: fedavg(_text(10, 100, 40), lambda: models.char_lstm(layers=1)), heavy=True,
    ),
    Work(
        "transformer", "transformer 2 x 128, 10 nodes x 100", 1.6, 1.9,
        lambda: fedavg(_text(10, 100, 40), models.transformer), heavy=True,
    ),
    Work(
        "gossip-2nn", "D-PSGD, 50 nodes of 2NN, 1 step", 3, 3.5,
        lambda: _gossip(labelled(50, 60, (784,), 10), models.two_nn),
    ),
    Work(
        "gossip-lr", "D-PSGD, 1,000 nodes of LR, 1 step", 8, 11,
        lambda: _gossip(labelled(1000, 60, (784,), 10), lambda: models.logistic(784, 10)),
    ),
)  # fmt: skip
