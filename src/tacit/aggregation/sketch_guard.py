"""SketchGuard: BALANCE's test on short sketches, before any model is fetched."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tacit.aggregation.balance import Balance
from tacit.aggregation.rule import Round
from tacit.errors import require_whole
from tacit.randomness import generator

# Columns sketched at a time, so that their float64 copies stay in the cache.
_BLOCK = 8192


@dataclass(frozen=True)
class SketchGuard(Balance):
    """Accept j where BALANCE's test passes on count sketches, and fetch only the accepted models.

    A count sketch adds each coordinate, with a random sign, to a random bucket; its squared norm is
    that of the vector in expectation, with a relative variance of at most 2 / buckets. All nodes
    share the hash and the signs. Rangwala, Azzedin, Sinnott, Buyya,
    "SketchGuard: scaling Byzantine-robust decentralized federated learning via sketch-based
    screening", 2025, after Charikar, Chen, Farach-Colton 2002.

    The authors' code has one hash for all rounds (here each round draws its own), gamma 2, and
    accepts the nearest where nothing passes, which ``Balance`` does not. Nor does it hold a fetched
    model against its sketch, as must be done between machines; here nobody can send the sketch of
    another vector than the one that is fetched. It pays where ``buckets`` is far below the length
    of the model.

    Attributes:
        buckets: length of a sketch, at least 1.

    Raises:
        InputError: a setting out of its range.
    """

    buckets: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(1, "aggregation.buckets", self.buckets)

    def tolerates(self, k: int) -> str:
        return (
            f"{super().tolerates(k)}; distances are those of sketches, and a liar who knows the"
            " round's hash can hide any change that the sketch does not show"
        )

    def traffic(self, links: int, accepted: int, size: int) -> int:
        """Numbers sent in a round: a sketch over each link, and the accepted models.

        Args:
            links: over which nodes send.
            accepted: links whose model was let through.
            size: d, numbers of a model.
        """
        return links * self.buckets + accepted * size

    def view(self, vectors: Tensor, round: Round) -> Tensor:
        """(..., d) vectors to their (..., buckets) float64 sketches."""
        bucket, sign = _hash(round.seed, round.index, self.buckets, vectors.shape[-1])
        sketch = torch.zeros(*vectors.shape[:-1], self.buckets, dtype=torch.float64)
        for part, at, signs in zip(
            vectors.split(_BLOCK, -1), bucket.split(_BLOCK), sign.split(_BLOCK), strict=True
        ):
            sketch.scatter_add_(-1, at.expand_as(part), part * signs)
        return sketch


@lru_cache(maxsize=1)
def _hash(seed: int, round: int, buckets: int, size: int) -> tuple[Tensor, Tensor]:
    """(d,) the bucket of each coordinate, and (d,) its sign."""
    random = generator(seed, "sketch", round)
    bucket = torch.from_numpy(random.integers(buckets, size=size))
    return bucket, torch.from_numpy(random.integers(2, size=size) * 2.0 - 1)
