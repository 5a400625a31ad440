"""CHOCO: gossip over compressed differences to public copies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tacit.compression.base import Compressor, Shared


def choco_step(
    own: Tensor,
    public: Tensor,
    weights: Tensor,
    step: float,
    compressor: Compressor,
    nodes: Sequence[int],
    shared: Shared,
) -> tuple[Tensor, Tensor, list[bytes]]:
    """One gossip round: each node sends its compressed difference to what all know of it.

    Koloskova, Stich, Jaggi, "Decentralized stochastic optimization and gossip algorithms with
    compressed communication", ICML 2019, Algorithm 1 (CHOCO-Gossip). The differences are the
    memory, hence the compressor is used without error feedback. The mean of ``own`` stays.

    Args:
        own: (n, d) the nodes' models.
        public: (n, d) the copies that the neighbours hold, zeros at the start.
        weights: (n, n) doubly stochastic gossip matrix, zero where there is no link.
        step: gamma, in (0, 1]; the stronger the compression, the smaller (its Theorem 2).
        compressor: its ``encode`` and ``decompress``.
        nodes: n addresses in random streams.
        shared: what every node knows.

    Returns:
        (n, d) the new models, (n, d) the new copies, and each node's message to its neighbours.
    """
    messages = compressor.encode(own - public, nodes, shared)
    received = [compressor.decompress(m, n, shared) for m, n in zip(messages, nodes, strict=True)]
    public = public + torch.stack(received)
    return own + step * (weights @ public - weights.sum(1, keepdim=True) * public), public, messages
