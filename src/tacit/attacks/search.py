"""The strongest lie along a ray, found by asking the receivers' own rule."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tacit.attacks.view import View

# 20 questions in all, as many as ByzFL's optimal attacks ask. Over seven decades the last step is
# within 0.1 % of the boundary of acceptance.
_GRID, _BISECTIONS = 9, 11


def per_link(view: View, lies: Tensor) -> Tensor:
    """(l, d) from (m, d) lies, one for each victim, which all of its malicious links tell it."""
    return lies[torch.from_numpy(np.searchsorted(view.secrets.victims, view.receivers))]


def farthest(view: View, origin: Tensor, direction: Tensor) -> Tensor:
    """``strongest`` with s from 0.01 to 1,000, harm being the results' distance to the honest mean.

    Args and returns: see ``strongest``.
    """
    mean, one = view.sample.mean(0), torch.ones(len(view.secrets.victims))

    def harm(result: Tensor) -> Tensor:
        return (result - mean).norm(dim=-1)

    return strongest(view, origin, direction, harm, 0.01 * one, 1000 * one)


def strongest(
    view: View,
    origin: Tensor,
    direction: Tensor,
    harm: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """The lies origin + s * direction with the s of most harm, for each victim its own.

    First s is tried on a logarithmic grid. A rule lets a lie through up to some s and then turns it
    away, clips it or outvotes it, so the harm rises up to a boundary: between the best of the grid
    and the next the boundary is bisected. Where harm keeps rising, s is ``high``.

    Args:
        view: with knowledge "defence".
        origin: (d,), or (m, d) for each victim.
        direction: (d,) or (m, d).
        harm: the victims' (m, d) results to (m,) numbers, of which more is worse for them.
        low: (m,) least s, above 0.
        high: (m,) largest s.

    Returns:
        (l, d) for each malicious link.
    """

    def lies(scale: Tensor) -> Tensor:
        return per_link(view, origin + scale.unsqueeze(-1).to(origin.dtype) * direction)

    def reached(scale: Tensor) -> Tensor:
        return harm(view.ask(lies(scale)).result).double().nan_to_num(nan=-torch.inf)

    low, high = low.double(), high.double()
    grid = low * (high / low) ** torch.linspace(0, 1, _GRID, dtype=torch.float64).unsqueeze(-1)
    most, at = torch.stack([reached(scale) for scale in grid]).max(0)
    scale = grid.gather(0, at.unsqueeze(0))[0]
    above = grid.gather(0, (at + 1).clamp(max=_GRID - 1).unsqueeze(0))[0]
    for _ in range(_BISECTIONS):
        middle = (scale * above).sqrt()
        harm_there = reached(middle)
        worse = harm_there > most
        most = torch.where(worse, harm_there, most)
        scale, above = torch.where(worse, middle, scale), torch.where(worse, above, middle)
    return lies(scale)
