"""What a party to a run must not forget, in a file of its folder."""

from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from tacit.errors import InputError
from tacit.network.decoding import from_json


class _Notes(Protocol):
    @property
    def experiment(self) -> str: ...


N = TypeVar("N", bound=_Notes)


def read_notes(path: Path, kind: type[N], experiment: str) -> N | None:
    """The notes of an experiment's run; None where there are none, or those of another.

    Raises:
        InputError: the file is damaged.
    """
    try:
        notes = from_json(path.read_bytes(), kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        raise InputError(f"{path}: the file is damaged; remove it") from None
    return notes if notes.experiment == experiment else None
