"""What protections leave each party to see, in words: the part of ``tacit explain`` about them."""

import math
from dataclasses import replace

from tacit.experiment import Experiment
from tacit.protection import (
    AdaptiveClip,
    HomomorphicEncryption,
    SecretSharing,
    SecureAggregation,
    ThresholdEncryption,
)
from tacit.protection.accounting import spent
from tacit.protection.guard import COMPLETE, Guard
from tacit.protection.release import Poisson
from tacit.topology import Swarm


def form(experiment: Experiment) -> str:
    """How an update travels."""
    match experiment.guard and experiment.guard.secure:
        case SecureAggregation():
            return "masked integers"
        case SecretSharing():
            return "shares of integers"
        case ThresholdEncryption() | HomomorphicEncryption():
            return "ciphertexts"
    return "in the clear"


_PROOF = "the proof of the norm of"


def carried(guard: Guard, numbers: int) -> list[tuple[str, str, int]]:
    """What a node sends for a secure sum of vectors of so many numbers.

    Returns:
        For each message whom it goes to ("" is the receiver of the sum), what it is beside the
        vector, and its bytes.
    """
    codec = guard.codec(numbers + _adapts(guard))
    length, extra = codec.length, []
    if guard.commits:
        from tacit.protection.proof.commitment import LIMBS
        from tacit.protection.proof.group import SIZE

        length += LIMBS
        extra = [("", "the commitment to", SIZE)]
    size = length * codec.dtype.itemsize
    match guard.secure:
        case SecretSharing():
            from tacit.protection.proof.node import Layout
            from tacit.protection.sharing import SEED, TAG

            size += TAG
            extra.append(("the helper", "the seed of its share of", TAG + SEED))
            if guard.proof:
                size = TAG + 8 * length
                extra.append(("", _PROOF, TAG + 8 * Layout(guard.claim(codec)).proof))
        case SecureAggregation() if guard.proof:
            from tacit.protection.proof.message import proof_size

            extra.append(("", _PROOF, proof_size(guard.claim(codec), codec.length)))
        case ThresholdEncryption():
            from tacit.protection.encryption.bfv import Scheme

            size = Scheme(guard.setting.most).ciphertext_bytes(length)
        case HomomorphicEncryption():
            from tacit.protection.encryption.ckks import ciphertext_bytes

            size = ciphertext_bytes(length)
    return [("", "", size), *extra]


def guarantee(experiment: Experiment, released: bool = False) -> str:
    """What a single message promises about the rows behind it.

    Args:
        released: whether a server made it of what many nodes sent.
    """
    guard = experiment.guard
    if guard is None:
        return "none"
    alone = guard.example or (guard.noise and guard.noise.where == "local")
    if guard.multiplier and (alone or released):
        return f"{_epsilon(guard)} for one {'row' if guard.example else 'node'}"
    if guard.labels:
        return f"epsilon {guard.labels.epsilon:.3g} for the label of one row"
    if released:
        return "none"
    if guard.secure:
        return f"hidden in a sum of {guard.threshold} or more"
    return "its length is bounded" if guard.clip and not _clips_later(experiment) else "none"


def receiver_of(experiment: Experiment) -> str:
    """Who receives what a node sends."""
    guard = experiment.guard
    if guard and guard.setting.peers:
        return "a neighbour"
    if guard and guard.setting.groups:
        return "a group's aggregator"
    return "the leader of the round" if isinstance(experiment.plan, Swarm) else "the server"


def parties(experiment: Experiment) -> list[str]:
    """One sentence or more for each party; none without protections."""
    guard = experiment.guard
    if guard is None:
        return []
    receiver = receiver_of(experiment).capitalize()
    said = _secure_sum(guard, receiver) + _checks(guard)
    said += _noise(experiment, guard, receiver)
    if guard.clip:
        unchecked = guard.secure and not guard.proof
        where = "counts, decompressed," if _clips_later(experiment) else "leaves a node"
        said.append(
            f"Clipping: no update that {where} is longer than {guard.clip.norm:g}"
            + (" at first; the norm follows a quantile." if _adapts(guard) else ".")
            + (" Nobody can check it: a liar may send more." if unchecked else "")
        )
    if guard.labels:
        classes = experiment.data.classes
        lie = (classes - 1) * guard.labels.lie(classes)
        said.append(
            f"Everybody: whatever a node sends is (epsilon {guard.labels.epsilon:.3g}, delta"
            " 0)-differentially private for the label of one training row, over all rounds: once,"
            f" before the training, a label becomes another one with probability {lie:.3g}"
            " (randomised response). Inputs are not protected by it, nor is what they alone tell of"
            " a label. Answers in this process are drawn from the seed: repeatable, and no secret."
        )
    elif not (guard.noise or guard.example):
        said.append(
            "No differential privacy: whoever sees the models of two rounds, or what is released at"
            " the end, may still find out about single nodes and rows. Add GaussianNoise or DPSGD."
        )
    else:
        drawn = "Noise in this process is"
        if guard.multiplier and guard.release.sampler:
            drawn = f"Noise and {'batches' if guard.example else 'cohorts'} in this process are"
        keys = "; keys and masks come from the operating system" if guard.secure else ""
        said.append(f"{drawn} drawn from the seed: repeatable, and no secret{keys}.")
    return said


def _clips_later(experiment: Experiment) -> bool:
    """Whether the server clips what it reads: messages of quantised updates hold no others."""
    return experiment.compression is not None and not experiment.compression.linear


def _secure_sum(guard: Guard, receiver: str) -> list[str]:
    match guard.secure:
        case SecureAggregation():
            return _masks(guard, receiver)
        case SecretSharing():
            return _shares(guard)
        case ThresholdEncryption():
            return _joint_key(guard)
        case HomomorphicEncryption():
            return _one_key()
    return []


def _shares(guard: Guard) -> list[str]:
    return [
        "The server: receives one share of each update, integers that look random, and learns the"
        f" sum of {guard.threshold} nodes or more with the help of the helper (Corrigan-Gibbs and"
        " Boneh, NSDI 2017).",
        "The helper: receives the seed of the other share, which says nothing about the update, and"
        " learns who takes part.",
        "Server and helper together: see every update. They must not collude, so that two parties"
        " have to run them; neither notices if the other falsifies the sum.",
        "Colluding nodes: c of them learn the sum of the rest, one update where the rest is one"
        " node; with one of server and helper they learn no more.",
        "An outsider on the wire: reads the update of a node whose messages to both it hears, so"
        " that the connections must be encrypted; of one of them, integers that look random.",
    ]


def _joint_key(guard: Guard) -> list[str]:
    threshold, most = max(guard.threshold, guard.setting.most // 2 + 1), guard.setting.most
    alone = max(0, 2 * threshold - most)
    return [
        "The server: adds up ciphertexts under a key that nobody holds (Asharov et al., EUROCRYPT"
        f" 2012) and learns the sum of {guard.threshold} nodes or more, which"
        f" {threshold} open for it, and no single update.",
        "The nodes, each of which holds a share of the key: receive every ciphertext of the round,"
        " from which none of them learns anything, and see before they help that the sum is of"
        f" {guard.threshold} nodes or more.",
        f"Colluding nodes: {threshold} of them open any update of the largest round, and {alone}"
        " that help a lying server; c of them learn the sum of the rest, one update where the rest"
        " is one node.",
        "An outsider on the wire: sees ciphertexts, who takes part, and when. Bytes are those of"
        " the uploads; keys, partial decryptions, and the copy of all ciphertexts that every node"
        " checks come on top.",
    ]


def _one_key() -> list[str]:
    return [
        "The server: adds up ciphertexts, and learns neither an update nor the sum, but only if no"
        " node colludes with it: whoever holds the one key opens whatever it is given.",
        "The nodes, all of which hold the key: open the sum of a round's updates and take its step"
        " themselves. A sum, or the model, that reaches the server gives the key away (Li and"
        " Micciancio, EUROCRYPT 2021), and with it each update.",
        "Colluding nodes: c of them learn the sum of the rest, one update where the rest is one"
        " node; with the server or the wire, one is enough to see every update.",
        "An outsider on the wire: sees ciphertexts, who takes part, and when. The public keys of a"
        " round come on top of the bytes.",
    ]


def _checks(guard: Guard) -> list[str]:
    said = _proofs(guard) if guard.proof else []
    if guard.commits:
        said.append(
            "Everybody: can check a sum against the nodes' commitments, which hide what they bind"
            " (Guo et al., IEEE TIFS 2021). A server that opens another sum, or a node that sends"
            " another vector than it committed to, ends the run; which node, nobody learns."
        )
    return said


def _proofs(guard: Guard) -> list[str]:
    two = isinstance(guard.secure, SecretSharing)
    who = "Server and helper: leave" if two else "The server: leaves"
    claim = guard.claim(guard.codec(guard.setting.dimension + _adapts(guard)))
    return [
        f"{who} out of the sum, and know{'' if two else 's'} of, whoever cannot prove that its"
        f" update is short; one that is {claim.slack(claim.error):.3g} times as long as the norm"
        f" passes with probability {claim.error:g}, and an honest one is left out with as much."
        " Shorter ones may still be lies. Where fewer than"
        f" {guard.threshold} nodes are left, a round ends without a step. Nodes count alike.",
    ]


def _masks(guard: Guard, receiver: str) -> list[str]:
    setting, threshold = guard.setting, guard.threshold
    whose = "its neighbours' models" if setting.peers else "a round's updates"
    whose = "its nodes' updates" if setting.groups else whose
    said = [
        f"{receiver}: learns the sum of {whose}, of {threshold} nodes or more, and none of them by"
        " itself; the masks are those of Bonawitz et al., CCS 2017.",
    ]
    liar = "neighbour" if setting.peers else "leader" if "leader" in receiver else "server"
    if setting.most <= COMPLETE:
        sizes = range(setting.fewest, setting.most + 1)
        colluders = min(2 * max(threshold, n // 2 + 1) - n - 1 for n in sizes)
        undo = (
            f"up to {colluders} that help a lying {liar} cannot undo the masks of others"
            if colluders
            else f"a lying {liar} alone cannot undo the masks of others, with the help of one node"
            " it can; a higher threshold takes more"
        )
        said.append(
            f"Colluding nodes: {undo}. c of them learn the sum of the rest, one update where the"
            " rest is one node."
        )
    else:
        said.append(
            "Colluding nodes: with a tenth of the nodes lying and another tenth lost, the masks of"
            f" a node are undone with probability below 2^-40 (Bell et al., CCS 2020). A {liar}"
            " that lies about who is lost may open the sum of a part of the cohort."
        )
    if setting.peers:
        said[-1] += (
            " They also subtract their sums: two neighbourhoods that differ in one node give its"
            " model away."
        )
    models = "" if setting.peers else f"every new model that the {liar} sends, in the clear, "
    said.append(
        f"An outsider on the wire: sees integers that look random, {models}who takes part, and"
        " when. Bytes are those of the vectors; the keys and shares of a secure sum come on top."
    )
    return said


def _noise(experiment: Experiment, guard: Guard, receiver: str) -> list[str]:
    noise, example, data = guard.noise, guard.example, experiment.data
    if guard.budget and not guard.multiplier:
        return ["Everybody: noise with multiplier 0 promises nothing."]
    if example:
        sampler, steps = guard.release.sampler, guard.releases
        rate = sampler.q if isinstance(sampler, Poisson) else 1.0
        what, sizes, pools = (
            "Everybody: what a node sends is",
            data.train.sizes,
            experiment.algorithm.pools,
        )
        if pools:
            what = "Everybody but whoever pools: the model is"
        elif experiment.algorithm.exchanges == "nobody":
            what = "Whoever is shown a node's model: it is"
        return [
            f"{what} {_epsilon(guard)} for one of its rows, added or"
            f" removed, over all {guard.rounds:,} rounds{_turns(guard)}: DP-SGD with noise"
            f" multiplier {guard.multiplier:.3g}, {steps:,} Poisson batches a"
            f" {'training' if _turns(guard) else 'round'}, and rate {rate:.3g} in"
            " the node whose rows have the least protection. How many rows a node has is not"
            " hidden.",
            *_delta(example.delta, int(sizes.sum() if pools else sizes.max()), "rows"),
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
    if (separation := guard.setting.separation) > 1:
        unit += f", at most once in {separation:,} rounds"
    claim = f"{_epsilon(guard)} for {unit}, {rounds}{_turns(guard)}, with noise multiplier"
    claim += f" {guard.multiplier:.3g}"
    wide = _delta(noise.delta, data.nodes, "nodes")
    if noise.where == "local":
        return [f"Everybody, {receiver.lower()} included: what a node sends is {claim}.", *wide]
    if noise.where == "central":
        return [*_central(guard, claim), *wide]
    summed = "the sum of each group" if guard.setting.groups else "the sum"
    half = guard.threshold // 2
    return [
        f"Everybody, {receiver.lower()} included: {summed} is {claim} (nodes add shares of which"
        f" {guard.threshold} make it up). Who takes part is not hidden, so that no amplification is"
        " counted.",
        "Nodes that collude know their own shares: against one epsilon is"
        f" {_against(guard, 1):.3g}, against {half} it is {_against(guard, half):.3g}.",
        *wide,
    ]


def _turns(guard: Guard) -> str:
    """How often the busiest node delivers, where nodes work at their own pace."""
    if guard.setting.participations is None:
        return ""
    return f", in which no node delivers more than {guard.turns(guard.rounds):,} times"


def _against(guard: Guard, colluders: int) -> float:
    """Epsilon of the whole run where so many shares of the noise are known."""
    release, noise = guard.release, guard.noise
    assert release.grid is not None
    assert noise is not None
    left = release.grid.shares - colluders
    multiplier = release.multiplier * math.sqrt(left / release.grid.shares)
    rest = replace(release, multiplier=multiplier, grid=replace(release.grid, shares=left))
    return spent(rest, guard.turns(guard.rounds), noise.delta)


def _delta(delta: float, units: int, name: str) -> list[str]:
    """A warning where the guarantee holds for a mechanism that draws a unit and tells it."""
    if delta * units < 1:
        return []
    return [
        f"No guarantee: delta {delta:g} allows to publish one of the {units:,} {name} as it is."
    ]


def _central(guard: Guard, claim: str) -> list[str]:
    if guard.setting.groups:
        sender = "the top server"
        sees = "the exact sums of their groups" if guard.secure else "every update"
        trusted = (
            f"The aggregators see {sees}, and {sender} that of all before it adds the noise. They"
            " must be trusted."
        )
    else:
        sender, sees = "the server", "the exact sum" if guard.secure else "every update"
        trusted = f"The server: sees {sees} before it adds the noise. It must be trusted."
    ends = "."
    if guard.release.sampler is not None:
        ends = ", amplified by the drawing of cohorts, which only the server may know."
    return [trusted, f"Everybody else: what {sender} sends is {claim}{ends}", *_correlated(guard)]


def _correlated(guard: Guard) -> list[str]:
    if (matrix := guard.correlation) is None:
        return []
    return [
        "Correlated noise (DP-FTRL): the run is one release, all of which the first round spends;"
        " a round's noise takes part of the earlier rounds' back. That of the last model has"
        f" {matrix.error:.3g} times the deviation of independent noise with the same guarantee."
    ]


def _epsilon(guard: Guard) -> str:
    budget = guard.noise or guard.example
    assert budget is not None
    epsilon = guard.epsilon(guard.rounds)
    return f"(epsilon {epsilon:.3g}, delta {budget.delta:g})-differentially private"


def _adapts(guard: Guard) -> bool:
    return isinstance(guard.clip, AdaptiveClip)
