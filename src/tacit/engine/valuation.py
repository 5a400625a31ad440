"""Which contributions can be scored, and by what method."""

import numpy as np

from tacit.errors import InputError
from tacit.experiment import Experiment
from tacit.ledger.contribution import Contribution, suited
from tacit.protection import HomomorphicEncryption
from tacit.topology import Hierarchical
from tacit.training.plan import Ints


def groups(experiment: Experiment) -> Ints | None:
    """(n,) each node's group where sums of groups alone are seen; None: nodes one by one."""
    plan, guard = experiment.plan, experiment.guard
    masked = guard is not None and guard.secure is not None
    if masked and isinstance(plan, Hierarchical):
        return plan.group_of(experiment.data.nodes)
    return None


def usual(experiment: Experiment) -> Contribution:
    """The method for as many nodes, or groups of them, as a round has."""
    n, of = experiment.data.nodes, groups(experiment)
    cohort = getattr(experiment.plan, "cohort", None) or n
    return suited(cohort if of is None else min(cohort, len(np.unique(of))))


def require_scorable(experiment: Experiment) -> None:
    """Refuse a plan in which nobody sees what could be scored.

    Raises:
        InputError: it is one; with the nearest that can be.
    """
    guard, plan = experiment.guard, experiment.plan
    if experiment.algorithm.exchanges != "server":
        raise InputError(
            f"algorithm: {experiment.algorithm!r} was given; contributions are scored under a"
            " server, as with FedAvg()"
        )
    if experiment.arrivals is not None:
        raise InputError(
            f"algorithm: {experiment.algorithm!r} was given; contributions are scored in rounds"
            " that nodes share, as with FedAvg()"
        )
    if guard and guard.noise and guard.noise.where == "central":
        raise InputError(
            "protection: noise by the server hides updates from whoever reads its results, and"
            ' scores would tell of them without it; use where="local" or "distributed"'
        )
    if guard is None or guard.secure is None:
        return
    if isinstance(guard.secure, HomomorphicEncryption):
        raise InputError("protection: nobody but the nodes reads a sum of HomomorphicEncryption")
    if not isinstance(plan, Hierarchical):
        raise InputError(
            "protection: a secure sum of all nodes shows nobody's part; groups are scored with"
            " Hierarchical(groups=...)"
        )
