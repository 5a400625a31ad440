"""Every error has a code that never changes, and a page that says what to do."""

import importlib
import pkgutil
import re
from pathlib import Path

import tacit
from tacit.errors import TacitError

PAGES = Path(__file__).parents[1] / "docs/errors"


def kinds() -> set[type[TacitError]]:
    """All of tacit's own, whichever file defines them."""
    for module in pkgutil.walk_packages(tacit.__path__, "tacit."):
        if not module.name.startswith("tacit.protection.encryption."):  # needs what may be missing
            importlib.import_module(module.name)
    found, left = {TacitError}, [TacitError]
    while left:
        below = set(left.pop().__subclasses__()) - found
        found |= below
        left += below
    return {kind for kind in found if kind.__module__.startswith("tacit.")}


def test_every_code_has_its_page_and_no_page_is_left_over() -> None:
    codes = {kind.code: kind.__name__ for kind in kinds() if "code" in vars(kind)}
    assert len(codes) == len(kinds()), "two classes share a code, or one has none of its own"
    assert {path.stem for path in PAGES.glob("*.md")} == codes.keys() | {"README"}
    listed = re.findall(r"^\| \[(TACIT-\d+)\]\((.*)\) \|", (PAGES / "README.md").read_text(), re.M)
    assert listed == [(code, f"{code}.md") for code in sorted(codes)]
    for code, name in codes.items():
        page = (PAGES / f"{code}.md").read_text()
        assert page.startswith(f"# {code}: `{name}`\n")
        for section in ("## What it means", "## What to do", "## Example"):
            assert section in page
