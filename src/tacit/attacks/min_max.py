"""Min-Max and Min-Sum: as far from the mean as distances among honest vectors can hide."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tacit.aggregation.gram import Geometry, gram
from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import from_all, mean_change, spread
from tacit.attacks.view import Knowledge, View
from tacit.errors import require

_KINDS = ("unit", "std", "sign")


@dataclass(frozen=True, kw_only=True)
class MinMax(UpdateAttack):
    """All liars send m = mu + g p, g the largest with max_i ||m - x_i|| <= max_ij ||x_i - x_j||.

    Shejwalkar, Houmansadr, "Manipulating the Byzantine", NDSS 2021, section IV-C. Mean, distances
    and sigma are over the vectors that are sent; p is defined on gradients, so its mean is that of
    the changes. The paper searches for g by halving steps from 10 down to 1e-5, and its code can
    never pass 20; the bound is a quadratic in g, solved here.

    Attributes:
        perturbation: p is "unit", minus the mean change over its norm; "std", minus the standard
            deviation of each coordinate, often the strongest; "sign", minus the mean's sign.
        knowledge: with "colluders" the sample is the liars' own honest vectors.

    Raises:
        InputError: another perturbation.
    """

    perturbation: Literal["unit", "std", "sign"] = "std"
    least_knowledge: ClassVar[Knowledge] = "colluders"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.perturbation in _KINDS
        require(known, "attack.perturbation", self.perturbation, ", ".join(_KINDS))

    def lie(self, view: View) -> Tensor:
        mean = view.sample.mean(0)
        p = self._perturbation(view)
        rows = torch.cat([view.sample - mean, p.unsqueeze(0)])
        products = gram(rows, torch.zeros_like(mean))
        if products[-1, -1] == 0:
            return from_all(view, mean)
        sample = Geometry(products[:-1, :-1], torch.zeros(()))
        g = self.largest(sample, -products[-1, :-1], products[-1, -1])
        return from_all(view, mean + g.to(p.dtype) * p)

    def largest(self, sample: Geometry, back: Tensor, square: Tensor) -> Tensor:
        """The largest g, from ||m - x_i||^2 = g^2 ||p||^2 + 2 g back_i + ||mu - x_i||^2.

        Args:
            sample: the honest vectors, seen from their mean.
            back: (s,) inner products of p with mu - x_i.
            square: ||p||^2, above 0.
        """
        excess = sample.squares - sample.between.max()
        return ((back.square() - square * excess).sqrt() - back).min() / square

    def _perturbation(self, view: View) -> Tensor:
        if self.perturbation == "std":
            return -spread(view.sample)
        change = mean_change(view)
        if self.perturbation == "sign":
            return -change.sign()
        return -change / change.norm().clamp(min=torch.finfo(change.dtype).tiny)


@dataclass(frozen=True, kw_only=True)
class MinSum(MinMax):
    """MinMax with the bound sum_i ||m - x_i||^2 <= max_i sum_j ||x_i - x_j||^2.

    Section IV-D of the paper. Its code takes the least of the sums over i for the greatest.
    """

    def largest(self, sample: Geometry, back: Tensor, square: Tensor) -> Tensor:
        excess = (sample.squares.sum() - sample.between.sum(-1).max()) / len(back)
        return ((back.mean().square() - square * excess).sqrt() - back.mean()) / square
