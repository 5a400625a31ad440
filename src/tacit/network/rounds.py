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
from tacit.engine.secure_sum import Opened
from tacit.errors import DivergenceError, InputError
from tacit.experiment import Experiment
from tacit.network.tensors import PIECE, finite
from tacit.protection import AdaptiveClip, RandomisedResponse, SecureAggregation
from tacit.topology import Star
from tacit.training.evaluation import Evaluator
from tacit.training.lowering import Engine, choose
from tacit.training.plan import Ints, Plan
from tacit.training.private import Private

# Reads a part of one node's vector, (d,) float32: its step from what the server had.
Read = Callable[[slice], Tensor]
_LARGE = 2**22
# Before the names of what the server alone reads, beside those that a rule chose for its memory.
_ALONE = "server:"


def check(experiment: Experiment) -> None:
    """Refuse what real machines cannot carry out, beside what ``Experiment.check`` refuses.

    Raises:
        InputError: with the nearest plan that works.
    """
    experiment.check()
    if not isinstance(experiment.plan, Star):
        raise InputError(
            f"topology: {experiment.plan!r} was given; among real machines allowed is Star()"
        )
    if experiment.attacks:
        raise InputError("attack: real machines take no part in a simulated one; leave it out")
    if experiment.compression is not None:
        raise InputError(
            f"compression: {experiment.compression!r} was given; among real machines updates travel"
            " as float32 so far; leave it out"
        )
    for part in experiment.protection:
        if isinstance(part, RandomisedResponse):
            raise InputError(
                f"protection: {part!r} was given; among real machines labels are not randomised so"
                " far; use DPSGD"
            )
    guard = experiment.guard
    if guard and isinstance(guard.clip, AdaptiveClip):
        raise InputError(
            f"protection: {guard.clip!r} was given; among real machines use Clip({guard.clip.norm})"
        )
    if guard and guard.secure and not isinstance(guard.secure, SecureAggregation):
        raise InputError(
            f"protection: {guard.secure!r} was given; among real machines use SecureAggregation()"
        )
    if guard and guard.secure and guard.commits:
        raise InputError(
            f"protection: {guard.proof or guard.verify!r} was given; among real machines sums are"
            " not checked against commitments so far; leave it out"
        )


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
        steps: for each of the algorithm's exchanges, (d,) from what the server had: what the site
            sends, or keeps for a secure sum.
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
        if not all(finite(step) for step in sending.steps):
            raise DivergenceError(experiment.data.names[self.node], round + 1)
        self.own = {name: state[name] for name in self.own}
        return Part([self.guarded(step, round) for step in sending.steps], train.local.mean_loss())

    def guarded(self, step: Tensor, round: int) -> Tensor:
        """(d,) what leaves the site of a (d,) step: clipped, with local noise."""
        guard, experiment = self.experiment.guard, self.experiment
        if guard is None or guard.secure or not guard.guards_updates:
            return step
        now = Round(round, experiment.rounds, experiment.seed)
        protector = Protector(guard, now, self.digest, np.empty(0, np.int64), secret=True)
        return protector.steps(step.unsqueeze(0), np.array([self.node]))[0]

    def hidden(
        self, step: Tensor, round: int, exchange: int, nodes: Ints
    ) -> NDArray[np.unsignedinteger]:
        """(length,) what this node hides in a secure sum, of a (d,) step of ``take_part``.

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
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.memory = experiment, dict[str, Tensor]()
        self.digest = bytes.fromhex(experiment.digest())
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
        now, protector = self.now(round), self._protector(round) if central else None
        star = StarExchange(plan, experiment.aggregation, nodes, now, n, None, protector)
        self._step(round, nodes, Closing(star, iter(arrived)))

    def close_sums(self, round: int, sums: Sequence[Opened]) -> None:
        """Take a round's step with the secure sum of each of the algorithm's exchanges.

        Raises:
            SumError: a sum that no honest nodes can have sent.
        """
        nodes = np.array(sums[-1].nodes, np.int64)
        self._step(round, nodes, Summed(self._protector(round), iter(sums)))

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
    """``ServerExchange`` at the server, for what secure sums have opened."""

    def __init__(self, protector: Protector, sums: Iterator[Opened]) -> None:
        self.protector, self.sums = protector, sums

    def __call__(self, own: Tensor, received: Updates | Tensor, weight: Tensor) -> Tensor:
        opened = next(self.sums)
        assert opened.total is not None
        return own + self.protector.opened(opened.total, len(opened.nodes), own.shape[-1])


@dataclass(eq=False)
class Arrived:
    """``Updates`` as they lie with the server, read one after another."""

    nodes: Ints
    own: Tensor
    steps: Sequence[Read]

    def sum(self, weight: Tensor) -> Tensor:
        total = self.own * weight.sum()
        for first in range(0, len(total), PIECE):
            at = slice(first, min(first + PIECE, len(total)))
            for share, read in zip(weight.tolist(), self.steps, strict=True):
                total[at].add_(read(at), alpha=share)
        return total

    def matrix(self) -> Tensor:
        whole = slice(0, self.own.shape[-1])
        return torch.stack([self.own + read(whole) for read in self.steps])
