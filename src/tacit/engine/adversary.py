"""The malicious nodes of a run: what they see in a round, and what they send instead."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tacit.aggregation.rule import Aggregated, Round
from tacit.attacks.base import UpdateAttack
from tacit.attacks.view import Secrets, View
from tacit.experiment import Experiment
from tacit.topology import Neighbours
from tacit.training.plan import Ints


@dataclass(frozen=True, eq=False)
class Sent:
    """What travels in a round.

    Attributes:
        rows: (r, d) vectors: what each node would send if it were honest, then lies.
        index: (e,) the row that each link carries.
    """

    rows: Tensor
    index: Ints


class Adversary:
    """Everybody who lies in a run.

    Attributes:
        nodes: (b,) ids of all malicious nodes.
        lies: whether any of them sends something else than what it trained.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.nodes = experiment.malicious
        pairs = zip(experiment.attacks, experiment.placed, strict=True)
        self.attacks = [(a, ids) for a, ids in pairs if isinstance(a, UpdateAttack)]
        self.lies = bool(self.attacks)

    def victims(self, senders: Ints, receivers: Ints) -> Ints:
        """(m,) honest receivers that hear a malicious node; -1 is the server."""
        bad = np.isin(senders, self.nodes) & ~np.isin(receivers, self.nodes)
        return np.unique(receivers[bad])

    def __call__(
        self,
        round: Round,
        nodes: Ints,
        vectors: Tensor,
        starts: Tensor | None,
        senders: Ints,
        receivers: Ints,
        targets: Tensor,
        graph: Neighbours | None,
        weight: np.ndarray | None,
        ask: Callable[[Sent], tuple[Tensor, Tensor]],
    ) -> Sent:
        """Put lies in the place of what malicious nodes would send to honest receivers.

        Args:
            round: for its number and the seed.
            nodes: (k,) ids of those that send.
            vectors: (k, d) what they would send.
            starts: (d,) or (k, d) their models before training.
            senders: (e,) row of ``vectors`` of each link.
            receivers: (e,) node id, or -1.
            targets: (m, d) what receivers hold, by node id; a single row for the server.
            graph: None under a server.
            weight: (e,) of a graph's links.
            ask: what the victims make of what is sent, and the acceptance of every link.
        """
        sent = Sent(vectors, senders)
        honest = np.flatnonzero(~np.isin(nodes, self.nodes))
        before = _like(starts, vectors)
        for attack, ids in self.attacks:
            links = np.flatnonzero(np.isin(nodes[senders], ids) & ~np.isin(receivers, self.nodes))
            if not len(links):
                continue
            victims = np.unique(receivers[links])
            secrets = None
            if attack.knowledge in ("all", "defence"):
                secrets = Secrets(
                    nodes[honest], vectors[honest], before[honest], victims,
                    targets if graph is None else targets[victims], graph,
                    None if weight is None else torch.from_numpy(weight),
                )  # fmt: skip
            # ``ask`` answers for the victims of all attacks.
            wanted = np.searchsorted(self.victims(nodes[senders], receivers), victims)
            rows = np.unique(senders[links])
            index, lies, end = sent.index.copy(), [sent.rows], len(sent.rows)
            for party in rows[:, np.newaxis] if attack.knowledge == "own" else [rows]:
                at = links[np.isin(senders[links], party)]
                view = View(
                    attack.knowledge, round.index, round.total, round.seed, nodes[party],
                    sent.rows[torch.from_numpy(_row_of(sent, senders, party))], before[party],
                    np.searchsorted(party, senders[at]), receivers[at], len(nodes), secrets,
                    None if attack.knowledge != "defence" else
                    partial(_answer, ask, sent, at, wanted),
                )  # fmt: skip
                lies.append(attack.lie(view).to(vectors.dtype))
                index[at] = end + (np.arange(len(at)) if attack.equivocates else view.senders)
                end += len(lies[-1])
            sent = Sent(torch.cat(lies), index)
        return sent


def _answer(
    ask: Callable[[Sent], tuple[Tensor, Tensor]],
    sent: Sent,
    links: Ints,
    victims: Ints,
    lies: Tensor,
) -> Aggregated:
    """What ``ask`` says about the ``victims`` if the links carried the lies."""
    index = sent.index.copy()
    index[links] = len(sent.rows) + np.arange(len(links))
    results, accepted = ask(Sent(torch.cat([sent.rows, lies]), index))
    return Aggregated(results[torch.from_numpy(victims)], accepted[torch.from_numpy(links)])


def _row_of(sent: Sent, senders: Ints, party: Ints) -> Ints:
    """The row that each of a party sends now, over the last of its links."""
    row = np.arange(senders.max() + 1)
    changed = sent.index != senders
    row[senders[changed]] = sent.index[changed]
    return row[party]


def _like(starts: Tensor | None, vectors: Tensor) -> Tensor:
    """(k, d) the starts, or nothing to compare with where something else than models is sent."""
    if starts is None or starts.shape[-1] < vectors.shape[-1]:
        return torch.zeros_like(vectors)
    return starts[..., : vectors.shape[-1]].expand_as(vectors)
