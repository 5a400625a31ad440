"""Dropout by address: the mask is a function of (seed, round, node, step, call), of nothing else.

torch draws dropout from one global stream, so that batching nodes differently changes the masks.
Here the mask of a call depends on its address only, which makes batched and sequential training
agree.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tacit.randomness import uniform_mask, words


class Address:
    """Streams of the dropout calls of one training step.

    Attributes:
        stream: key of (seed, "dropout", round).
        nodes, steps: (C,) address of each slot.
    """

    def __init__(self, stream: int, nodes: NDArray[np.int64], steps: NDArray[np.int64]) -> None:
        self.stream, self.nodes, self.steps = stream, nodes, steps
        self.calls = 0

    def apply(self, x: Tensor, p: float) -> Tensor:
        """Inverted dropout on (C, B, ...): zero with probability p, the rest times 1 / (1 - p)."""
        streams = words(self.stream, self.nodes, self.steps, np.array(self.calls))
        self.calls += 1
        if p >= 1:
            return x * 0
        mask = uniform_mask(torch.from_numpy(streams.astype(np.int64)), tuple(x.shape[1:]), 1 - p)
        return x * mask.to(x.device, x.dtype) / (1 - p)


class AddressedDropout(TorchFunctionMode):
    """While active, ``torch.nn.functional.dropout`` in one node's model draws from ``address``."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = address

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.dropout:
            return self._dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return input
        return self.address.apply(input.unsqueeze(0), p).squeeze(0)
