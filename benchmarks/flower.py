"""Flower's SecAgg+, its workflow and its client mod, on a row of ``secagg.py`` in this process.

Its nodes sit on one ring that the server draws and sign nothing; a mask is NumPy's Mersenne Twister
under 32 bits of the agreed key. As for ours, sending and making the vectors are left out.
"""

import copy
import logging
import statistics
from collections.abc import Iterable
from types import SimpleNamespace

import flwr.compat.common.recorddict_compat as compat
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Stage
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity

from secagg import Clock, Measured, Work

_RANGE = 2**22  # steps from -1 to 1; 90 times as many do not overflow 32 bits


class Server:
    """A strategy without training, and the grid that takes its messages to the nodes."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.nodes, self.outside = {me: Clock() for me in range(work.nodes)}, Clock()
        self.sent = dict.fromkeys(self.nodes, 0)
        self.mean = np.zeros(work.length)
        self._contexts = {me: Context(1, me, {}, RecordDict(), {}) for me in self.nodes}

    def vector(self, node: int) -> np.ndarray:
        return np.random.default_rng(node).uniform(-1, 1, self.work.length).astype(np.float32)

    def configure_fit(self, *_: object) -> list[tuple[SimpleNamespace, FitIns]]:
        return [(SimpleNamespace(node_id=me), FitIns(Parameters([], ""), {})) for me in self.nodes]

    def aggregate_fit(self, _: int, results: list, __: list) -> tuple[None, dict]:
        (self.mean,) = parameters_to_ndarrays(results[0][1].parameters)
        return None, {}

    def send_and_receive(self, messages: Iterable[Message], **_: object) -> list[Message]:
        return self.outside(lambda: [reply for m in messages for reply in self._replies(m)])

    def _replies(self, message: Message) -> list[Message]:
        me = message.metadata.dst_node_id
        message.content = copy.deepcopy(message.content)  # the mod takes it apart
        stage = message.content.config_records[RECORD_KEY_CONFIGS]["stage"]
        if me < self.work.lost and stage == Stage.COLLECT_MASKED_VECTORS:
            return []
        trained = compat.fitres_to_recorddict(
            FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.vector(me)]), 1, {}), True
        )
        reply = self.nodes[me](
            secaggplus_mod,
            message,
            self._contexts[me],
            lambda *_: Message(trained, reply_to=message),
        )
        self.sent[me] += reply.content.config_records[RECORD_KEY_CONFIGS].count_bytes()
        return [reply]


def measure(work: Work, degree: int, threshold: int) -> Measured:
    """One round.

    Raises:
        AssertionError: the mean is not that of the survivors to a step.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    state = RecordDict(
        {
            MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: 1}),
            MAIN_PARAMS_RECORD: ArrayRecord(),
        }
    )
    server, clock = Server(work), Clock()
    context = LegacyContext(Context(1, 0, {}, state, {}), strategy=server)
    # A node of theirs holds a share of its own.
    round_ = SecAggPlusWorkflow(
        degree + 1, threshold, max_weight=1.0, clipping_range=1.0, quantization_range=_RANGE
    )
    clock(round_, server, context)
    survivors = range(work.lost, work.nodes)
    expected = sum(server.vector(me).astype(np.float64) for me in survivors) / len(survivors)
    assert np.abs(server.mean - expected).max() < 2 / _RANGE, "the means differ"
    return Measured(
        f"Flower's SecAgg+, {work.name}",
        degree,
        threshold,
        statistics.median(server.nodes[me].cpu for me in survivors),
        clock.cpu - server.outside.cpu,
        clock.wall - server.outside.wall,
        max(server.sent.values()) / (4 * work.length),
    )
