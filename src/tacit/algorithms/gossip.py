"""Gossip: every node keeps a model of its own and averages it with its neighbours'."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from tacit.algorithms.base import Algorithm, Metrics, PeerExchange, State, Train
from tacit.errors import require
from tacit.layout import Layout

Mix = Literal["after", "before"]


@dataclass(frozen=True)
class Gossip(Algorithm):
    """D-PSGD and its relatives: local training T and averaging by the mixing matrix W in turn.

    The papers differ in the local training and in the graph, which are the experiment's:

    - one SGD step a round: D-PSGD, Lian et al., "Can decentralized algorithms outperform
      centralized algorithms?", NeurIPS 2017, algorithm 1;
    - several steps with ``SGD(momentum=...)``: DFedAvgM, Sun, Li, Wang, "Decentralized federated
      averaging", 2021, algorithm 1 (heavy-ball momentum that begins at zero in each round);
    - topology ``Epidemic(fanout)``: epidemic learning, de Vos et al., NeurIPS 2023, algorithm 1;
    - topology ``Pairwise()``: random pairwise gossip, Boyd et al. 2006;
    - compression ``TopK(0.1)``: CHOCO-SGD, Koloskova, Stich, Jaggi, ICML 2019, algorithm 2; see
      ``tacit.compression.choco``.

    Attributes:
        mix: when to average.
            "after" local training, x_i <- sum_j W_ij T_j(x_j): neighbours get the trained models.
            "before" the local step is added, x_i <- sum_j W_ij x_j + (T_i(x_i) - x_i): D-PSGD as
            printed, with the gradient at the node's own model, so that nodes can send while they
            train. Buffers (BatchNorm statistics) then stay each node's own.

    Raises:
        InputError: another ``mix``.
    """

    mix: Mix = "after"
    exchanges: ClassVar = "peers"

    def __post_init__(self) -> None:
        require(self.mix in get_args(Mix), "algorithm.mix", self.mix, "'after' or 'before'")

    def sends(self, layout: Layout) -> dict[str, int]:
        return {"model": layout.size if self.mix == "after" else layout.trained}

    def init(self, start: Tensor, nodes: int, layout: Layout) -> State:
        return {"models": start.repeat(nodes, 1)}

    def round(self, state: State, train: Train, exchange: PeerExchange) -> tuple[State, Metrics]:
        models = state["models"]
        if self.mix == "after":
            return {"models": exchange(train(models, overwrite=True).matrix())}, {}
        p = train.layout.trained
        trained = train(models).matrix()
        trained[:, :p] -= models[:, :p]
        trained[:, :p] += exchange(models[:, :p])
        return {"models": trained}, {}

    def model(self, state: State) -> Tensor:
        return state["models"].mean(0)

    def models(self, state: State, train: Train) -> Tensor:
        return state["models"]
