"""Which code runs here: that of tacit as it is installed, and that of an experiment."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tacit
from tacit.experiment import Experiment


@cache
def installed() -> str:
    """A hash, 64 hexadecimal digits, of tacit's own Python files."""
    assert tacit.__file__
    root = Path(tacit.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name, content = path.relative_to(root).as_posix().encode(), path.read_bytes()
        found.update(b"%d %s %d\0" % (len(name), name, len(content)) + content)
    return found.hexdigest()


def software() -> str:
    """What members compare before they work together, for mistakes: a liar can say the same."""
    return f"{version('tacit')} (code {installed()[:12]})"


def code_of(experiment: Experiment) -> str:
    """A hash, 64 hexadecimal digits, of all code that is an experiment's own.

    Of its functions and classes, and those that they name; not of settings, nor of installed
    packages. The experiment's digest covers the same code, and the settings.
    """
    found = sorted(set(_sources(experiment.description())))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _sources(described: Any) -> Iterator[tuple[str, str]]:
    if isinstance(described, dict):
        if described.keys() >= {"name", "source"} and described["source"]:
            yield described["name"], described["source"]
        described = list(described.values())
    if isinstance(described, list):
        for each in described:
            yield from _sources(each)
