"""Tensors as files that are named by their content, and whole whenever they are there."""

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from tacit.errors import CheckpointError, MessageError
from tacit.network.blobs import Offer

# What safetensors may add to the numbers.
HEADER = 8192


# Numbers that are looked at, or added up, at a time: what is larger than memory lies on the disk.
PIECE = 2**20


def finite(tensor: Tensor) -> bool:
    """Whether it holds neither NaN nor infinity; takes little memory."""
    return all(bool(piece.isfinite().all()) for piece in tensor.reshape(-1).split(PIECE))


def unwritable(folder: Path, error: Exception) -> CheckpointError:
    """What ends a process whose disk is full."""
    return CheckpointError(
        f"{folder}: it cannot be written ({error}); make room and start again: the run goes on"
        " from its last round"
    )


def parsed(raw: bytes) -> dict[str, Tensor]:
    """The tensors of a file's bytes.

    Raises:
        MessageError: they are no tensors.
    """
    with _readable("a message"):
        return load(raw)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError, KeyError) as error:
        raise MessageError(f"{what} cannot be read ({error})") from None


class Tensors:
    """A folder of safetensors files, each called by its BLAKE3 digest."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: bytes) -> Path:
        """Where the bytes of a digest lie, or would."""
        return self.folder / digest.hex()

    def put(self, tensors: Mapping[str, Tensor]) -> Offer:
        """Tensors as a file, which is on the disk when this returns; as ``keep``."""
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        return self._keep(lambda path: save_file(whole, path))

    def keep(self, raw: bytes) -> Offer:
        """Bytes as a file, which is on the disk when this returns.

        Raises:
            CheckpointError: the disk is full, or the folder cannot be written.
        """
        return self._keep(lambda path: path.write_bytes(raw))

    def _keep(self, write: Callable[[Path], object]) -> Offer:
        part = self.folder / "new.part"
        with self._lock:
            try:
                write(part)
                offer = Offer.of(part)
                if self.path(offer.digest).exists():
                    part.unlink()
                    return offer
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(self.path(offer.digest))
            except (OSError, SafetensorError) as error:
                part.unlink(missing_ok=True)
                raise unwritable(self.folder, error) from error
        return offer

    def get(self, digest: bytes) -> dict[str, Tensor]:
        """The tensors of a file that is here, which are read from the disk as they are used.

        Raises:
            MessageError: its bytes are no tensors.
        """
        with _readable(digest.hex()[:12]):
            return load_file(self.path(digest))

    def retain(self, digests: Collection[bytes]) -> None:
        """Forget all files but these, and those that are still being received."""
        names = {digest.hex() for digest in digests}
        for path in self.folder.iterdir():
            if path.name not in names and not path.name.startswith("."):
                path.unlink(missing_ok=True)

    def drop(self, digest: bytes) -> None:
        """Forget a file, if it is here."""
        self.path(digest).unlink(missing_ok=True)
