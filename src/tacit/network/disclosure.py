"""How much of an error leaves the process in which it happened: its site says so.

An error's sentence may hold anything: a value of the table, a path, a patient's name. So the level
below the whole sentence takes nothing from it, but what stands in tacit's own source where it was
raised: it holds no data, whatever the values were.
"""

import ast
import traceback
from functools import cache
from pathlib import Path
from typing import Literal

import tacit
from tacit.errors import TacitError

Disclosure = Literal["code", "phase", "redacted", "full"]
MOST = 2000  # characters of a sentence
_GAP = "…"


def disclosed(level: Disclosure, error: Exception, phase: str) -> tuple[str, str]:
    """The code of an error, and as much about it as a site tells: perhaps nothing.

    Args:
        phase: what was being done, in words of tacit's own.
    """
    code = error.code if isinstance(error, TacitError) else TacitError.code
    match level:
        case "code":
            return code, ""
        case "phase":
            return code, phase
        case "redacted":
            return code, ": ".join([phase, *_redacted(error)])[:MOST]
        case "full":
            kind = "" if isinstance(error, TacitError) else f"{type(error).__name__}: "
            return code, f"{kind}{error}"[:MOST]


def _redacted(error: Exception) -> list[str]:
    """The sentence as it is written in tacit's source, with a gap for each value; and where.

    Nothing of an error that was not raised there, but passed through.
    """
    assert tacit.__file__
    root = Path(tacit.__file__).parent
    own = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).is_relative_to(root)
    ]
    if not own:
        return []
    path, line = own[-1]
    where = f"{path.relative_to(root).as_posix()}, line {line}"
    return [f"{_raised(path).get(line, 'an error of other code')} ({where})"]


@cache
def _raised(path: Path) -> dict[int, str]:
    """The sentences of a file's ``raise`` statements, by line."""
    found: dict[int, str] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            said = " ".join(map(_written, node.exc.args)) or _GAP
            found |= dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), said)
    return found


def _written(part: ast.expr) -> str:
    """What of an expression is text of the source itself."""
    match part:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return "".join(map(_written, parts))
        case ast.BinOp(left, ast.Add(), right):
            return _written(left) + _written(right)
    return _GAP
