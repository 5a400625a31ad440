"""Who is done when, where nodes work at their own pace: simulated time, in which nothing trains."""

import heapq
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from tacit.randomness import generator

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Arrivals:
    """What arrives between two steps of a server.

    Attributes:
        nodes: (k,) whose updates the next step takes, as they arrived; one may come twice.
        staleness: (k,) steps that the server took while they trained.
        again: (k,) how often the node had trained from the same model before.
        dropped: (m,) nodes whose updates were too stale.
        concurrency: nodes that train at the same time.
        handed: models that nodes were given.
        reach: by how many steps the oldest model that is still trained from will lag behind.
    """

    nodes: Ints
    staleness: Ints
    again: Ints
    dropped: Ints
    concurrency: int
    handed: int
    reach: int

    @property
    def unused(self) -> int:
        """Models that travelled beside one to, and one from, each of the k."""
        return self.handed - len(self.nodes) + len(self.dropped)


def durations(seed: int, number: int, spread: float) -> tuple[float, np.random.Generator]:
    """How long the training with this number takes, 1 + spread |z| with z standard normal.

    Half-normal, as durations in production are (Nguyen et al. 2022, section 5); the fastest
    training is the unit of time. What else is drawn for it comes from the same generator.
    """
    draw = generator(seed, "arrivals", number)
    return 1 + spread * abs(float(draw.standard_normal())), draw


def buffered(
    nodes: int, seed: int, rounds: int, buffer: int, concurrency: int, spread: float, most: int
) -> tuple[Arrivals, ...]:
    """The arrivals of each round at a server that steps after so many, a function of these alone.

    As many nodes train at any time as ``concurrency`` says. One that is done delivers, and a node
    that is idle, it or another one, is drawn and given the newest model. All who are done at the
    same time deliver before anybody is given a model.

    Args:
        buffer: updates of a step.
        spread: of the durations.
        most: staleness above which an update is dropped.
    """
    numbers = count()
    idle, training = list(range(nodes)), list[tuple[float, int, int, int, int]]()
    last: dict[int, tuple[int, int]] = {}  # of each node: the version it was given, the how manieth
    found: list[tuple[list[tuple[int, int, int]], list[int], int]] = []
    arrived, dropped, handed, now = list[tuple[int, int, int]](), list[int](), 0, 0.0
    while len(found) < rounds:
        while len(training) < concurrency:
            seconds, draw = durations(seed, number := next(numbers), spread)
            chosen = int(draw.integers(len(idle)))
            idle[chosen], idle[-1] = idle[-1], idle[chosen]
            node, version = idle.pop(), len(found)
            before, times = last.get(node, (-1, 0))
            last[node] = (version, times + 1 if before == version else 0)
            heapq.heappush(training, (now + seconds, number, node, *last[node]))
            handed += 1
        now = training[0][0]
        while training and training[0][0] == now and len(found) < rounds:
            _, _, node, version, times = heapq.heappop(training)
            idle.append(node)
            if len(found) - version > most:
                dropped.append(node)
                continue
            arrived.append((node, len(found) - version, times))
            if len(arrived) == buffer:
                found.append((arrived, dropped, handed))
                arrived, dropped, handed = [], [], 0
    oldest, made = rounds, list[Arrivals]()
    for round in reversed(range(rounds)):
        came, stale, given = found[round]
        who, late, again = np.array(came, np.int64).reshape(-1, 3).T
        reach = max(0, round + 1 - oldest)
        lost = np.array(stale, np.int64)
        made.append(Arrivals(who, late, again, lost, concurrency, given, reach))
        oldest = min(oldest, round - int(late.max()))
    return tuple(reversed(made))


def one_after_another(nodes: int, seed: int, rounds: int, spread: float) -> tuple[Arrivals, ...]:
    """Who is done in each round, in order, where all train all the time and none waits.

    A round ends before a node is done for the second time in it.
    """
    numbers = count()
    training = [(durations(seed, next(numbers), spread)[0], node) for node in range(nodes)]
    heapq.heapify(training)
    none, made = np.empty(0, np.int64), list[Arrivals]()
    while len(made) < rounds:
        done = dict[int, None]()
        while training[0][1] not in done:
            now, node = training[0]
            done[node] = None
            again = now + durations(seed, next(numbers), spread)[0]
            heapq.heapreplace(training, (again, node))
        who = np.array(list(done), np.int64)
        zeros = np.zeros_like(who)
        made.append(Arrivals(who, zeros, zeros, none, nodes, len(who), 0))
    return tuple(made)
