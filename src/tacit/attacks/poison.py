"""What data attacks make of a federation: poisoned rows, and test rows that show success."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tacit.attacks.base import Attack, DataAttack
from tacit.attacks.placement import Placement
from tacit.data.federation import Federation, Split
from tacit.randomness import generator
from tacit.topology.neighbours import Ints


def poisoned(
    data: Federation, attacks: Sequence[Attack], malicious: Sequence[Ints], seed: int
) -> Federation:
    """The federation with the training rows of malicious nodes changed.

    Sybils get their party's rows first; then each data attack changes what the ones before it left.
    Test rows are shared with the given federation, which stays as it is.

    Args:
        data: a federation that every attack's ``fit`` let pass.
        attacks: in the order in which they act.
        malicious: the ids of each attack's nodes, ascending.
        seed: a node's rows depend on it, on the attack's place and on the node alone.
    """
    honest = data.train.parts()
    parts = list(honest)
    for attack, nodes in zip(attacks, malicious, strict=True):
        party = attack.nodes.rows_from(data.names) if isinstance(attack.nodes, Placement) else None
        if party is not None:
            for node in nodes.tolist():
                parts[node] = honest[party]
    for position, (attack, nodes) in enumerate(zip(attacks, malicious, strict=True)):
        if isinstance(attack, DataAttack):
            for member, node in enumerate(nodes.tolist()):
                rng = generator(seed, "poison", position, node)
                x, y = parts[node]
                parts[node] = attack.poison(x, y, data.classes, member, len(nodes), rng)
    if all(part is own for part, own in zip(parts, honest, strict=True)):
        return data
    return replace(data, train=Split.pack(parts))


def probes(data: Federation, attacks: Sequence[Attack]) -> Split | None:
    """Test rows on which the attacks have succeeded where a model answers the target.

    Args:
        data: the honest federation, with the test rows of those nodes alone that are measured.
        attacks: all of the experiment's.

    Returns:
        The rows of all attacks, laid out as the test rows are. None where no attack has a target,
        or no test row could show it.
    """
    aimed = [attack for attack in attacks if isinstance(attack, DataAttack)]

    def made(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = [rows for attack in aimed if (rows := attack.probe(x, y, data.classes))]
        xs, ys = zip((x[:0], y[:0]), *found, strict=True)
        return torch.cat(xs), torch.cat(ys)

    split = Split.pack([made(x, y) for x, y in data.test.parts()])
    return split if len(split.y) else None
