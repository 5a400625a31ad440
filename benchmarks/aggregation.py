"""How fast aggregation rules are beside ByzFL's, and one round of BALANCE beside a loop over edges.

python benchmarks/aggregation.py [--only NAME] [--repeats N] [--json FILE]
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from byzfl_parts import aggregators, preaggregators
from simulation import machine
from tacit.aggregation.balance import Balance
from tacit.aggregation.before import NNM
from tacit.aggregation.centered_clipping import CenteredClipping
from tacit.aggregation.coordinates import Median, TrimmedMean
from tacit.aggregation.geometric_median import GeometricMedian
from tacit.aggregation.gram import Seen, combinations
from tacit.aggregation.krum import Krum
from tacit.aggregation.rule import Aggregation, Round
from tacit.engine.exchange import GraphExchange
from tacit.topology import Neighbours, RandomRegular

THREADS = 2


@dataclass(frozen=True)
class Size:
    """k vectors of d numbers, f of which may lie; n nodes of a degree in the gossip network."""

    k: int = 50
    d: int = 1_000_000
    f: int = 10
    n: int = 50
    degree: int = 10


@dataclass(frozen=True)
class Contest:
    """One row of the table.

    Attributes:
        name: for ``--only``.
        title: what is timed, and beside what.
        required: times the other's speed.
        ours, theirs: what is timed.
        prepare: what comes before the two, untimed.
        difference: of what the two gave, where their definitions agree; at most 1e-5.
    """

    name: str
    title: str
    required: float
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    difference: Callable[[Any, Any], float]
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Measured:
    """Seconds are medians over repeats; least and most are of the repeats' own ratios."""

    name: str
    title: str
    required: float
    theirs: float
    ours: float
    ratio: float
    least: float
    most: float
    difference: float


def farthest(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference of two results."""
    return float((one - other).abs().max())


def contests(size: Size) -> Iterator[Contest]:
    """The rows, each with its data."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(size.k, size.d, generator=draw)
    own, weight = torch.zeros(size.d), torch.full((size.k,), 1 / size.k)
    f = size.f

    def called(rule: Aggregation) -> Callable[[], Tensor]:
        return lambda: rule(own, vectors, weight).result

    def longer(one: Tensor, other: Tensor) -> float:
        """How much longer the sum of distances to the vectors is, relative to the other point's."""
        sums = [
            sum(float((row.double() - point).norm()) for row in vectors) for point in (one, other)
        ]
        return max(0.0, sums[0] / sums[1] - 1)

    # ByzFL's score counts one neighbour more than the paper's.
    yield Contest(
        "krum", "Krum", 5, called(Krum(f)),
        lambda: aggregators.Krum(f + 1)(vectors), farthest,
    )  # fmt: skip
    yield Contest(
        "nnm", "NNM, the mixing alone", 10, lambda: mixed(own, vectors, f),
        lambda: preaggregators.NNM(f)(vectors), farthest,
    )  # fmt: skip
    # ByzFL's has not converged: ours must be at least as good a median.
    yield Contest(
        "geometric-median", "geometric median to 1e-6, beside 3 steps", 10,
        called(GeometricMedian()), lambda: aggregators.GeometricMedian()(vectors), longer,
    )  # fmt: skip
    radius = 0.1 * math.sqrt(size.d)
    yield Contest(
        "centered-clipping", "centered clipping", 5, called(CenteredClipping(radius)),
        lambda: aggregators.CenteredClipping(tau=radius)(vectors), farthest,
    )  # fmt: skip
    yield Contest(
        "median", "median", 3, called(Median()),
        lambda: aggregators.Median()(vectors), farthest,
    )  # fmt: skip
    trimmed = called(TrimmedMean(f))
    yield Contest(
        "trimmed-mean", "trimmed mean", 5, trimmed,
        lambda: aggregators.TrMean(f)(vectors), farthest,
    )  # fmt: skip
    array = vectors.numpy()
    yield Contest(
        "sort", "trimmed mean, beside one np.sort", 1, trimmed, lambda: np.sort(array, axis=0),
        lambda one, ordered: farthest(one, torch.from_numpy(ordered[f : size.k - f].mean(axis=0))),
    )  # fmt: skip
    yield network(size)


def mixed(own: Tensor, vectors: Tensor, f: int) -> Tensor:
    """(k, d) the means that a rule after ``NNM(f)`` is given where it needs the vectors."""
    share, _ = NNM(f).mixing(Seen(vectors, own), Round())
    return combinations(own, vectors, share)


def network(size: Size) -> Contest:
    """One round of BALANCE in a network where a fifth of the nodes are far off."""
    graph = RandomRegular(size.degree).graph(size.n, 0, 0)
    draw = torch.Generator().manual_seed(0)
    models = torch.randn(size.d, generator=draw).repeat(size.n, 1)
    for i, row in enumerate(models):
        row += torch.randn(size.d, generator=draw) * (1 if i % 5 == 0 else 0.1)
    rule, round = Balance(), Round()
    # An exchange may overwrite the models, the loop writes elsewhere: neither pays for new memory.
    ours, theirs = models.clone(), torch.zeros_like(models)
    return Contest(
        "balance", "BALANCE, a round of a network, beside its edges", 5,
        lambda: GraphExchange(graph, rule, round)(ours),
        lambda: edge_by_edge(graph, rule, round, models, theirs), farthest,
        lambda: ours.copy_(models),
    )  # fmt: skip


def edge_by_edge(
    graph: Neighbours, rule: Balance, round: Round, models: Tensor, result: Tensor
) -> Tensor:
    """(n, d) the same round, written as the paper has it, into ``result``."""
    share = rule.gamma * math.exp(-rule.kappa * round.index / round.total)
    for i, own in enumerate(models):
        radius = share * own.norm()
        accepted = [
            models[j]
            for j in graph.senders[graph.offsets[i] : graph.offsets[i + 1]]
            if (own - models[j]).norm() <= radius
        ]
        result[i] = own
        if accepted:
            result[i] = rule.alpha * own + (1 - rule.alpha) * sum(accepted) / len(accepted)
    return result


def measure(contest: Contest, repeats: int) -> Measured:
    """Time ours and theirs in turn, ``repeats`` times after one to warm up.

    Raises:
        AssertionError: the two do not agree.
    """
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        results = []
        contest.prepare()
        for side, call in zip(seconds, (contest.ours, contest.theirs), strict=True):
            began = time.perf_counter()
            results.append(call())
            side.append(time.perf_counter() - began)
    difference = contest.difference(*results)
    assert difference < 1e-5, f"{contest.name}: the results differ by {difference:.1e}"
    ours, theirs = seconds[0][1:], seconds[1][1:]
    ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
    medians = statistics.median(theirs), statistics.median(ours)
    return Measured(
        contest.name, contest.title, contest.required, *medians, medians[0] / medians[1],
        min(ratios), max(ratios), difference,
    )  # fmt: skip


def peak(size: Size) -> float:
    """GiB of memory at the peak of a process that makes the vectors and mixes them (NNM)."""
    script = f"import aggregation as a; print(a.mixing_peak(a.{size}))"
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(found.stdout)


def mixing_peak(size: Size) -> float:
    """GiB at the peak of this process, once it has mixed (Linux)."""
    vectors = torch.randn(size.k, size.d)
    mixed(torch.zeros(size.d), vectors, size.f)
    # The kernel's ru_maxrss would begin at the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main(arguments: list[str] | None = None, size: Size = Size()) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    print(f"{machine()}; {THREADS} threads, {size}")
    print(
        f"{'seconds':48} {'theirs':>8} {'ours':>8} {'ratio':>6} {'min':>6} ..{'max':>6}"
        f" {'required':>9} {'':7} {'difference':>11}"
    )
    rows = []
    for contest in contests(size):
        if not chosen.only or contest.name in chosen.only:
            rows.append(row := measure(contest, chosen.repeats))
            verdict = "ok" if row.ratio >= row.required else "MISSED"
            print(
                f"{row.title:48} {row.theirs:8.3f} {row.ours:8.3f} {row.ratio:6.1f}"
                f" {row.least:6.1f} ..{row.most:6.1f} {row.required:9.1f} {verdict:7}"
                f" {row.difference:11.1e}",
                flush=True,
            )
    found: dict[str, Any] = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    if not chosen.only or "nnm" in chosen.only:
        found["nnm_peak_gib"] = peak(size)
        print(f"NNM: a process with the vectors peaks at {found['nnm_peak_gib']:.2f} GiB")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
