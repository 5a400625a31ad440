"""A small experiment that tests vary."""

from typing import Any

import torch
from torch import nn

import tacit
from tacit.data.federation import Federation, Split


def federation(sizes: tuple[int, ...] = (20, 7, 1, 0, 30), features: int = 4) -> Federation:
    """Two classes, linearly separable but for noise; unequal nodes, one of one row, one of none."""
    generator = torch.Generator().manual_seed(0)

    def rows(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(size, features, generator=generator)
        noise = 0.3 * torch.randn(size, generator=generator)
        return x, (x[:, 0] - x[:, 1] + noise > 0).long()

    names = tuple("abcdefghijklmnop"[: len(sizes)])
    train, test = ([rows(size) for size in sizes] for _ in range(2))
    return Federation(Split.pack(train), Split.pack(test), names, "classification", 2)


def experiment(**changes: Any) -> tacit.Experiment:
    fields: dict[str, Any] = {
        "data": federation(),
        "model": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
        "loss": nn.functional.cross_entropy,
        "training": tacit.SGD(lr=0.1, batch_size=8),
        "rounds": 4,
    }
    return tacit.Experiment(**fields | changes)
