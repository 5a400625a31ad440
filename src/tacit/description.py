"""Any part of an experiment as plain JSON values, by which it is hashed."""

import dataclasses
import functools
import hashlib
import inspect
import json
from functools import cached_property
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = bool | int | float | str | list | tuple | dict | set | frozenset | Tensor | np.ndarray


def describe(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A part of an experiment as plain JSON values.

    Args:
        value: a function counts by its source, its defaults, what it has captured and what it names
            in its own package; any other object by its class and its attributes.
        above: ids of what the value is part of, where it ends.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if id(value) in above:
        return "itself"
    each = functools.partial(describe, above=(*above, id(value)))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: each(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, dict):
        return {str(k): each(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [each(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(each, value), key=json.dumps)
    if isinstance(value, functools.partial):
        return [each(value.func), each(value.args), each(value.keywords)]
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, np.ndarray):
        plain = value.dtype.kind in "biufc"
        return digest(torch.from_numpy(value.copy())) if plain else each(value.tolist())
    if isinstance(value, nn.Module):
        settings = {k: v for k, v in vars(value).items() if k[0] != "_" and k != "training"}
        kinds = {type(module).__qualname__: type(module) for module in value.modules()}
        return [repr(value), each(kinds), each(settings), each(dict(value.state_dict()))]
    if inspect.ismodule(value):
        return value.__name__
    if inspect.ismethod(value):
        return [each(value.__func__), each(value.__self__)]
    if not hasattr(value, "__qualname__"):
        if hasattr(value, "__dict__"):
            fields = {k: v for k, v in vars(value).items() if not _cached(value, k)}
            return [each(type(value)), each(fields)]
        shown = repr(value)  # it may hold an address
        return type(value).__qualname__ if " at 0x" in shown else shown
    home = _home(value)
    if home == "torch":
        return value.__qualname__
    described = {"name": value.__qualname__, "source": "" if home == "tacit" else _source(value)}
    if isinstance(value, FunctionType):
        described["values"] = each([_captured(value), value.__defaults__, value.__kwdefaults__])
    return described


def _cached(value: Any, name: str) -> bool:
    """Whether an attribute is no setting but was worked out, and not always there."""
    of_class = inspect.getattr_static(type(value), name, None)
    return isinstance(of_class, cached_property) or name.startswith("__")


def _source(value: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(value).encode()).hexdigest()
    except (OSError, TypeError):  # written at a prompt
        methods = vars(value).values() if isinstance(value, type) else [value]
        codes = [_code(f.__code__) for f in methods if isinstance(f, FunctionType)]
        return hashlib.sha256(repr(codes).encode()).hexdigest()


def _code(code: CodeType) -> list[Any]:
    """What is computed, without the file and the lines where it is written."""
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_code(constant))
        else:  # a set's order is another in every process
            sets = isinstance(constant, frozenset)
            constants.append(sorted(map(repr, constant)) if sets else repr(constant))
    return [code.co_code, code.co_names, code.co_varnames, constants]


def _captured(function: FunctionType) -> dict[str, Any]:
    try:
        found = inspect.getclosurevars(function)
    except ValueError:  # a name that has no value yet
        return {}
    home = _home(function)
    own = {
        name: value
        for name, value in found.globals.items()
        if home != "tacit" and (_home(value) == home or isinstance(value, _PLAIN))
    }
    return own | dict(found.nonlocals)


def _home(value: Any) -> str:
    """The package of a function, of a class, or of an object's class."""
    return str(getattr(value, "__module__", None)).split(".")[0]


def digest(*tensors: Tensor) -> str:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        found.update(plain.view(torch.uint8).numpy().data)
    return found.hexdigest()
