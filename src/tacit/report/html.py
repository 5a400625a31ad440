"""Pages from templates, and pages as files."""

import math
import os
from pathlib import Path
from typing import Any

from tacit.errors import InputError
from tacit.explain import readable

NAMES = {
    "accuracy": "accuracy", "auc": "AUC", "f1": "F1", "r2": "R2", "mae": "mean absolute error",
    "loss": "loss",
}  # fmt: skip


def render(template: str, **values: Any) -> str:
    """A template of this folder as HTML; the same values give the same text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "known": lambda value: "–" if value is None else number(value),
        "bytes": readable,
        "metric": NAMES.get,
    }
    return environment.get_template(template).render(**values)


def save(path: str | Path, text: str) -> Path:
    """Write a page, replacing a file that is there only when the new one is whole.

    Args:
        path: of the HTML file; its folder is made if need be.
        text: the page.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"report: {path} cannot be written ({error.strerror})") from error
    return path


def number(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")
