"""What an aggregation rule is."""

from typing import ClassVar, Protocol

from torch import Tensor


class Aggregation(Protocol):
    """How a receiver combines what it received with what it had.

    The server of a star and a neighbour in a gossip make the same call: ``own`` is the last global
    model, or the node's own.

    Attributes:
        streams: whether the result is a weighted sum, so that partial sums do and no more than one
            vector has to be kept; otherwise the rule needs every received vector at once.
    """

    streams: ClassVar[bool]

    def __call__(self, own: Tensor, received: Tensor, weight: Tensor, round: int) -> Tensor:
        """Combine k received vectors, for one receiver or a leading batch of receivers.

        Args:
            own: (..., d).
            received: (..., k, d).
            weight: (..., k), at most 1 in sum; the rest is the share of ``own``.
            round: counted from 0.

        Returns:
            (..., d).
        """
        ...
