"""Tensors as files that are named by their content, and whole whenever they are there."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from tacit.errors import CheckpointError, MessageError
from tacit.network.blobs import Offer

# What safetensors may add to the numbers.
HEADER = 8192


def unwritable(folder: Path, error: Exception) -> CheckpointError:
    """What ends a process whose disk is full."""
    return CheckpointError(
        f"{folder}: it cannot be written ({error}); make room and start again: the run goes on"
        " from its last round"
    )


class Tensors:
    """A folder of safetensors files, each called by its BLAKE3 digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: bytes) -> Path:
        """Where the bytes of a digest lie, or would."""
        return self.folder / digest.hex()

    def put(self, tensors: Mapping[str, Tensor]) -> Offer:
        """Tensors as a file, which is on the disk when this returns; as ``keep``."""
        return self.keep(save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    def keep(self, raw: bytes) -> Offer:
        """Bytes as a file, which is on the disk when this returns.

        Raises:
            CheckpointError: the disk is full, or the folder cannot be written.
        """
        offer = Offer(blake3(raw).digest(), len(raw))
        path = self.path(offer.digest)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise unwritable(self.folder, error) from error
        return offer

    def get(self, digest: bytes) -> dict[str, Tensor]:
        """The tensors of a file that is here.

        Raises:
            MessageError: its bytes are no tensors.
        """
        try:
            return load_file(self.path(digest))
        except (SafetensorError, ValueError, KeyError) as error:
            raise MessageError(f"{digest.hex()[:12]} cannot be read ({error})") from None

    def retain(self, digests: Collection[bytes]) -> None:
        """Forget all files but these, and those that are still being received."""
        names = {digest.hex() for digest in digests}
        for path in self.folder.iterdir():
            if path.name not in names and not path.name.startswith("."):
                path.unlink(missing_ok=True)

    def drop(self, digest: bytes) -> None:
        """Forget a file, if it is here."""
        self.path(digest).unlink(missing_ok=True)


def examine(site: str, path: Path, sizes: Sequence[int]) -> None:
    """Refuse, in the name of its sender, an update that is not what it should be."""
    try:
        with safe_open(path, "pt") as file:
            names = sorted(file.keys(), key=int)
            if names != [str(i) for i in range(len(sizes))]:
                raise MessageError(f"{site!r} sent an update with other parts than agreed on")
            for name, size in zip(names, sizes, strict=True):
                part = file.get_slice(name)
                if part.get_shape() != [size] or part.get_dtype() != "F32":
                    raise MessageError(
                        f"{site!r} sent {part.get_dtype()} {part.get_shape()}; F32 [{size}] was"
                        " agreed on"
                    )
                if not file.get_tensor(name).isfinite().all():
                    raise MessageError(f"{site!r} sent an update that holds NaN or infinity")
    except (SafetensorError, ValueError) as error:
        raise MessageError(f"{site!r} sent an update that cannot be read ({error})") from None
