"""What a site's operator allowed to run: experiments by their digest, which covers their code."""

import json
import re
from pathlib import Path

from tacit.errors import InputError, require
from tacit.network.identity import write

_FILE = "approved.json"


def approved(home: Path, digest: str) -> bool:
    """Whether an experiment may run at this site."""
    return digest in _read(home)


def approve(home: Path, digest: str) -> None:
    """Allow an experiment, by its 64 hexadecimal digits, from now on.

    Raises:
        InputError: no such digest, or a file that is damaged.
    """
    whole = re.fullmatch(r"[0-9a-f]{64}", digest) is not None
    require(whole, "hash", digest, "the 64 hexadecimal digits of an experiment")
    write(home / _FILE, json.dumps(sorted({*_read(home), digest}), indent=1).encode(), secret=True)


def withdraw(home: Path, digest: str) -> bool:
    """Allow an experiment no more; whether it was allowed."""
    known = _read(home)
    if digest not in known:
        return False
    left = [each for each in known if each != digest]
    write(home / _FILE, json.dumps(left, indent=1).encode(), secret=True)
    return True


def _read(home: Path) -> list[str]:
    try:
        known = json.loads((home / _FILE).read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        known = None
    if not isinstance(known, list):
        raise InputError(f"{home / _FILE}: the file is damaged; remove it and approve again")
    return known
