"""Worker processes: each trains its share of the nodes, one thread each.

Processes and not threads: a thread pool waits for its slowest member at every operation, and loses
a multiple of its time where other programs use the cores. Workers are forked, so that they inherit
the user's model and the data without pickling either; they stay up for the whole run. Vectors
travel through shared memory, the rest through private pipes.
"""

import contextlib
import logging
import mmap
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.errors import TacitError
from tacit.training.job import Collect, Job, Lowering
from tacit.training.plan import Ints

_INPUTS = ("start", "anchor", "correction")
_OWN = "models"  # what every node has of its own: read as the start, overwritten by the result
_TRIES = 3
log = logging.getLogger("tacit")


class SharedMatrix:
    """Float32 memory that forked processes share; it grows when more is asked for."""

    def __init__(self) -> None:
        self._file = os.memfd_create("tacit")
        self._map: mmap.mmap | None = None

    def close(self) -> None:
        """Give the file back; tensors that view the memory keep it."""
        os.close(self._file)

    def view(self, shape: tuple[int, ...]) -> Tensor:
        """The memory as a tensor of this shape; its content is whatever was written last."""
        size = 4 * prod(shape)
        if self._map is None or len(self._map) < size:
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
            self._map = mmap.mmap(self._file, size)
        return torch.frombuffer(self._map, dtype=torch.float32, count=prod(shape)).view(shape)


@dataclass(frozen=True)
class _Order:
    """What a worker is asked to do: some positions of a job whose vectors lie in shared memory.

    Attributes:
        inputs: where the job's inputs lie, and their shapes.
        result: where the result goes, and its shape: (k, d) end vectors, or (workers, d) partial
            sums.
        weight: (k,) for partial sums, None for end vectors.
    """

    job: Job
    inputs: dict[str, tuple[str, tuple[int, ...]]]
    positions: Ints
    result: tuple[str, tuple[int, ...]]
    weight: np.ndarray | None


class Workers:
    """A pool of forked processes that carries out jobs until it is closed."""

    def __init__(self, lowering: Lowering, count: int) -> None:
        self.lowering, self.count = lowering, count
        self.memory = {name: SharedMatrix() for name in (*_INPUTS, _OWN, "result")}
        self.split: Any = None
        self.lent: Callable[[], Tensor | None] = lambda: None
        self.processes: list[Any] = []
        self.pipes: list[Any] = []

    def run(
        self, job: Job, weight: Tensor | None, overwrite: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Carry out a job: see ``LocalUpdates``.

        With ``overwrite`` the end vectors take the place of the start in shared memory, where they
        are the next round's start without being copied.

        Returns:
            (k, d) end vectors, or their (d,) sum by ``weight`` (k,) if given; and (k,) losses.

        Raises:
            TacitError: a worker failed, or died three times over the same work.
        """
        if not self.processes:
            self._start(job)
        own = overwrite and self._may_take(job.start)
        inputs = {}
        for name in _INPUTS:
            value = getattr(job, name)
            if value is not None:
                place = _OWN if own and name == "start" else name
                inputs[name] = place, tuple(value.shape)
                shared = self.memory[place].view(inputs[name][1])
                if shared.data_ptr() != value.data_ptr():
                    shared.copy_(value)
        shape = (len(job.plan.nodes) if weight is None else self.count, job.start.shape[-1])
        result = (_OWN if own else "result"), shape
        vectors = self.memory[result[0]].view(shape)  # grown here, before a worker maps it
        # The lr of this round is known, and a schedule may be a function, which cannot be pickled.
        training = replace(job.training, schedule=None)
        light = replace(
            job, training=training, split=None, start=None, anchor=None, correction=None,  # type: ignore[arg-type]
            in_place=own,
        )  # fmt: skip
        weights = None if weight is None else weight.numpy()
        orders = [
            _Order(light, inputs, positions, result, weights)
            for positions in _share_out(job.plan.steps, self.count)
        ]
        losses = torch.empty(len(job.plan.nodes))
        for index, order in enumerate(orders):
            self._send(index, order)
        self._collect(orders, losses)
        if own:
            self.lent = weakref.ref(vectors)
            return vectors, losses
        return (vectors.clone() if weight is None else vectors.sum(0)), losses

    def _may_take(self, start: Tensor) -> bool:
        """Whether the memory of nodes' own models holds this start already, or nothing in use."""
        lent = self.lent()
        return lent is None or lent.data_ptr() == start.data_ptr()

    def close(self) -> None:
        """End the processes."""
        for memory in self.memory.values():
            memory.close()
        for pipe in self.pipes:
            pipe.close()
        patience = time.monotonic() + 1
        for process in self.processes:
            process.join(max(0.0, patience - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self.processes, self.pipes = [], []

    def _start(self, job: Job) -> None:
        self.split = job.split
        self.processes, self.pipes = [None] * self.count, [None] * self.count
        for index in range(self.count):
            self._fork(index)

    def _fork(self, index: int) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=self._serve, args=(index, ours, theirs), daemon=True)
        process.start()
        theirs.close()
        self.processes[index], self.pipes[index] = process, ours

    def _send(self, index: int, order: _Order) -> None:
        message = pickle.dumps(order)
        try:
            self.pipes[index].send_bytes(message)
        except ConnectionError:  # it died before it began
            self._fork(index)
            self.pipes[index].send_bytes(message)

    def _collect(self, orders: list[_Order], losses: Tensor) -> None:
        waiting = set(range(self.count))
        tries = [1] * self.count
        while waiting:
            for ready in multiprocessing.connection.wait([self.pipes[i] for i in waiting]):
                index = self.pipes.index(ready)
                try:
                    answer = pickle.loads(self.pipes[index].recv_bytes())
                except (EOFError, ConnectionError):
                    if orders[index].job.in_place:
                        raise TacitError(
                            "a worker process died over models that it trained where they lie;"
                            " resume from the last checkpoint"
                        ) from None
                    if tries[index] == _TRIES:
                        raise TacitError(
                            f"a worker process died {_TRIES} times over the same nodes;"
                            " it may be out of memory, try fewer workers"
                        ) from None
                    tries[index] += 1
                    self._fork(index)
                    self._send(index, orders[index])
                    continue
                if isinstance(answer, str):
                    raise TacitError(f"local training failed in a worker process: {answer}")
                losses[torch.from_numpy(orders[index].positions)] = torch.from_numpy(answer)
                waiting.discard(index)

    def _serve(self, index: int, ours: Any, pipe: Any) -> None:
        """A worker's life: take an order, carry it out, answer with the losses."""
        ours.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        torch.set_num_threads(1)
        with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
            while True:
                order = pickle.loads(pipe.recv_bytes())
                try:
                    answer: Any = self._work(index, order)
                except Exception as error:
                    log.debug("a worker failed", exc_info=True)
                    answer = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                pipe.send_bytes(pickle.dumps(answer))
        os._exit(0)

    def _work(self, index: int, order: _Order) -> np.ndarray:
        inputs: dict[str, Any] = {
            name: self.memory[place].view(shape) for name, (place, shape) in order.inputs.items()
        }
        plan = order.job.plan.only(order.positions)
        job = replace(order.job, split=self.split, plan=plan, **inputs)
        result = self.memory[order.result[0]].view(order.result[1])
        losses = torch.empty(len(order.job.plan.nodes))
        weight = None
        if order.weight is not None:
            result, weight = result[index].zero_(), torch.from_numpy(order.weight)
        self.lowering.train(job, order.positions, Collect(result, losses, weight))
        return losses[torch.from_numpy(order.positions)].numpy()


def _share_out(steps: Ints, workers: int) -> list[Ints]:
    """Positions for each worker: longest first, each to the worker with the least so far.

    The assignment depends on the plan alone, so that partial sums always add up in the same order.
    """
    if (steps == steps[0]).all():  # neighbours stay together, which makes copies plain passes
        return np.array_split(np.arange(len(steps)), workers)
    load = [0] * workers
    positions: list[list[int]] = [[] for _ in range(workers)]
    for position in np.argsort(-steps, kind="stable"):
        least = load.index(min(load))
        load[least] += int(steps[position])
        positions[least].append(int(position))
    return [np.array(part, dtype=np.int64) for part in positions]
