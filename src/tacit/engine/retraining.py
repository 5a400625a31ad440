"""A member's influence removed: trained on without it, from the last checkpoint before its part.

Exact unlearning by retraining (Cao, Yang, IEEE S&P 2015; Liu, Xu, Yuan, Wang, Li, "The right to be
forgotten in federated learning", INFOCOM 2022, as the baseline): nothing of what the member sent is
in the checkpoint, and nothing of it comes after. The others keep their names and lose a place, so
that what is drawn for them from then on (cohorts, batches, noise) is what a federation without the
member draws. From the start, the result is that of a run which never had it, bit by bit.

What was computed of everybody's rows before the first round stays as it was: statistics by which
inputs were scaled together, and the experiment's digest, by which simulated noise is drawn.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from tacit.algorithms.base import State
from tacit.engine.checkpoint import KEPT, Checkpoint, kept_at
from tacit.engine.recording import recorder
from tacit.engine.run import MEMORY, VERDICTS
from tacit.errors import InputError
from tacit.experiment import Experiment
from tacit.ledger.rounds import FIRST


@dataclass(frozen=True, eq=False)
class Retraining:
    """What it takes to remove a site's influence.

    Attributes:
        experiment: the same without the site.
        site: its name.
        contributed: the round, from 0, in which it first took part; the number of all where it did
            in none.
        start: what the others go on from; None: from the initial model.
        rounds: that are carried out again.
        seconds: that they take at the pace of the run.
        before: digest of the experiment with the site.
    """

    experiment: Experiment
    site: str
    contributed: int
    start: Checkpoint | None
    rounds: int
    seconds: float
    before: str

    def begin_record(self, folder: Path) -> None:
        """Begin the record of the retraining, whose genesis tells of what it is one.

        Raises:
            InputError: a folder with another experiment's record.
            CheckpointError: a folder that cannot be written.
        """
        origin = {"retrained_from": self.before, "without": self.site}
        if self.start:
            origin[FIRST] = str(self.start.round)
        recorder(self.experiment, folder, origin=origin).finish()


def retraining(
    experiment: Experiment, site: str, folder: Path, contributed: int | None = None
) -> Retraining:
    """What it takes to remove a site's influence from a run.

    Args:
        experiment: of the run.
        folder: of the run, with its last checkpoint and those that ``keep_every`` let stay.
        contributed: the round, from 0, in which the site first took part, as a record tells; by
            default as the experiment draws it.

    Raises:
        InputError: no such site, no run in the folder, or a plan that does not work without it.
        CheckpointError: the folder is another experiment's.
    """
    if experiment.attacks:
        raise InputError(
            "attack: its malicious nodes have other places without the site; retraining is for"
            " plans without one"
        )
    data = experiment.data.without(site)
    changes = dict[str, object](data=data)
    plan = experiment.plan
    if (getattr(plan, "cohort", None) or 0) > data.nodes:
        changes["topology"] = replace(plan, cohort=data.nodes)  # type: ignore[type-var]
    others = experiment.replace(**changes)
    others.check()
    digest = experiment.digest()
    last = Checkpoint.read(folder, digest)
    if last is None:
        raise InputError(f"folder: {folder} holds no run of this experiment")
    node = experiment.data.names.index(site)
    first = _first(experiment, node) if contributed is None else contributed
    start = last if last.round <= first else _kept(folder, digest, first)
    state = _others(start.state, experiment, node) if start else None
    if start and state is not None:
        start = replace(start, experiment=others.digest(), state=state)
    else:
        start = None
    rounds = (others.guard or experiment).rounds - (start.round if start else 0)
    pace = median(row["seconds"] for row in last.metrics)
    return Retraining(others, site, first, start, rounds, rounds * pace, digest)


def _first(experiment: Experiment, node: int) -> int:
    if experiment.algorithm.pools:
        return 0
    rounds = range(experiment.rounds)
    drawn = (round for round in rounds if node in experiment.cohort(round))
    return next(drawn, experiment.rounds)


def _kept(folder: Path, experiment: str, most: int) -> Checkpoint | None:
    """The latest checkpoint that stayed from up to a round."""
    rounds = [int(path.name) for path in (folder / KEPT).glob("*") if path.name.isdecimal()]
    latest = max((round for round in rounds if round <= most), default=None)
    return None if latest is None else Checkpoint.read(kept_at(folder, latest), experiment)


def _others(state: State, experiment: Experiment, node: int) -> State | None:
    """The state without a node's own; None where nothing can go on from it.

    A rule remembers by places or links; and in asynchronous rounds others would have other models
    in hand, some of which are not kept any more.
    """
    late = experiment.arrivals is not None and experiment.algorithm.exchanges == "server"
    if late or any(name.startswith(MEMORY) for name in state):
        return None
    layout, algorithm = experiment.layout, experiment.algorithm
    flat = torch.zeros(1).expand(layout.size)
    one, two = (algorithm.init(flat, nodes, layout) for nodes in (1, 2))
    left = torch.from_numpy(np.delete(np.arange(experiment.data.nodes), node))
    found: State = {}
    for name, tensor in state.items():
        if name == VERDICTS:
            found[name] = tensor[:, left]
        else:
            found[name] = tensor if one[name].shape == two[name].shape else tensor[left]
    return found
