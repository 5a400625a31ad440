"""The sum of clipped per-row gradients of C nodes, without the gradient of any row.

A private step runs the program with every row as a node of its own: values are (C * B, 1, ...), so
that nothing can mix rows. Layers with a norm identity see the rows of a node together, share its
weights, and find the norms of the rows' gradients from what enters the layer and what comes back
(the "ghost" norms). All other layers get a copy of their weights for each row, and per-row
gradients from autograd. One backward pass gives both; it is kept, weighted by each row's
min(1, clip / norm), and summed, so that no second pass is needed.

Sources: Goodfellow, "Efficient per-example gradient computations", 2015 (linear layers); Li et al.,
"Large language models can be strong differentially private learners", ICLR 2022, section 4
(sequences, by Gram products); Bu et al., "Differentially private optimization on large foundation
models", ICML 2023, section 3 (what is kept of the one backward pass).
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tacit.layout import Layout
from tacit.training.losses import StackedLoss
from tacit.training.program import LinearOperation, Operation, Program, Run, Segment, Stack
from tacit.training.rules import Context

Weighted = Callable[[Tensor], None]


class ClippedRun(Run):
    """A pass over C nodes with B rows each, and what it finds out about every row's gradient.

    Attributes:
        squares: (C, B) squared norm of each row's gradient, as far as it is known.
        weighted: what takes the sum of the rows' gradients in, given the weights (C, B) of rows.
        gradients_of: rows' gradients (C * B, *shape) of entries for which they are computed.
    """

    def __init__(self, stack: Stack, context: Context, shape: torch.Size) -> None:
        super().__init__(stack, context)
        self.shape = shape
        self.squares = torch.zeros(shape)
        self.weighted: list[Weighted] = []
        self.gradients_of: dict[str, Tensor] = {}

    def positions(self, value: Tensor) -> Tensor:
        """(C * B, 1, ..., i) as (C, B, P, i), with all between rows and features as positions."""
        return value.reshape(*self.shape, -1, value.shape[-1])

    def images(self, value: Tensor) -> Tensor:
        """(C * B, 1, ...) as (C, B, ...)."""
        return value.reshape(*self.shape, *value.shape[2:])

    def weigh(self, weight: str, bias: str | None, inputs: Tensor, gradient: Tensor) -> None:
        """A row's gradient is sum_p gradient_p inputs_p^T, and sum_p gradient_p for the bias.

        Args:
            inputs, gradient: (C, B, P, i) and (C, B, P, o).
        """
        stack, (positions, i), o = self.stack, inputs.shape[2:], gradient.shape[-1]
        rows = None
        if positions == 1:
            ones = 0 if bias is None else 1  # the bias's input
            self.squares += (inputs.square().sum((2, 3)) + ones) * gradient.square().sum((2, 3))
        elif positions * (i + o) >= i * o:  # the Gram products cost more
            rows = gradient.transpose(2, 3) @ inputs
            self.squares += rows.square().sum((2, 3))
        else:
            gram = (inputs @ inputs.transpose(2, 3)).mul_(gradient @ gradient.transpose(2, 3))
            self.squares += gram.sum((2, 3)).clamp_(min=0)
        if bias is not None and positions > 1:
            self.squares += gradient.sum(2).square_().sum(-1)

        def take(factor: Tensor) -> None:
            scaled = (gradient * factor[:, :, None, None]).flatten(1, 2)
            if rows is None:
                stack.take_product(weight, scaled.transpose(1, 2), inputs.flatten(1, 2))
            else:
                total = factor.unsqueeze(1) @ rows.flatten(2)
                stack.take(weight, total.view(-1, o, i).view_as(stack.target[weight]))
            if bias is not None:
                stack.take(bias, scaled.sum(1))

        self.weighted.append(take)

    def add(self, name: str, gradient: Tensor) -> None:
        """Rows' own gradients (C * B, *shape) of an entry, which may come in several parts."""
        known = self.gradients_of.get(name)
        self.gradients_of[name] = gradient if known is None else known + gradient


class GhostLinear(LinearOperation):
    """``nn.Linear``: an outer product per position."""

    def take(self, run: Run, gradient: Tensor, x: Tensor) -> None:
        run = _clipped(run)
        run.weigh(self.weight, self.bias, run.positions(x), run.positions(gradient))


class GhostConv:
    """``nn.Conv2d`` as an outer product per output pixel, of the patch and the pixel's gradient.

    Node after node: on a CPU one convolution with a group per node is slower.
    """

    def __init__(
        self, node: fx.Node, layer: nn.Conv2d, own: dict[str, str], input_needs_grad: bool
    ) -> None:
        self.node, self.source = node, node.all_input_nodes[0]
        self.weight, self.bias = own["weight"], own.get("bias")
        self.geometry = {n: getattr(layer, n) for n in ("stride", "padding", "dilation")}
        self.kernel = layer.kernel_size
        self.input_needs_grad = input_needs_grad

    def forward(self, run: Run) -> None:
        x, weight = _clipped(run).images(run.values[self.source]), run.stack.weight[self.weight]
        bias = run.stack.weight[self.bias] if self.bias else [None] * len(x)
        parts = [F.conv2d(*part, **self.geometry) for part in zip(x, weight, bias, strict=True)]
        run.values[self.node] = torch.cat(parts).unsqueeze(1)

    def backward(self, run: Run) -> None:
        if self.node not in run.gradients:
            return
        run, x = _clipped(run), run.values[self.source]
        gradient = run.gradients.pop(self.node)
        if self.input_needs_grad:
            weight = run.stack.weight[self.weight]
            parts = zip(run.images(gradient), run.images(x), weight, strict=True)
            back = [
                torch.ops.aten.convolution_backward(
                    *part, None, *self.geometry.values(), False, (0, 0), 1, (True, False, False)
                )[0]
                for part in parts
            ]
            run.pass_back(self.source, torch.cat(back).view_as(x))
        patches = F.unfold(x.flatten(0, 1), self.kernel, **self.geometry)
        inputs = patches.view(*run.shape, *patches.shape[1:]).transpose(2, 3)
        run.weigh(self.weight, self.bias, inputs, run.images(gradient).flatten(3).transpose(2, 3))


class GhostEmbedding:
    """``nn.Embedding``: positions of the same token add up, all others are orthogonal."""

    def __init__(self, node: fx.Node, weight: str, padding_idx: int | None) -> None:
        self.node, self.source = node, node.all_input_nodes[0]
        self.weight, self.padding_idx = weight, padding_idx

    def forward(self, run: Run) -> None:
        tokens, weight = run.values[self.source], run.stack.weight[self.weight]
        result = F.embedding(self._shifted(tokens, weight), weight.flatten(0, 1))
        run.values[self.node] = result.view(*tokens.shape, -1)

    def backward(self, run: Run) -> None:
        if self.node not in run.gradients:
            return
        run, weight = _clipped(run), run.stack.weight[self.weight]
        source = run.values[self.source]
        tokens, gradient = source.view(*run.shape, -1), run.positions(run.gradients.pop(self.node))
        if self.padding_idx is not None:
            gradient = gradient.masked_fill((tokens == self.padding_idx).unsqueeze(-1), 0)
        same = tokens.unsqueeze(-1) == tokens.unsqueeze(-2)
        run.squares += (gradient @ gradient.transpose(2, 3)).mul_(same).sum((2, 3)).clamp_(min=0)

        def take(factor: Tensor) -> None:
            total = torch.zeros(len(weight) * weight.shape[1], weight.shape[2])
            scaled = gradient * factor[:, :, None, None]
            total.index_add_(0, self._shifted(source, weight).flatten(), scaled.flatten(0, 2))
            run.stack.take(self.weight, total.view_as(weight))

        run.weighted.append(take)

    def _shifted(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """Tokens (C, ...), each node's own part of one table of all nodes."""
        shift = torch.arange(len(weight)).unsqueeze(1) * weight.shape[1]
        return tokens.reshape(len(weight), -1) + shift


class RowSegment(Segment):
    """A segment with a copy of its weights for every row, whose gradients autograd computes."""

    def weights(self, run: Run) -> dict[str, Tensor]:
        nodes, rows = _clipped(run).shape
        # The first entry tells a constant how many nodes there are, also where there is no weight.
        copies = {"": torch.empty(nodes * rows, 0)}
        for name in self.entries:
            weight = run.stack.weight[name]
            copies[name] = weight.unsqueeze(1).expand(-1, rows, *weight.shape[1:]).flatten(0, 1)
        return copies

    def take(self, run: Run, name: str, gradient: Tensor) -> None:
        _clipped(run).add(name, gradient)


class ClippedProgram(Program):
    """A module lowered for C nodes whose rows' gradients are clipped one by one."""

    segment = RowSegment

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout, training=True)

    def _layer(
        self, node: fx.Node, layer: nn.Module | None, own: dict[str, str], input_needs_grad: bool
    ) -> Operation | None:
        # The gradients of an entry that is used twice add up before they have a norm.
        shared = any(self.uses[name] > 1 for name in own.values())
        if layer is None or shared or not self._plain(layer, own):
            return None
        if type(layer) is nn.Linear:
            return GhostLinear(node, own["weight"], own.get("bias"), input_needs_grad)
        if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
            named = isinstance(layer.padding, str)
            return None if named else GhostConv(node, layer, own, input_needs_grad)
        if type(layer) is nn.Embedding and layer.max_norm is None:
            plain = not layer.scale_grad_by_freq
            return GhostEmbedding(node, own["weight"], layer.padding_idx) if plain else None
        return None

    def clipped_step(
        self, stack: Stack, context: Context, loss: StackedLoss, x: Tensor, y: Tensor,
        clip: float, share: Tensor,
    ) -> Tensor:  # fmt: skip
        """One training step of C models: clipped and summed gradients go to the stack's target.

        Args:
            context: its dropout is addressed by row, as (C * B,).
            loss: applied to every row on its own.
            x, y: (C, B, ...) inputs and targets.
            clip: largest norm of a row's gradient.
            share: (C, B) weight of each row in the sum, 0 for rows that only pad a batch.

        Returns:
            (C,) sum of the rows' losses by ``share``.
        """
        run = ClippedRun(stack, context, share.shape)
        self._forward(run, x.flatten(0, 1).unsqueeze(1))
        output = run.values[self.output].detach()
        losses, run.gradients[self.output] = loss(output, y.flatten(0, 1).unsqueeze(1), None)
        self._backward(run)
        for rows in run.gradients_of.values():
            run.squares += rows.flatten(1).square().sum(1).view(run.shape)
        factor = share * (clip / run.squares.sqrt_().clamp_(min=clip))
        stack.taken.clear()
        for take in run.weighted:
            take(factor)
        for name, rows in run.gradients_of.items():
            total = factor.unsqueeze(1) @ rows.reshape(*run.shape, -1)
            stack.take(name, total.view_as(stack.target[name]))
        for name in self.trained - stack.taken:
            stack.target[name].mul_(stack.decay)
        return (losses.view(run.shape) * share).sum(1)


def _clipped(run: Run) -> ClippedRun:
    return cast(ClippedRun, run)
