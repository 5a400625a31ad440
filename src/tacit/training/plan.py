"""Which rows a node sees in a round, in which order: one integer table that every lowering follows.

The same plan feeds batched and sequential training, on any number of processes, so that their
results agree.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.data.federation import Split
from tacit.randomness import key, words
from tacit.training.optimizers import Training

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of some nodes in one round.

    Step s of the node at position i takes the rows ``rows[at : at + size]`` with
    ``at, size = batch(i, s)``; its last batch of an epoch may be smaller.

    Attributes:
        nodes: (k,) node ids; a node may appear more than once.
        sizes: (k,) rows that each holds.
        steps: (k,) steps that each takes; 0 for a node without rows.
        rows: every epoch's row numbers, node after node.
        first: (k,) where each node's rows begin in ``rows``.
        batch_size: (k,) rows of a full batch.
        epoch_steps: (k,) steps in one pass over a node's rows.
    """

    nodes: Ints
    sizes: Ints
    steps: Ints
    rows: Tensor
    first: Ints
    batch_size: Ints
    epoch_steps: Ints

    @classmethod
    def of(
        cls, split: Split, nodes: Ints, training: Training, seed: int, round: int, least: int = 1
    ) -> "Plan":
        """The plan of ``nodes`` in a round; a function of its arguments alone.

        Batches of fewer than ``least`` rows are left out (BatchNorm cannot train on one row).
        """
        sizes = split.sizes[nodes]
        limit = np.maximum(sizes, 1)
        batch = np.minimum(training.batch_size or limit, limit)
        full, rest = np.divmod(sizes, batch)
        epoch_steps = np.where(batch >= least, full, 0) + (rest >= max(least, 1))
        if training.steps is None:
            steps = epoch_steps * (training.epochs or 1)
        else:
            steps = np.where(epoch_steps > 0, training.steps, 0)
        epochs = -(-steps // np.maximum(epoch_steps, 1))

        # One segment per (node, epoch); positions 0..size-1 inside each.
        segment_node = np.repeat(np.arange(len(nodes)), epochs)
        segment_size = sizes[segment_node]
        segment_first = np.cumsum(segment_size) - segment_size
        epoch = np.arange(len(segment_node)) - np.repeat(np.cumsum(epochs) - epochs, epochs)
        segment = np.repeat(np.arange(len(segment_node)), segment_size)
        within = np.arange(len(segment)) - segment_first[segment]
        rows = split.offsets[nodes][segment_node[segment]] + within
        if training.shuffle:
            stream = key(seed, "shuffle", round)
            hashed = words(stream, nodes[segment_node[segment]], epoch[segment], within)
            # Sorting by (segment, hash) shuffles every segment at once; 44 bits of hash remain.
            order = np.argsort(segment.astype(np.uint64) << np.uint64(44) | hashed >> np.uint64(20))
            rows = rows[order]
        first = np.cumsum(sizes * epochs) - sizes * epochs
        return cls(nodes, sizes, steps, torch.from_numpy(rows), first, batch, epoch_steps)

    def batch(self, position: Ints, step: Ints) -> tuple[Ints, Ints]:
        """Where the rows of a step begin in ``rows``, and how many they are; elementwise."""
        size, batch = self.sizes[position], self.batch_size[position]
        epoch, index = step // self.epoch_steps[position], step % self.epoch_steps[position]
        return (
            self.first[position] + epoch * size + index * batch,
            np.minimum(batch, size - index * batch),
        )
