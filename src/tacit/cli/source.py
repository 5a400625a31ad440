"""The experiment that a Python file defines."""

import sys
import traceback
from pathlib import Path
from types import ModuleType

from tacit.errors import InputError, TacitError
from tacit.experiment import Experiment


def load(file: Path) -> Experiment:
    """Run a file as ``python FILE`` would, its folder on ``sys.path``, and take its ``experiment``.

    Raises:
        InputError: no such file, an exception inside it, or no experiment of that name.
    """
    if not file.is_file():
        what = "is a folder, not a Python file" if file.is_dir() else "there is no such file"
        raise InputError(f"{file}: {what}")
    defined = vars(_run(file))
    found = defined.get("experiment")
    if isinstance(found, Experiment):
        return found
    if found is not None:
        raise InputError(
            f"{file}: `experiment` is a {type(found).__name__}; allowed is a tacit.Experiment"
        )
    others = [name for name, value in defined.items() if isinstance(value, Experiment)]
    but = f" but `{others[0]}`; rename that" if others else ""
    raise InputError(
        f"{file}: it defines no `experiment`{but or '; set experiment = tacit.Experiment(...)'}"
    )


def _run(file: Path) -> ModuleType:
    path = str(file.resolve())
    module = ModuleType("tacit_experiment_file")
    module.__file__ = path
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        exec(compile(file.read_bytes(), path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())
        if not isinstance(error, TacitError):
            message = f"{type(error).__name__}: {message or 'no message'}"
        raise InputError(f"{file}{_line(error, path)}: {message}") from error
    return module


def _line(error: BaseException, path: str) -> str:
    """Where in the file an exception came from: ", line 12"."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f", line {lines[-1]}" if lines else ""
