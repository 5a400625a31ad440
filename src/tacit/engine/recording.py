"""What a run in this process tells its record."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tacit.algorithms import FedBuff
from tacit.algorithms.arrivals import Arrivals
from tacit.engine.exchange import GraphExchange, StarExchange
from tacit.engine.pairs import PairAveraging
from tacit.engine.secure_sum import Opened
from tacit.errors import InputError
from tacit.experiment import Experiment
from tacit.ledger.rounds import ROUNDS, STALENESS
from tacit.protection import SecureAggregation

Exchange = StarExchange | GraphExchange | PairAveraging

if TYPE_CHECKING:
    from tacit.ledger.recorder import Begun, Recorder


def recorder(
    experiment: Experiment,
    folder: Path,
    masked: Path | None = None,
    origin: Mapping[str, str] = MappingProxyType({}),
) -> "Recorder":
    """Who writes an experiment's record.

    Args:
        masked: file for the openings of masked vectors.
        origin: what the genesis says beside the experiment's rules, where the record begins.

    Raises:
        InputError: openings of a plan without masks; or of one whose peers each open a sum: their
            neighbourhoods overlap, and who has all of their sums has every model.
    """
    from tacit.ledger.recorder import Recorder

    guard = experiment.guard
    masks = guard is not None and isinstance(guard.secure, SecureAggregation)
    if masked is not None and not (masks and guard and not guard.setting.peers):
        raise InputError(
            f"openings: {masked} was given; they are of masked vectors that a server sums, as with"
            " SecureAggregation() under FedAvg()"
        )
    return Recorder(
        folder, bytes.fromhex(experiment.digest()), experiment.data.names,
        experiment.data.train.sizes.tolist(), rules(experiment) | dict(origin), claim(experiment),
        masked,
    )  # fmt: skip


def rules(experiment: Experiment) -> dict[str, str]:
    """What a record's genesis says of an experiment."""
    parts = {
        "algorithm": experiment.algorithm,
        "aggregation": experiment.aggregation,
        "topology": experiment.plan,
        "protection": list(experiment.protection),
    }
    if isinstance(experiment.algorithm, FedBuff):
        parts |= {STALENESS: experiment.algorithm.max_staleness, ROUNDS: experiment.rounds}
    return {name: repr(part) for name, part in parts.items()}


def claim(experiment: Experiment) -> str:
    """What protects an update, in words."""
    return ", ".join(type(part).__name__ for part in experiment.protection) or "none"


def listen(recorder: "Recorder", exchange: Exchange | None) -> None:
    """Have a round's exchange tell what the nodes send, beside whoever listens already.

    In a graph a liar is recorded with its own model, since it may send each neighbour another lie.
    """

    before = exchange.listener if exchange is not None else None

    def heard(node: int, sent: NDArray[np.generic]) -> None:
        if before is not None:
            before(node, sent)
        recorder.heard(node, sent.tobytes())

    def unmasked(opened: Opened) -> None:
        assert opened.behind is not None
        recorder.summed(opened.behind, opened.masks)

    if exchange is not None:
        exchange.listener = heard
        if not isinstance(exchange, PairAveraging) and exchange.protector is not None:
            exchange.protector.listener = heard
            exchange.protector.on_unmasked = unmasked


def listen_late(
    recorder: "Recorder", exchange: StarExchange, round: int, arrivals: Arrivals
) -> "list[Begun]":
    """``listen``, in an asynchronous round; who contributes to it, and from which model, in order.

    A round has one exchange, in which one node may send several times.
    """
    begun = [
        (int(node), round - int(stale), int(again))
        for node, stale, again in zip(
            arrivals.nodes, arrivals.staleness, arrivals.again, strict=True
        )
    ]
    order, before = iter(begun), exchange.listener

    def heard(node: int, sent: NDArray[np.generic]) -> None:
        if before is not None:
            before(node, sent)
        sender, began, again = next(order)
        assert sender == node
        recorder.heard(node, sent.tobytes(), began, again)

    exchange.listener = heard
    return begun


def turned_away(exchange: StarExchange) -> dict[int, str]:
    """Which of the updates of an asynchronous round its rule did not count, by their order."""
    if exchange.verdict is None:
        return {}
    reason = f"turned away by {type(exchange.aggregation).__name__}"
    return dict.fromkeys(torch.nonzero(exchange.verdict.accepted == 0)[:, 0].tolist(), reason)


def excluded(exchange: Exchange | None) -> dict[int, str]:
    """Nodes whose part of a round no receiver counted, and why."""
    if exchange is None:
        return {}
    out = dict[int, str]()
    if isinstance(exchange, StarExchange) and exchange.masked and exchange.protector:
        lost = np.setdiff1d(exchange.nodes, exchange.protector.counted)
        out = dict.fromkeys(lost.tolist(), "not in the secure sum")
    if exchange.verdict is not None:
        verdict = exchange.verdict
        counted = set(verdict.senders[verdict.accepted.numpy() > 0].tolist())
        turned = sorted(set(verdict.senders.tolist()) - counted)
        rule = type(exchange.aggregation).__name__
        out |= dict.fromkeys(turned, f"turned away by {rule}")
    return out
