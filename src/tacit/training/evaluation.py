"""Measuring models on test rows: one for all nodes, or each node's own, batched like training."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tacit.data.federation import Federation
from tacit.layout import Layout
from tacit.training import metrics
from tacit.training.job import Lowering
from tacit.training.losses import Loss, per_row
from tacit.training.plan import Ints

# Rows times models of one forward pass: large enough to be efficient, small enough for the cache.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Scores:
    """How good models are on a test split.

    Attributes:
        rows: (n,) test rows that each node was measured on.
        nodes: metric to (n,) values, "loss" among them; NaN where not defined.
        pooled: metric to its value over all rows; with a shared test set, the nodes' mean.
    """

    rows: Ints
    nodes: dict[str, np.ndarray]
    pooled: dict[str, float]


class Evaluator:
    """Measures models on a federation's test rows.

    Attributes:
        baseline: what a model that knows only the training targets reaches.
    """

    def __init__(
        self,
        federation: Federation,
        template: nn.Module,
        layout: Layout,
        loss: Loss,
        lowering: Lowering,
    ) -> None:
        self.test, self.task = federation.test, federation.task
        self.layout, self.lowering = layout, lowering
        self.module = layout.module(template, layout.vector(template)).eval()
        self.row_loss = per_row(loss) or _single_rows(loss)
        train, test = federation.train.y.numpy(), self.test.y.numpy()
        self.baseline = self._scores(
            lambda offsets: metrics.baseline(self.task, federation.classes, train, test, offsets)
        )

    def __call__(self, models: Tensor) -> Scores:
        """Measure (d,) one model for all nodes, or (n, d) one for each node.

        A shared test set measures every node's model on all of its rows.
        """
        if models.dim() == 1:
            return self._measure(*self._forward_shared(models))
        if self.test.nodes == len(models):
            return self._measure(*self._forward_own(models))
        each = [self._measure(*self._forward_shared(model)).pooled for model in models]
        nodes = {name: np.array([pooled[name] for pooled in each]) for name in each[0]}
        rows = np.full(len(models), len(self.test.y))
        return Scores(rows, nodes, {name: float(v.mean()) for name, v in nodes.items()})

    def _measure(self, output: Tensor, losses: Tensor) -> Scores:
        """Scores from what is kept of each test row's output, and its loss."""
        kept, y, row_losses = output.numpy(), self.test.y.numpy(), losses.double().numpy()

        def measure(offsets: Ints) -> dict[str, np.ndarray]:
            found = {"loss": metrics.node_mean(row_losses, offsets)}
            match self.task:
                case "classification":
                    return found | metrics.classification(kept, y, offsets)
                case "regression":
                    return found | metrics.regression(kept, y, offsets)
                case "sequence":
                    return found | metrics.sequence(kept, y, offsets)

        return self._scores(measure)

    def _scores(self, measure: Callable[[Ints], dict[str, np.ndarray]]) -> Scores:
        pooled = measure(np.array([0, len(self.test.y)]))
        return Scores(
            self.test.sizes,
            measure(self.test.offsets),
            {name: float(value[0]) for name, value in pooled.items()},
        )

    def _forward_shared(self, model: Tensor) -> tuple[Tensor, Tensor]:
        """One model on all test rows."""
        self.layout.bind(self.module, model)
        blocks = zip(self.test.x.split(_BLOCK), self.test.y.split(_BLOCK), strict=True)
        with torch.no_grad():
            parts = [self._keep(self.module(x), y) for x, y in blocks]
        kept, losses = zip(*parts, strict=True)
        return torch.cat(kept), torch.cat(losses)

    def _forward_own(self, models: Tensor) -> tuple[Tensor, Tensor]:
        """Each node's model on its own test rows, several nodes of similar size in one call."""
        test, sizes = self.test, self.test.sizes
        order = np.argsort(-sizes, kind="stable")
        order = order[sizes[order] > 0]
        parts = []
        while len(order):
            width = int(sizes[order[0]])
            group, order = np.split(order, [max(1, _BLOCK // width)])
            within = np.arange(width) < sizes[group][:, None]
            rows = test.offsets[group][:, None] + np.where(within, np.arange(width), 0)
            x = test.x[torch.from_numpy(rows.ravel())].unflatten(0, rows.shape)
            output = self.lowering.predict(models[torch.from_numpy(group)], x)
            real = torch.from_numpy(rows[within])
            kept, losses = self._keep(output[torch.from_numpy(within)], test.y[real])
            parts.append((real, kept, losses))
        at, kept, losses = (torch.cat(column) for column in zip(*parts, strict=True))
        back = torch.argsort(at)
        return kept[back], losses[back]

    def _keep(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the metrics need of (B, ...) outputs, and the (B,) losses."""
        losses = self.row_loss(output, y)
        if self.task != "sequence":
            return output, losses
        # No class where a model has overflowed: argmax of NaN would be one.
        return output.argmax(-1).masked_fill(output.isnan().any(-1), -1), losses


def _single_rows(loss: Loss) -> Loss:
    """The loss of each row as a batch of its own, for losses of unknown form."""
    one = lambda output, target: loss(output.unsqueeze(0), target.unsqueeze(0))  # noqa: E731

    def rows(output: Tensor, target: Tensor) -> Tensor:
        try:
            return torch.vmap(one)(output, target)
        except RuntimeError:  # the loss looks at values: a mask, ``.item()``
            return torch.stack([one(o, t) for o, t in zip(output, target, strict=True)])

    return rows
