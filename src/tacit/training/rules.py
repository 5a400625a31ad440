"""Batch rules: how one layer computes for C nodes at once, each with its own weights.

A rule is ``rule(layer, own, context, *inputs)``: ``own`` maps the layer's tensors to stacked
(C, ...) views, inputs are (C, B, ...). It returns what the layer would, with the node axis in
front, or ``None`` for a configuration it does not cover, which then runs under ``torch.vmap``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.training.dropout import Address


@dataclass
class Context:
    """What a rule may need beyond its inputs.

    Attributes:
        training: whether this is a training step.
        valid: (C, B) which rows are real (the rest pad a smaller batch), or None if all are.
        dropout: address of the dropout masks; None in evaluation.
    """

    training: bool
    valid: Tensor | None = None
    dropout: Address | None = None


Own = dict[str, Tensor]
Rule = Callable[..., Any]


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (C, ..., i) times weight (C, o, i), plus bias (C, o): (C, ..., o).

    The first axis of x may also run over the rows of each node, as (C * B, ..., i).
    """
    flat = x.reshape(len(weight), -1, x.shape[-1])
    if bias is None:
        result = torch.bmm(flat, weight.transpose(1, 2))
    else:
        result = torch.baddbmm(bias.unsqueeze(1), flat, weight.transpose(1, 2))
    return result.view(*x.shape[:-1], -1)


def linear(layer: nn.Linear, own: Own, context: Context, x: Tensor) -> Tensor:
    return affine(x, own["weight"], own.get("bias"))


def conv2d(layer: nn.Conv2d, own: Own, context: Context, x: Tensor) -> Tensor | None:
    """Nodes as groups: (C, B, ch, h, w) becomes (B, C * ch, h, w)."""
    if layer.padding_mode != "zeros":
        return None
    nodes, batch = x.shape[:2]
    result = F.conv2d(
        x.transpose(0, 1).flatten(1, 2),
        own["weight"].flatten(0, 1),
        own["bias"].flatten() if "bias" in own else None,
        layer.stride,
        layer.padding,
        layer.dilation,
        nodes * layer.groups,
    )
    return result.view(batch, nodes, -1, *result.shape[2:]).transpose(0, 1)


def embedding(layer: nn.Embedding, own: Own, context: Context, tokens: Tensor) -> Tensor | None:
    """One table for all nodes, each node's tokens shifted to its own part of it."""
    if layer.max_norm is not None or layer.scale_grad_by_freq:
        return None
    weight = own["weight"]
    shift = torch.arange(len(weight), device=tokens.device) * weight.shape[1]
    shifted = tokens + shift.view(-1, *[1] * (tokens.dim() - 1))
    result = F.embedding(shifted, weight.flatten(0, 1))
    if layer.padding_idx is None:
        return result
    return torch.where((tokens == layer.padding_idx).unsqueeze(-1), result.detach(), result)


def _per_node(parameter: Tensor, dims: int) -> Tensor:
    """(C, *tail) with ones after the node axis, to meet an input of ``dims`` dimensions."""
    return parameter.view(len(parameter), *[1] * (dims - parameter.dim()), *parameter.shape[1:])


def _per_channel(parameter: Tensor, dims: int) -> Tensor:
    """(C, ch) as (C, 1, ch, 1, ...), to meet an input (C, B, ch, ...)."""
    return parameter.view(len(parameter), 1, -1, *[1] * (dims - 3))


def layer_norm(layer: nn.LayerNorm, own: Own, context: Context, x: Tensor) -> Tensor:
    result = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    if "weight" in own:
        result = result * _per_node(own["weight"], x.dim())
    if "bias" in own:
        result = result + _per_node(own["bias"], x.dim())
    return result


def group_norm(layer: nn.GroupNorm, own: Own, context: Context, x: Tensor) -> Tensor:
    result = F.group_norm(x.flatten(0, 1), layer.num_groups, eps=layer.eps).view_as(x)
    if "weight" in own:
        result = result * _per_channel(own["weight"], x.dim())
        result = result + _per_channel(own["bias"], x.dim())
    return result


def batch_norm(
    layer: nn.BatchNorm1d | nn.BatchNorm2d, own: Own, context: Context, x: Tensor
) -> Tensor | None:
    """Statistics of each node's real rows; running statistics are the node's own buffers."""
    if layer.momentum is None:
        return None
    reduced = [1, *range(3, x.dim())]
    dims = x.dim()
    if context.training or "running_mean" not in own:
        positions = x[0, 0, 0].numel()
        if context.valid is None:
            count: Any = x.shape[1] * positions
            mean = x.mean(reduced)
            centred = x - _per_channel(mean, dims)
            variance = centred.square().mean(reduced)
        else:
            valid = context.valid.view(*context.valid.shape, *[1] * (dims - 2)).to(x.dtype)
            count = context.valid.sum(1, keepdim=True) * positions
            mean = (x * valid).sum(reduced) / count
            centred = x - _per_channel(mean, dims)
            variance = (centred.square() * valid).sum(reduced) / count
        if context.training and "running_mean" in own:
            with torch.no_grad():
                unbiased = variance * (count / (count - 1))
                own["running_mean"].lerp_(mean, layer.momentum)
                own["running_var"].lerp_(unbiased, layer.momentum)
                own["num_batches_tracked"].add_(1)
    else:
        variance = own["running_var"]
        centred = x - _per_channel(own["running_mean"], dims)
    result = centred * _per_channel((variance + layer.eps).rsqrt(), dims)
    if "weight" in own:
        result = result * _per_channel(own["weight"], dims) + _per_channel(own["bias"], dims)
    return result


def flatten(layer: nn.Flatten, own: Own, context: Context, x: Tensor) -> Tensor:
    start, end = (dim + 1 if dim >= 0 else dim for dim in (layer.start_dim, layer.end_dim))
    return x.flatten(start, end)


def dropout(layer: nn.Dropout, own: Own, context: Context, x: Tensor) -> Tensor:
    return functional_dropout(context, x, layer.p, layer.training)


def functional_dropout(
    context: Context, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0 or context.dropout is None:
        return x
    return context.dropout.apply(x, p)


def recurrent(
    layer: nn.LSTM | nn.GRU, own: Own, context: Context, x: Tensor, state: Any = None
) -> Any:
    """LSTM and GRU over (C, B, T, i) (or (C, T, B, i)), one gate product a step for all nodes."""
    if layer.bidirectional or layer.proj_size or (layer.dropout and layer.training):
        return None
    if not layer.batch_first:
        x = x.transpose(1, 2)
    cell = _lstm_cell if isinstance(layer, nn.LSTM) else _gru_cell
    last: list[tuple[Tensor, ...]] = []
    for index in range(layer.num_layers):
        inputs = affine(x, own[f"weight_ih_l{index}"], own.get(f"bias_ih_l{index}"))
        recurrence = own[f"weight_hh_l{index}"], own.get(f"bias_hh_l{index}")
        if state is None:
            zero = x.new_zeros(*x.shape[:2], layer.hidden_size)
            hidden: tuple[Tensor, ...] = (zero, zero)
        else:
            pair = state if isinstance(layer, nn.LSTM) else (state, state)
            hidden = tuple(part[:, index] for part in pair)
        outputs = []
        for step in range(x.shape[2]):
            gates = affine(hidden[0], *recurrence)
            hidden = cell(inputs[:, :, step], gates, hidden)
            outputs.append(hidden[0])
        x = torch.stack(outputs, 2)
        last.append(hidden)
    final = tuple(torch.stack(parts, 1) for parts in zip(*last, strict=True))
    result = x if layer.batch_first else x.transpose(1, 2)
    return (result, final) if isinstance(layer, nn.LSTM) else (result, final[0])


def _lstm_cell(inputs: Tensor, gates: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    entry, forget, candidate, output = (inputs + gates).chunk(4, -1)
    cell = torch.sigmoid(forget) * hidden[1] + torch.sigmoid(entry) * torch.tanh(candidate)
    return torch.sigmoid(output) * torch.tanh(cell), cell


def _gru_cell(inputs: Tensor, gates: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    input_reset, input_update, input_new = inputs.chunk(3, -1)
    reset, update, new = gates.chunk(3, -1)
    update = torch.sigmoid(input_update + update)
    new = torch.tanh(input_new + torch.sigmoid(input_reset + reset) * new)
    state = new + update * (hidden[0] - new)
    return state, state


def attention(
    layer: nn.MultiheadAttention,
    own: Own,
    context: Context,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, None] | None:
    """Multi-head attention on (C, B, T, e); every node's heads are batch entries of one call.

    The attention weights are not computed: None stands in their place, and a model that uses them
    is left to sequential training.
    """
    covered = (
        layer.batch_first
        and layer.in_proj_weight is not None
        and layer.bias_k is None
        and not layer.add_zero_attn
        and not (layer.dropout and layer.training)
        and key_padding_mask is None
        and (attn_mask is None or attn_mask.dim() == 3)
    )
    if not covered:
        return None
    parts = own["in_proj_weight"].chunk(3, 1)
    biases = own["in_proj_bias"].chunk(3, 1) if "in_proj_bias" in own else (None,) * 3

    def heads(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return affine(x, weight, bias).unflatten(-1, (layer.num_heads, -1)).transpose(2, 3)

    q, k, v = (heads(x, w, b) for x, w, b in zip((query, key, value), parts, biases, strict=True))
    if attn_mask is not None:
        # A shared (T, S) mask arrives with the node axis in front; True means "may not look".
        mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)
    joined = mixed.transpose(2, 3).flatten(3)
    return affine(joined, own["out_proj.weight"], own.get("out_proj.bias")), None


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv2d: conv2d,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.Flatten: flatten,
    nn.Dropout: dropout,
    nn.LSTM: recurrent,
    nn.GRU: recurrent,
    nn.MultiheadAttention: attention,
}
