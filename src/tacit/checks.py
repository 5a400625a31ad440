"""Plans that cannot work, refused with the reason and the nearest plan that does."""

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Tensor, nn

from tacit.aggregation import Aggregation, Mean
from tacit.aggregation.rule import Tolerant
from tacit.algorithms import (
    ADPSGD,
    LEARN,
    FedBuff,
    FedDyn,
    FedNova,
    FedOpt,
    FedRep,
    Gossip,
    PushSum,
)
from tacit.attacks.base import DataAttack, UpdateAttack
from tacit.compression import Compressor
from tacit.data import Federation
from tacit.errors import InputError
from tacit.protection import (
    DPSGD,
    AdaptiveClip,
    CorrelatedNoise,
    HomomorphicEncryption,
    Noise,
    RandomisedResponse,
    SecureAggregation,
    SecureSum,
)
from tacit.topology import Complete, Graph, Hierarchical, Star, Swarm
from tacit.training.losses import Loss
from tacit.training.private import Private

if TYPE_CHECKING:
    from tacit.experiment import Experiment


def check_aggregation(e: "Experiment") -> None:
    rule, plan, name = e.aggregation, e.plan, type(e.algorithm).__name__
    if e.algorithm.exchanges == "nobody" or isinstance(e.algorithm, PushSum):
        return
    if isinstance(e.algorithm, LEARN) and not isinstance(plan, Complete):
        raise InputError(f"topology: {plan!r} was given, but {name} needs Complete()")
    graph = isinstance(plan, Graph)
    if not rule.streams:
        if (k := e.inputs) < rule.least:
            where = "neighbours" if graph else "nodes in a cohort or group"
            raise InputError(
                f"aggregation: {rule!r} needs {rule.least} or more inputs, but a receiver has"
                f" {k} {where}; {_nearest(rule, k)}"
            )
        rule.check(k)
    if "root" in rule.uses and not graph and e.root is None:
        raise InputError(
            f"aggregation.root: {rule!r} needs a clean root data set under a server; give"
            " FLTrust(root=(x, y)), or use Median()"
        )
    early = isinstance(e.algorithm, Gossip) and e.algorithm.mix == "before"
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
    if rule.uses and len(sends := e.algorithm.sends(e.layout)) > 1:
        raise InputError(
            f"aggregation: {rule!r} holds models against what their receiver has or remembers,"
            f" but {name} sends {', '.join(sends)} in turn; use another algorithm, or Median()"
        )


def check_pace(e: "Experiment") -> None:
    """What cannot go with nodes that work at their own pace."""
    if isinstance(e.algorithm, ADPSGD):
        _check_pairs(e)
    if not isinstance(e.algorithm, FedBuff):
        return
    name, plan, rule = type(e.algorithm).__name__, e.plan, e.aggregation
    e.arrivals  # noqa: B018 (refuses more concurrency than there are nodes)
    if not isinstance(plan, Star) or isinstance(plan, Swarm) or plan.cohort is not None:
        raise InputError(
            f"topology: {plan!r} was given, but with {name} nobody is drawn for a round, or leads"
            " it: who delivers follows from concurrency and speed; use Star(), and"
            " algorithm.concurrency"
        )
    if not rule.streams and e.algorithm.staleness != "constant":
        raise InputError(
            f"aggregation: {rule!r} was given, which does not weigh updates by their staleness; use"
            f" {name}(staleness='constant'), or Mean()"
        )
    if e.compression is not None:
        raise InputError(
            f"compression: {e.compression!r} was given, which counts rounds that all nodes share;"
            f" with {name} leave it out, or use FedAvg() as the algorithm"
        )
    for part in e.protection:
        given = f"protection: {part!r} was given, but"
        if isinstance(part, SecureAggregation):
            raise InputError(
                f"{given} asynchronous rounds cannot use pairwise masks, for which all must know"
                " who is in a sum; use FedAvg() as the algorithm, or GaussianNoise(where='local')"
            )
        if isinstance(part, (AdaptiveClip, *get_args(SecureSum))):
            raise InputError(
                f"{given} it needs a sum of updates that began at one model, and with {name} they"
                " began at several; use FedAvg() as the algorithm"
            )
        if isinstance(part, Noise) and part.where != "local":
            raise InputError(
                f"{given} with {name} a node may come into one sum several times, and comes as fast"
                " as it is and not as it is drawn, for which no bound is known here; use"
                f" {type(part).__name__}(where='local'), or DPSGD"
            )


def _check_pairs(e: "Experiment") -> None:
    plan = e.plan
    if not isinstance(e.aggregation, Mean):
        raise InputError(
            f"aggregation: {e.aggregation!r} was given, but ADPSGD averages two models at a time;"
            " use Mean(), or Gossip() as the algorithm"
        )
    if isinstance(plan, Graph) and not (
        plan.static and plan.graph(e.data.nodes, e.seed, 0).symmetric
    ):
        raise InputError(
            f"topology: {plan!r} was given, but ADPSGD needs a fixed graph with links both ways, of"
            " which it takes one at a time; use Ring() or RandomRegular(4)"
        )


def check_attacks(e: "Experiment") -> None:
    if not e.attacks:
        return
    if not len(e.honest):
        raise InputError("attack.nodes: all nodes are malicious; at least one must be honest")
    for attack in e.attacks:
        if isinstance(attack, DataAttack):
            attack.fit(e.data)
        if not isinstance(attack, UpdateAttack):
            continue
        if attack.needs_graph and not isinstance(e.plan, Graph):
            raise InputError(
                f"attack: {attack!r} needs neighbours to tell different lies; use Gossip()"
                " as the algorithm, or another attack"
            )
        if isinstance(e.algorithm, Gossip) and e.algorithm.mix == "before":
            raise InputError(
                f"attack: {attack!r} changes what was learned in a round, but here models are"
                " sent from before the training; use Gossip(mix='after')"
            )
        if isinstance(e.algorithm, PushSum | ADPSGD) or e.algorithm.exchanges == "nobody":
            raise InputError(
                f"attack: {attack!r} changes what nodes send, which does not work with"
                f" {type(e.algorithm).__name__}; use FedAvg() or Gossip()"
            )


def check_protection(e: "Experiment") -> None:
    if not e.protection:
        return
    rule, plan, name = e.aggregation, e.plan, type(e.algorithm).__name__
    beyond = [p for p in e.protection if not isinstance(p, DPSGD | RandomisedResponse)]
    if beyond and (
        e.algorithm.exchanges == "nobody"
        or isinstance(e.algorithm, PushSum | LEARN | ADPSGD)
        or (isinstance(e.algorithm, Gossip) and e.algorithm.mix == "before")
    ):
        raise InputError(
            f"protection: {beyond[0]!r} was given, but {name} sends no update that it could"
            " protect; use FedAvg() or Gossip(mix='after') as the algorithm, or DPSGD"
        )
    guard = e.guard
    assert guard is not None
    if guard.example:
        Private.check(e.template)
    if guard.labels and e.data.task != "classification":
        raise InputError(
            f"protection: {guard.labels!r} was given, but the targets are no labels of classes; use"
            " DPSGD, which protects rows with their targets"
        )
    sends = e.algorithm.sends(e.layout)
    if (guard.clip or guard.noise) and len(sends) > 1:
        raise InputError(
            f"protection: {beyond[0]!r} was given, but {name} sends {' and '.join(sends)}, each"
            " of which would need a bound of its own; use FedAvg() as the algorithm"
        )
    if guard.even and isinstance(e.algorithm, FedNova):
        raise InputError(
            f"protection: {guard.noise or guard.proof!r} was given, but FedNova scales its step by"
            " every node's rows, for which it promises nothing; use FedAvg() as the algorithm"
        )
    if guard.example and isinstance(e.algorithm, FedRep):
        raise InputError(
            f"protection: {guard.example!r} was given, but FedRep trains twice on the same"
            " rows in a round, which is not accounted for; use FedPer as the algorithm"
        )
    adaptive = guard.clip if isinstance(guard.clip, AdaptiveClip) else None
    noised = guard.noise if guard.noise and guard.noise.where != "local" else None
    sums = (None if e.sums_groups else guard.secure) or noised or adaptive
    if sums and not rule.streams:
        bucketed = isinstance(guard.secure, SecureAggregation) and not (noised or adaptive)
        groups, least = "", max(3, rule.least)
        if bucketed and _summable(e, least):
            groups = f"topology=Hierarchical(groups={least}), whose sums the rule takes, or "
        raise InputError(
            f"protection: {sums!r} was given, but {rule!r} needs single updates, which nobody"
            f" sees; use {groups}Mean() as the aggregation (SecretSharing() with Clip and"
            " NormProof() bounds what a liar adds to it), or leave that protection out"
        )
    if guard.budget and "loss" in rule.uses:
        raise InputError(
            f"protection: {guard.budget!r} was given, but {rule!r} chooses by losses on the"
            " receiver's own rows, which have no noise; use Median() as the aggregation"
        )
    empty = e.data.train.sizes == 0
    if noised and isinstance(e.algorithm, FedDyn | FedOpt) and empty.any():
        raise InputError(
            f"protection: {noised!r} was given, but {name} skips a round in which nobody has"
            " rows, which noise does not hide; leave nodes without rows out, or use FedAvg()"
        )
    if not isinstance(plan, Star | Hierarchical):
        return
    if isinstance(guard.secure, HomomorphicEncryption) and plan.cohort is not None:
        raise InputError(
            f"protection: {guard.secure!r} was given, under which the server does not know the"
            " model that a node would need which was not drawn before; use Star()"
        )
    if (guard.noise or guard.secure) and plan.sampling == "with-replacement":
        raise InputError(
            "topology.sampling: 'with-replacement' was given, where a node may count twice in a"
            " sum that hides it once; allowed is 'poisson' or 'without-replacement'"
        )
    if noised and plan.sampling == "poisson" and isinstance(e.algorithm, FedDyn | FedOpt):
        raise InputError(
            f"topology.sampling: 'poisson' was given, but {name} skips empty rounds or counts"
            f" its cohort, which {noised!r} does not hide; use 'without-replacement', or"
            " FedAvg() as the algorithm"
        )


def _summable(e: "Experiment", groups: int) -> bool:
    """Whether each of so many groups of all nodes has three with rows to hide in its sum."""
    if not isinstance(e.plan, Star) or e.plan.cohort is not None or groups > e.data.nodes:
        return False
    group = Hierarchical(groups).group_of(e.data.nodes)
    full = e.data.train.sizes > 0
    return bool(np.bincount(group[full], minlength=groups).min() >= 3)


def check_swarm(e: "Experiment") -> None:
    """What takes one party that is the same in every round, and no node."""
    guard = e.guard
    if not isinstance(e.plan, Swarm) or guard is None:
        return
    if guard.secure and not isinstance(guard.secure, SecureAggregation):
        raise InputError(
            f"protection: {guard.secure!r} was given, which needs a server that is no node; in a"
            " swarm use SecureAggregation(), or Star() as the topology"
        )
    if guard.noise and guard.noise.where == "central":
        name = type(guard.noise).__name__
        raise InputError(
            f"protection: {guard.noise!r} was given, which trusts a server with what nodes send"
            " before it adds the noise, and in a swarm every node leads in its turn; use"
            f' {name}(where="local"), or Star() as the topology'
        )


def check_compression(e: "Experiment") -> None:
    if (compression := e.compression) is None:
        return
    name, sends = type(e.algorithm).__name__, e.algorithm.sends(e.layout)
    given = f"compression: {compression!r} was given, but"
    if isinstance(e.algorithm, Gossip) and e.algorithm.mix == "after":
        return _check_choco(e, compression, given)
    if not isinstance(e.plan, Star | Hierarchical):
        raise InputError(
            f"{given} {name} sends no difference to a model that its receivers know; use FedAvg()"
            " or Gossip(mix='after') as the algorithm"
        )
    if sends != {"model": e.layout.size}:
        raise InputError(
            f"{given} {name} sends {' and '.join(sends)}, and one whole model is what it takes;"
            " use FedAvg() as the algorithm"
        )
    guard = e.guard
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
    if guard and guard.noise and compression.memory_size(e.layout.parameters):
        raise InputError(
            f"{given} its memory carries an update into later rounds, unseen by the account of"
            f" {type(guard.noise).__name__}; use {unbiased}"
        )
    if guard and isinstance(guard.noise, CorrelatedNoise) and compression.linear:
        raise InputError(
            f"{given} it sends other coordinates in every round, where CorrelatedNoise finds no"
            " noise to take back; use QSGD(), or GaussianNoise"
        )
    if guard and guard.noise and guard.noise.where == "local" and not compression.linear:
        raise InputError(
            f"{given} noise that a node adds fills its message up again; use {unbiased}, or"
            f' {type(guard.noise).__name__}(where="central") if the server is trusted'
        )


def _check_choco(e: "Experiment", compression: Compressor, given: str) -> None:
    """What gossip over public copies asks for."""
    if compression.contraction(e.layout.parameters) is None:
        raise InputError(
            f"{given} neighbours' copies of a model come closer to it only where a message is known"
            " to leave out less than there is; use TopK(0.1), RandomK(0.1) or DRIVE()"
        )
    if isinstance(e.plan, Graph) and not e.plan.static:
        raise InputError(
            f"{given} neighbours keep copies, and {e.plan!r} changes the neighbours in every round;"
            " use a fixed graph, such as Ring()"
        )
    if not isinstance(e.aggregation, Mean):
        raise InputError(
            f"{given} {e.aggregation!r} holds whole models against each other, and copies lag"
            " behind; use Mean() as the aggregation, or leave it out"
        )
    if any(isinstance(attack, UpdateAttack) for attack in e.attacks):
        raise InputError(
            f"{given} a lie would have to be one change to the copies of all neighbours; use an"
            " attack on data, such as LabelFlip(), or leave it out"
        )
    if e.guard and e.guard.secure:
        raise InputError(
            f"{given} neighbours keep a copy of each model, and masks show its sum with others"
            " alone; leave it out, or use FedAvg() with RandomK(0.1)"
        )


def _nearest(rule: Aggregation, k: int) -> str:
    """The nearest plan that works: a smaller f, or more inputs."""
    if isinstance(rule, Tolerant):
        for f in range(rule.f - 1, 0, -1):
            less = replace(rule, f=f)
            if less.least <= k:
                return f"use {less!r}, or give a receiver {rule.least} inputs"
    return f"give a receiver {rule.least} inputs, or use Median()"


def check_fit(module: nn.Module, loss: Loss, data: Federation) -> None:
    """Try one batch: the model must take the inputs, and its output must fit the loss."""
    # A number of rows that is not the number of classes, so that a wrong pair cannot broadcast.
    count = 3 if data.classes != 3 else 5
    x, y = data.train.x, data.train.y
    if len(y):
        rows = torch.arange(count) % len(y)
        x, y = x[rows], y[rows]
    else:  # all rows are at their sites
        x, y = x.new_zeros(count, *x.shape[1:]), y.new_zeros(count, *y.shape[1:])
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
