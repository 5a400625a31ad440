"""PowerSGD: each layer's matrix as a product of two thin ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from tacit.compression.base import Compressor, Shared, expect_length, float_bytes, floats
from tacit.errors import require_whole
from tacit.layout import Layout
from tacit.randomness import generator


@dataclass(frozen=True)
class PowerSGD(Compressor):
    """One subspace iteration a round, warm-started, with error feedback.

    Vogels, Karimireddy, Jaggi, "PowerSGD: practical low-rank gradient compression for distributed
    optimization", NeurIPS 2019, Algorithms 1 and 2. There the nodes average P and then Q; here a
    node has one upload, so that each makes factors of its own and their products are averaged.
    An orthogonal projection of each matrix: |C(x) - x|^2 <= |x|^2, zero where the rank suffices.
    Tensors of more dimensions are matrices of (first, all others); what two factors would not make
    shorter, biases for one, is sent whole.

    Attributes:
        rank: columns of P and Q, 1 or more.

    Raises:
        InputError: a rank below 1.
    """

    rank: int = 2

    def __post_init__(self) -> None:
        require_whole(1, "compression.rank", self.rank)

    def memory_size(self, layout: Layout) -> int:
        return layout.size + self._right_size(layout)

    def encode(self, updates: Tensor, nodes: Sequence[int], shared: Shared) -> list[bytes]:
        return self._factors(updates, self._random_start(shared, len(updates)), shared.layout)[0]

    def compress(
        self, updates: Tensor, memory: Tensor, nodes: Sequence[int], shared: Shared
    ) -> tuple[list[bytes], Tensor]:
        size = shared.layout.size
        wanted = updates + memory[:, :size]
        start = memory[:, size:]
        fresh = ~start.any(1, keepdim=True)
        start = torch.where(fresh, self._random_start(shared, len(updates)), start)
        messages, right = self._factors(wanted, start, shared.layout)
        sent = [self.decompress(m, n, shared) for m, n in zip(messages, nodes, strict=True)]
        return messages, torch.cat([wanted - torch.stack(sent), right], 1)

    def decompress(self, message: bytes, node: int, shared: Shared) -> Tensor:
        layout = shared.layout
        length = sum(
            self.rank * (rows + columns) if thin else rows * columns
            for _, rows, columns, thin in self._matrices(layout)
        )
        expect_length(message, 4 * length)
        values = torch.from_numpy(floats(message))
        result = torch.empty(layout.size)
        at = 0
        for part, rows, columns, thin in self._matrices(layout):
            if thin:
                left, right = self.rank * rows, self.rank * columns
                p = values[at : at + left].view(rows, self.rank)
                q = values[at + left : at + left + right].view(columns, self.rank)
                result[part] = (p @ q.T).flatten()
                at += left + right
            else:
                result[part] = values[at : at + rows * columns]
                at += rows * columns
        return result

    def _factors(
        self, updates: Tensor, start: Tensor, layout: Layout
    ) -> tuple[list[bytes], Tensor]:
        """Messages of (k, d) updates, and (k, right_size) the factors to start from next."""
        k = len(updates)
        sent, rights = [], [start[:, :0]]
        at = 0
        for part, rows, columns, thin in self._matrices(layout):
            values = updates[:, part]
            if thin:
                matrix = values.reshape(k, rows, columns)
                q = start[:, at : at + columns * self.rank].reshape(k, columns, self.rank)
                p = torch.linalg.qr(matrix @ q).Q
                q = matrix.mT @ p
                at += columns * self.rank
                sent += [p.flatten(1), q.flatten(1)]
                rights.append(q.flatten(1))
            else:
                sent.append(values)
        return [float_bytes(row) for row in torch.cat(sent, 1).numpy()], torch.cat(rights, 1)

    def _matrices(self, layout: Layout) -> Iterator[tuple[slice, int, int, bool]]:
        """Where each entry is, its rows and columns, and whether factors are shorter."""
        for entry in layout.entries:
            rows, columns = (entry.shape or (1,))[0], prod(entry.shape[1:])
            yield entry.slice, rows, columns, self.rank * (rows + columns) < rows * columns

    def _right_size(self, layout: Layout) -> int:
        return sum(self.rank * columns for _, _, columns, thin in self._matrices(layout) if thin)

    def _random_start(self, shared: Shared, k: int) -> Tensor:
        random = generator(shared.seed, "powersgd", shared.round)
        start = random.standard_normal(self._right_size(shared.layout), dtype=np.float32)
        return torch.from_numpy(start).expand(k, -1)
