"""An update's path through the folders: no floor imports from one further down."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tacit

ROOT = Path(tacit.__file__).parent
# From the ground up to the street door: a floor imports from those before it, and from itself.
FLOORS = [
    "errors", "randomness", "data", "models", "layout", "training", "protection", "compression",
    "topology", "aggregation", "algorithms", "attacks", "description", "checks", "experiment",
    "parties", "explain", "ledger", "release", "engine", "network", "auditing", "verdict",
    "compare", "demo", "robustness", "report", "_public", "__init__", "settings", "cli",
]  # fmt: skip


def floor(module: str) -> int:
    """Of a dotted name below ``tacit``; that of a name which ``tacit`` itself offers is _public."""
    top = module.split(".")[0]
    return FLOORS.index(top if top in FLOORS else "_public")


def imports(node: ast.AST) -> Iterator[str]:
    """Dotted names below ``tacit`` that a file imports, but for its annotations alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tacit":
        if node.module == "tacit":
            yield from (name.name for name in node.names)
        else:
            yield node.module.removeprefix("tacit.")
    if isinstance(node, ast.Import):
        yield from (n.name.removeprefix("tacit.") for n in node.names if n.name[:6] == "tacit.")
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def test_every_file_has_its_floor() -> None:
    tops = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert tops == set(FLOORS)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_imports_from_a_floor_above(path: Path) -> None:
    here = floor(path.relative_to(ROOT).parts[0].removesuffix(".py"))
    above = [name for name in imports(ast.parse(path.read_text())) if floor(name) > here]
    assert above == []
