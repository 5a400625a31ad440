"""Losses, and how a loss over a batch splits into one value per row.

Any function ``loss(output (B, ...), target (B, ...)) -> scalar`` that is a mean over its rows can
be used. For those that torch ships the value of each row is known, which is what lets many nodes
with batches of different sizes share one call.
"""

import copy
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
StackedLoss = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]

_ROWWISE = (
    F.cross_entropy,
    F.nll_loss,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.binary_cross_entropy_with_logits,
    F.binary_cross_entropy,
)
_ROWWISE_OPTIONS = {"label_smoothing", "beta", "delta"}


def next_token(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of sequences: logits (B, T, V) against tokens (B, T), averaged."""
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


def per_row(loss: Loss) -> Loss | None:
    """The version of ``loss`` that returns (B,) values whose mean it is, or None if not known.

    A row with several outputs (a sequence, several targets) counts with the mean over them.
    """
    if loss is next_token:
        return lambda output, target: F.cross_entropy(
            output.movedim(-1, 1), target, reduction="none"
        ).mean(1)
    unreduced = _unreduced(loss)
    if unreduced is None:
        return None

    def rows(output: Tensor, target: Tensor) -> Tensor:
        values = unreduced(output, target)
        return values.flatten(1).mean(1) if values.dim() > 1 else values

    return rows


def stacked(loss: Loss) -> StackedLoss:
    """The loss of C models at once, and its gradient.

    Returns a function of (C, B, ...) outputs, targets, and ones and zeros (C, B) that say which
    rows count (None for all). It returns the (C,) means and their gradient by the outputs.
    """
    rows = per_row(loss)

    def known(output: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        assert rows is not None
        values = rows(output.flatten(0, 1), target.flatten(0, 1)).view(output.shape[:2])
        return values.mean(1) if valid is None else (values * valid).sum(1) / valid.sum(1)

    def unknown(output: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            return torch.vmap(loss)(output, target)
        sizes = valid.sum(1).int().tolist()
        parts = zip(output, target, sizes, strict=True)
        return torch.stack([loss(o[:size], t[:size]) for o, t, size in parts])

    means = known if rows else unknown

    def with_gradient(
        output: Tensor, target: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if _is_cross_entropy(loss) and output.dim() == target.dim() + 1 == 3:
            return _cross_entropy(output, target, valid)
        output = output.detach().requires_grad_()
        with torch.enable_grad():
            losses = means(output, target, valid)
            (gradient,) = torch.autograd.grad(losses.sum(), output)
        return losses.detach(), gradient

    return with_gradient


def _is_cross_entropy(loss: Loss) -> bool:
    if type(loss) is nn.CrossEntropyLoss:
        return _unreduced(loss) is not None and loss.label_smoothing == 0
    return loss is F.cross_entropy


def _cross_entropy(output: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of logits (C, B, k) and labels (C, B): softmax minus one-hot, in half autograd's time."""
    if valid is None:
        share = output.new_full(target.shape, 1 / target.shape[1])
    else:
        share = valid / valid.sum(1, keepdim=True)
    label = target.unsqueeze(-1)
    log_softmax = torch.log_softmax(output, -1)
    losses = -(log_softmax.gather(-1, label).squeeze(-1) * share).sum(1)
    gradient = log_softmax.exp_()
    gradient.scatter_add_(-1, label, gradient.new_full((1, 1, 1), -1.0).expand_as(label))
    return losses, gradient.mul_(share.unsqueeze(-1))


def _unreduced(loss: Loss) -> Loss | None:
    if isinstance(loss, nn.modules.loss._Loss):
        weighted = any(getattr(loss, name, None) is not None for name in ("weight", "pos_weight"))
        if type(loss).__module__.startswith("torch.") and loss.reduction == "mean" and not weighted:
            if getattr(loss, "ignore_index", -100) != -100:
                return None
            rowwise = copy.copy(loss)
            rowwise.reduction = "none"
            return rowwise
        return None
    base, options = loss, {}
    if isinstance(loss, functools.partial) and not loss.args:
        base, options = loss.func, loss.keywords
    if base in _ROWWISE and options.keys() <= _ROWWISE_OPTIONS:
        return functools.partial(base, reduction="none", **options)
    return None
