"""What receivers read of models that travel compressed: a server, an aggregator, neighbours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.compression import Compressor
from tacit.compression.base import Shared, float_bytes, floats
from tacit.compression.choco import choco_step, consensus_step
from tacit.layout import Layout
from tacit.training.plan import Ints

FLOAT_BYTES = 4
_MEMORY, _PUBLIC = "compression.memory", "compression.public"


@dataclass(frozen=True, eq=False)
class Uplink:
    """Carries a compressor out in one round.

    The trained coordinates are compressed. Buffers travel whole: an error in a running variance can
    make it negative.

    Attributes:
        nodes: in the experiment, each with its row in the round's memory.
    """

    compressor: Compressor
    layout: Layout
    round: Round
    nodes: int

    @property
    def shared(self) -> Shared:
        return Shared(self.layout.parameters, self.round.seed, self.round.index)

    @property
    def coordinates(self) -> Tensor:
        """(m,) those that any node's update has after compression; zero elsewhere."""
        buffers = torch.arange(self.layout.trained, self.layout.size)
        return torch.cat([self.compressor.positions(self.shared), buffers])

    def __call__(self, updates: Tensor, nodes: Ints) -> tuple[Tensor, int]:
        """(k, d) what arrives of (k, d) updates, and the bytes of their messages.

        An update of no finite length arrives as NaN, for the rules to turn away.
        """
        kept = self.round.memory.get(_MEMORY)
        if kept is None:
            kept = torch.zeros(self.nodes, self.compressor.memory_size(self.shared.layout))
        at, ids = torch.from_numpy(nodes), nodes.tolist()
        finite = updates.norm(dim=-1, keepdim=True).isfinite()
        messages, left = self.compress(torch.where(finite, updates, 0), kept[at], ids)
        self.round.memory[_MEMORY] = kept.index_copy(0, at, torch.where(finite, left, kept[at]))
        read = [self.decompress(m, i) for m, i in zip(messages, ids, strict=True)]
        return torch.where(finite, torch.stack(read), torch.nan), sum(map(len, messages))

    def compress(
        self, updates: Tensor, memory: Tensor, nodes: Sequence[int]
    ) -> tuple[list[bytes], Tensor]:
        """The messages of finite (k, d) updates, and the nodes' (k, memory_size) memory then."""
        p = self.layout.trained
        messages, left = self.compressor.compress(updates[:, :p], memory, nodes, self.shared)
        buffers = updates[:, p:].numpy()
        return [m + float_bytes(b) for m, b in zip(messages, buffers, strict=True)], left

    def decompress(self, message: bytes, node: int) -> Tensor:
        """(d,) what arrives of a node's update.

        Raises:
            MessageError: bytes of a wrong length or content.
        """
        head = max(len(message) - FLOAT_BYTES * (self.layout.size - self.layout.trained), 0)
        trained = self.compressor.decompress(message[:head], node, self.shared)
        return torch.cat([trained, torch.from_numpy(floats(message[head:]))])


@dataclass(frozen=True, eq=False)
class Received(Uplink):
    """At a server which has decompressed what came."""

    def __call__(self, updates: Tensor, nodes: Ints) -> tuple[Tensor, int]:
        return updates, 0


@dataclass(frozen=True, eq=False)
class PublicCopies:
    """Carries CHOCO out in one round, over the copies that neighbours keep of each other's models.

    They begin as the initial model, which all know. Buffers travel whole, as under a server.
    """

    compressor: Compressor
    layout: Layout
    round: Round

    def __call__(
        self, models: Tensor, start: Tensor, average: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(n, d) the mixed models, and the (n,) bytes that each node tells every neighbour.

        Args:
            models: (n, d).
            start: (n, d) the models before the training, which in the first round all know.
            average: (n, m) X to W X.
        """
        parameters, p = self.layout.parameters, self.layout.trained
        delta = self.compressor.contraction(parameters)
        assert delta is not None  # by check_compression
        mixed, public, messages = choco_step(
            models[:, :p],
            self.round.memory.get(_PUBLIC, start[:, :p]),
            average,
            consensus_step(delta),
            self.compressor,
            range(len(models)),
            Shared(parameters, self.round.seed, self.round.index),
        )
        self.round.memory[_PUBLIC] = public
        buffers = models[:, p:]
        told = torch.tensor([len(message) for message in messages]) + FLOAT_BYTES * buffers.shape[1]
        return torch.cat([mixed, average(buffers)], 1), told
