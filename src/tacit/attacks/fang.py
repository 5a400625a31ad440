"""Fang's directed deviation attacks on Krum and on the trimmed mean.

Fang, Cao, Jia, Gong, "Local model poisoning attacks to Byzantine-robust federated learning", USENIX
Security 2020. s is the sign of the honest nodes' mean change, against which the liars push.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tacit.aggregation.gram import Geometry, gram
from tacit.attacks.base import UpdateAttack
from tacit.attacks.estimates import drawn, mean_change
from tacit.attacks.view import Knowledge, View
from tacit.errors import require_number
from tacit.randomness import generator


@dataclass(frozen=True, kw_only=True)
class FangKrum(UpdateAttack):
    """The first liar sends start - lambda s, with a lambda that Krum picks; the others support it.

    Section 4.2, full knowledge, of the vectors of all nodes as under a server: lambda starts at the
    bound of theorem 1 and is halved until Krum, tolerating as many liars as there are, would pick
    the lie, or lambda is below 1e-5. Implementations of it differ: some bound by unsquared
    distances, start at 1, leave the liars honest where nothing is picked, or take the first honest
    node's being picked for a success.

    Attributes:
        eps: the other liars send vectors drawn within this distance of the lie; 0 or more. The
            published code draws them closer by far, which makes them all the same.

    Raises:
        InputError: a negative eps.
    """

    eps: float = 0.01
    least_knowledge: ClassVar[Knowledge] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.eps", self.eps, least=0)

    def lie(self, view: View) -> Tensor:
        start, sign = view.sample_starts.mean(0), mean_change(view).sign()
        rows = torch.cat([view.sample - start, sign.unsqueeze(0)])
        products = gram(rows, torch.zeros_like(start))
        honest = Geometry(products[:-1, :-1], torch.zeros(()))
        liars, d = len(view.nodes), len(start)
        size = _bound(honest, liars, d)
        while size >= 1e-5:
            to_lie = honest.squares + 2 * size * products[-1, :-1] + size**2 * products[-1, -1]
            if _picked(honest.between, to_lie, liars):
                break
            size /= 2
        lies = (start - size * sign).repeat(liars, 1)
        for lie, node in zip(lies[1:], view.nodes[1:], strict=True):
            random = generator(view.seed, "krum supporter", view.round, int(node))
            step = random.standard_normal(d)
            step *= self.eps * random.uniform() / np.linalg.norm(step)
            lie += torch.from_numpy(step).to(lie.dtype)
        return lies


def _bound(honest: Geometry, liars: int, d: int) -> float:
    """Theorem 1: no larger lambda can be picked by Krum."""
    h = len(honest.squares)
    nearest = honest.between.sort(dim=1).values[:, 1 : max(h - 1, 2)]
    supported = nearest.sum(1).min() / (max(h - liars - 1, 1) * d)
    return float(supported.sqrt() + honest.distances.max() / math.sqrt(d))


def _picked(between: Tensor, to_lie: Tensor, liars: int) -> bool:
    """Whether Krum picks a lie that all liars send, (h,) squared distances from the honest ones."""
    h = len(to_lie)
    count = max(h - 2, 1)  # n - f - 2 of n = h + f
    others = between + torch.diag(torch.full((h,), torch.inf, dtype=between.dtype))
    scores = torch.cat([others, to_lie.unsqueeze(1).expand(-1, liars)], 1).sort(dim=1).values
    support = torch.cat([to_lie.new_zeros(liars - 1), to_lie]).sort().values
    return bool(support[:count].sum() < scores[:, :count].sum(1).min())


@dataclass(frozen=True, kw_only=True)
class FangTrim(UpdateAttack):
    """Each coordinate is drawn just beyond all honest ones, on the side that undoes the change.

    Section 4.3. Where s = +1, from [min/b, min] if min > 0, else [b min, min]; where s = -1, from
    [max, b max] if max > 0, else [max, max/b]. With "colluders" (partial knowledge), from mu - s
    sigma [3, 4], over the liars' own vectors. Uniform, anew for each liar and round; where s = 0
    the mean. Min and max are of the vectors sent, the models, as the paper has it; published code
    applies the factors to the updates instead, and draws min/r with r uniform.

    Attributes:
        b: above 1.
        knowledge: "colluders" or more.

    Raises:
        InputError: a b out of its range.
    """

    b: float = 2.0
    least_knowledge: ClassVar[Knowledge] = "colluders"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.b", self.b, above=1)

    def lie(self, view: View) -> Tensor:
        sample, sign = view.sample, mean_change(view).sign()
        mean = sample.mean(0)
        if self.knowledge == "colluders":
            sigma = sample.std(0, correction=0)
            near, far = mean - 3 * sign * sigma, mean - 4 * sign * sigma
        else:
            near = torch.where(sign > 0, sample.amin(0), sample.amax(0))
            far = torch.where(sign * near > 0, near / self.b, near * self.b)
        near, far = torch.where(sign == 0, mean, near), torch.where(sign == 0, mean, far)
        part = drawn(view, "trim lie", lambda random: random.uniform(size=len(mean)))
        return near + part * (far - near)
