"""A round of gossip at one node, which has its own row of the state and its neighbours' models."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.algorithms import ADPSGD, Gossip
from tacit.data.federation import Federation
from tacit.data.sites import told
from tacit.engine.exchange import GraphExchange
from tacit.engine.local import LocalTrain
from tacit.engine.protect import Protector
from tacit.errors import DivergenceError, InputError
from tacit.experiment import Experiment
from tacit.network.rounds import Site, SiteTrain
from tacit.topology import Graph, Neighbours
from tacit.training.plan import Ints

# Lets neighbours have this node's (d,) model of the round; gives what they have, if they do.
Send = Callable[[Tensor], Tensor]
# The (d,) models of those neighbours that answer.
Gather = Callable[[Ints], Mapping[int, Tensor]]


def check(experiment: Experiment) -> None:
    """Refuse what peers cannot carry out, beside what ``Experiment.check`` refuses.

    Raises:
        InputError: with the nearest plan that works.
    """
    if not isinstance(experiment.plan, Graph):
        raise InputError(
            f"topology: {experiment.plan!r} was given, but peers have no server; use Gossip() as"
            " the algorithm with Ring() or another graph, or tacit coordinator"
        )
    if not isinstance(experiment.algorithm, Gossip | ADPSGD):
        raise InputError(
            f"algorithm: {experiment.algorithm!r} was given; among peers allowed is Gossip(), or"
            " ADPSGD()"
        )
    experiment.check()
    if experiment.attacks:
        raise InputError("attack: real machines take no part in a simulated one; leave it out")
    if experiment.compression is not None:
        raise InputError(
            f"compression: {experiment.compression!r} was given; among peers models travel as"
            " float32 so far; leave it out"
        )
    if kept := experiment.aggregation.uses - {"start", "root"}:
        raise InputError(
            f"aggregation: {experiment.aggregation!r} was given, which needs {' and '.join(kept)};"
            " among peers use a rule that judges the models by themselves, such as Balance()"
        )
    guard = experiment.guard
    if guard and guard.secure:
        raise InputError(
            f"protection: {guard.secure!r} was given, which peers do not carry out so far; use Clip"
            " and GaussianNoise(where='local'), or DPSGD"
        )


class Peer(Site):
    """A node's part of a run without a server; ``own`` has its row of the state.

    ``turned_away`` tells whose models of the last round it had and did not count, and why.

    Others' rows are not known and not needed: what DP-SGD costs is accounted for by its own.

    Args:
        experiment: without rows.
        data: the same federation with the rows of ``node``.

    Raises:
        InputError: a privacy budget that is spent before the last round.
    """

    def __init__(self, experiment: Experiment, data: Federation, node: int) -> None:
        rows = np.where(np.arange(data.nodes) == node, data.train.sizes, 0)
        experiment = experiment.replace(data=told(experiment.data, rows.tolist()))
        super().__init__(experiment, data, node)
        self.turned_away: dict[int, str] = {}
        guard = experiment.guard
        if guard and guard.rounds < experiment.rounds:
            raise InputError(
                f"rounds: {experiment.rounds} was given, but {guard.budget!r} allows"
                f" {guard.rounds}; use rounds={guard.rounds}"
            )

    def graph(self, round: int) -> Neighbours:
        """Who sends to whom in a round."""
        experiment, plan = self.experiment, self.experiment.plan
        assert isinstance(plan, Graph)
        return plan.graph(experiment.data.nodes, experiment.seed, round)

    def hearers(self, round: int) -> Ints:
        """(k,) to whom this node sends in a round."""
        links = self.graph(round)
        return links.receivers[links.senders == self.node]

    def carry_out(self, round: int, send: Send, gather: Gather) -> float:
        """One round, after which ``own`` is new; whatever is raised leaves it as it was.

        Returns:
            The mean training loss; NaN without rows.

        Raises:
            DivergenceError: the loss, or what would be sent, is not finite.
        """
        local = LocalTrain(self.trainer, np.array([self.node]), round)
        local.keeps_start = True
        exchange = Mixing(self, local, send, gather)
        own = {name: tensor.clone() for name, tensor in self.own.items()}
        self.own, _ = self.experiment.algorithm.round(own, SiteTrain(local), exchange)
        return local.mean_loss()


class Mixing:
    """``PeerExchange`` at a single node: weights are those of the whole graph.

    The weight of a neighbour that does not answer goes to the node's own model, which is kept as it
    is where too few answer for the rule to keep its promise.
    """

    def __init__(self, peer: Peer, local: LocalTrain, send: Send, gather: Gather) -> None:
        self.peer, self.local, self.send, self.gather = peer, local, send, gather

    def __call__(
        self, models: Tensor, *, start: Tensor | None = None, push: bool = False
    ) -> Tensor:
        peer, links = self.peer, self.peer.graph(self.local.round)
        experiment, node = peer.experiment, peer.node
        now = Round(self.local.round, experiment.rounds, experiment.seed)
        whole = GraphExchange(links, experiment.aggregation, now)
        own = self.send(self._guarded(models, now)[0]).unsqueeze(0)
        at = np.arange(links.offsets[node], links.offsets[node + 1])
        found = self.gather(links.senders[at])
        at = at[np.isin(links.senders[at], list(found))]
        rule = type(experiment.aggregation).__name__
        if len(at) < experiment.aggregation.least:
            peer.turned_away = dict.fromkeys(found, f"too few came for {rule}")
            return own
        now = replace(
            whole.round, receivers=torch.tensor([node]), links=torch.from_numpy(at).unsqueeze(0),
            start=self.local.start,
        )  # fmt: skip
        received = torch.stack([found[int(sender)] for sender in links.senders[at]])
        weight = torch.from_numpy(whole.weight()[at]).unsqueeze(0)
        mixed, accepted = experiment.aggregation(own, received.unsqueeze(0), weight, now)
        turned = links.senders[at][accepted[0].numpy() <= 0].tolist()
        peer.turned_away = dict.fromkeys(turned, f"turned away by {rule}")
        return mixed

    def _guarded(self, models: Tensor, now: Round) -> Tensor:
        peer, guard, start = self.peer, self.peer.experiment.guard, self.local.start
        if guard is not None and guard.guards_updates:
            assert start is not None
            none = np.empty(0, np.int64)
            protector = Protector(guard, now, peer.digest, none, secret=True)
            models = start + protector.steps(models - start, np.array([peer.node]))
        if not models.isfinite().all():
            raise DivergenceError(peer.experiment.data.names[peer.node], now.index + 1)
        return models
