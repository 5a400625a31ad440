"""Checkpoints: the algorithm's state as safetensors, the rest as JSON, replaced atomically.

``checkpoint.json`` names the tensor file that belongs to it and is written last, so that a crash at
any moment leaves the previous checkpoint or the new one, never a mixture.
"""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tacit.errors import CheckpointError

_NAME = "checkpoint.json"
# Folder of those that stay, by their round.
KEPT = "kept"


def kept_at(folder: Path, round: int) -> Path:
    """Where the checkpoint after so many rounds stays."""
    return folder / KEPT / f"{round:06d}"


@dataclass(frozen=True)
class Checkpoint:
    """A run after some rounds.

    Attributes:
        experiment: digest of the experiment.
        round: rounds done.
        engine: "batched" or "sequential": a resumed run goes on the same way.
        metrics: one row per round so far.
        state: the algorithm's tensors.
    """

    experiment: str
    round: int
    engine: str
    metrics: list[dict[str, Any]]
    state: dict[str, Tensor]

    def write(self, folder: Path) -> None:
        """Write into ``folder``; the previous checkpoint there stays valid until this one is whole.

        Raises:
            CheckpointError: the disk is full, or the folder cannot be written.
        """
        tensors = folder / f"checkpoint-{self.experiment[:8]}-{self.round:06d}.safetensors"
        record = {
            "experiment": self.experiment,
            "round": self.round,
            "engine": self.engine,
            "metrics": self.metrics,
            "tensors": tensors.name,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            state = {name: tensor.contiguous() for name, tensor in self.state.items()}
            _replace(tensors, lambda part: save_file(state, part))
            _replace(folder / _NAME, lambda part: part.write_text(json.dumps(record)))
            for old in folder.glob("checkpoint-*.safetensors"):
                if old != tensors:
                    old.unlink()
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                tensors.unlink(missing_ok=True)
            raise CheckpointError(
                f"checkpoint: {folder} cannot be written ({error});"
                " the last good checkpoint is kept"
            ) from error

    @classmethod
    def read(cls, folder: Path, experiment: str) -> "Checkpoint | None":
        """The checkpoint in ``folder``, or None if there is none.

        Raises:
            CheckpointError: it is damaged, or another experiment's.
        """
        try:
            record = json.loads((folder / _NAME).read_text())
            state = load_file(folder / record.pop("tensors"))
            checkpoint = cls(state=state, **record)
        except FileNotFoundError:
            if not (folder / _NAME).exists():
                return None
            raise CheckpointError(f"checkpoint: the tensors of {folder / _NAME} are gone") from None
        except (ValueError, TypeError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint: {folder / _NAME} is damaged ({error})") from error
        if checkpoint.experiment != experiment:
            raise CheckpointError(
                f"checkpoint: {folder} holds another experiment's run; resume that one unchanged,"
                " or start anew in another folder"
            )
        return checkpoint


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is either the old one or the whole new one, even after a crash."""
    part = path.with_suffix(path.suffix + ".part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)  # the new name, too
        os.close(directory)
    finally:
        part.unlink(missing_ok=True)
