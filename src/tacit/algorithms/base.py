"""What an algorithm is, and what an engine hands it in each round.

An algorithm says how rounds follow each other, and nothing about where nodes live: an engine gives
it ``train`` (nodes' start vectors to end vectors) and ``exchange`` (who receives what, aggregated).
The state between rounds is a dict of plain tensors, so that it can be saved and resumed.
"""

from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from tacit.algorithms.arrivals import Arrivals
from tacit.layout import Layout
from tacit.training.optimizers import Training
from tacit.training.plan import Ints

State = dict[str, Tensor]
Metrics = dict[str, float]


class Updates(Protocol):
    """The models that a cohort trained, computed when they are asked for.

    Attributes:
        nodes: (k,) node ids.
    """

    nodes: Ints

    def sum(self, weight: Tensor) -> Tensor:
        """(d,) the models' weighted sum, in O(d) memory; weight is (k,)."""
        ...

    def matrix(self) -> Tensor:
        """(k, d) every model."""
        ...


class Train(Protocol):
    """Local training in one round.

    Attributes:
        nodes: (k,) ids of the nodes that take part: the cohort, or all.
        rows: (k,) training rows of each.
        steps: (k,) steps that each takes.
        training: optimiser and settings.
        lr: learning rate in this round.
        layout: where the model's tensors lie in its vector.
    """

    nodes: Ints
    rows: Ints

    @property
    def steps(self) -> Ints: ...

    training: Training
    lr: float
    layout: Layout

    def __call__(
        self,
        start: Tensor,
        *,
        prox: float = 0.0,
        anchor: Tensor | None = None,
        correction: Tensor | None = None,
        frozen: Tensor | None = None,
        overwrite: bool = False,
    ) -> Updates:
        """Train every node from ``start`` on its loss + prox/2 ||w - anchor||^2 + <correction, w>.

        Args:
            start: (d,) for all, or (k, d).
            anchor: (d,) or (k, d); ``start`` if None.
            correction: (p,) or (k, p), p the trained coordinates.
            frozen: (p,) bool, coordinates that stay as they are.
            overwrite: ``matrix()`` may take the memory of ``start`` (k, d), so that models of which
                every node has its own lie in memory once.
        """
        ...

    def weights(self, uniform: bool = False) -> Tensor:
        """(k,) each node's share of the cohort's rows, or 1/k; all zero for an empty cohort."""
        ...


class AsyncTrain(Protocol):
    """Local training of those who are done in a round, each from the model that it was given.

    One may be done twice.

    Attributes:
        staleness: (k,) int64, how many rounds ago each of the k was given its model.
        concurrency: nodes that train at the same time.
        reach: how many rounds before the next one's is the oldest model that is still trained from.
        layout: where the model's tensors lie in its vector.
    """

    staleness: Tensor
    concurrency: int
    reach: int
    layout: Layout

    def __call__(self, start: Tensor) -> Tensor:
        """(k, d) every model, trained from ``start`` (k, d)."""
        ...


class ServerExchange(Protocol):
    """The cohort sends to the server, which aggregates and sends the result back."""

    def __call__(self, own: Tensor, received: "Updates | Tensor", weight: Tensor) -> Tensor:
        """Aggregate what the cohort sends.

        Args:
            own: (d,) what the server had.
            received: updates, or (k, d).
            weight: (k,).
        """
        ...


class PeerExchange(Protocol):
    """Every node sends to its neighbours, and aggregates what it receives with its own."""

    def __call__(
        self, models: Tensor, *, start: Tensor | None = None, push: bool = False
    ) -> Tensor:
        """Mix (n, d) models, whose memory the result may take.

        Args:
            start: (d,) or (n, d) from where adversaries take the change that was learned; None: the
                models before the last training.
            push: mix by column-stochastic weights, which directed graphs need.
        """
        ...


class PairExchange(Protocol):
    """Nodes average with one neighbour at a time."""

    def partners(self, nodes: Ints) -> Ints:
        """(k,) a neighbour of each node, drawn uniformly."""
        ...

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """(d,) what both have after they sent (d,) models to each other."""
        ...


class Algorithm:
    """Base of all algorithms; each is a frozen dataclass of its settings.

    Attributes:
        exchanges: with a "server", with "peers" (needs a graph), or with "nobody".
        pools: whether all rows are laid together as one node's, which is what the others avoid.
    """

    exchanges: ClassVar[Literal["server", "peers", "nobody"]]
    pools: ClassVar[bool] = False

    def local(self, training: Training) -> Training:
        """The local training that the algorithm makes of the experiment's."""
        return training

    def check(self, layout: Layout, training: Training) -> None:
        """Refuse a model or training that the algorithm cannot work with, by ``InputError``."""

    def sends(self, layout: Layout) -> dict[str, int]:
        """What a node sends to each receiver in a round: its name, and how many numbers it has."""
        return {"model": layout.size}

    def keeps(self, layout: Layout) -> tuple[str, ...]:
        """What a node learns for itself and never sends, in words."""
        return ()

    def arrivals(self, nodes: int, seed: int, rounds: int) -> tuple[Arrivals, ...] | None:
        """Who is done in each round where nodes work at their own pace; None: in step.

        Raises:
            InputError: a setting that does not suit this number of nodes.
        """
        return None

    def server_only(self) -> frozenset[str]:
        """Names of the state's entries that no node reads: they need not travel."""
        return frozenset()

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        """The state before the first round, from the (d,) initial model."""
        raise NotImplementedError

    def round(self, state: State, train: Any, exchange: Any) -> tuple[State, Metrics]:
        """One round; returns the new state and what is worth reporting."""
        raise NotImplementedError

    def model(self, state: State) -> Tensor:
        """(d,) the model that all share, or the mean of the nodes' models."""
        raise NotImplementedError

    def models(self, state: State, train: Train) -> Tensor | None:
        """(n, d) each node's own model, or None where all use the shared one.

        ``train`` trains all nodes.
        """
        return None
