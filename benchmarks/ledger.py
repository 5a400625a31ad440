"""The record's speeds, and what batching coalitions gains.

python benchmarks/ledger.py [--only NAME]

Appends are durable: SQLite with synchronous=FULL, so that they measure the disk as well; the row
beside them is as many writes with fsync of the same entries to a plain file, in the same run.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

import tacit
from simulation import machine
from tacit.engine.scoring import _Scoring
from tacit.ledger import merkle
from tacit.ledger.contribution import Round, Shapley
from tacit.ledger.log import Log
from tacit.ledger.recorder import Recorder
from tacit.ledger.verify import verify

ENTRY = bytes(600)  # about what a contribution takes


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def appends(folder: Path) -> None:
    for batch, times in ((1, 1000), (20, 300)):
        log = Log(folder / f"log{batch}", "bench")
        took = seconds(lambda: [log.append([ENTRY] * batch) for _ in range(times)])  # noqa: B023

        def plain() -> None:
            with (folder / "plain").open("wb") as file:
                for _ in range(times):  # noqa: B023
                    file.write(ENTRY * batch)  # noqa: B023
                    file.flush()
                    os.fsync(file.fileno())

        beside = seconds(plain)
        print(
            f"appends in batches of {batch:2}: {batch * times / took:8,.0f} a second;"
            f" plain file with fsync {batch * times / beside:8,.0f}; ratio {beside / took:.2f}"
        )


def proofs(folder: Path) -> None:
    log = Log(folder / "proofs", "bench")
    log.append([b"%d" % i for i in range(100_000)])
    root = log.head().root
    wanted = range(0, 100_000, 97)
    paths = [(merkle.leaf_hash(log[i]), i, log.inclusion(i, 100_000)) for i in wanted]
    took = seconds(
        lambda: [merkle.included(leaf, i, 100_000, path, root) for leaf, i, path in paths]
    )
    hashes = sum(len(path) for _, _, path in paths)
    left, right = bytes(32), bytes(32)
    floor = seconds(lambda: [merkle.node_hash(left, right) for _ in range(hashes)])
    print(
        f"inclusion proofs checked at 100,000 entries: {len(paths) / took:,.0f} a second;"
        f" {took / floor:.2f} times their hashes alone"
    )


def rounds(folder: Path) -> None:
    nodes = [f"site {i}" for i in range(20)]
    recorder = Recorder(folder / "record", bytes(32), nodes, [100] * 20, {}, "none")
    times = 50

    def carry_out() -> None:
        for round in range(times):
            recorder.open(round, b"model %d" % round)
            for node in range(20):
                recorder.heard(node, b"update")
            recorder.close(round, {}, b"model %d" % (round + 1))

    began = time.process_time()
    took = seconds(carry_out)
    worked = time.process_time() - began
    recorder.finish()
    signing, checking = signatures(200)
    # Each witness checks the log's signature, and the keeper all on the head, which has the log's.
    alone = 43 * signing + 41 * checking
    print(
        f"a round of 22 records, 1 head, 20 witnesses: {1000 * took / times:.1f} ms,"
        f" {1000 * worked / times:.1f} of CPU; {1000 * alone:.1f} its signatures alone"
    )
    began = time.process_time()
    audit = verify(folder / "record")
    assert audit.head is not None
    assert not audit.findings
    print(
        f"audit of {audit.head.size} entries: {time.process_time() - began:.2f} s of CPU;"
        f" {checking * (audit.head.size + 40):.2f} its signatures alone"
    )


def signatures(times: int) -> tuple[float, float]:
    """Seconds of CPU for one Ed25519 signature, and for a check of it."""
    private, message, took = Ed25519PrivateKey.generate(), bytes(500), []
    public, signature = private.public_key(), private.sign(message)
    for work in (lambda: private.sign(message), lambda: public.verify(signature, message)):
        began = time.process_time()
        for _ in range(times):
            work()
        took.append((time.process_time() - began) / times)
    return took[0], took[1]


def coalitions(folder: Path) -> None:
    """Exact Shapley values of ten nodes: 1,024 models as batches, and one after another."""
    for data, sizes in (
        ("breast-cancer", (30, 2)),
        ("breast-cancer", (30, 64, 2)),
        ("digits", (64, 32, 10)),
    ):
        compare(data, sizes)


def compare(data: str, sizes: tuple[int, ...]) -> None:
    plan = tacit.Experiment(
        data=tacit.data.load(data, nodes=10),
        model=lambda: tacit.models.mlp(*sizes),
        loss=nn.functional.cross_entropy,
        training=tacit.SGD(lr=0.1, batch_size=16),
        rounds=1,
    )
    with _Scoring(plan, Shapley()) as session:
        test = session.evaluator.test
        base = plan.start()
        steps = 0.05 * torch.randn(10, len(base), generator=torch.Generator().manual_seed(0))
        module = plan.layout.module(plan.template, base).eval()

        def one_by_one(models: torch.Tensor) -> np.ndarray:
            found = []
            for model in models:
                plan.layout.bind(module, model)
                with torch.no_grad():
                    found.append(float((module(test.x).argmax(1) == test.y).double().mean()))
            return np.array(found)

        def batch() -> np.ndarray:
            return Shapley().scores(session.tried(base, steps, np.ones(10), 0))

        def loop() -> np.ndarray:
            return Shapley().scores(
                Round(base, steps, np.ones(10), one_by_one, lambda model: model)
            )

        ratios = []
        for _ in range(7):
            found, slow = [], []
            batched = seconds(lambda: found.append(batch()))  # noqa: B023
            beside = seconds(lambda: slow.append(loop()))  # noqa: B023
            assert np.abs(found[0] - slow[0]).max() < 1e-6  # a run scores in millionths
            ratios.append(beside / batched)
    print(
        f"1,024 coalitions, {'-'.join(map(str, sizes))} on {len(test.y)} rows: batched"
        f" {sorted(ratios)[3]:.1f} times as fast ({min(ratios):.1f} to {max(ratios):.1f})"
    )


ROWS = {each.__name__: each for each in (appends, proofs, rounds, coalitions)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=ROWS)
    wanted = parser.parse_args().only
    print(machine())
    for name, row in ROWS.items():
        if wanted in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                row(Path(folder))


if __name__ == "__main__":
    main()
