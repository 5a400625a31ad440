"""Fields of an experiment changed by text, as in ``tacit run FILE --set training.lr=0.05``.

Nothing is evaluated: a value is a literal, a word, or a public part by its name with literal
arguments (``Gossip``, ``FedProx(mu=0.1)``); parts may be joined by ``|`` (``NNM(2) | Krum(2)``).
"""

import ast
import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tacit import _public, aggregation, attacks
from tacit.attacks.view import LEVELS
from tacit.data import Partition
from tacit.errors import InputError
from tacit.experiment import Experiment

# Functions, and what hangs on the data: only a file can say them.
_IN_FILE = ("data", "model", "loss", "protection", "contract")
_WORDS = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a word",
    tuple: "a list such as ('a', 'b')",
    NoneType: "None",
}


def apply(experiment: Experiment, settings: Sequence[str]) -> Experiment:
    """The experiment with some fields changed, one after another.

    Args:
        experiment: stays as it is.
        settings: "FIELD=VALUE" each, the field as a dotted path: "rounds=3", "training.lr=0.05",
            "algorithm=Gossip", "topology.cohort=4".

    Raises:
        InputError: an unknown field (with the nearest known one) or a value that does not fit it.
    """
    for setting in settings:
        path, equals, text = (part.strip() for part in setting.partition("="))
        if not path or not equals:
            raise InputError(
                f"--set: {setting!r} was given; allowed is FIELD=VALUE, such as training.lr=0.05"
            )
        experiment = _changed(experiment, path, text, "", experiment)
    return experiment


def partition(text: str) -> Partition:
    """The partition that a text such as "Dirichlet(0.5)" stands for.

    Raises:
        InputError: it stands for none.
    """
    return _fitted(_read(text, "partition"), Partition, "partition")


def _changed(part: Any, path: str, text: str, above: str, root: Experiment) -> Any:
    name, _, rest = path.partition(".")
    here = above + name
    if name not in _fields(part):
        raise _unknown(above + path, part, above, root)
    if rest:
        inner = _inner(part, name)
        if not dataclasses.is_dataclass(inner):
            raise InputError(f"{here}.{rest}: {here} is {inner!r} and has no fields")
        value = _changed(inner, rest, text, here + ".", root)
    else:
        value = _fitted(_read(text, here), _hints(type(part))[name], here)
    return dataclasses.replace(part, **{name: value})


def _fields(part: Any) -> list[str]:
    hidden = _IN_FILE if isinstance(part, Experiment) else ()
    return [f.name for f in dataclasses.fields(part) if f.init and f.name not in hidden]


def _inner(part: Any, name: str) -> Any:
    """A field's value; an experiment's topology is the one in use."""
    return part.plan if isinstance(part, Experiment) and name == "topology" else getattr(part, name)


def _unknown(path: str, part: Any, above: str, root: Experiment) -> InputError:
    if path.partition(".")[0] in _IN_FILE:
        return InputError(f"{path}: it can be changed in the experiment's file alone")
    known = ", ".join(above + name for name in _fields(part)) or f"none in {above.rstrip('.')}"
    near = _nearest(path, list(_paths(root)))
    hint = f"did you mean {near}? " if near else ""
    return InputError(f"{path}: unknown; {hint}Known are {known}")


def _paths(part: Any, above: str = "") -> Iterator[str]:
    for name in _fields(part):
        yield above + name
        inner = _inner(part, name)
        if dataclasses.is_dataclass(inner):
            yield from _paths(inner, f"{above}{name}.")


def _nearest(path: str, known: Sequence[str]) -> str | None:
    """The path that ends in this name, in its initials (learning_rate: lr), or in one like it."""
    name = path.rpartition(".")[2]
    initials = "".join(word[:1] for word in name.split("_"))
    for wanted in (name, initials):
        for each in known:
            if each.rpartition(".")[2] == wanted:
                return each
    by_name = {each.rpartition(".")[2]: each for each in reversed(known)}
    return next((by_name[near] for near in difflib.get_close_matches(name, by_name, n=1)), None)


def _read(text: str, path: str) -> Any:
    """The literal or part that a text stands for, else the text itself."""
    try:
        return _value(ast.parse(text, mode="eval").body, text, path)
    except SyntaxError:
        return text


def _value(node: ast.expr, text: str, path: str) -> Any:
    match node:
        case ast.Tuple(elements) | ast.List(elements):
            return tuple(_value(element, text, path) for element in elements)
        case ast.Name(name) if name in _parts():
            return _made(_parts()[name], [], {}, path)
        case ast.Call(ast.Name(name), arguments, keywords) if name in _parts():
            given = [_value(argument, text, path) for argument in arguments]
            named = {
                str(keyword.arg): _value(keyword.value, text, f"{path}.{keyword.arg}")
                for keyword in keywords
            }
            return _made(_parts()[name], given, named, path)
        case ast.BinOp(left, ast.BitOr(), right):
            parts = [_value(side, text, path) for side in (left, right)]
            if all(map(dataclasses.is_dataclass, parts)) and hasattr(parts[0], "__or__"):
                return parts[0] | parts[1]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.get_source_segment(text, node)


def _parts() -> dict[str, type]:
    """The public parts by name; not those that others are made from."""
    homes = (aggregation, attacks, _public, _public.data)
    public = {name: getattr(module, name) for module in homes for name in module.__all__}
    return {
        name: part
        for name, part in public.items()
        if isinstance(part, type) and dataclasses.is_dataclass(part)
        if not inspect.isabstract(part) and part is not attacks.Attack
    }


def _made(part: type, given: list[Any], named: dict[str, Any], path: str) -> Any:
    fields = [field for field in dataclasses.fields(part) if field.init]
    in_order = [field.name for field in fields if not field.kw_only]
    named |= dict(zip(in_order, given, strict=False))
    required = {field.name for field in fields if _required(field)}
    if len(given) > len(in_order) or not required <= set(named) <= {f.name for f in fields}:
        form = ", ".join(f"{f.name}={'...' if _required(f) else repr(f.default)}" for f in fields)
        raise InputError(f"{path}: {part.__name__} is given as {part.__name__}({form})")
    hints = _hints(part)
    return part(**{n: _fitted(value, hints[n], f"{path}.{n}") for n, value in named.items()})


def _hints(part: type) -> dict[str, Any]:
    """The types of a part's fields; of an attack's knowledge, the levels with which it works."""
    hints = get_type_hints(part)
    if issubclass(part, attacks.UpdateAttack):
        hints["knowledge"] = Literal[LEVELS[LEVELS.index(part.least_knowledge) :]]
    return hints


def _required(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _fitted(value: Any, hint: Any, path: str) -> Any:
    """The value as a field of this type takes it."""
    kinds = _kinds(hint)
    if type(value) is int and float in kinds and int not in kinds:
        return float(value)
    if any(_fits(value, kind) for kind in kinds):
        return value
    allowed = list(dict.fromkeys(word for kind in kinds for word in _allowed(kind)))
    near = difflib.get_close_matches(str(value).partition("(")[0], allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"{path}: {value!r} was given; allowed is {_either(allowed)}{hint}")


def _kinds(hint: Any) -> list[Any]:
    """The types of a union, one by one; of generic ones, what they are made from."""
    if get_origin(hint) in (Union, UnionType):
        return [kind for each in get_args(hint) for kind in _kinds(each)]
    origin = get_origin(hint)
    return [hint if origin is Literal else tuple if origin is Sequence else origin or hint]


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    return type(value) is kind if kind in _WORDS else _plays(type(value), kind)


def _plays(part: type, kind: Any) -> bool:
    """Whether a part can be used where ``kind`` is asked for.

    A protocol's parts lie in its package and have its methods.
    """
    if getattr(kind, "_is_protocol", False):
        home, other = part.__module__.split(".")[:2], kind.__module__.split(".")[:2]
        methods = {name for name, value in vars(kind).items() if isinstance(value, FunctionType)}
        return home == other and methods - {"__init__", "__subclasshook__"} <= set(dir(part))
    return isinstance(kind, type) and issubclass(part, kind)


def _allowed(kind: Any) -> Iterable[str]:
    if get_origin(kind) is Literal:
        return map(str, get_args(kind))
    if kind in _WORDS:
        return [_WORDS[kind]]
    return [name for name, part in _parts().items() if _plays(part, kind)]


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
