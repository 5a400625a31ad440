"""What every compressor is: updates in, bytes out, and a memory of what was left out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.errors import MessageError
from tacit.layout import Layout


@dataclass(frozen=True)
class Shared:
    """What sender and receiver both know.

    Attributes:
        layout: of the model; an update has ``layout.size`` values.
        seed: of the experiment.
        round: the present one.
    """

    layout: Layout
    seed: int
    round: int


class Compressor(ABC):
    """Makes bytes of updates, node by node.

    By default with error feedback: what a message leaves out is kept and added to the next update.
    Stich, Cordonnier, Jaggi, "Sparsified SGD with memory", NeurIPS 2018, Algorithm 1; Karimireddy
    et al., "Error feedback fixes SignSGD and other gradient compression schemes", ICML 2019.

    Attributes:
        linear: whether the sum of compressed updates is the compressed sum of the updates, so that
            it can be masked and noised in the coordinates that all messages hold.
        leaks_positions: whether the message tells which coordinates changed most.
    """

    linear: ClassVar[bool] = False
    leaks_positions: ClassVar[bool] = False

    @abstractmethod
    def encode(self, updates: Tensor, nodes: Sequence[int], shared: Shared) -> list[bytes]:
        """The messages of (k, d) float32 updates of k ``nodes``, without a memory."""

    @abstractmethod
    def decompress(self, message: bytes, node: int, shared: Shared) -> Tensor:
        """The (d,) float32 update that ``node``'s message stands for.

        Raises:
            MessageError: bytes of a wrong length or content.
        """

    def memory_size(self, layout: Layout) -> int:
        """Numbers that a node keeps between rounds: 0 where compression is unbiased."""
        return layout.size

    def contraction(self, layout: Layout) -> float | None:
        """Delta in E|C(x) - x|^2 <= (1 - delta) |x|^2 for every x, without a memory; in (0, 1].

        None where the bound is 0, or none is known.
        """
        return None

    def positions(self, shared: Shared) -> Tensor:
        """(k,) the coordinates that any message of this round may hold."""
        return torch.arange(shared.layout.size)

    def upload_bytes(self, layout: Layout) -> int:
        """What a node sends a server in a round, whatever its update: see ``engine.uplink``."""
        parameters = layout.parameters
        (message,) = self.encode(torch.zeros(1, parameters.size), [0], Shared(parameters, 0, 0))
        return len(message) + 4 * (layout.size - parameters.size)

    def compress(
        self, updates: Tensor, memory: Tensor, nodes: Sequence[int], shared: Shared
    ) -> tuple[list[bytes], Tensor]:
        """The messages of ``updates`` and what is left out of them.

        Args:
            updates: (k, d) float32, finite.
            memory: (k, memory_size), the same nodes' rows, zeros at the start.
            nodes: k numbers, the nodes' addresses in random streams.
            shared: what the receiver knows too.
        """
        if memory.shape[-1] == 0:
            return self.encode(updates, nodes, shared), memory
        wanted = updates + memory
        messages = self.encode(wanted, nodes, shared)
        sent = [
            self.decompress(message, node, shared)
            for message, node in zip(messages, nodes, strict=True)
        ]
        return messages, wanted - torch.stack(sent)


def expect_length(message: bytes, length: int) -> None:
    """Refuse a message of another length, before anything is read or allocated."""
    if len(message) != length:
        raise MessageError(f"the message has {len(message)} bytes; {length} are expected")


def floats(message: bytes) -> NDArray[np.float32]:
    """The little-endian float32 of ``message``, each finite."""
    values = np.frombuffer(message, "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise MessageError("the message holds NaN or infinity")
    return values


def float_bytes(values: NDArray) -> bytes:
    """As little-endian float32."""
    return values.astype("<f4").tobytes()


def pack(codes: NDArray[np.integer], bits: int) -> bytes:
    """Non-negative ``codes`` (m,) at ``bits`` bits each, most significant first, then zeros."""
    columns = np.empty((len(codes), bits), np.uint8)
    for at in range(bits):
        columns[:, at] = (codes >> (bits - 1 - at)) & 1
    return np.packbits(columns).tobytes()


def packed_length(count: int, bits: int) -> int:
    """Bytes of ``count`` packed codes."""
    return -(-count * bits // 8)


def unpack(message: bytes, count: int, bits: int) -> NDArray[np.int64]:
    """The inverse of ``pack``.

    Raises:
        MessageError: a wrong length, or padding that is not zero.
    """
    expect_length(message, packed_length(count, bits))
    flags = np.unpackbits(np.frombuffer(message, np.uint8))
    if flags[count * bits :].any():
        raise MessageError("the message's last bits are not zero")
    codes = np.zeros(count, np.int64)
    for column in flags[: count * bits].reshape(count, bits).T:
        codes <<= 1
        codes |= column
    return codes
