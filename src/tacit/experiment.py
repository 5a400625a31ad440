"""The frozen description of an experiment, and the checks of it before anything runs."""

import dataclasses
import functools
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import FunctionType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.aggregation import Aggregation, Mean
from tacit.aggregation.rule import Tolerant
from tacit.algorithms import (
    LEARN,
    Algorithm,
    FedAvg,
    FedDyn,
    FedNova,
    FedOpt,
    FedRep,
    Gossip,
    PushSum,
)
from tacit.attacks.base import Attack, DataAttack, UpdateAttack
from tacit.attacks.placement import chosen
from tacit.compression import Compressor
from tacit.data import Contract, Federation, check
from tacit.data.contract import Part
from tacit.errors import InputError, require, require_whole
from tacit.layout import Layout, template
from tacit.protection import DPSGD, AdaptiveClip, Protection
from tacit.protection.guard import Guard, Setting
from tacit.protection.release import Poisson, Sampler, WithoutReplacement
from tacit.randomness import torch_seed
from tacit.topology import Complete, Graph, Hierarchical, Ring, Star
from tacit.training.losses import Loss
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
        compression: how nodes tell a server the difference to its model in fewer bytes: ``TopK``,
            ``QSGD`` and others; None: as float32.
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

        Aggregators of groups are receivers, and the one above them, who receives one vector from
        each group that has nodes in the round.
        """
        if (plan := self.plan) is None:
            return 0
        counts = [np.bincount(receivers) for _, receivers in self._links()]
        if isinstance(plan, Hierarchical):
            counts += [np.array([np.count_nonzero(groups)]) for groups in counts]
        received = np.concatenate(counts)
        return int(min(received[received > 0], default=0))

    def exposure(self, malicious: Ints) -> int:
        """The most of these nodes that any other one, or a server, hears in a round."""
        most = 0
        for senders, receivers in self._links():
            lies = np.isin(senders, malicious) & ~np.isin(receivers, malicious)
            most = max(most, *np.bincount(receivers[lies], minlength=1))
        return most

    def _links(self) -> Iterator[tuple[Ints, Ints]]:
        """(e,) senders and receivers of each round that differs; servers come after the nodes."""
        plan, n, seed = self.plan, self.data.nodes, self.seed
        static = plan.static if isinstance(plan, Graph) else getattr(plan, "cohort", 0) is None
        for round in range(1 if static else self.rounds):
            if isinstance(plan, Graph):
                links = plan.graph(n, seed, round)
                yield links.senders, links.receivers
            elif plan is not None:
                cohort = plan.sample(n, seed, round)
                if isinstance(plan, Hierarchical):
                    yield cohort, n + plan.group_of(n)[cohort]
                else:
                    yield cohort, np.full_like(cohort, n)

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
        # A node without rows hides nobody in a sum.
        full = self.data.train.sizes > 0
        hiding = [np.bincount(to[full[senders]]) for senders, to in links]
        fewest = min((int(found[found > 0].min()) for found in hiding if found.any()), default=0)
        cohort, sampler = n, None
        if isinstance(plan, Star) and plan.cohort is not None:
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
        )  # fmt: skip
        return Guard.of(self.protection, setting)

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
        self._check_aggregation()
        self._check_attacks()
        self._check_protection()
        self._check_compression()
        self.algorithm.check(self.layout, self.training)
        _check_fit(self.template, self.loss, self.data)

    def _check_aggregation(self) -> None:
        rule, plan, name = self.aggregation, self.plan, type(self.algorithm).__name__
        if self.algorithm.exchanges == "nobody" or isinstance(self.algorithm, PushSum):
            return
        if isinstance(self.algorithm, LEARN) and not isinstance(plan, Complete):
            raise InputError(f"topology: {plan!r} was given, but {name} needs Complete()")
        graph = isinstance(plan, Graph)
        if not rule.streams:
            if (k := self.inputs) < rule.least:
                where = "neighbours" if graph else "nodes in a cohort or group"
                raise InputError(
                    f"aggregation: {rule!r} needs {rule.least} or more inputs, but a receiver has"
                    f" {k} {where}; {_nearest(rule, k)}"
                )
            rule.check(k)
        if "root" in rule.uses and not graph and self.root is None:
            raise InputError(
                f"aggregation.root: {rule!r} needs a clean root data set under a server; give"
                " FLTrust(root=(x, y)), or use Median()"
            )
        early = isinstance(self.algorithm, Gossip) and self.algorithm.mix == "before"
        if "start" in rule.uses and early:
            raise InputError(
                f"aggregation: {rule!r} measures by the receiver's own training step, but here"
                " models are sent from before it; use Gossip(mix='after'), or Balance()"
            )
        if "start" in rule.uses and "root" not in rule.uses and not graph:
            raise InputError(
                f"aggregation: {rule!r} measures by the receiver's own training step, and a server"
                " takes none; use Gossip() as the algorithm, or Median()"
            )
        if "loss" in rule.uses and not graph:
            raise InputError(
                f"aggregation: {rule!r} measures losses on the receiver's own rows, and a server"
                " has none; use Gossip() as the algorithm, or Median()"
            )
        if "memory" in rule.uses and isinstance(plan, Graph) and not plan.static:
            raise InputError(
                f"aggregation: {rule!r} remembers each neighbour, but {plan!r} changes them in"
                " every round; use a fixed graph, or Balance()"
            )
        if rule.uses and len(sends := self.algorithm.sends(self.layout)) > 1:
            raise InputError(
                f"aggregation: {rule!r} holds models against what their receiver has or remembers,"
                f" but {name} sends {', '.join(sends)} in turn; use another algorithm, or Median()"
            )

    def _check_attacks(self) -> None:
        if not self.attacks:
            return
        if not len(self.honest):
            raise InputError("attack.nodes: all nodes are malicious; at least one must be honest")
        for attack in self.attacks:
            if isinstance(attack, DataAttack):
                attack.fit(self.data)
            if not isinstance(attack, UpdateAttack):
                continue
            if attack.needs_graph and not isinstance(self.plan, Graph):
                raise InputError(
                    f"attack: {attack!r} needs neighbours to tell different lies; use Gossip()"
                    " as the algorithm, or another attack"
                )
            if isinstance(self.algorithm, Gossip) and self.algorithm.mix == "before":
                raise InputError(
                    f"attack: {attack!r} changes what was learned in a round, but here models are"
                    " sent from before the training; use Gossip(mix='after')"
                )
            if isinstance(self.algorithm, PushSum) or self.algorithm.exchanges == "nobody":
                raise InputError(
                    f"attack: {attack!r} changes what nodes send, which does not work with"
                    f" {type(self.algorithm).__name__}; use FedAvg() or Gossip()"
                )

    def _check_protection(self) -> None:
        if not self.protection:
            return
        rule, plan, name = self.aggregation, self.plan, type(self.algorithm).__name__
        beyond = [part for part in self.protection if not isinstance(part, DPSGD)]
        if beyond and (
            self.algorithm.exchanges == "nobody"
            or isinstance(self.algorithm, PushSum | LEARN)
            or (isinstance(self.algorithm, Gossip) and self.algorithm.mix == "before")
        ):
            raise InputError(
                f"protection: {beyond[0]!r} was given, but {name} sends no update that it could"
                " protect; use FedAvg() or Gossip(mix='after') as the algorithm, or DPSGD"
            )
        if beyond and isinstance(plan, Hierarchical):
            raise InputError(
                f"protection: {beyond[0]!r} was given, but groups have sums of their own, for which"
                " it promises nothing; use Star()"
            )
        guard = self.guard
        assert guard is not None
        sends = self.algorithm.sends(self.layout)
        if (guard.clip or guard.noise) and len(sends) > 1:
            raise InputError(
                f"protection: {beyond[0]!r} was given, but {name} sends {' and '.join(sends)}, each"
                " of which would need a bound of its own; use FedAvg() as the algorithm"
            )
        if guard.noise and isinstance(self.algorithm, FedNova):
            raise InputError(
                f"protection: {guard.noise!r} was given, but FedNova scales its step by every"
                " node's rows, which have no noise; use FedAvg() as the algorithm"
            )
        if guard.example and isinstance(self.algorithm, FedRep):
            raise InputError(
                f"protection: {guard.example!r} was given, but FedRep trains twice on the same"
                " rows in a round, which is not accounted for; use FedPer as the algorithm"
            )
        adaptive = guard.clip if isinstance(guard.clip, AdaptiveClip) else None
        noised = guard.noise if guard.noise and guard.noise.where != "local" else None
        sums = guard.secure or noised or adaptive
        if sums and not rule.streams:
            raise InputError(
                f"protection: {sums!r} was given, but {rule!r} needs single updates, which nobody"
                " sees; use Mean() as the aggregation, or leave that protection out"
            )
        if guard.budget and "loss" in rule.uses:
            raise InputError(
                f"protection: {guard.budget!r} was given, but {rule!r} chooses by losses on the"
                " receiver's own rows, which have no noise; use Median() as the aggregation"
            )
        empty = self.data.train.sizes == 0
        if noised and isinstance(self.algorithm, FedDyn | FedOpt) and empty.any():
            raise InputError(
                f"protection: {noised!r} was given, but {name} skips a round in which nobody has"
                " rows, which noise does not hide; leave nodes without rows out, or use FedAvg()"
            )
        if not isinstance(plan, Star):
            return
        if (guard.noise or guard.secure) and plan.sampling == "with-replacement":
            raise InputError(
                "topology.sampling: 'with-replacement' was given, where a node may count twice in a"
                " sum that hides it once; allowed is 'poisson' or 'without-replacement'"
            )
        if noised and plan.sampling == "poisson" and isinstance(self.algorithm, FedDyn | FedOpt):
            raise InputError(
                f"topology.sampling: 'poisson' was given, but {name} skips empty rounds or counts"
                f" its cohort, which {noised!r} does not hide; use 'without-replacement', or"
                " FedAvg() as the algorithm"
            )

    def _check_compression(self) -> None:
        if (compression := self.compression) is None:
            return
        name, sends = type(self.algorithm).__name__, self.algorithm.sends(self.layout)
        given = f"compression: {compression!r} was given, but"
        if not isinstance(self.plan, Star | Hierarchical):
            raise InputError(
                f"{given} {name} has no server whose model nodes send differences to; use Star()"
                " with FedAvg(), or leave it out"
            )
        if sends != {"model": self.layout.size}:
            raise InputError(
                f"{given} {name} sends {' and '.join(sends)}, and one whole model is what it takes;"
                " use FedAvg() as the algorithm"
            )
        guard = self.guard
        unbiased = "RandomK(0.1, feedback=False)"
        if guard and guard.secure and compression.leaks_positions:
            raise InputError(
                f"{given} its positions tell which coordinates changed most, and differ, so that no"
                " mask hides them; use RandomK(0.1)"
            )
        if guard and guard.secure and not compression.linear:
            raise InputError(
                f"{given} the sum of its messages is no message, so that masks would undo what it"
                " saves; use RandomK(0.1)"
            )
        if guard and guard.noise and compression.memory_size(self.layout.parameters):
            raise InputError(
                f"{given} its memory carries an update into later rounds, unseen by the account of"
                f" {type(guard.noise).__name__}; use {unbiased}"
            )
        if guard and guard.noise and guard.noise.where == "local" and not compression.linear:
            raise InputError(
                f"{given} noise that a node adds fills its message up again; use {unbiased}, or"
                f' {type(guard.noise).__name__}(where="central") if the server is trusted'
            )

    def replace(self, **changes: Any) -> "Experiment":
        """The same experiment with some fields changed."""
        return replace(self, **changes)

    def description(self) -> dict[str, Any]:
        """Every field as plain JSON values, the data and the initial model by their digests."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["data"] = {
            "name": self.data.name,
            "nodes": list(self.data.names),
            "digest": _digest(
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


def _sampler(plan: Star, nodes: int) -> Sampler:
    """What a server's cohort is to an accountant."""
    assert plan.cohort is not None
    if plan.sampling == "poisson":
        return Poisson(plan.cohort / nodes)
    return WithoutReplacement(plan.cohort, nodes) if plan.cohort < nodes else None


def _nearest(rule: Aggregation, k: int) -> str:
    """The nearest plan that works: a smaller f, or more inputs."""
    if isinstance(rule, Tolerant):
        for f in range(rule.f - 1, 0, -1):
            less = replace(rule, f=f)
            if less.least <= k:
                return f"use {less!r}, or give a receiver {rule.least} inputs"
    return f"give a receiver {rule.least} inputs, or use Median()"


def describe(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A part of an experiment as plain JSON values.

    Args:
        value: a function counts by its source, its defaults and what it has captured; any other
            object by its class and its attributes.
        above: ids of what the value is part of, where it ends.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if id(value) in above:
        return "itself"
    each = functools.partial(describe, above=(*above, id(value)))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: each(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, dict):
        return {str(k): each(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [each(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(each, value), key=json.dumps)
    if isinstance(value, functools.partial):
        return [each(value.func), each(value.args), each(value.keywords)]
    if isinstance(value, Tensor):
        return _digest(value)
    if isinstance(value, np.ndarray):
        plain = value.dtype.kind in "biufc"
        return _digest(torch.from_numpy(value.copy())) if plain else each(value.tolist())
    if isinstance(value, nn.Module):
        settings = {k: v for k, v in vars(value).items() if k[0] != "_" and k != "training"}
        return [repr(value), each(settings), each(dict(value.state_dict()))]
    if inspect.ismodule(value):
        return value.__name__
    if inspect.ismethod(value):
        return [each(value.__func__), each(value.__self__)]
    if not hasattr(value, "__qualname__"):
        if hasattr(value, "__dict__"):
            fields = {k: v for k, v in vars(value).items() if not _cached(value, k)}
            return [each(type(value)), each(fields)]
        shown = repr(value)  # it may hold an address
        return type(value).__qualname__ if " at 0x" in shown else shown
    home = str(value.__module__).split(".")[0]
    if home == "torch":
        return value.__qualname__
    described = {"name": value.__qualname__, "source": "" if home == "tacit" else _source(value)}
    if isinstance(value, FunctionType):
        described["values"] = each([_captured(value), value.__defaults__, value.__kwdefaults__])
    return described


def _cached(value: Any, name: str) -> bool:
    """Whether an attribute is no setting but was worked out, and not always there."""
    of_class = inspect.getattr_static(type(value), name, None)
    return isinstance(of_class, cached_property) or name.startswith("__")


def _source(value: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(value).encode()).hexdigest()
    except (OSError, TypeError):  # written at a prompt
        return ""


def _captured(function: FunctionType) -> dict[str, Any]:
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except ValueError:  # a name that has no value yet
        return {}


def _digest(*tensors: Tensor) -> str:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        found.update(plain.view(torch.uint8).numpy().data)
    return found.hexdigest()


def _check_fit(module: nn.Module, loss: Loss, data: Federation) -> None:
    """Try one batch: the model must take the inputs, and its output must fit the loss."""
    # A number of rows that is not the number of classes, so that a wrong pair cannot broadcast.
    rows = torch.arange(3 if data.classes != 3 else 5) % len(data.train.y)
    x, y = data.train.x[rows], data.train.y[rows]
    module.eval()
    with torch.no_grad():
        try:
            output = module(x)
        except Exception as error:
            raise InputError(
                f"model: it does not take the data's inputs of shape {tuple(x.shape)}"
                f" ({_first_line(error)})"
            ) from error
        if not isinstance(output, Tensor):
            raise InputError(f"model: it returns {type(output).__name__}; allowed is one tensor")
        shapes = f"an output of shape {tuple(output.shape)} and targets of shape {tuple(y.shape)}"
        if data.task == "regression" and output.shape != y.shape:
            raise InputError(f"loss: the model gives {shapes}; in regression they must be equal")
        if data.task != "regression" and 1 < output.shape[-1] < data.classes:
            raise InputError(
                f"loss: the model gives {shapes}, but there are {data.classes} classes;"
                " its last layer needs one output for each"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # torch's, of targets that broadcast
                value = loss(output, y)
        except Exception as error:
            raise InputError(f"loss: the model gives {shapes} ({_first_line(error)})") from error
    if not isinstance(value, Tensor) or value.dim() != 0:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"loss: it returns {given}; allowed is one number, the mean over the rows")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
