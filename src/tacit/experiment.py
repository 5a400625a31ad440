"""The frozen description of an experiment, and the checks of it before anything runs."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.aggregation import Aggregation, Mean
from tacit.algorithms import (
    Algorithm,
    FedAvg,
    Gossip,
    PushSum,
)
from tacit.algorithms.arrivals import Arrivals
from tacit.attacks.base import Attack
from tacit.attacks.placement import chosen
from tacit.checks import (
    check_aggregation,
    check_attacks,
    check_compression,
    check_fit,
    check_pace,
    check_protection,
    check_swarm,
)
from tacit.compression import Compressor
from tacit.data import Contract, Federation, check
from tacit.data.contract import Part
from tacit.description import describe, digest
from tacit.errors import InputError, require, require_whole
from tacit.layout import Layout, template
from tacit.protection import Protection, SecureAggregation
from tacit.protection.guard import Guard, Setting
from tacit.protection.release import Poisson, Sampler, WithoutReplacement
from tacit.randomness import torch_seed
from tacit.topology import Graph, Hierarchical, Ring, Star
from tacit.training.losses import Loss
from tacit.training.lowering import least_batch
from tacit.training.optimizers import Training
from tacit.training.plan import Ints, Plan

Topology = Star | Hierarchical | Graph


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """What is learned, by whom, how, and under which protections.

    Attributes:
        data: the nodes and their rows.
        model: a function that makes a ``torch.nn.Module`` (or a module, which is copied).
        loss: ``loss(output, target) -> scalar``, the mean over a batch's rows.
        training: local training, ``SGD(...)`` or ``Adam(...)``.
        algorithm: how rounds follow each other.
        topology: who talks to whom; by default a star for algorithms with a server and a ring for
            those without.
        aggregation: how a receiver combines what it received.
        attack: adversaries among the nodes, one or several, to find out what they cost; None: all
            nodes are honest. With an attack, honest nodes alone are measured.
        protection: what is done to an update on its way, and promises something about it:
            ``Clip``, ``GaussianNoise``, ``SecureAggregation``, ``DPSGD`` and others; their order is
            fixed, however they are listed.
        compression: how nodes tell a server the difference to its model in fewer bytes, or their
            neighbours that to what they know already (CHOCO): ``TopK``, ``DRIVE`` and others; None:
            as float32.
        rounds: number of rounds, at least 1.
        seed: of every random choice.
        evaluate_every: measure on the test rows after every so many rounds (and after the last).
        contract: what every node's data must look like; by default derived from the nodes' data.
    """

    data: Federation
    model: Callable[[], nn.Module] | nn.Module
    loss: Loss
    training: Training
    algorithm: Algorithm = field(default_factory=FedAvg)
    topology: Topology | None = None
    aggregation: Aggregation = field(default_factory=Mean)
    attack: Attack | Sequence[Attack] | None = None
    protection: Sequence[Protection] = ()
    compression: Compressor | None = None
    rounds: int = 10
    seed: int = 0
    evaluate_every: int = 1
    contract: Contract | None = None

    def __post_init__(self) -> None:
        for name, kind in (
            ("data", Federation),
            ("training", Training),
            ("algorithm", Algorithm),
            ("topology", Topology | None),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind):
                wanted = getattr(kind, "__name__", "topology")
                given = repr(value) if len(repr(value)) < 80 else type(value).__name__
                raise InputError(f"{name}: {given} was given; allowed is tacit's {wanted}")
        rule = isinstance(self.aggregation, Aggregation)
        require(rule, "aggregation", self.aggregation, "a rule such as Mean()")
        lying = all(isinstance(attack, Attack) for attack in self.attacks)
        allowed = "None, one of tacit.attacks such as ALIE(), or a list of them"
        require(lying, "attack", self.attack, allowed)
        known = self.compression is None or isinstance(self.compression, Compressor)
        require(known, "compression", self.compression, "None, or one such as TopK(0.1)")
        for name in ("model", "loss"):
            require(callable(getattr(self, name)), name, getattr(self, name), "a function")
        for name in ("rounds", "evaluate_every"):
            require_whole(1, name, getattr(self, name))
        require(type(self.seed) is int, "seed", self.seed, "a whole number")
        if not isinstance(self.protection, Sequence):
            raise InputError(
                f"protection: {self.protection!r} was given; allowed is a list, such as"
                " [Clip(1.0), SecureAggregation()]"
            )
        for part in self.protection:
            if not isinstance(part, Protection):
                raise InputError(
                    f"protection: {part!r} was given; allowed are Clip(1.0), GaussianNoise(...),"
                    " SecureAggregation() and other protections of tacit"
                )

    @property
    def attacks(self) -> tuple[Attack, ...]:
        """The adversaries, in the order in which they act."""
        if self.attack is None:
            return ()
        return tuple(self.attack) if isinstance(self.attack, Sequence) else (self.attack,)

    @cached_property
    def placed(self) -> tuple[Ints, ...]:
        """(b,) ids of each attack's malicious nodes."""
        plan, data = self.plan, self.data
        graph = plan.graph(data.nodes, self.seed, 0) if isinstance(plan, Graph) else None
        return tuple(chosen(a.nodes, data.names, graph, self.seed) for a in self.attacks)

    @property
    def malicious(self) -> Ints:
        """(b,) ids of all malicious nodes, ascending."""
        found = np.concatenate([np.empty(0, np.int64), *self.placed])
        return np.unique(found)

    @property
    def honest(self) -> Ints:
        """(h,) ids of all other nodes, ascending."""
        return np.setdiff1d(np.arange(self.data.nodes), self.malicious)

    @cached_property
    def inputs(self) -> int:
        """The fewest vectors that a receiver aggregates in any round; 0 where nobody does.

        Aggregators of groups are receivers, unless a secure sum leaves them no choice, and the one
        above them, who receives one vector from each group that has nodes in the round.
        """
        if (plan := self.plan) is None:
            return 0
        counts = [np.bincount(receivers) for _, receivers in self._links()]
        if isinstance(plan, Hierarchical):
            above = [np.array([np.count_nonzero(groups)]) for groups in counts]
            counts = above if self.sums_groups else counts + above
        received = np.concatenate(counts)
        return int(min(received[received > 0], default=0))

    @property
    def sums_groups(self) -> bool:
        """Whether the aggregator of a group learns its nodes' sum alone."""
        masks = any(isinstance(part, SecureAggregation) for part in self.protection)
        return masks and isinstance(self.plan, Hierarchical)

    def exposure(self, malicious: Ints) -> int:
        """The most of these nodes that any other one, or a server, hears in a round.

        Where groups are summed, the most groups with one of them.
        """
        most = 0
        for senders, receivers in self._links():
            if self.sums_groups:
                most = max(most, len(np.unique(receivers[np.isin(senders, malicious)])))
                continue
            lies = np.isin(senders, malicious) & ~np.isin(receivers, malicious)
            most = max(most, *np.bincount(receivers[lies], minlength=1))
        return most

    def _links(self) -> Iterator[tuple[Ints, Ints]]:
        """(e,) senders and receivers of each round that differs; servers come after the nodes."""
        plan, n, seed = self.plan, self.data.nodes, self.seed
        static = plan.static if isinstance(plan, Graph) else getattr(plan, "cohort", 0) is None
        static = static and (self.arrivals is None or isinstance(plan, Graph))
        for round in range(1 if static else self.rounds):
            if isinstance(plan, Graph):
                links = plan.graph(n, seed, round)
                yield links.senders, links.receivers
            elif plan is not None:
                cohort = self.cohort(round)
                if isinstance(plan, Hierarchical):
                    yield cohort, n + plan.group_of(n)[cohort]
                else:
                    yield cohort, np.full_like(cohort, n)

    @cached_property
    def arrivals(self) -> tuple[Arrivals, ...] | None:
        """Who is done in each round where nodes work at their own pace; None: in step.

        Raises:
            InputError: an algorithm that does not suit the number of nodes.
        """
        return self.algorithm.arrivals(self.data.nodes, self.seed, self.rounds)

    def cohort(self, round: int) -> Ints:
        """(k,) the nodes that take part in a round; one stands for all whose rows are pooled."""
        if self.arrivals is not None:
            return self.arrivals[round].nodes
        if isinstance(self.plan, Star | Hierarchical):
            return self.plan.sample(self.data.nodes, self.seed, round)
        return np.arange(1 if self.algorithm.pools else self.data.nodes)

    @cached_property
    def guard(self) -> Guard | None:
        """The protections, checked against each other; None without any.

        Raises:
            InputError: they do not hold together.
        """
        if not self.protection:
            return None
        plan, n, training = self.plan, self.data.nodes, self.algorithm.local(self.training)
        links = list(self._links())
        most = max((int(np.bincount(to).max(initial=0)) for _, to in links), default=0)
        # A node without rows hides nobody in a sum. Sites tell theirs later, and all have some.
        sizes = self.data.train.sizes
        full = (sizes > 0) | (sizes.sum() == 0)
        hiding = [np.bincount(to[full[senders]]) for senders, to in links]
        fewest = min((int(found[found > 0].min()) for found in hiding if found.any()), default=0)
        cohort, sampler = n, None
        if isinstance(plan, Star | Hierarchical) and plan.cohort is not None:
            cohort, sampler = plan.cohort, _sampler(plan, n)
        split = self.data.train.pooled() if self.algorithm.pools else self.data.train
        local = Plan.of(split, np.arange(split.nodes), training, self.seed, 0, poisson=True)
        busy = local.steps > 0
        rates = (local.batch_size / np.maximum(local.sizes, 1))[busy]
        dimension = sum(self.algorithm.sends(self.layout).values())
        if self.compression is not None and self.compression.linear:
            dimension = self.compression.upload_bytes(self.layout) // 4
        setting = Setting(
            self.rounds, cohort, fewest, most, sampler, isinstance(plan, Graph), dimension,
            _passed_by_none(rates, local.steps[busy]),
            1 if plan is None or isinstance(plan, Graph) else plan.separation(n),
            plan.groups if isinstance(plan, Hierarchical) else 0,
            self._participations(),
        )  # fmt: skip
        return Guard.of(self.protection, setting)

    def _participations(self) -> tuple[int, ...] | None:
        """How often the busiest node has delivered after each round; None: once a round."""
        if self.arrivals is None or self.algorithm.exchanges != "server":
            return None
        often, most = np.zeros(self.data.nodes, np.int64), list[int]()
        for round in self.arrivals:
            np.add.at(often, np.concatenate([round.nodes, round.dropped]), 1)
            most.append(int(often.max()))
        return tuple(most)

    @property
    def plan(self) -> Topology | None:
        """The topology in use: the given one, or the algorithm's usual one."""
        if self.topology is not None or self.algorithm.exchanges == "nobody":
            return self.topology
        return Star() if self.algorithm.exchanges == "server" else Ring()

    @cached_property
    def root(self) -> tuple[Tensor, Tensor] | None:
        """A server's clean rows, as the data's are; None: the rule has none.

        Raises:
            InputError: they do not fit the data.
        """
        if (given := self.aggregation.root) is None:
            return None
        x, y = (part.detach().cpu() for part in given)
        if self.data.train.x.is_floating_point():
            x = x.to(self.data.train.x.dtype)
        contract = Contract.of(self.data)
        if found := contract.differences(Part("aggregation.root", x.numpy(), y.numpy())):
            raise InputError(found[0])
        return x, y.to(self.data.train.y.dtype).reshape(len(y), *contract.target)

    @cached_property
    def template(self) -> nn.Module:
        """The module with its initial values."""
        return template(self.model, torch_seed(self.seed, "model"))

    @cached_property
    def layout(self) -> Layout:
        """Where the model's tensors lie in its vector."""
        return Layout.of(self.template)

    @cached_property
    def least_batch(self) -> int:
        """The fewest rows that the model can train on."""
        return least_batch(self.template)

    def forget_template(self) -> None:
        """Give its memory back; it is made again when it is asked for."""
        _ = self.layout, self.least_batch
        self.__dict__.pop("template", None)

    def start(self) -> Tensor:
        """(d,) the initial model."""
        return self.layout.vector(self.template)

    def check(self) -> None:
        """Refuse a plan that cannot work, before anything runs.

        Raises:
            InputError: with the reason, and the nearest plan that works.
            ContractError: the nodes' data do not fit together.
        """
        check(self.data, self.contract)
        plan, exchanges, name = self.plan, self.algorithm.exchanges, type(self.algorithm).__name__
        if exchanges == "server" and isinstance(plan, Graph):
            raise InputError(
                f"topology: {plan!r} was given, but {name} needs a server;"
                " use Star(), or Gossip() as the algorithm"
            )
        if exchanges == "peers" and isinstance(plan, Star | Hierarchical):
            raise InputError(
                f"topology: {plan!r} was given, but {name} works without a server;"
                " use Ring() or another graph, or FedAvg() as the algorithm"
            )
        if isinstance(self.algorithm, PushSum) and not isinstance(self.aggregation, Mean):
            raise InputError(
                f"aggregation: {self.aggregation!r} was given, but PushSum needs Mean(): the sum of"
                " what nodes hold must be kept"
            )
        if isinstance(plan, Graph):
            plan.check(self.data.nodes, self.seed)
            graph = plan.graph(self.data.nodes, self.seed, 0)
            if isinstance(self.algorithm, Gossip) and plan.static and not graph.symmetric:
                raise InputError(
                    f"topology: {plan!r} has one-way links, over which Gossip does not converge to"
                    " the mean; use PushSum() as the algorithm, or a graph with links both ways"
                )
        elif plan is not None:
            plan.check(self.data.nodes)
        check_pace(self)
        check_aggregation(self)
        check_attacks(self)
        check_protection(self)
        check_swarm(self)
        check_compression(self)
        self.algorithm.check(self.layout, self.training)
        check_fit(self.template, self.loss, self.data)

    def replace(self, **changes: Any) -> "Experiment":
        """The same experiment with some fields changed."""
        made = replace(self, **changes)
        if not changes.keys() & {"model", "seed"}:  # a model may be gigabytes: made once
            cached = ("template", "layout")
            known: dict[str, Any] = {n: self.__dict__[n] for n in cached if n in self.__dict__}
            made.__dict__.update(known)
        return made

    def description(self) -> dict[str, Any]:
        """Every field as plain JSON values, the data and the initial model by their digests."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["data"] = {
            "name": self.data.name,
            "nodes": list(self.data.names),
            "table": describe(self.data.table),
            "digest": digest(
                *(t for s in (self.data.train, self.data.test) for t in (s.x, s.y)),
                torch.from_numpy(self.data.train.offsets),
                torch.from_numpy(self.data.test.offsets),
            ),
        }
        fields["model"] = self.template
        fields["topology"] = self.plan
        return {name: describe(value) for name, value in fields.items()}

    def digest(self) -> str:
        """A hash of the whole description: equal for the same experiment on any machine."""
        return self._hashed

    @cached_property
    def _hashed(self) -> str:  # all of the data are read for it
        text = json.dumps(self.description(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _passed_by_none(rates: NDArray[np.float64], steps: Ints) -> tuple[tuple[float, int], ...]:
    """The pairs that no other passes in both."""
    kept: list[tuple[float, int]] = []
    for rate, count in sorted(zip(rates.tolist(), steps.tolist(), strict=True), reverse=True):
        if not kept or count > kept[-1][1]:
            kept.append((rate, count))
    return tuple(kept)


def _sampler(plan: Star | Hierarchical, nodes: int) -> Sampler:
    """What a server's cohort is to an accountant."""
    assert plan.cohort is not None
    if plan.sampling == "poisson":
        return Poisson(plan.cohort / nodes)
    drawn = plan.cohort < nodes and plan.sampling != "cyclic"
    return WithoutReplacement(plan.cohort, nodes) if drawn else None
