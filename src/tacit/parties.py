"""What protections leave each party to see, in words: the part of ``tacit explain`` about them."""

import math
from dataclasses import replace

from tacit.experiment import Experiment
from tacit.protection import AdaptiveClip
from tacit.protection.accounting import spent
from tacit.protection.guard import COMPLETE, Guard
from tacit.protection.release import Poisson


def form(experiment: Experiment) -> str:
    """How an update travels."""
    guard = experiment.guard
    return "masked integers" if guard and guard.secure else "in the clear"


def guarantee(experiment: Experiment) -> str:
    """What a single message promises about the rows behind it."""
    guard = experiment.guard
    if guard is None:
        return "none"
    if guard.example or (guard.noise and guard.noise.where == "local"):
        return f"{_epsilon(guard)} for one {'row' if guard.example else 'node'}"
    if guard.secure:
        return f"hidden in a sum of {guard.threshold} or more"
    return "its length is bounded" if guard.clip and not _clips_later(experiment) else "none"


def parties(experiment: Experiment) -> list[str]:
    """One sentence or more for each party; none without protections."""
    guard = experiment.guard
    if guard is None:
        return []
    receiver = "A neighbour" if guard.setting.peers else "The server"
    said = _masks(guard, receiver) if guard.secure else []
    said += _noise(guard, receiver)
    if guard.clip:
        where = "counts, decompressed," if _clips_later(experiment) else "leaves a node"
        said.append(
            f"Clipping: no update that {where} is longer than {guard.clip.norm:g}"
            + (" at first; the norm follows a quantile." if _adapts(guard) else ".")
            + (" Behind masks nobody can check it: a liar may send more." if guard.secure else "")
        )
    if not (guard.noise or guard.example):
        said.append(
            "No differential privacy: whoever sees the models of two rounds, or what is released at"
            " the end, may still find out about single nodes and rows. Add GaussianNoise or DPSGD."
        )
    elif not (guard.secure and guard.noise):
        said.append("Noise in this process is drawn from the seed: repeatable, and no secret.")
    else:
        said.append(
            "Noise in this process is drawn from the seed, repeatable and no secret; keys and masks"
            " come from the operating system."
        )
    return said


def _clips_later(experiment: Experiment) -> bool:
    """Whether the server clips what it reads: messages of quantised updates hold no others."""
    return experiment.compression is not None and not experiment.compression.linear


def _masks(guard: Guard, receiver: str) -> list[str]:
    threshold, most = guard.threshold, guard.setting.most
    whose = "its neighbours' models" if guard.setting.peers else "a round's updates"
    said = [
        f"{receiver}: learns the sum of {whose}, of {threshold} nodes or more, and none of them by"
        " itself; the masks are those of Bonawitz et al., CCS 2017.",
    ]
    if most <= COMPLETE:
        colluders = max(0, 2 * max(threshold, most // 2 + 1) - most - 1)
        said.append(
            f"Colluding nodes: in the largest sum up to {colluders} that help a lying"
            f" {'neighbour' if guard.setting.peers else 'server'} cannot undo the masks of"
            " others; c of them learn the sum of the rest, one update where the rest is one node."
        )
    else:
        said.append(
            "Colluding nodes: with a tenth of the nodes lying and another tenth lost, the masks of"
            " a node are undone with probability below 2^-40 (Bell et al., CCS 2020)."
        )
    said.append(
        "An outsider on the wire: sees integers that look random, who takes part, and when. Bytes"
        " are those of the vectors; the keys and shares of a secure sum come on top."
    )
    return said


def _noise(guard: Guard, receiver: str) -> list[str]:
    noise, example = guard.noise, guard.example
    if guard.budget and not guard.multiplier:
        return ["Everybody: noise with multiplier 0 promises nothing."]
    if example:
        sampler, steps = guard.release.sampler, guard.releases
        rate = sampler.q if isinstance(sampler, Poisson) else 1.0
        return [
            f"Everybody: what a node sends is {_epsilon(guard)} for one of its rows, added or"
            f" removed, over all {guard.rounds:,} rounds: DP-SGD with noise multiplier"
            f" {guard.multiplier:.3g}, {steps:,} Poisson batches a round, and rate {rate:.3g} in"
            " the node whose rows have the least protection.",
        ]
    if noise is None:
        return []
    rounds = f"over {guard.rounds:,} rounds"
    if guard.rounds < guard.setting.rounds:
        rounds += f" (of {guard.setting.rounds:,}: then the budget is spent, and the run ends)"
    unit = "a node with all of its rows, "
    if guard.release.adjacency == "replace":
        unit += "which may be any others"
    elif noise.where == "distributed":
        unit += "whose update counts or is zero"
    else:
        unit += "which takes part or does not"
    claim = f"{_epsilon(guard)} for {unit}, {rounds}, with noise multiplier"
    claim += f" {guard.multiplier:.3g}"
    if noise.where == "local":
        return [f"Everybody, {receiver.lower()} included: what a node sends is {claim}."]
    if noise.where == "central":
        sampled = guard.release.sampler is not None
        sees = "the exact sum" if guard.secure else "every update"
        return [
            f"The server: sees {sees} before it adds the noise. It must be trusted.",
            f"Everybody else: what the server sends is {claim}"
            + (
                ", amplified by the drawing of cohorts, which only the server may know."
                if sampled
                else "."
            ),
        ]
    left = 1 - 1 / guard.threshold
    release = replace(guard.release, multiplier=guard.release.multiplier * math.sqrt(left))
    worse = spent(release, guard.rounds, noise.delta)
    return [
        f"Everybody, the server included: the sum is {claim} (nodes add shares of which"
        f" {guard.threshold} make it up). Who takes part is not hidden, so that no amplification is"
        " counted.",
        f"A node that colludes knows its own share: against one, epsilon is {worse:.3g}.",
    ]


def _epsilon(guard: Guard) -> str:
    budget = guard.noise or guard.example
    assert budget is not None
    epsilon = guard.epsilon(guard.rounds)
    return f"(epsilon {epsilon:.3g}, delta {budget.delta:g})-differentially private"


def _adapts(guard: Guard) -> bool:
    return isinstance(guard.clip, AdaptiveClip)
