"""The cells of an arena: one experiment for each topology, defence and attack."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tacit.aggregation import Aggregation
from tacit.algorithms import FedAvg, Gossip
from tacit.attacks.base import Attack
from tacit.attacks.placement import chosen
from tacit.errors import InputError, require
from tacit.experiment import Experiment, Topology
from tacit.topology import Graph
from tacit.training.plan import Ints

# One or several at once; a rule, or what makes one for receivers of k inputs of which f lie.
Attacks = Attack | Sequence[Attack]
Defence = Aggregation | Callable[[int, int], Aggregation]

NO_ATTACK = "none"


@dataclass(frozen=True, eq=False)
class Cell:
    """One match.

    Attributes:
        topology: its name in the arena.
        defence: its name.
        attack: its name, or "none".
        rule: the defence's rule, as it is written in code.
        note: why the cell cannot be run, or what was lowered so that it can.
        experiment: what to run; None where it cannot work.
    """

    topology: str
    defence: str
    attack: str
    rule: str
    note: str
    experiment: Experiment | None


def cells(
    experiment: Experiment,
    attacks: Mapping[str, Attacks],
    defences: Mapping[str, Defence],
    topologies: Mapping[str, Topology],
) -> Iterator[Cell]:
    """All cells, those of one defence side by side, the one without attack first."""
    for topology, plan in topologies.items():
        here = on(experiment, plan)
        k = here.inputs
        liars = max((here.exposure(malicious(here, a)) for a in attacks.values()), default=0)
        for defence, made in defences.items():
            try:
                rule, note = fitted(made, k, liars)
            except InputError as error:
                for name in (NO_ATTACK, *attacks):
                    yield Cell(topology, defence, name, "", str(error), None)
                continue
            yield Cell(
                topology, defence, NO_ATTACK, str(rule), note, here.replace(aggregation=rule)
            )
            for name, attack in attacks.items():
                cell = here.replace(aggregation=rule, attack=attack)
                yield Cell(topology, defence, name, str(rule), note, cell)


def on(experiment: Experiment, plan: Topology) -> Experiment:
    """The experiment on another topology, and by FedAvg or Gossip where its algorithm cannot."""
    wanted = "peers" if isinstance(plan, Graph) else "server"
    if experiment.algorithm.exchanges == wanted:
        return experiment.replace(topology=plan)
    return experiment.replace(topology=plan, algorithm=Gossip() if wanted == "peers" else FedAvg())


def malicious(experiment: Experiment, attack: Attacks) -> Ints:
    """(b,) ids of the malicious nodes; none where the attack cannot be placed here."""
    plan, data, seed = experiment.plan, experiment.data, experiment.seed
    graph = plan.graph(data.nodes, seed, 0) if isinstance(plan, Graph) else None
    each = (attack,) if isinstance(attack, Attack) else attack
    try:
        return np.unique(np.concatenate([chosen(a.nodes, data.names, graph, seed) for a in each]))
    except InputError:
        return np.array([], dtype=np.int64)


def fitted(defence: Defence, k: int, liars: int) -> tuple[Aggregation, str]:
    """The rule for k inputs of which so many lie, and what had to be lowered.

    Raises:
        InputError: there is none, whatever is lowered.
    """
    if isinstance(defence, Aggregation):
        defence.check(k)
        return defence, ""
    reason = None
    for f in range(liars, min(liars, 1) - 1, -1):
        try:
            rule = defence(k, f)
            require(isinstance(rule, Aggregation), "defences", rule, "a function that gives a rule")
            rule.check(k)
        except InputError as error:
            reason = reason or error
            continue
        lowered = f"f is {f}: the rule cannot be set for {liars} liars among {k} inputs"
        return rule, lowered if f < liars else ""
    assert reason is not None
    raise reason
