"""How fast a round is, beside the floor of ``floor.py``; that both compute the same is checked.

python benchmarks/simulation.py [--only NAME] [--repeats N] [--json FILE]
python benchmarks/simulation.py --memory
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floor import Batches, Floor
from tacit import Gossip, models
from tacit.engine.local import LocalTrain
from tacit.engine.run import Session
from tacit.experiment import Experiment
from tacit.topology import Star
from tacit.training.job import Emit, Job, Lowering
from tacit.training.plan import Ints, Plan
from works import WORKS, Work, fedavg, labelled

TOLERANCE = 1e-5
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Measured:
    """One row of the table; seconds are medians over rounds.

    Attributes:
        ratio: floor over ours.
        least, most: the ratio in the round where it was smallest and largest.
        overhead: share of our round in which nobody trains.
        difference: largest absolute difference of a parameter after a round, median over rounds.
    """

    name: str
    title: str
    required: float
    aim: float
    engine: str
    floor: float
    ours: float
    ratio: float
    least: float
    most: float
    overhead: float
    difference: float


class Stopwatch:
    """A lowering that counts the seconds it trains, handing its results over aside."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering, self.seconds = lowering, 0.0

    def train(self, job: Job, positions: Ints, emit: Emit) -> None:
        def timed(positions: Ints, blocks: list[Tensor], losses: Tensor) -> None:
            began = time.perf_counter()
            emit(positions, blocks, losses)
            self.seconds -= time.perf_counter() - began

        began = time.perf_counter()
        self.lowering.train(job, positions, timed)
        self.seconds += time.perf_counter() - began

    def watch(self, session: Session) -> None:
        """Count this session's training: in this process, or the wait for its workers."""
        session.trainer.lowering = self
        if session.workers is not None:
            wait = session.workers._collect

            def timed(*args: Any) -> None:
                began = time.perf_counter()
                wait(*args)
                self.seconds += time.perf_counter() - began

            session.workers._collect = timed


def measure(work: Work, repeats: int) -> Measured:
    """Time a round of the floor and one of ours, ``repeats`` times in turn, after one to warm up.

    Raises:
        AssertionError: the two do not agree.
    """
    experiment = work.make()
    floor = Floor(
        experiment.template, experiment.loss, experiment.training.lr, experiment.data.train
    )
    theirs, ours, training, differences = [], [], [], []
    torch.set_num_threads(CORES)
    with Session(experiment, "auto", None) as session:
        threads = torch.get_num_threads()  # a session may find that fewer do better
        watch = Stopwatch(session.trainer.lowering)
        watch.watch(session)
        rounds = session.rounds()
        for round in range(repeats + 1):
            floor_seconds, expected = floor_round(floor, session, round)
            torch.set_num_threads(threads)
            watch.seconds = 0.0
            began = time.perf_counter()
            next(rounds)
            ours_seconds = time.perf_counter() - began
            (found,) = session.state.values()
            differences.append(float((found - expected).abs().max()))
            if round:
                theirs.append(floor_seconds)
                ours.append(ours_seconds)
                training.append(watch.seconds)
        engine = session.choice.engine
    # The median, because in a rare round some ReLU's input lies so close to zero that rounding
    # decides its sign, which moves a parameter by 1e-5 even between two floors.
    difference = statistics.median_low(differences)
    assert difference < TOLERANCE, f"{work.name}: parameters differ by {difference:.1e}"
    ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
    rest = statistics.median(1 - t / o for t, o in zip(training, ours, strict=True))
    return Measured(
        work.name, work.title, work.required, work.aim, engine,
        statistics.median(theirs), statistics.median(ours),
        statistics.median(theirs) / statistics.median(ours), min(ratios), max(ratios),
        rest, difference,
    )  # fmt: skip


def floor_round(floor: Floor, session: Session, round: int) -> tuple[float, Tensor]:
    """Seconds of the floor's round from the session's present state, and what comes out."""
    experiment, data = session.experiment, session.experiment.data
    (state,) = session.state.values()
    topology = experiment.plan
    cohort = (
        topology.sample(data.nodes, experiment.seed, round)
        if isinstance(topology, Star)
        else np.arange(data.nodes)
    )
    plan = LocalTrain(session.trainer, cohort, round).plan
    nodes = [batches(plan, position) for position in range(len(cohort))]
    torch.set_num_threads(1)
    if not isinstance(experiment.algorithm, Gossip):
        began = time.perf_counter()
        result = floor.fedavg(state, nodes)
        return time.perf_counter() - began, result
    graph = topology.graph(data.nodes, experiment.seed, round)
    weight = torch.from_numpy(graph.matrix(graph.metropolis())).float()
    began = time.perf_counter()
    result = floor.gossip(state, nodes, weight)
    return time.perf_counter() - began, result


def batches(plan: Plan, position: int) -> Batches:
    """The rows of each step that the node at ``position`` takes."""
    steps = np.arange(plan.steps[position])
    at, size = plan.batch(np.full_like(steps, position), steps)
    return [plan.rows[a : a + s] for a, s in zip(at.tolist(), size.tolist(), strict=True)]


def resident() -> float:
    """MiB of memory that this process holds (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def memory(rounds: int, every: int) -> Iterator[tuple[int, float]]:
    """Memory after every so many rounds of a small experiment that evaluates each: (round, MiB)."""
    experiment = small().replace(rounds=rounds, evaluate_every=1)
    with Session(experiment, "auto", None) as session:
        for row in session.rounds():
            if row["round"] % every == 0:
                yield row["round"], resident()


def small() -> Experiment:
    """20 nodes of 50 rows and a small perceptron."""
    return fedavg(labelled(20, 50, (30,), 2), lambda: models.mlp(30, 64, 2), 10)


def machine() -> str:
    """Processor, cores and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    python = platform.python_version()
    return f"{name}, {CORES} cores, torch {torch.__version__}, Python {python}"


def show(row: Measured) -> None:
    overhead = f"{100 * row.overhead:6.1f} %"
    verdict = "aim" if row.ratio >= row.aim else "ok" if row.ratio >= row.required else "MISSED"
    print(
        f"{row.title:38} {row.engine:10} {row.floor:8.4f} {row.ours:8.4f} {row.ratio:6.1f}"
        f" {row.least:6.1f} ..{row.most:6.1f} {row.required:9.1f} {row.aim:5.1f} {verdict:7}"
        f" {overhead:>9} {row.difference:11.1e}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[work.name for work in WORKS], action="append")
    parser.add_argument("--repeats", type=int, default=9, help="rounds timed; a third where slow")
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    parser.add_argument("--memory", action="store_true", help="memory over 500 rounds instead")
    chosen = parser.parse_args(arguments)
    print(machine())
    if chosen.memory:
        for round, size in memory(500, 50):
            print(f"round {round:4}: {size:7.1f} MiB", flush=True)
        return
    print(
        f"{'seconds a round':38} {'engine':10} {'floor':>8} {'ours':>8} {'ratio':>6}"
        f" {'min':>6} ..{'max':>6} {'required':>9} {'aim':>5} {'':7} {'overhead':>9}"
        f" {'difference':>11}"
    )
    rows = []
    for work in WORKS:
        if not chosen.only or work.name in chosen.only:
            repeats = -(-chosen.repeats // 3) if work.heavy else chosen.repeats
            rows.append(measure(work, repeats))
            show(rows[-1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")
    if chosen.json:
        found = {"machine": machine(), "peak_mib": peak, "rows": [asdict(row) for row in rows]}
        chosen.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
