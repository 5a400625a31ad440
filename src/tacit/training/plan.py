"""Which rows a node sees in a round, in which order: one integer table that every lowering follows.

The same plan feeds batched and sequential training, on any number of processes, so that their
results agree.
"""

from dataclasses import dataclass, replace
from functools import cached_property

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

    With Poisson sampling every row is in every step with the same probability, independently of all
    else, so that a row may come more than once in a round or not at all, and a batch may be empty.

    Attributes:
        nodes: (k,) node ids; a node may appear more than once.
        sizes: (k,) rows that each holds.
        offsets: (k,) the first of them in the split.
        steps: (k,) steps that each takes; 0 for a node without rows.
        batch_size: (k,) rows of a full batch, or expected in a batch.
        epoch_steps: (k,) steps in one pass over a node's rows.
        stream: key of this round's shuffling or sampling, or None for the split's order.
        wanted: (k,) bool, the positions whose rows the table below holds.
        poisson: whether rows are sampled independently, with probability batch_size / sizes.
    """

    nodes: Ints
    sizes: Ints
    offsets: Ints
    steps: Ints
    batch_size: Ints
    epoch_steps: Ints
    stream: int | None
    wanted: NDArray[np.bool_]
    poisson: bool = False

    @classmethod
    def of(
        cls,
        split: Split,
        nodes: Ints,
        training: Training,
        seed: int,
        round: int,
        least: int = 1,
        poisson: bool = False,
    ) -> "Plan":
        """The plan of ``nodes`` in a round; a function of its arguments alone.

        Batches of fewer than ``least`` rows are left out (BatchNorm cannot train on one row).
        Poisson sampling takes as many steps as there would be batches, whether it shuffles or not.
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
        stream = key(seed, "shuffle", round) if training.shuffle else None
        if poisson:
            stream = key(seed, "poisson", round)
        return cls(
            nodes, sizes, split.offsets[nodes], steps, batch, epoch_steps, stream,
            np.ones(len(nodes), dtype=bool), poisson,
        )  # fmt: skip

    def only(self, positions: Ints) -> "Plan":
        """The same plan with the rows of some positions alone."""
        wanted = np.zeros(len(self.nodes), dtype=bool)
        wanted[positions] = True
        return replace(self, wanted=wanted)

    @property
    def rows(self) -> Tensor:
        """Row numbers in the split: every epoch's, node after node, or every step's if sampled.

        One more follows those that were sampled, so that an empty batch has one to be padded with.
        """
        return self._sampled[0] if self.poisson else self._table[0]

    def batch(self, position: Ints, step: Ints) -> tuple[Ints, Ints]:
        """Where the rows of a step begin in ``rows``, and how many they are; elementwise."""
        if self.poisson:
            _, ends, first = self._sampled
            index = first[position] + step
            return ends[index], ends[index + 1] - ends[index]
        size, batch = self.sizes[position], self.batch_size[position]
        epoch, index = step // self.epoch_steps[position], step % self.epoch_steps[position]
        return (
            self._table[1][position] + epoch * size + index * batch,
            np.minimum(batch, size - index * batch),
        )

    @cached_property
    def _table(self) -> tuple[Tensor, Ints]:
        """``rows``, and (k,) where each node's begin there."""
        epochs = -(-self.steps // np.maximum(self.epoch_steps, 1)) * self.wanted
        # One segment per (node, epoch); rows 0..size-1 inside each.
        owner = np.repeat(np.arange(len(self.nodes)), epochs)
        size = self.sizes[owner]
        segment = np.repeat(np.arange(len(owner)), size)
        within = np.arange(len(segment)) - (np.cumsum(size) - size)[segment]
        rows = self.offsets[owner][segment] + within
        if self.stream is not None:
            epoch = np.arange(len(owner)) - (np.cumsum(epochs) - epochs)[owner]
            hashed = words(self.stream, self.nodes[owner][segment], epoch[segment], within)
            # Sorting by (segment, hash) shuffles every segment at once; 44 bits of hash remain.
            hashed >>= np.uint64(20)
            if len(owner) < 2**20:
                order = np.argsort(segment.astype(np.uint64) << np.uint64(44) | hashed)
            else:
                order = np.lexsort((hashed, segment))
            rows = rows[order]
        length = self.sizes * epochs
        return torch.from_numpy(rows), np.cumsum(length) - length

    @cached_property
    def _sampled(self) -> tuple[Tensor, Ints, Ints]:
        """``rows``, where each step's begin there and the last's end, each node's first step.

        The steps of a node, laid end to end, are one sequence of trials with the same probability,
        whose successes lie geometrically distributed distances apart.
        """
        steps = self.steps * self.wanted
        trials, chance = steps * self.sizes, self.batch_size / np.maximum(self.sizes, 1)
        draws = np.ceil(1.25 * trials * chance).astype(np.int64) + 16
        draws[trials == 0] = 0
        while True:
            owner = np.repeat(np.arange(len(trials)), draws)
            ends = np.cumsum(draws)
            index = np.arange(len(owner)) - (ends - draws)[owner]
            assert self.stream is not None
            word = words(self.stream, self.nodes[owner], index)
            uniform = ((word >> np.uint64(11)) + np.uint64(1)) * 2.0**-53  # in (0, 1]
            with np.errstate(divide="ignore"):  # a chance of 1: every distance is 1
                distance = np.log(uniform) / np.log1p(-chance)[owner]
            total = np.concatenate([[0], np.cumsum(distance.astype(np.int64) + 1)])
            at = total[1:] - total[ends - draws][owner] - 1
            short = (total[ends] - total[ends - draws] - 1 < trials) & (draws > 0)
            if not short.any():
                break
            draws[short] *= 2
        owner, at = owner[at < trials[owner]], at[at < trials[owner]]
        step, row = np.divmod(at, self.sizes[owner])
        first = np.cumsum(steps) - steps
        counts = np.bincount(first[owner] + step, minlength=int(steps.sum()))
        rows = np.append(self.offsets[owner] + row, 0)
        return torch.from_numpy(rows), np.concatenate([[0], np.cumsum(counts)]), first


def span(index: Ints) -> slice | Tensor:
    """The same index as a slice where it counts upwards: copying a slice is one plain pass."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return torch.from_numpy(index)
