"""What a site's operator, or a whole federation, lets an experiment do: a file that people write.

A federation's limits hold at its coordinator, which refuses to run against them. A site has limits
of its own, and lists what may run without being approved one by one. An approval lifts no limit.
"""

import dataclasses
import json
import math
import re
import textwrap
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from tacit import algorithms, protection
from tacit.data.sites import told
from tacit.errors import InputError, require, require_number, require_whole
from tacit.experiment import Experiment
from tacit.network.disclosure import Disclosure
from tacit.network.software import code_of, installed, software

_HASH = re.compile(r"[0-9a-f]{64}")


def _classes(package: Any, base: type = object) -> list[str]:
    """Names of the classes that a package offers."""
    kinds = {name: getattr(package, name) for name in package.__all__}
    return [name for name, k in kinds.items() if isinstance(k, type) and issubclass(k, base)]


_PROTECTIONS = _classes(protection)
_ALGORITHMS = _classes(algorithms, algorithms.Algorithm)


def _is_hash(text: str) -> bool:
    return _HASH.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What every experiment must keep to.

    Attributes:
        minimum_cohort, maximum_epsilon and so on: as ``COMMENTS`` tells people.
    """

    minimum_cohort: int = 1
    maximum_epsilon: float | None = None
    maximum_delta: float | None = None
    required_protections: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    software: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_whole(1, "minimum_cohort", self.minimum_cohort)
        require_number("maximum_epsilon", self.maximum_epsilon, above=0, none=True)
        require_number("maximum_delta", self.maximum_delta, above=0, below=1, none=True)
        self._list("required_protections", lambda x: x in _PROTECTIONS, ", ".join(_PROTECTIONS))
        self._list("algorithms", lambda x: x in _ALGORITHMS, ", ".join(_ALGORITHMS))
        self._list("software", _is_hash, "hashes, 64 hexadecimal digits each")

    def _list(self, name: str, fits: Callable[[Any], bool], allowed: str) -> None:
        given = getattr(self, name)
        require(isinstance(given, list | tuple), name, given, f"a list of {allowed}")
        for each in given:
            require(isinstance(each, str) and fits(each), name, each, allowed)
        object.__setattr__(self, name, tuple(given))


@dataclass(frozen=True, kw_only=True)
class Policy(Limits):
    """A site's: its limits, what it approves beforehand, how much it tells of its errors, and
    whether it takes part in what leaves no record.
    """

    experiments: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    disclosure: Disclosure = "redacted"
    record: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._list("experiments", _is_hash, "hashes, 64 hexadecimal digits each")
        self._list("code", _is_hash, "hashes, 64 hexadecimal digits each")
        levels = get_args(Disclosure)
        require(self.disclosure in levels, "disclosure", self.disclosure, ", ".join(levels))
        require(isinstance(self.record, bool), "record", self.record, "true or false")

    def allows(self, experiment: Experiment) -> bool:
        """Whether an experiment, without rows, is on one of the lists."""
        return experiment.digest() in self.experiments or code_of(experiment) in self.code


NO_LIMITS = Limits()
L = TypeVar("L", bound=Limits)


def refusals(limits: Limits, experiment: Experiment) -> list[str]:
    """Why an experiment may not run under these limits, one sentence each; none: it may.

    Args:
        experiment: whose data say how many rows each site trains on, if that is known; what the
            loss of privacy is that depends on it is left open otherwise.
    """
    found = []
    name = type(experiment.algorithm).__name__
    if limits.algorithms and name not in limits.algorithms:
        found.append(f"the algorithm is {name}; allowed is {' or '.join(limits.algorithms)}")
    if limits.software and installed() not in limits.software:
        found.append(
            f"the code of tacit here has hash {installed()}; allowed is"
            f" {' or '.join(limits.software)}"
        )
    kinds = {kind.__name__ for part in experiment.protection for kind in type(part).__mro__}
    if missing := [name for name in limits.required_protections if name not in kinds]:
        found.append(f"it has no {' and no '.join(missing)}, which is required")
    if (fewest := smallest_sum(experiment)) < limits.minimum_cohort:
        found.append(
            f"a round may add up the models of {fewest} sites; {limits.minimum_cohort} is the least"
        )
    epsilon, delta = cost(experiment)
    if (most := limits.maximum_epsilon) is not None and epsilon is not None and epsilon > most:
        spends = f"its rounds spend epsilon {epsilon:.4g}"
        spends = "nothing bounds its epsilon" if math.isinf(epsilon) else spends
        found.append(f"{spends}; {most:g} is the most")
    if limits.maximum_delta is not None and delta > limits.maximum_delta:
        found.append(f"its delta is {delta:g}; {limits.maximum_delta:g} is the most")
    return found


def enforce(limits: Limits, experiment: Experiment) -> None:
    """InputError unless an experiment keeps to a federation's limits."""
    if found := refusals(limits, experiment):
        raise InputError(f"this federation's policy refuses the experiment: {'; '.join(found)}")


def smallest_sum(experiment: Experiment) -> int:
    """How many sites' models a round adds up at the least; a peer counts itself."""
    guard = experiment.guard
    if guard and guard.secure:
        return guard.threshold
    return experiment.inputs + (experiment.algorithm.exchanges == "peers")


def cost(experiment: Experiment) -> tuple[float | None, float]:
    """Epsilon and delta of all rounds, for a row or a site; infinite where nothing bounds it.

    None: that depends on how many rows sites have, which is not known yet.
    """
    guard = experiment.guard
    if guard is None or guard.budget is None:
        return math.inf, 0.0
    if guard.example and not guard.setting.training:
        return None, guard.budget.delta
    return guard.epsilon(experiment.rounds), guard.budget.delta


def shown(experiment: Experiment, rows: int) -> str:
    """What an operator reads before approving, beside what ``explain`` says: code and cost."""
    epsilon, delta = cost(at_site(experiment, rows))
    guard = experiment.guard
    spends = "no noise: nothing bounds what the models tell of a row"
    if guard and epsilon is not None and not math.isinf(epsilon):
        spends = (
            f"epsilon {epsilon:.4g} at delta {delta:g} for each {guard.unit}, over all"
            f" {experiment.rounds} rounds"
        )
    return (
        f"Its own code {code_of(experiment)}\ntacit {software()}, all of it {installed()}\n"
        f"Privacy cost here: {spends}"
    )


def at_site(experiment: Experiment, rows: int) -> Experiment:
    """The experiment as a site judges it: as if all others had as many rows to train on."""
    return experiment.replace(data=told(experiment.data, [rows] * experiment.data.nodes))


def read(path: Path, kind: type[L]) -> L:
    """The limits or the policy in a file; those that say nothing if there is none.

    Raises:
        InputError: as ``parse``.
    """
    return parse(path.read_bytes(), str(path), kind) if path.exists() else kind()


def parse(toml: bytes, where: str, kind: type[L]) -> L:
    """The limits or the policy in a text, which came from ``where``.

    Raises:
        InputError: it cannot be read, or a field cannot be used.
    """
    try:
        given = tomllib.loads(toml.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where}: it is not TOML ({error})") from None
    known = [each.name for each in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            raise InputError(f"{where}: {name}: unknown; allowed are {', '.join(known)}")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def text(limits: Limits) -> str:
    """What ``read`` reads, with a comment on each field."""
    lines: list[str] = []
    for each in dataclasses.fields(limits):
        value = getattr(limits, each.name)
        said = "# " + each.name + " = ..." if value is None else f"{each.name} = {_toml(value)}"
        lines += ["", *_wrapped(COMMENTS[each.name]), said]
    return "\n".join([*_wrapped(_TITLES[type(limits)]), *lines, ""])


COMMENTS = {
    "minimum_cohort": "The fewest sites whose models any round adds up; of a secure sum, the fewest"
    " for whom it is opened.",
    "maximum_epsilon": "The most that a whole run may spend of the privacy of a row or a site, by"
    " tacit's own accounting. Noise that the coordinator adds counts: it sees what is sent without"
    " it.",
    "maximum_delta": "The same, of delta.",
    "required_protections": 'What every experiment must have: "SecureAggregation", "DPSGD", ...',
    "algorithms": 'Those that may run, as in ["FedAvg"]; none are named: all.',
    "software": "Hashes of tacit's own installed code that may run; none are named: any.",
    "experiments": "Hashes of experiments that are approved, beside those of"
    " `tacit node approve HASH`.",
    "code": "Hashes of experiments' own code (model, loss) that is approved with any settings.",
    "disclosure": 'What others learn of an error here: its "code" alone; the code and the "phase"'
    ' of the run; a "redacted" sentence, with nothing in it that is not written in tacit\'s own'
    ' code; or the "full" sentence, which may hold values of the data.',
    "record": "Whether this site takes part only in runs that leave a signed record, as with"
    " `tacit coordinator --record`.",
}
_TITLES = {
    Limits: "What every experiment of this federation must keep to; its coordinator refuses others."
    " Sites may demand more.",
    Policy: "What may run at this site. As it stands, what `tacit node approve HASH` has approved;"
    " an approval lifts no limit.",
}


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")
