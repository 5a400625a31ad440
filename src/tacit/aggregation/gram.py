"""Rules that decide by distances and angles alone: one Gram matrix, and one product at the end.

All inner products among k vectors are one matrix product, from which every distance follows; what
such a rule makes of the vectors is a weighted sum. So a rule looks at a (k, k) matrix however long
the vectors are, and no (k, k, d) tensor of differences is ever made.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tacit.aggregation.rule import Aggregated, Aggregation, Round

# Numbers of a block of columns: they stay in the cache.
_BLOCK = 2**19
# Cosines from which on float32 blurs the difference of two vectors.
_ALIKE = 0.99


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the received vectors lie, seen from the receiver's own.

    Attributes:
        gram: (..., k, k) float64 inner products of the received vectors' differences to own.
        own: (...,) float64 squared norm of the own vector.
    """

    gram: Tensor
    own: Tensor

    @cached_property
    def squares(self) -> Tensor:
        """(..., k) squared distances to own."""
        return self.gram.diagonal(dim1=-2, dim2=-1)

    @cached_property
    def distances(self) -> Tensor:
        """(..., k) distances to own."""
        return self.squares.sqrt()

    @cached_property
    def between(self) -> Tensor:
        """(..., k, k) squared distances between the received vectors."""
        return between(self.gram)

    def mixed(self, matrix: Tensor) -> "Geometry":
        """Of (..., m, k) combinations of the differences."""
        return Geometry(matrix @ self.gram @ matrix.mT, self.own)

    def squares_to(self, coefficients: Tensor) -> Tensor:
        """(..., k) squared distances to the point own + sum_j c_j (x_j - own)."""
        c = coefficients.unsqueeze(-1)
        along = self.gram @ c
        squares = self.gram.diagonal(dim1=-2, dim2=-1)
        return (squares - 2 * along.squeeze(-1) + (c.mT @ along).squeeze(-1)).clamp_(min=0)


class Seen(Geometry):
    """Of vectors at hand: a rule that asks for distances to own alone pays for no Gram matrix.

    If ``strict``, products that are not finite raise ``NotFinite``.
    """

    vectors: Tensor
    centre: Tensor
    strict: bool

    def __init__(self, vectors: Tensor, centre: Tensor, *, strict: bool = False) -> None:
        self.__dict__.update(vectors=vectors, centre=centre, strict=strict)

    @cached_property
    def gram(self) -> Tensor:
        return self._checked(gram(self.vectors, self.centre))

    @cached_property
    def own(self) -> Tensor:
        return self.centre.double().square().sum(-1)

    @cached_property
    def squares(self) -> Tensor:
        if "gram" in self.__dict__:
            return super().squares
        return self._checked(squares(self.vectors, self.centre))

    def _checked(self, products: Tensor) -> Tensor:
        if self.strict and not products.isfinite().all():
            raise NotFinite
        return products


class NotFinite(ArithmeticError):
    """A vector holds a number that is not finite."""


class GramRule(Aggregation):
    """A rule whose result is own + sum_j c_j (x_j - own), with c a function of the geometry."""

    @abstractmethod
    def combine(self, geometry: Geometry, weight: Tensor, round: Round) -> tuple[Tensor, Tensor]:
        """Decide.

        Args:
            geometry: of k finite vectors, at least ``least``.
            weight: (..., k) float64.
            round: what else the receiver knows.

        Returns:
            (..., k) coefficients c, and (..., k) acceptances (see ``Aggregated``).
        """

    @property
    def whole(self) -> bool:
        """Whether distances are those of the vectors themselves, and not of a ``view``."""
        return type(self).view is GramRule.view

    def view(self, vectors: Tensor, round: Round) -> Tensor:
        """(..., d) vectors to what the distances are taken of: a sketch, or some coordinates."""
        return vectors

    def __call__(
        self, own: Tensor, received: Tensor, weight: Tensor, round: Round | None = None
    ) -> Aggregated:
        """See ``Aggregation``: where the products are finite, so was every vector."""
        round = round or Round()
        self.check(received.shape[-2])
        if self.whole:
            try:
                return self._decide(Seen(received, own, strict=True), own, received, weight, round)
            except NotFinite:
                pass
        return super().__call__(own, received, weight, round)

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        geometry = Seen(self.view(received, round), self.view(own, round))
        return self._decide(geometry, own, received, weight, round)

    def _decide(
        self, geometry: Geometry, own: Tensor, received: Tensor, weight: Tensor, round: Round
    ) -> Aggregated:
        coefficients, accepted = self.combine(geometry, weight.double(), round)
        return Aggregated(combination(own, received, coefficients), accepted.to(weight.dtype))


def gram(vectors: Tensor, centre: Tensor) -> Tensor:
    """(..., k, k) inner products of (..., k, d) vectors less their (..., d) centre, as float64.

    Products of centred blocks in float32, summed in float64, are off by about 1e-6 of the squared
    lengths. Where two vectors point the same way this could be much of what they differ by, and
    where squares overflow it is all: then everything is done again in float64.
    """
    for dtype in (torch.float32, torch.float64):
        result = _products(vectors, centre, dtype)
        lengths = result.diagonal(dim1=-2, dim2=-1)
        alike = result.square() > _ALIKE**2 * lengths.unsqueeze(-1) * lengths.unsqueeze(-2)
        alike.diagonal(dim1=-2, dim2=-1).fill_(False)
        if result.isfinite().all() and not alike.any():
            break
    return result


def _products(vectors: Tensor, centre: Tensor, dtype: torch.dtype) -> Tensor:
    *batch, k, d = vectors.shape
    width = _width(vectors)
    result = torch.zeros(*batch, k, k, dtype=torch.float64)
    block = torch.empty(*batch, k, min(width, d), dtype=dtype)
    for part, middle in _blocks(vectors, centre, width):
        difference = block[..., : part.shape[-1]]
        torch.sub(part.to(dtype), middle, out=difference)
        result += difference @ difference.mT
    return result


def squares(vectors: Tensor, centre: Tensor) -> Tensor:
    """(..., k) squared distances of (..., k, d) vectors to their (..., d) centre, in float64.

    Nothing cancels in a difference to the centre, so blocks of it are summed as they are; only
    where their squares overflow float32, in float64.
    """
    for dtype in (vectors.dtype, torch.float64):
        result = torch.zeros(vectors.shape[:-1], dtype=torch.float64)
        for part, middle in _blocks(vectors, centre, _width(vectors)):
            lengths = torch.linalg.vector_norm(part.to(dtype) - middle, dim=-1)
            result += lengths.double().square_()
        if result.isfinite().all():
            break
    return result


def _width(vectors: Tensor) -> int:
    return max(64, _BLOCK // max(1, vectors.shape[:-1].numel()))


def _blocks(vectors: Tensor, centre: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(vectors.split(width, -1), centre.unsqueeze(-2).split(width, -1), strict=True)


def between(products: Tensor) -> Tensor:
    """(..., k, k) squared distances from (..., k, k) inner products."""
    lengths = products.diagonal(dim1=-2, dim2=-1)
    return (lengths.unsqueeze(-1) + lengths.unsqueeze(-2) - 2 * products).clamp_(min=0)


def combination(own: Tensor, vectors: Tensor, coefficients: Tensor) -> Tensor:
    """(..., d) own + sum_j c_j (x_j - own) of (..., k, d) vectors, in one pass."""
    return combinations(own, vectors, coefficients.unsqueeze(-2)).squeeze(-2)


def combinations(own: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
    """(..., m, d) combinations as above, for each row of a (..., m, k) matrix of coefficients."""
    left = (1 - matrix.sum(-1, keepdim=True)).to(own.dtype)
    return (matrix.to(vectors.dtype) @ vectors).addcmul_(left, own.unsqueeze(-2))
