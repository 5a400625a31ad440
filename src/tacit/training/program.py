"""A module, lowered to operations that compute for many nodes at once.

``torch.fx`` traces the user's module. Every ``nn.Linear`` and ReLU becomes an operation with a
backward of its own, because autograd's bookkeeping and its separate gradient buffers cost more than
their arithmetic at usual batch sizes. All other layers are gathered into segments, each
differentiated by autograd as one piece: by a batch rule where there is one (``rules.py``), directly
where a function works elementwise, and under ``torch.vmap`` otherwise. A module that cannot be
traced is one segment under ``vmap``.
"""

import copy
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tacit.layout import Layout
from tacit.training.losses import StackedLoss
from tacit.training.rules import RULES, Context, affine, functional_dropout

_ELEMENTWISE_LAYERS = (
    nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Identity,
)  # fmt: skip
_ELEMENTWISE = {
    F.relu, F.gelu, F.silu, F.leaky_relu, F.elu, F.softplus, F.tanh, F.sigmoid,
    torch.relu, torch.tanh, torch.sigmoid, torch.exp, torch.log, torch.sqrt, torch.abs,
    torch.add, torch.sub, torch.mul, torch.div,
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow,
    "relu", "tanh", "sigmoid", "exp", "log", "sqrt", "abs", "add", "sub", "mul", "div", "pow",
}  # fmt: skip


_PROPERTIES = ("shape", "ndim", "device", "dtype")

# Into a stack that is not contiguous torch accumulates by one product per node, which costs more
# than a pass over a product set aside, unless the matrices are at least this large.
_LARGE = 2**14


@dataclass
class Stack:
    """C models in training: weights, where gradients go, and how.

    A gradient g of the weights w is taken in as ``target = decay * target + scale * g``. For plain
    SGD the target is the weights themselves: the step happens inside the backward pass. Otherwise
    the target is a gradient matrix, cleared before each step, that an optimiser reads.

    Attributes:
        weight: entry name to (C, *shape) view of the stacked vectors.
        target: the same for what takes gradients in; empty in evaluation.
    """

    weight: dict[str, Tensor]
    target: dict[str, Tensor]
    decay: float = 1.0
    scale: float = 1.0
    taken: set[str] = field(default_factory=set)

    def take(self, name: str, gradient: Tensor) -> None:
        """Take in the gradient of one entry."""
        target = self.target[name]
        self.taken.add(name)
        if self.decay == 0.0:
            target.copy_(gradient).mul_(self.scale)
            return
        if self.decay != 1.0:
            target.mul_(self.decay)
        target.add_(gradient, alpha=self.scale)

    def take_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """Take in the gradient left @ right, (C, o, b) times (C, b, i), of an entry (C, o, ...)."""
        target = self.target[name].flatten(2)
        self.taken.add(name)
        if target.is_contiguous() or target[0].numel() > _LARGE:
            target.baddbmm_(left, right, beta=self.decay, alpha=self.scale)
        else:
            self.take(name, torch.bmm(left, right).view_as(self.target[name]))


class Run:
    """The values and gradients of one pass through a program."""

    def __init__(self, stack: Stack, context: Context) -> None:
        self.stack, self.context = stack, context
        self.values: dict[fx.Node, Any] = {}
        self.gradients: dict[fx.Node, Tensor] = {}
        self.leaves: dict[Segment, list[tuple[fx.Node | str, Tensor]]] = {}

    def pass_back(self, node: fx.Node, gradient: Tensor) -> None:
        known = self.gradients.get(node)
        self.gradients[node] = gradient if known is None else known + gradient


class LinearOperation:
    """``nn.Linear``; its backward writes the weights' gradient straight into the stack's target."""

    def __init__(
        self, node: fx.Node, weight: str, bias: str | None, input_needs_grad: bool
    ) -> None:
        self.node, self.source = node, node.all_input_nodes[0]
        self.weight, self.bias = weight, bias
        self.input_needs_grad = input_needs_grad

    def forward(self, run: Run) -> None:
        weights = run.stack.weight
        bias = weights[self.bias] if self.bias else None
        run.values[self.node] = affine(run.values[self.source], weights[self.weight], bias)

    def backward(self, run: Run) -> None:
        if self.node not in run.gradients:
            return
        gradient, x = run.gradients.pop(self.node), run.values[self.source]
        if self.input_needs_grad:
            # Before the update below: the input's gradient is at the weights of the forward pass.
            weight = run.stack.weight[self.weight]
            flat = gradient.reshape(len(weight), -1, gradient.shape[-1])
            run.pass_back(self.source, torch.bmm(flat, weight).view_as(x))
        self.take(run, gradient, x)

    def take(self, run: Run, gradient: Tensor, x: Tensor) -> None:
        flat = gradient.reshape(len(gradient), -1, gradient.shape[-1])
        inputs = x.reshape(len(x), -1, x.shape[-1])
        run.stack.take_product(self.weight, flat.transpose(1, 2), inputs)
        if self.bias:
            run.stack.take(self.bias, flat.sum(1))


class ReluOperation:
    """Rectifier; its backward needs its own output only."""

    def __init__(self, node: fx.Node, source: fx.Node) -> None:
        self.node, self.source = node, source

    def forward(self, run: Run) -> None:
        run.values[self.node] = torch.relu(run.values[self.source])

    def backward(self, run: Run) -> None:
        if self.node not in run.gradients:
            return
        gradient = torch.ops.aten.threshold_backward(
            run.gradients.pop(self.node), run.values[self.node], 0
        )
        run.pass_back(self.source, gradient)


class Operation(Protocol):
    """A part of a program that computes forward, and back from its output's gradient."""

    def forward(self, run: Run) -> None: ...

    def backward(self, run: Run) -> None: ...


Evaluate = Callable[[dict[fx.Node, Any], dict[str, Tensor], Context], Any]


class Segment:
    """A stretch of the graph that autograd differentiates as one piece.

    Attributes:
        evaluate: how to compute each node of the stretch, in order.
        inputs: nodes before it whose values it uses and that need a gradient.
        parameters: trained entries that it uses.
        entries: all entries that it uses.
    """

    def __init__(self) -> None:
        self.evaluate: dict[fx.Node, Evaluate] = {}
        self.inputs: list[fx.Node] = []
        self.parameters: list[str] = []
        self.entries: list[str] = []

    def add(
        self,
        node: fx.Node,
        evaluate: Evaluate,
        inputs: list[fx.Node],
        parameters: list[str],
        entries: list[str],
    ) -> None:
        """Make the stretch longer by a node with these inputs and entries."""
        self.inputs += [n for n in inputs if n not in self.evaluate and n not in self.inputs]
        self.parameters += [name for name in parameters if name not in self.parameters]
        self.entries += [name for name in entries if name not in self.entries]
        self.evaluate[node] = evaluate

    def weights(self, run: Run) -> dict[str, Tensor]:
        """Entry name to the weights (nodes, *shape) that the stretch computes with."""
        return dict(run.stack.weight)

    def take(self, run: Run, name: str, gradient: Tensor) -> None:
        """Take in the gradient by such weights."""
        run.stack.take(name, gradient)

    def forward(self, run: Run) -> None:
        values, weights = dict(run.values), self.weights(run)
        leaves: list[tuple[fx.Node | str, Tensor]] = []
        if run.stack.target:
            for node in self.inputs:
                if isinstance(values[node], Tensor):
                    values[node] = values[node].detach().requires_grad_()
                    leaves.append((node, values[node]))
            for name in self.parameters:
                # ``.data`` and not ``.detach()``: other operations update their part of the same
                # matrix before this segment's backward, which autograd would refuse.
                weights[name] = weights[name].data.requires_grad_()
                leaves.append((name, weights[name]))
        with torch.set_grad_enabled(bool(leaves)):
            for node, evaluate in self.evaluate.items():
                values[node] = run.values[node] = evaluate(values, weights, run.context)
        run.leaves[self] = leaves

    def backward(self, run: Run) -> None:
        leaves = run.leaves.pop(self)
        reached = [node for node in self.evaluate if node in run.gradients]
        if not leaves or not reached:
            return
        found = torch.autograd.grad(
            [run.values[node] for node in reached],
            [leaf for _, leaf in leaves],
            [run.gradients.pop(node) for node in reached],
            allow_unused=True,
        )
        for (source, _), gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                if isinstance(source, str):
                    self.take(run, source, gradient)
                else:
                    run.pass_back(source, gradient)


class Program:
    """A module lowered for C nodes at once; see the module's docstring.

    Attributes:
        single_use: whether every trained entry is used by one operation only, which is what lets
            the backward pass write the step straight into the weights.
        random: whether it draws dropout masks, or may draw anything because it was not traced.
        functions: the functions that the traced graph calls.
    """

    segment: ClassVar[type[Segment]] = Segment

    def __init__(self, module: nn.Module, layout: Layout, *, training: bool) -> None:
        self.module = module = copy.deepcopy(module).train(training)
        for layer in module.modules():
            if hasattr(layer, "inplace"):
                # A segment's inputs are leaves, on which autograd allows nothing in place.
                setattr(layer, "inplace", False)  # noqa: B010
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        self.entry = {id(tensors[e.name]): e.name for e in layout.entries}
        self.trained = {e.name for e in layout.entries if e.trained}
        self.operations: list[Operation] = []
        graph, traced = _trace(self.module)
        self.random = not traced
        self.functions = {node.target for node in graph.nodes if node.op == "call_function"}
        self._lower(graph)

    def _lower(self, graph: fx.Graph) -> None:
        """Turn the graph into operations: linear layers, their rectifiers, segments of the rest."""
        needs_grad: set[fx.Node] = set()
        special: set[fx.Node] = set()
        self.uses = Counter(name for node in graph.nodes for name in self._own(node).values())
        self.single_use = max((self.uses[name] for name in self.trained), default=0) <= 1
        for node in graph.nodes:
            if node.op == "placeholder":
                self.input = node
                continue
            if node.op == "output":
                self.output = node.args[0]
                continue
            own = self._own(node)
            trained = [name for name in own.values() if name in self.trained]
            inputs = [source for source in node.all_input_nodes if source in needs_grad]
            if trained or inputs:
                needs_grad.add(node)
            layer = self.module.get_submodule(node.target) if node.op == "call_module" else None
            operation = self._layer(node, layer, own, bool(inputs))
            if operation is not None:
                self.operations.append(operation)
                special.add(node)
            elif _is_relu(node, layer) and node.all_input_nodes[0] in special:
                self.operations.append(ReluOperation(node, node.all_input_nodes[0]))
            else:
                if not self.operations or not isinstance(self.operations[-1], Segment):
                    self.operations.append(self.segment())
                segment = self.operations[-1]
                assert isinstance(segment, Segment)
                evaluate = self._evaluator(node, layer, own)
                segment.add(node, evaluate, inputs, trained, list(own.values()))

    def _layer(
        self, node: fx.Node, layer: nn.Module | None, own: dict[str, str], input_needs_grad: bool
    ) -> Operation | None:
        """The layer as an operation of its own, or None where it belongs into a segment."""
        if type(layer) is nn.Linear and self._plain(layer, own):
            return LinearOperation(node, own["weight"], own.get("bias"), input_needs_grad)
        return None

    def _plain(self, layer: nn.Module, own: dict[str, str]) -> bool:
        """Whether all is trained, and no ``weight_norm`` or ``prune`` makes weights from others."""
        trained = self.trained.issuperset(own.values())
        return "weight" in own and trained and len(own) == len(list(layer.parameters()))

    def _own(self, node: fx.Node) -> dict[str, str]:
        """The node's tensors that are part of the vector: local name to entry name."""
        if node.op == "call_module":
            tensors = _tensors_of(self.module.get_submodule(str(node.target)))
        elif node.op == "get_attr":
            tensors = {"": operator.attrgetter(str(node.target))(self.module)}
        else:
            return {}
        return {k: self.entry[id(t)] for k, t in tensors.items() if id(t) in self.entry}

    def _evaluator(self, node: fx.Node, layer: nn.Module | None, own: dict[str, str]) -> Evaluate:
        if node.op == "get_attr":
            if own:
                return lambda values, weights, context: weights[own[""]]
            constant = operator.attrgetter(str(node.target))(self.module)
            return lambda values, weights, context: _repeat(constant, weights)
        if layer is not None:
            if any(isinstance(part, nn.modules.dropout._DropoutNd) for part in layer.modules()):
                self.random = True
            rule = RULES.get(type(layer))
            shared = {k: t.data for k, t in _tensors_of(layer).items() if k not in own}

            def call_layer(values: dict, weights: dict, context: Context) -> Any:
                args = fx.node.map_arg(node.args, values.__getitem__)
                kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
                if isinstance(layer, _ELEMENTWISE_LAYERS):
                    return layer(*args)
                mine = {local: weights[name] for local, name in own.items()}
                mine |= {local: _repeat(tensor, weights) for local, tensor in shared.items()}
                result = rule(layer, mine, context, *args, **kwargs) if rule else None
                return result if result is not None else _vmap_layer(layer, mine, args, kwargs)

            return call_layer
        if node.target is F.dropout:
            self.random = True

        def call(values: dict, weights: dict, context: Context) -> Any:
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            result = _call(node, args, kwargs, context)
            return result if _tensors((args, kwargs)) else _repeat(result, weights)

        return call

    def forward(self, stack: Stack, context: Context, x: Tensor) -> Tensor:
        """Outputs (C, B, ...) of C models on their inputs (C, B, ...)."""
        run = Run(stack, context)
        self._forward(run, x)
        return run.values[self.output]

    def _forward(self, run: Run, x: Tensor) -> None:
        run.values[self.input] = x
        for operation in self.operations:
            operation.forward(run)

    def _backward(self, run: Run) -> None:
        for operation in reversed(self.operations):
            operation.backward(run)

    def step(
        self, stack: Stack, context: Context, loss: StackedLoss, x: Tensor, y: Tensor
    ) -> Tensor:
        """One training step of C models: gradients go to the stack's target.

        Args:
            x, y: (C, B, ...) inputs and targets.

        Returns:
            (C,) mean loss of each model's valid rows.
        """
        run = Run(stack, context)
        self._forward(run, x)
        output = run.values[self.output].detach()
        losses, run.gradients[self.output] = loss(output, y, context.valid)
        stack.taken.clear()
        self._backward(run)
        for name in self.trained - stack.taken:  # no gradient reached it: that is one of zero
            stack.target[name].mul_(stack.decay)
        return losses


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in RULES or super().is_leaf_module(m, module_qualified_name)


def _trace(module: nn.Module) -> tuple[fx.Graph, bool]:
    """The module's graph and whether its inside could be followed."""
    if type(module) in RULES:  # the whole model is one layer
        return _one_call(), True
    try:
        graph = _Tracer().trace(module)
        if sum(node.op == "placeholder" for node in graph.nodes) == 1:
            return graph, True
    except Exception:
        pass  # control flow that depends on values, or anything else that a tracer cannot follow
    return _one_call(), False


def _one_call() -> fx.Graph:
    """A graph of one node: the module itself."""
    graph = fx.Graph()
    graph.output(graph.call_module("", (graph.placeholder("x"),)))
    return graph


def _tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's parameters and buffers by their local names."""
    found: dict[str, Tensor] = dict(layer.named_parameters(remove_duplicate=False))
    return found | dict(layer.named_buffers(remove_duplicate=False))


def _is_relu(node: fx.Node, layer: nn.Module | None) -> bool:
    if layer is not None:  # a layer's target is its name, which may be "relu" whatever it is
        return type(layer) is nn.ReLU
    return node.target in (F.relu, torch.relu, "relu")


def _repeat(value: Any, weights: dict[str, Tensor]) -> Any:
    """Give a constant tensor the node axis that every other tensor has."""
    if not isinstance(value, Tensor):
        return value
    nodes = len(next(iter(weights.values())))
    return value.detach().expand(nodes, *value.shape)


def _tensors(arguments: Any) -> list[Tensor]:
    found: list[Tensor] = []
    fx.node.map_aggregate(arguments, lambda a: found.append(a) if isinstance(a, Tensor) else None)
    return found


def _call(node: fx.Node, args: tuple, kwargs: dict, context: Context) -> Any:
    """A function or method of the graph, on tensors that all have the node axis in front."""
    target = node.target
    tensors = _tensors((args, kwargs))
    function = target if callable(target) else getattr(Tensor, str(target))
    if not tensors or (target is operator.getitem and not isinstance(args[0], Tensor)):
        return function(*args, **kwargs)
    if target in ("size", "dim") or (target is getattr and args[1] in _PROPERTIES):
        per_node = args[0][0]
        return function(per_node, *args[1:], **kwargs)
    if target is F.dropout:
        return functional_dropout(context, *args, **kwargs)
    same_rank = len({tensor.dim() for tensor in tensors}) == 1
    attention = target is F.scaled_dot_product_attention and len(tensors) == 3
    if target == "contiguous" or (same_rank and (target in _ELEMENTWISE or attention)):
        return function(*args, **kwargs)
    return _vmap(function, args, kwargs)


def _vmap(function: Callable, args: Any, kwargs: Any) -> Any:
    """``torch.vmap`` of a call over every tensor among its arguments."""
    tensors = _tensors((args, kwargs))

    def call(*parts: Tensor) -> Any:
        remaining = iter(parts)
        a, k = fx.node.map_aggregate(
            (args, kwargs), lambda v: next(remaining) if isinstance(v, Tensor) else v
        )
        return function(*a, **k)

    return torch.vmap(call)(*tensors)


def _vmap_layer(layer: nn.Module, own: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
    def call(mine: dict[str, Tensor], *a: Any, **k: Any) -> Any:
        return torch.func.functional_call(layer, dict(mine), a, k)

    return _vmap(call, (own, *args), kwargs)
