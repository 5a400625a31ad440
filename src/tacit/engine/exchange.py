"""Who receives what in a round, aggregated; what adversaries make of it; how many bytes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.aggregation.gram import Geometry, GramRule, gram
from tacit.aggregation.mean import Mean
from tacit.aggregation.rule import Aggregated, Aggregation, Round
from tacit.algorithms.base import Updates
from tacit.engine.adversary import Adversary, Sent
from tacit.engine.local import LocalTrain
from tacit.engine.protect import Protector
from tacit.engine.uplink import PublicCopies, Uplink
from tacit.protection import HomomorphicEncryption
from tacit.topology import Hierarchical, Neighbours, Star
from tacit.training.plan import Ints

FLOAT_BYTES = 4
SERVER = -1
Listener = Callable[[int, np.ndarray], None]
_CACHE_FLOATS = 2**18
# Received numbers of one call of a rule, and rows of one Gram matrix.
_MOST_FLOATS = 2**26
_MOST_ROWS = 2048
# Squared distances, relative to a squared length, of which float64 leaves half of the digits.
_COARSE = 1e-8


@dataclass(frozen=True, eq=False)
class Verdict:
    """How far each link's vector was let through: (e,) senders, receivers, acceptances."""

    senders: Ints
    receivers: Ints
    accepted: Tensor


class StarExchange:
    """``ServerExchange``: the cohort sends to the server (or to its group's), which sends back.

    Nodes compress, and adversaries see and replace what the server reads in the messages: a lie is
    not compressed, counts as many bytes, and may be any vector, more than some messages could say.

    Attributes:
        bytes: sent by all parties so far.
        verdict: of the first exchange in the round; None where a rule streams.
        listener: is told what each node sends, for the run's record; secure sums tell it by
            themselves.
    """

    listener: Listener | None = None

    def __init__(
        self,
        topology: Star | Hierarchical,
        aggregation: Aggregation,
        nodes: Ints,
        round: Round,
        n: int,
        adversary: Adversary | None = None,
        protector: Protector | None = None,
        uplink: Uplink | None = None,
    ) -> None:
        self.aggregation, self.nodes, self.adversary = aggregation, nodes, adversary
        self.protector, self.uplink = protector, uplink
        self.round = replace(round, receivers=torch.tensor(SERVER), all_links=n)
        self.groups = topology.group_of(n)[nodes] if isinstance(topology, Hierarchical) else None
        self.masked = protector is not None and protector.guard.secure is not None
        self.bytes = 0
        self.verdict: Verdict | None = None

    def __call__(self, own: Tensor, received: Updates | Tensor, weight: Tensor) -> Tensor:
        links = len(self.nodes)
        if self.groups is not None:
            links += len(np.unique(self.groups))
        self.bytes += 2 * links * FLOAT_BYTES * own.shape[-1]
        noised = self.protector is not None and self.protector.adds_noise
        if not len(self.nodes) and not noised:
            return own
        lying = self.adversary is not None and self.adversary.lies
        plain = self.protector is self.uplink is None and not isinstance(received, Tensor)
        plain = plain and self.listener is None
        if self.aggregation.streams and plain and not lying:
            # A streaming rule is (1 - sum(w)) own + sum(w_i received_i); groups do not change it.
            assert not isinstance(received, Tensor)
            result = received.sum(weight).add_(own, alpha=float(1 - weight.sum()))
            if self.adversary is None or result.isfinite().all():
                return result
        matrix = received if isinstance(received, Tensor) else received.matrix()
        up, arrived = FLOAT_BYTES * matrix.numel(), None
        if self.uplink is not None and len(self.nodes):
            arrived, sent = self.uplink(matrix - own, self.nodes)
            matrix = own + arrived
            self.bytes += sent - up
            up = sent
        if self.adversary is not None:
            matrix, arrived = self._lied(self.adversary, own, matrix, weight), None
        if self.protector is not None:
            at = self.uplink.coordinates if self.uplink else torch.arange(own.shape[-1])
            steps = (matrix - own if arrived is None else arrived)[:, at]
            if self.masked and not self.aggregation.streams:  # of groups: see check_protection
                self.bytes -= up
                return self._of_sums(self.protector, own, steps, weight, at)
            if self.protector.sums_up:
                if not self.masked:
                    _tell(self.listener, self.nodes, steps)
                step = self.protector.mean(steps, weight, self.nodes, own, self.groups)
                if self.masked:
                    self.bytes += self.protector.sent - up
                if isinstance(self.protector.guard.secure, HomomorphicEncryption):
                    self.bytes -= FLOAT_BYTES * matrix.numel()  # nodes receive the sum instead
                if self.protector.guard.proof:
                    counted = np.isin(self.nodes, self.protector.counted)
                    self._judged(torch.from_numpy(counted).float())
                return own if step is None else own.index_add(0, at, step)
            guarded = self.protector.steps(steps, _draws(self.nodes, self.round.all_links))
            matrix = own.expand_as(matrix).index_add(1, at, guarded)
        if self.listener:
            _tell(self.listener, self.nodes, matrix - own)
        result, accepted = self._aggregate(own, matrix, weight, self.round)
        if not self.aggregation.streams or lying or not accepted.all():
            self._judged(accepted)
        return result

    def _judged(self, accepted: Tensor) -> None:
        if self.verdict is None:
            self.verdict = Verdict(self.nodes, np.full(len(self.nodes), SERVER), accepted)

    def _of_sums(
        self, protector: Protector, own: Tensor, steps: Tensor, weight: Tensor, at: Tensor
    ) -> Tensor:
        """What the rule makes of the groups' means, which secure sums open one by one."""

        def head(member: Tensor) -> Aggregated | None:
            mean = protector.mean(steps[member], weight[member], self.nodes[member.numpy()], own)
            self.bytes += protector.sent
            if mean is None:
                return None
            return Aggregated(own.index_add(0, at, mean), torch.ones(len(member)))

        result, accepted = self._above(own, weight, self.round, head)
        self._judged(accepted)
        return result

    def _lied(self, adversary: Adversary, own: Tensor, matrix: Tensor, weight: Tensor) -> Tensor:
        everyone = np.arange(len(self.nodes))

        def ask(sent: Sent) -> tuple[Tensor, Tensor]:
            quiet = replace(self.round, memory=dict(self.round.memory))
            result, accepted = self._aggregate(own, sent.rows[sent.index], weight, quiet)
            return result.unsqueeze(0), accepted

        sent = adversary(
            self.round, self.nodes, matrix, own, everyone,
            np.full(len(everyone), SERVER), own.unsqueeze(0), None, None, ask,
        )  # fmt: skip
        return sent.rows[sent.index]

    def _aggregate(
        self, own: Tensor, matrix: Tensor, weight: Tensor, round: Round
    ) -> tuple[Tensor, Tensor]:
        links = torch.from_numpy(self.nodes)
        if self.groups is None or self.aggregation.streams:
            return self.aggregation(own, matrix, weight, replace(round, links=links))
        inside = Mean() if self.masked else self.aggregation

        def head(member: Tensor) -> Aggregated:
            share, here = weight[member] / weight[member].sum(), replace(round, links=links[member])
            return inside(own, matrix[member], share, here)

        return self._above(own, weight, round, head)

    def _above(
        self,
        own: Tensor,
        weight: Tensor,
        round: Round,
        head: Callable[[Tensor], Aggregated | None],
    ) -> tuple[Tensor, Tensor]:
        """What the rule makes of the one vector that ``head`` makes of each group's nodes."""
        found: list[tuple[Tensor, Aggregated]] = []
        assert self.groups is not None
        for group in np.unique(self.groups):
            member = torch.from_numpy(np.flatnonzero(self.groups == group))
            if weight[member].any() and (made := head(member)):  # else a group without rows
                found.append((member, made))
        accepted = torch.zeros_like(weight)
        if not found:
            return own, accepted
        links = torch.stack([torch.from_numpy(self.groups)[member[0]] for member, _ in found])
        above = replace(round, links=links, memory=round.memory if self.masked else {})
        heads = torch.stack([made.result for _, made in found])
        shares = torch.stack([weight[member].sum() for member, _ in found])
        result, passed = self.aggregation(own, heads, shares, above)
        for (member, made), share in zip(found, passed, strict=True):
            accepted[member] = made.accepted * share
        return result, accepted


class GraphExchange:
    """``PeerExchange``: every node sends to its neighbours and aggregates what it receives.

    Weights are Metropolis-Hastings where links go both ways, else uniform over the received.

    Attributes:
        train: whose start the rule or adversaries look at; None where they do not.
        listener: is told what each node sends, for the run's record.
    """

    listener: Listener | None = None

    def __init__(
        self,
        neighbours: Neighbours,
        aggregation: Aggregation,
        round: Round,
        adversary: Adversary | None = None,
        protector: Protector | None = None,
        copies: PublicCopies | None = None,
    ) -> None:
        self.neighbours, self.aggregation, self.adversary = neighbours, aggregation, adversary
        self.protector, self.copies = protector, copies
        self.round = replace(round, all_links=neighbours.edges)
        self.bytes = 0
        self.pushed = False
        self.train: LocalTrain | None = None
        self.start: Tensor | None = None
        self.verdict: Verdict | None = None

    def __call__(
        self, models: Tensor, *, start: Tensor | None = None, push: bool = False
    ) -> Tensor:
        links, size = self.neighbours, models.shape[-1]
        self.pushed = push
        if self.protector is None:
            _tell(self.listener, range(links.nodes), models)
        self.start = self.train.start if start is None and self.train is not None else start
        if push:
            self.bytes += links.edges * FLOAT_BYTES * size
            return mix(models, links, links.push(), links.push_own())
        weight = self.weight()
        if self.protector is not None and self.start is not None:
            start = self.start.expand_as(models)
            models = start + self.protector.steps(models - start, np.arange(links.nodes))
            if self.protector.guard.secure is None:
                _tell(self.listener, range(links.nodes), models)
        if self.copies is not None:
            assert self.start is not None
            mixed, told = self.copies(
                models,
                self.start.expand_as(models),
                lambda columns: mix(columns.clone(), links, weight, links.own(weight)),
            )
            self.bytes += int(links.out_degree @ told.numpy())
            return mixed
        lying = self.adversary is not None and self.adversary.lies
        finite = self.adversary is None or bool(models.isfinite().all())
        secure = self.protector is not None and self.protector.guard.secure is not None
        if self.aggregation.streams and not lying and finite and not secure:
            self.bytes += links.edges * FLOAT_BYTES * size
            return mix(models, links, weight, links.own(weight))
        sent = Sent(models, links.senders)
        if self.adversary is not None:
            sent = self._lied(self.adversary, models, weight)
        if self.protector is not None and self.protector.guard.secure:
            return self._masked(self.protector, models, sent, weight)
        everyone = np.arange(links.nodes)
        result, accepted = self._aggregate(models, sent, weight, everyone, self.round)
        if self.verdict is None:
            self.verdict = Verdict(links.senders, links.receivers, accepted)
        let_through = int((accepted > 0).sum())
        self.bytes += FLOAT_BYTES * self.aggregation.traffic(links.edges, let_through, size)
        return result

    def _masked(
        self, protector: Protector, models: Tensor, sent: Sent, weight: np.ndarray
    ) -> Tensor:
        """(n, d) each node's own model, and its neighbours' as their sum behind masks."""
        links = self.neighbours
        result = models * torch.from_numpy(links.own(weight)).unsqueeze(-1).to(models.dtype)
        for node in np.flatnonzero(links.degree):
            at = slice(links.offsets[node], links.offsets[node + 1])
            share = torch.from_numpy(weight[at]).float()
            mean = protector.mean(
                sent.rows[torch.from_numpy(sent.index[at])], share, links.senders[at]
            )
            self.bytes += protector.sent
            if mean is None:
                result[node] = models[node]
            else:
                result[node] += mean * share.sum()
        return result

    def _lied(self, adversary: Adversary, models: Tensor, weight: np.ndarray) -> Sent:
        links = self.neighbours

        def ask(sent: Sent) -> tuple[Tensor, Tensor]:
            victims = adversary.victims(links.senders, links.receivers)
            quiet = replace(self.round, memory=dict(self.round.memory))
            result, accepted = self._aggregate(models, sent, weight, victims, quiet)
            return result[torch.from_numpy(victims)], accepted

        return adversary(
            self.round, np.arange(links.nodes), models, self.start, links.senders,
            links.receivers, models, links, weight, ask,
        )  # fmt: skip

    def _aggregate(
        self, models: Tensor, sent: Sent, weight: np.ndarray, receivers: Ints, round: Round
    ) -> tuple[Tensor, Tensor]:
        """(n, d) what ``receivers`` make of what was sent, and the (e,) acceptances."""
        rule, links = self.aggregation, self.neighbours
        # One Gram matrix of all that was sent serves every receiver.
        network = len(receivers) == links.nodes and len(sent.rows) <= _MOST_ROWS
        if network and isinstance(rule, GramRule) and rule.whole and not rule.uses:
            # Any centre close to the models does; a few of them give one.
            products = gram(sent.rows, models[:: 1 + links.nodes // 8].mean(0))
            combined = self._combined(rule, products, models, sent, weight, round)
            if combined is not None:
                return combined
        result, accepted = models.clone(), torch.zeros(links.edges)
        for group, at in _by_degree(links, receivers, models.shape[-1]):
            out = rule(
                models[group],
                sent.rows[torch.from_numpy(sent.index[at])],
                torch.from_numpy(weight[at].astype(np.float32)),
                self._seen(round, group, at),
            )
            result[group], accepted[torch.from_numpy(at)] = out
        return result, accepted

    def _combined(
        self,
        rule: GramRule,
        products: Tensor,
        models: Tensor,
        sent: Sent,
        weight: np.ndarray,
        round: Round,
    ) -> tuple[Tensor, Tensor] | None:
        """``_aggregate`` by the products of all that was sent; None where they are too coarse."""
        links = self.neighbours
        norms = torch.linalg.vector_norm(models, dim=-1).double().square()
        factors, accepted = np.zeros(links.edges, np.float32), torch.zeros(links.edges)
        for group, at in _by_degree(links, np.arange(links.nodes), 1):
            rows = torch.from_numpy(sent.index[at])
            rule.check(at.shape[1])
            cross = products[group.unsqueeze(1), rows]
            differences = (
                products[rows.unsqueeze(2), rows.unsqueeze(1)]
                - cross.unsqueeze(2)
                - cross.unsqueeze(1)
                + products[group, group].view(-1, 1, 1)
            )
            geometry = Geometry(differences, norms[group])
            # Far from the centre, which one huge model can carry away, differences cancel.
            coarse = products[group, group] * _COARSE > geometry.squares.median(-1).values
            if coarse.any() or not differences.isfinite().all():
                return None
            share = torch.from_numpy(weight[at]).double()
            found, let = rule.combine(geometry, share, self._seen(round, group, at))
            factors[at], accepted[torch.from_numpy(at)] = found.float().numpy(), let.float()
        n, r = links.nodes, len(sent.rows)
        own = (1 - np.bincount(links.receivers, factors, n)).astype(np.float32)
        if 10 * (links.edges + n) < n * r:  # few links: in O(e d)
            return mix(sent.rows, Neighbours(links.offsets, sent.index), factors, own), accepted
        matrix = F.pad(torch.from_numpy(own).diag(), (0, r - n))
        matrix.view(-1).index_add_(
            0, torch.from_numpy(links.receivers * r + sent.index), torch.from_numpy(factors)
        )
        for columns in sent.rows.split(max(64, _CACHE_FLOATS // r), dim=1):
            columns[:n].copy_(matrix @ columns)
        return sent.rows[:n], accepted

    def _seen(self, round: Round, group: Tensor, at: Ints) -> Round:
        start = self.start
        if start is not None:
            start = start.expand(self.neighbours.nodes, -1)[group]
        return replace(round, receivers=group, links=torch.from_numpy(at), start=start)

    def spectral_gap(self) -> float:
        """1 - |lambda_2| of the mixing matrix that was used last."""
        links = self.neighbours
        if self.pushed:
            return links.spectral_gap(links.push(), links.push_own())
        return links.spectral_gap(self.weight())

    def weight(self) -> np.ndarray:
        """(e,) mixing weight of each link."""
        return (
            self.neighbours.metropolis() if self.neighbours.symmetric else self.neighbours.uniform()
        )


def _draws(nodes: Ints, n: int) -> Ints:
    """(k,) for whom noise is drawn: one of (k,) nodes that comes again draws its own each time."""
    order = np.argsort(nodes, kind="stable")
    inside = nodes[order]
    before = np.empty_like(nodes)
    before[order] = np.arange(len(nodes)) - np.searchsorted(inside, inside)
    return nodes + n * before


def _tell(listener: Listener | None, nodes: Iterable[int], sent: Tensor) -> None:
    """Tell, if somebody listens, what each node sends."""
    if listener:
        for node, row in zip(nodes, sent, strict=True):
            listener(int(node), row.numpy())


def mix(models: Tensor, links: Neighbours, weight: np.ndarray, own: np.ndarray) -> Tensor:
    """W X for (r, d) models, in place and in O(e d): each node's own row and its neighbours'.

    Senders may be rows beyond the nodes' own, which come first. Some columns at a time, so that
    they stay in the cache and no second matrix is needed.
    """
    n = links.nodes
    offsets = torch.from_numpy((links.offsets + np.arange(n + 1))[:-1])
    rows = torch.from_numpy(np.insert(links.senders, links.offsets[:-1], np.arange(n)))
    weights = np.insert(weight, links.offsets[:-1], own).astype(np.float32)
    for columns in models.split(max(64, _CACHE_FLOATS // n), dim=1):
        columns[:n].copy_(
            F.embedding_bag(
                rows,
                columns.contiguous(),
                offsets,
                mode="sum",
                per_sample_weights=torch.from_numpy(weights),
            )
        )
    return models[:n]


def _by_degree(links: Neighbours, receivers: Ints, size: int) -> Iterator[tuple[Tensor, Ints]]:
    """Receivers (m,) and their links (m, k), some at a time, for each degree k above 0."""
    degree = np.diff(links.offsets)[receivers]
    for k in np.unique(degree[degree > 0]):
        same = receivers[degree == k]
        for part in np.array_split(same, -(-len(same) * int(k) * size // _MOST_FLOATS)):
            yield torch.from_numpy(part), links.offsets[part][:, None] + np.arange(k)
