"""Tacit: learning from data that cannot move.

The public names (``tacit._public`` lists them) are imported when the first one is used, so that
``import tacit`` and ``tacit --help`` do not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tacit._public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'tacit' has no attribute {name!r}")
    from tacit import _public

    if name not in _public.__all__:
        raise AttributeError(f"module 'tacit' has no attribute {name!r}")
    return getattr(_public, name)


def __dir__() -> list[str]:
    from tacit import _public

    return _public.__all__
