"""How a site's update travels: as float32, or in fewer bytes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.engine.uplink import FLOAT_BYTES, Received
from tacit.errors import MessageError
from tacit.experiment import Experiment
from tacit.network.tensors import PIECE, finite

# Safetensors: a file, or its bytes where they are few.
Sent = Path | bytes


class Wire:
    """What a site sends for each of the algorithm's exchanges.

    Without compression its (d,) step; under one that is linear, the numbers at the coordinates that
    all send in a round; else the bytes of a message.

    Attributes:
        dtype: float32 or, of messages, uint8.
        sizes: of what is sent, for each exchange.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        compression, layout = experiment.compression, experiment.layout
        self.packed = compression is not None and not compression.linear
        self.dtype = torch.uint8 if self.packed else torch.float32
        if compression is None:
            self.sizes = list(experiment.algorithm.sends(layout).values())
        else:  # of one whole model, by check_compression
            size = compression.upload_bytes(layout)
            self.sizes = [size if self.packed else size // FLOAT_BYTES]

    @property
    def bytes(self) -> int:
        """Of all that a site sends in a round."""
        return sum(self.sizes) * self.dtype.itemsize

    def memory(self) -> Tensor | None:
        """(1, memory_size) what compression at a site begins with."""
        if (compression := self.experiment.compression) is None:
            return None
        return torch.zeros(1, compression.memory_size(self.experiment.layout.parameters))

    def uplink(self, round: int) -> Received | None:
        """Compression in a round, if there is any."""
        e = self.experiment
        if e.compression is None:
            return None
        return Received(e.compression, e.layout, Round(round, e.rounds, e.seed), e.data.nodes)

    def pack(self, step: Tensor, memory: Tensor, node: int, round: int) -> tuple[Tensor, Tensor]:
        """What is sent of a node's (d,) step, and what compression leaves for the next one.

        What is sent is NaN where the step is too long for float32.
        """
        uplink = self.uplink(round)
        assert uplink is not None
        if not math.isfinite(step.norm()):
            return torch.full((1,), torch.nan), memory
        (message,), left = uplink.compress(step.unsqueeze(0), memory, [node])
        if self.packed:
            return torch.frombuffer(bytearray(message), dtype=torch.uint8), left
        return uplink.decompress(message, node)[uplink.coordinates], left

    def unpack(self, sent: Tensor, node: int, round: int) -> Tensor:
        """(d,) the step that a node's message of a round stands for.

        Raises:
            MessageError: a message of wrong content.
        """
        uplink = self.uplink(round)
        if uplink is None:
            return sent
        if self.packed:
            return uplink.decompress(sent.numpy().tobytes(), node)
        return torch.zeros(self.experiment.layout.size).index_copy(0, uplink.coordinates, sent)

    def reader(self, sent: Sent, exchange: int, node: int, round: int) -> Callable[[slice], Tensor]:
        """Reads parts of what a node sent in an exchange, one after the other.

        What was compressed is in memory from the first part to the last.
        """
        whole: Tensor | None = None

        def read(at: slice) -> Tensor:
            nonlocal whole
            with _parts(sent) as parts:
                if self.experiment.compression is None:
                    return parts[str(exchange)][at]
                if whole is None:
                    whole = self.unpack(parts[str(exchange)][:], node, round)
            part = whole[at]
            if at.stop == len(whole):
                whole = None
            return part

        return read

    def readers(
        self, sent: Sequence[tuple[int, Sent]], round: int
    ) -> list[list[Callable[[slice], Tensor]]]:
        """For each exchange, a reader of what each of some nodes sent."""
        return [
            [self.reader(what, exchange, node, round) for node, what in sent]
            for exchange in range(len(self.sizes))
        ]

    def examine(self, site: str, sent: Sent, round: int) -> None:
        """Refuse, in the name of its sender, an update that is not what it should be.

        Raises:
            MessageError: other tensors than are sent, or of wrong content.
        """
        node = self.experiment.data.names.index(site)
        try:
            with _parts(sent) as parts:
                if parts.keys() != {str(i) for i in range(len(self.sizes))}:
                    raise MessageError(f"{site!r} sent an update with other parts than agreed on")
                for exchange, size in enumerate(self.sizes):
                    part = parts[str(exchange)]
                    if _shape(part) != [size] or part[:0].dtype != self.dtype:
                        raise MessageError(
                            f"{site!r} sent another part {exchange} than {self.dtype} [{size}],"
                            " which was agreed on"
                        )
                    pieces: Iterable[Tensor]
                    if self.experiment.compression is None:
                        pieces = (part[at : at + PIECE] for at in range(0, size, PIECE))
                    else:
                        pieces = [self._read(site, part[:], node, round)]
                    if not all(finite(piece) for piece in pieces):
                        raise MessageError(f"{site!r} sent an update that holds NaN or infinity")
        except (SafetensorError, ValueError) as error:
            raise MessageError(f"{site!r} sent an update that cannot be read ({error})") from None

    def _read(self, site: str, sent: Tensor, node: int, round: int) -> Tensor:
        try:
            return self.unpack(sent, node, round)
        except MessageError as error:
            raise MessageError(f"{site!r} sent a compressed update, but {error}") from None


@contextmanager
def _parts(sent: Sent) -> Iterator[dict[str, Any]]:
    """What can be cut into slices, by name; of a file, no more is read than is cut."""
    if isinstance(sent, bytes):
        yield load(sent)
    else:
        with safe_open(sent, "pt") as file:
            yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118


def _shape(part: Any) -> list[int]:
    return list(part.shape) if isinstance(part, Tensor) else part.get_shape()
