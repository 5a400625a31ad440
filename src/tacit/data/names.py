"""A name that is not known, said with the nearest one that is."""

import difflib
from collections.abc import Iterable

from tacit.errors import InputError


def unknown(what: str, name: object, known: Iterable[object]) -> InputError:
    """The error for ``name``, which is none of the ``known`` ones."""
    names = [str(each) for each in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}" if near else f"there are {', '.join(names) or 'none'}"
    return InputError(f"data: there is no {what} {str(name)!r}; {hint}")
