"""One round in parts: every party runs the algorithm's own ``round`` over what it has.

A site sees one node, itself, and its exchange keeps what is to be sent. The server sees the nodes
whose updates have arrived, and its exchange aggregates those. Entries of the state that have a row
for each node stay at the sites, a row each; all others are the server's, and those of them that
nodes read open a round.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.algorithms.base import ServerExchange, State, Updates
from tacit.data.federation import Federation, Split
from tacit.engine.exchange import StarExchange
from tacit.engine.local import LocalTrain, Trainer
from tacit.engine.protect import Protector
from tacit.engine.recording import excluded
from tacit.engine.secure_sum import Opened
from tacit.errors import DivergenceError, InputError
from tacit.experiment import Experiment
from tacit.network.tensors import PIECE, finite
from tacit.network.wire import Wire
from tacit.protection import AdaptiveClip, HomomorphicEncryption, SecretSharing
from tacit.protection.budget import PrivacyBudget
from tacit.topology import Star, Swarm
from tacit.training.evaluation import Evaluator
from tacit.training.lowering import Engine, choose
from tacit.training.plan import Ints, Plan
from tacit.training.private import Private

# Reads a part of one node's vector, (d,) float32: its step from what the server had. One part
# after the other, or the whole.
Read = Callable[[slice], Tensor]
_LARGE = 2**22
# Before the names of what the server alone reads, beside those that a rule chose for its memory.
_ALONE = "server:"
_MEMORY = "compression.memory"


def check(experiment: Experiment) -> None:
    """Refuse what real machines cannot carry out, beside what ``Experiment.check`` refuses.

    Raises:
        InputError: with the nearest plan that works.
    """
    experiment.check()
    if isinstance(experiment.plan, Swarm):
        raise InputError(
            f"topology: {experiment.plan!r} was given, which has no coordinator; use tacit swarm,"
            " or Star()"
        )
    if not isinstance(experiment.plan, Star):
        raise InputError(
            f"topology: {experiment.plan!r} was given; among real machines allowed is Star()"
        )
    if experiment.attacks:
        raise InputError("attack: real machines take no part in a simulated one; leave it out")
    guard = experiment.guard
    if guard and isinstance(guard.clip, AdaptiveClip):
        raise InputError(
            f"protection: {guard.clip!r} was given; among real machines use Clip({guard.clip.norm})"
        )
    if guard and isinstance(guard.secure, SecretSharing | HomomorphicEncryption):
        why = (
            "a helper that the server has no part in"
            if isinstance(guard.secure, SecretSharing)
            else "models that the server never sees"
        )
        raise InputError(
            f"protection: {guard.secure!r} was given, which takes {why}; among real machines use"
            " SecureAggregation()"
        )
    if guard and guard.proof:
        raise InputError(
            f"protection: {guard.proof!r} was given; among real machines norms are not proved so"
            " far; leave it out"
        )


def pay(ledger: PrivacyBudget, experiment: Experiment, round: int, again: int = 0) -> None:
    """Spend before a node trains, so that a crash loses budget and no privacy.

    Args:
        experiment: with the row counts from which its guarantee follows.
        again: how often it has trained from the round's model before.

    Raises:
        InputError: the budget does not allow the round.
    """
    guard, digest = experiment.guard, experiment.digest()
    if guard and (guard.labels or guard.multiplier):
        round, again = (0, 0) if guard.once else (round, again)
        ledger.spend(
            experiment.data.name, digest, round, guard.release, guard.releases,
            f"{digest}:{round}" + (f":{again}" if again else ""), guard.unit,
        )  # fmt: skip


def own_entries(experiment: Experiment) -> frozenset[str]:
    """The names of the state's entries that have a row for each node."""
    one, two = (shapes(experiment, nodes) for nodes in (1, 2))
    return frozenset(name for name in one if one[name] != two[name])


def shapes(experiment: Experiment, nodes: int) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Of the entries of the state, by name."""
    layout = experiment.layout
    state = experiment.algorithm.init(torch.zeros(1).expand(layout.size), nodes, layout)
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def weights(experiment: Experiment, nodes: Ints, round: int) -> list[Tensor]:
    """(k,) how much each of the nodes counts in each of the algorithm's exchanges.

    Args:
        experiment: with everybody's row counts, from which it follows.
    """
    count = experiment.data.nodes
    state = experiment.algorithm.init(experiment.start(), count, experiment.layout)
    weighing = Weighing()
    experiment.algorithm.round(state, ServerTrain(experiment, nodes, round), weighing)
    return weighing.weights


class Weighing:
    """``ServerExchange`` that keeps the weights of what it is given."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def __call__(self, own: Tensor, received: Updates | Tensor, weight: Tensor) -> Tensor:
        self.weights.append(weight)
        return own


@dataclass(frozen=True, eq=False)
class Part:
    """What a site made of a round.

    Attributes:
        steps: for each of the algorithm's exchanges, what the site sends of its (d,) step from what
            the server had, as ``Wire`` has it, or keeps for a secure sum.
        loss: its mean training loss; NaN without rows.
    """

    steps: list[Tensor]
    loss: float


class Site:
    """A node's part of a run, which alone holds its rows.

    Args:
        experiment: whose data are told: everybody's row counts, and nobody's rows.
        data: the same federation with the rows of ``node``.
    """

    def __init__(self, experiment: Experiment, data: Federation, node: int) -> None:
        self.experiment, self.node = experiment, node
        template, layout, guard = experiment.template, experiment.layout, experiment.guard
        private = None
        if guard and guard.example:
            private = Private(guard.example.norm, guard.multiplier)
        # Alone, and large, it trains no faster in a batch of one, which takes more memory.
        engine: Engine = "sequential" if layout.size > _LARGE and not private else "auto"
        choice = choose(engine, template, layout, experiment.loss, data.train, private)
        self.trainer = Trainer(
            data.train, data.names, layout, experiment.algorithm.local(experiment.training),
            choice.lowering, None, seed=experiment.seed, rounds=experiment.rounds,
            least=experiment.least_batch, private=private, noise_seed=None,
        )  # fmt: skip
        mine = replace(
            data, names=(data.names[node],),
            train=Split.pack([data.train.node(node)]), test=Split.pack([data.test.node(node)]),
        )  # fmt: skip
        self.evaluator = Evaluator(mine, template, layout, experiment.loss, choice.lowering)
        self.digest = bytes.fromhex(experiment.digest())
        first = experiment.algorithm.init(experiment.start(), 1, layout)
        self.own: State = {name: first[name] for name in own_entries(experiment)}
        self._unread = {
            name: torch.full((), torch.nan).expand(first[name].shape)
            for name in experiment.algorithm.server_only()
        }
        self.wire = Wire(experiment)
        self.memory = self.wire.memory()

    @property
    def kept(self) -> State:
        """What this node needs in later rounds, and nobody else has."""
        return self.own if self.memory is None else self.own | {_MEMORY: self.memory}

    def restore(self, kept: State) -> None:
        """Go on from what was ``kept``."""
        self.own = {name: kept[name] for name in self.own}
        self.memory = kept.get(_MEMORY)

    def take_part(self, round: int, shared: State) -> Part:
        """Train, keep this node's rows of the state, and give what leaves the site.

        Args:
            round: from 0.
            shared: the server's entries of the state that nodes read.

        Raises:
            DivergenceError: the loss, or what would be sent, is not finite.
        """
        experiment = self.experiment
        train = SiteTrain(LocalTrain(self.trainer, np.array([self.node]), round))
        sending = Sending()
        state = shared | self._unread | self.own
        state, _ = experiment.algorithm.round(state, train, sending)
        steps, memory = sending.steps, self.memory
        if memory is not None:
            step, memory = self.wire.pack(steps[0], memory, self.node, round)
            steps = [step]
        if not all(finite(step) for step in steps):
            raise DivergenceError(experiment.data.names[self.node], round + 1)
        self.own, self.memory = {name: state[name] for name in self.own}, memory
        return Part([self.guarded(step, round) for step in steps], train.local.mean_loss())

    def guarded(self, step: Tensor, round: int) -> Tensor:
        """(d,) what leaves the site of a (d,) step: clipped, with local noise."""
        guard, experiment = self.experiment.guard, self.experiment
        # What a message stands for is clipped by who reads it.
        if guard is None or guard.secure or not guard.guards_updates or self.wire.packed:
            return step
        now = Round(round, experiment.rounds, experiment.seed)
        protector = Protector(guard, now, self.digest, np.empty(0, np.int64), secret=True)
        return protector.steps(step.unsqueeze(0), np.array([self.node]))[0]

    def hidden(
        self, step: Tensor, round: int, exchange: int, nodes: Ints
    ) -> NDArray[np.unsignedinteger]:
        """(length,) what this node hides in a secure sum, of a step of ``take_part``.

        Args:
            exchange: of the algorithm's, from 0.
            nodes: (k,) whose sum it is to be, this one among them.
        """
        experiment = self.experiment
        assert experiment.guard is not None
        weight = weights(experiment, nodes, round)[exchange]
        share = (weight / weight.max())[torch.from_numpy(nodes == self.node)]
        now = Round(round, experiment.rounds, experiment.seed)
        protector = Protector(
            experiment.guard, now, self.digest, np.empty(0, np.int64), secret=True, sums=exchange
        )
        return protector.hidden(step, float(share), self.node)

    def model(self, shared: State) -> Tensor:
        """(d,) this node's own model, or the one that all share."""
        algorithm, state = self.experiment.algorithm, shared | self.own
        train = SiteTrain(LocalTrain(self.trainer, np.array([self.node]), self.experiment.rounds))
        models = algorithm.models(state, train)
        return algorithm.model(state) if models is None else models[0]

    def measure(self, shared: State) -> tuple[int, dict[str, float]]:
        """This node's test rows, and the scores of ``model`` on them."""
        scores = self.evaluator(self.model(shared))
        return int(scores.rows[0]), {name: float(v[0]) for name, v in scores.nodes.items()}


class SiteTrain:
    """``Train`` at a site, to which it is the only node: row 0 of the state."""

    def __init__(self, local: LocalTrain) -> None:
        self.local, self.nodes = local, np.zeros(1, np.int64)
        self.rows, self.training = local.rows, local.training
        self.lr, self.layout = local.lr, local.layout

    @property
    def steps(self) -> Ints:
        return self.local.steps

    def __call__(self, start: Tensor, **options: Any) -> Updates:
        return self.local(start, **options)

    def weights(self, uniform: bool = False) -> Tensor:
        return torch.ones(1)


class Sending:
    """``ServerExchange`` at a site: what it would send is kept, and nothing has come back yet."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, own: Tensor, received: Updates | Tensor, weight: Tensor) -> Tensor:
        # Nobody else has the matrix that is made here.
        mine = received.clone() if isinstance(received, Tensor) else received.matrix()
        self.steps.append(mine[0].sub_(own))
        return own


class Server:
    """The server's part of a run: it holds no rows.

    Args:
        experiment: whose data are told, as for ``Site``.

    Attributes:
        shared: its entries of the state that nodes read.
        alone: those that they do not.
        memory: of the aggregation rule.
        turned_away: nodes whose updates it did not count in the last round, and why.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.memory = experiment, dict[str, Tensor]()
        self.turned_away: dict[int, str] = {}
        self.digest, self.wire = bytes.fromhex(experiment.digest()), Wire(experiment)
        first = experiment.algorithm.init(
            experiment.start(), experiment.data.nodes, experiment.layout
        )
        own = own_entries(experiment)
        alone = experiment.algorithm.server_only()
        self._rows = {name: first[name] for name in own}
        self.alone: State = {name: first[name] for name in alone}
        self.shared: State = {n: t for n, t in first.items() if n not in own | alone}

    def remembered(self) -> State:
        """All that the next round takes beside ``shared``."""
        return self.memory | {_ALONE + name: tensor for name, tensor in self.alone.items()}

    def remember(self, shared: State, remembered: State) -> None:
        """Go on from where another server was."""
        self.shared = shared
        self.alone = {name: remembered[_ALONE + name] for name in self.alone}
        rule = {n: t for n, t in remembered.items() if not n.startswith(_ALONE)}
        self.memory.update(rule)

    def close(self, round: int, nodes: Ints, arrived: Sequence[Sequence[Read]]) -> None:
        """Take a round's step with what has arrived.

        Args:
            round: from 0.
            nodes: (k,) whose updates have.
            arrived: for each of the algorithm's exchanges, k vectors to read.
        """
        experiment, n = self.experiment, self.experiment.data.nodes
        plan, guard = experiment.plan, experiment.guard
        assert isinstance(plan, Star)
        central = guard and guard.noise and guard.noise.where == "central"
        guards = central or (guard and guard.guards_updates and self.wire.packed)
        now, protector = self.now(round), self._protector(round) if guards else None
        uplink = self.wire.uplink(round) if guards else None
        star = StarExchange(plan, experiment.aggregation, nodes, now, n, None, protector, uplink)
        self._step(round, nodes, Closing(star, iter(arrived)))
        self.turned_away = excluded(star)

    def close_sums(self, round: int, sums: Sequence[Opened]) -> None:
        """Take a round's step with the secure sum of each of the algorithm's exchanges.

        Raises:
            SumError: a sum that no honest nodes can have sent.
        """
        nodes = np.array(sums[-1].nodes, np.int64)
        uplink = self.wire.uplink(round)
        at = uplink.coordinates if uplink else None
        self._step(round, nodes, Summed(self._protector(round), iter(sums), at))

    def now(self, round: int) -> Round:
        """What an aggregation rule is told of a round."""
        experiment = self.experiment
        return Round(round, experiment.rounds, experiment.seed, memory=self.memory)

    def _protector(self, round: int) -> Protector:
        guard = self.experiment.guard
        assert guard is not None
        return Protector(guard, self.now(round), self.digest, np.empty(0, np.int64), secret=True)

    def _step(self, round: int, nodes: Ints, exchange: ServerExchange) -> None:
        train = ServerTrain(self.experiment, nodes, round)
        state = self.shared | self.alone | self._rows
        state, _ = self.experiment.algorithm.round(state, train, exchange)
        self.shared = {name: state[name] for name in self.shared}
        self.alone = {name: state[name] for name in self.alone}


class ServerTrain:
    """``Train`` at the server, where nobody trains: how the nodes that answered did."""

    def __init__(self, experiment: Experiment, nodes: Ints, round: int) -> None:
        self.nodes, self.layout = nodes, experiment.layout
        self.training = experiment.algorithm.local(experiment.training)
        self.lr = self.training.lr_at(round, experiment.rounds)
        split, guard = experiment.data.train, experiment.guard
        self.rows: Ints = split.sizes[nodes]
        self.steps: Ints = Plan.of(
            split, nodes, self.training, experiment.seed, round, experiment.least_batch,
            poisson=bool(guard and guard.example),
        ).steps  # fmt: skip

    def __call__(self, *start: Tensor, **_: Any) -> "Elsewhere":
        return Elsewhere(self.nodes, *start)

    def weights(self, uniform: bool = False) -> Tensor:
        share: NDArray[Any] = np.ones(len(self.nodes)) if uniform else self.rows.astype(float)
        return torch.from_numpy(share / max(share.sum(), 1)).float()


@dataclass(eq=False)
class Elsewhere:
    """``Updates`` that were trained at the sites; what an algorithm makes of them is not used."""

    nodes: Ints
    start: Tensor

    def sum(self, weight: Tensor) -> Tensor:
        return self.start

    def matrix(self) -> Tensor:
        return self.start.expand(len(self.nodes), self.start.shape[-1])


class Closing:
    """``ServerExchange`` at the server, for what has arrived instead of what is handed to it."""

    def __init__(self, star: StarExchange, arrived: Iterator[Sequence[Read]]) -> None:
        self.star, self.arrived = star, arrived

    def __call__(self, own: Tensor, received: Updates | Tensor, weight: Tensor) -> Tensor:
        return self.star(own, Arrived(self.star.nodes, own, next(self.arrived)), weight)


class Summed:
    """``ServerExchange`` at the server, for what secure sums have opened.

    Args:
        at: (m,) the coordinates that they are of; None: all.
    """

    def __init__(
        self, protector: Protector, sums: Iterator[Opened], at: Tensor | None = None
    ) -> None:
        self.protector, self.sums, self.at = protector, sums, at

    def __call__(self, own: Tensor, received: Updates | Tensor, weight: Tensor) -> Tensor:
        opened = next(self.sums)
        assert opened.total is not None
        at = torch.arange(own.shape[-1]) if self.at is None else self.at
        return own.index_add(0, at, self.protector.opened(opened.total, len(opened.nodes), len(at)))


@dataclass(eq=False)
class Arrived:
    """``Updates`` as they lie with the server, read one after another."""

    nodes: Ints
    own: Tensor
    steps: Sequence[Read]

    def sum(self, weight: Tensor) -> Tensor:
        total = self.own * weight.sum()
        for share, read in zip(weight.tolist(), self.steps, strict=True):
            for first in range(0, len(total), PIECE):
                at = slice(first, min(first + PIECE, len(total)))
                total[at].add_(read(at), alpha=share)
        return total

    def matrix(self) -> Tensor:
        whole = slice(0, self.own.shape[-1])
        return torch.stack([self.own + read(whole) for read in self.steps])
