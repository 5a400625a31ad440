"""What adversaries see, made by hand instead of by an engine."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tacit.aggregation import Aggregated
from tacit.attacks.view import Knowledge, Secrets, View
from tacit.topology import Neighbours

# (own (d,), received (k, d), weight (k,)) to (result (d,), accepted (k,))
Rule = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def under_server(
    honest: Tensor,
    liars: Tensor,
    *,
    start: Tensor | None = None,
    rule: Rule | None = None,
    knowledge: Knowledge = "all",
    round: int = 0,
    rounds: int = 10,
    seed: int = 0,
) -> View:
    """Honest (h, d) vectors from nodes b, b + 1, ...; the liars' (b, d) from nodes 0 to b - 1."""
    b, h = len(liars), len(honest)
    start = torch.zeros(honest.shape[1]) if start is None else start
    secrets = Secrets(
        nodes=np.arange(b, b + h),
        vectors=honest,
        starts=start.expand(h, -1),
        victims=np.array([-1]),
        targets=start.unsqueeze(0),
        graph=None,
        weight=None,
    )

    def ask(lies: Tensor) -> Aggregated:
        assert rule is not None
        received = torch.cat([lies, honest])
        result, accepted = rule(start, received, torch.full((b + h,), 1 / (b + h)))
        return Aggregated(result.unsqueeze(0), accepted[:b])

    return View(
        knowledge=knowledge,
        round=round,
        rounds=rounds,
        seed=seed,
        nodes=np.arange(b),
        own=liars,
        starts=start.expand(b, -1),
        senders=np.arange(b),
        receivers=np.full(b, -1),
        everyone=b + h,
        _secrets=secrets if knowledge in ("all", "defence") else None,
        _ask=ask if knowledge == "defence" else None,
    )


def in_gossip(
    models: Tensor,
    liars: list[int],
    graph: Neighbours,
    *,
    starts: Tensor | None = None,
    rule: Rule | None = None,
    round: int = 0,
    rounds: int = 10,
    seed: int = 0,
) -> View:
    """All nodes' (n, d) models after training, with everything known and all honest receivers."""
    n = graph.nodes
    starts = torch.zeros_like(models) if starts is None else starts
    honest = np.setdiff1d(np.arange(n), liars)
    weight = torch.from_numpy(graph.metropolis())
    lying = np.isin(graph.senders, liars) & np.isin(graph.receivers, honest)
    victims = np.unique(graph.receivers[lying])

    def ask(lies: Tensor) -> Aggregated:
        assert rule is not None
        sent = models[torch.from_numpy(graph.senders)]
        sent[torch.from_numpy(lying)] = lies
        results, accepted = [], torch.zeros(graph.edges)
        for victim in victims:
            links = slice(graph.offsets[victim], graph.offsets[victim + 1])
            result, accepted[links] = rule(models[victim], sent[links], weight[links])
            results.append(result)
        return Aggregated(torch.stack(results), accepted[torch.from_numpy(lying)])

    return View(
        knowledge="defence",
        round=round,
        rounds=rounds,
        seed=seed,
        nodes=np.array(liars),
        own=models[liars],
        starts=starts[liars],
        senders=np.searchsorted(liars, graph.senders[lying]),
        receivers=graph.receivers[lying],
        everyone=n,
        _secrets=Secrets(
            nodes=honest,
            vectors=models[torch.from_numpy(honest)],
            starts=starts[torch.from_numpy(honest)],
            victims=victims,
            targets=models[torch.from_numpy(victims)],
            graph=graph,
            weight=weight,
        ),
        _ask=ask,
    )
