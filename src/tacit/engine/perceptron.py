"""Many coalitions' multilayer perceptrons on the same rows.

A coalition's parameters are a weighted sum of the base model's and of the sites' updates, and the
first layer is linear in them: so are its values on the rows, and each site's are computed once for
all coalitions. Rows come last, so that every later step runs along them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tacit.layout import Layout

_MODELS_ROWS = 2**13  # of one step: what is worked on stays in the cache


def linear_layers(template: nn.Module) -> list[str]:
    """Names of the layers of a perceptron with ReLU between them; empty for another module."""
    if type(template) is not nn.Sequential:
        return []
    parts = [(name, part) for name, part in template.named_children()]
    if parts and type(parts[0][1]) is nn.Flatten:
        parts = parts[1:]
    kinds = [type(part) for _, part in parts]
    wanted = [nn.ReLU if i % 2 else nn.Linear for i in range(len(parts))]
    linear = [(name, part) for name, part in parts if isinstance(part, nn.Linear)]
    fits = kinds == wanted and len(parts) % 2 and all(part.bias is not None for _, part in linear)
    return [name for name, _ in linear] if fits else []


def hits(
    layout: Layout, layers: Sequence[str], models: Tensor, share: Tensor, x: Tensor, y: Tensor
) -> Tensor | None:
    """(m,) how many rows each of m coalitions has right, the first of equal outputs being its word.

    Args:
        models: (k, d) base model and updates.
        share: (m, k) of each in a coalition.
        x: (r, ...) rows.
        y: (r,) their classes.

    Returns:
        None where a value is not finite: one site's would spoil coalitions that it is not in.
    """
    of = layout.views(models)
    first, *rest = layers
    values = of[f"{first}.weight"] @ x.flatten(1).T + of[f"{first}.bias"].unsqueeze(-1)
    if not values.isfinite().all():
        return None
    classes = torch.arange(len(of[f"{layers[-1]}.bias"][0])).unsqueeze(1)
    # Added to the outputs, these leave those of the classes before and after a row's own.
    others = [torch.where(left, 0.0, -torch.inf) for left in (classes < y, classes > y)]
    found = []
    for part in share.split(max(1, _MODELS_ROWS // len(x))):
        outputs = _summed(part, values)
        for name in rest:
            weight, bias = (_summed(part, of[f"{name}.{kind}"]) for kind in ("weight", "bias"))
            outputs = torch.baddbmm(bias.unsqueeze(-1), weight, outputs.relu_())
        # Its own class is above those before it, and no lower than those after it: argmax, without
        # the places of the largest, which take longer than all else. Nothing is so beside NaN, and
        # an output without bound counts as such.
        own = outputs.gather(1, y.expand(len(part), 1, -1)).squeeze(1)
        before, after = ((outputs + shut).amax(1) for shut in others)
        found.append(((own > before) & (own >= after)).sum(1))
    return torch.cat(found)


def _summed(share: Tensor, parts: Tensor) -> Tensor:
    """(m, ...) weighted sums of (k, ...)."""
    return (share @ parts.flatten(1)).view(len(share), *parts.shape[1:])
