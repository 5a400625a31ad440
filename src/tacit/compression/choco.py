"""CHOCO: gossip over compressed differences to public copies.

Koloskova, Stich, Jaggi, "Decentralized stochastic optimization and gossip algorithms with
compressed communication", ICML 2019, Algorithm 1 (CHOCO-Gossip), in the rounds of its Algorithm 2
(CHOCO-SGD): local training, then one step of gossip.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tacit.compression.base import Compressor, Shared


def consensus_step(contraction: float) -> float:
    """Gamma for a compressor of contraction delta: delta / (2 - delta), 1 where nothing is lost.

    With random sparsification a coordinate is sent after a geometric number T of rounds of mean
    1 / delta; until then each round moves it by gamma mu of the copy, mu < 2 an eigenvalue of
    I - W. E(1 - gamma mu T)^2 < 1 where gamma mu < 2 delta / (2 - delta), which this step keeps for
    every W and makes least for mu = 1. The step of the paper's Theorem 2 holds for any compressor,
    and is far smaller than the ones that its experiments take.
    """
    return contraction / (2 - contraction)


def choco_step(
    own: Tensor,
    public: Tensor,
    average: Callable[[Tensor], Tensor],
    step: float,
    compressor: Compressor,
    nodes: Sequence[int],
    shared: Shared,
) -> tuple[Tensor, Tensor, list[bytes]]:
    """One gossip round: each node sends its compressed difference to what all know of it.

    The differences are the memory, hence the compressor is used without error feedback. The mean of
    ``own`` stays.

    Args:
        own: (n, d) the nodes' models; of one that is not finite no difference is sent.
        public: (n, d) the copies that the neighbours hold; at the start what all know of a model.
        average: (n, d) X to W X, for a doubly stochastic W that is zero where there is no link.
        step: gamma, in (0, 1]; the stronger the compression, the smaller.
        compressor: its ``encode`` and ``decompress``.
        nodes: n addresses in random streams.
        shared: what every node knows.

    Returns:
        (n, d) the new models, (n, d) the new copies, and each node's message to its neighbours.
    """
    change = own - public
    change = change.where(change.norm(dim=-1, keepdim=True).isfinite(), 0)
    messages = compressor.encode(change, nodes, shared)
    received = [compressor.decompress(m, n, shared) for m, n in zip(messages, nodes, strict=True)]
    public = public + torch.stack(received)
    return own + step * (average(public) - public), public, messages
