"""What secure aggregation costs a node and the receiver, in CPU seconds, and the bytes it sends.

python benchmarks/secagg.py [--only NAME] [--peer] [--json FILE]

One whole round in this process. Vectors are made, masked and added one by one, so that 1,000
of them are never held. The run stops if the sum is not that of the survivors to the bit.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from simulation import machine
from tacit.protection.secagg import neighbours
from tacit.protection.secagg.node import Node
from tacit.protection.secagg.receiver import Receiver
from tacit.protection.secagg.session import Session

_T = TypeVar("_T")


@dataclass(frozen=True)
class Work:
    """One row: the cohort, who is lost after its vector was asked for, and the vector's length."""

    name: str
    nodes: int
    lost: int
    sparse: bool
    length: int = 1_000_000

    def session(self) -> Session:
        degree, threshold = neighbours.degree(self.nodes) if self.sparse else (None, None)
        return Session(
            experiment=bytes(32),
            model=bytes(32),
            round=0,
            nodes=tuple(range(self.nodes)),
            threshold=threshold or 2 * self.nodes // 3 + 1,
            length=self.length,
            dtype=np.dtype(np.uint32),
            minimum=2,
            degree=degree,
        )


WORKS = (
    Work("sparse-100", 100, 10, True),
    Work("complete-100", 100, 10, False),
    Work("sparse-1000", 1_000, 50, True),
)


@dataclass(frozen=True)
class Measured:
    """Node: median over nodes. Receiver: its stages, and all of the last with two threads.

    Attributes:
        node, receiver: CPU seconds.
        wall: of the receiver; less than its CPU seconds where two threads find two free cores.
        upload: bytes that a node sends, over those of the vector in float32.
    """

    name: str
    degree: int | None
    threshold: int
    node: float
    receiver: float
    wall: float
    upload: float


class Clock:
    """CPU and wall seconds spent in what is called through it."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __call__(self, function: Callable[..., _T], *arguments: object) -> _T:
        cpu, wall = time.process_time(), time.perf_counter()
        result = function(*arguments)
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall
        return result


def vector(node: int, length: int) -> NDArray[np.uint32]:
    return np.random.default_rng(node).integers(0, 2**32, length, np.uint32)


def measure(work: Work) -> Measured:
    """One round.

    Raises:
        AssertionError: the sum is not that of the survivors.
    """
    session = work.session()
    identities = {node: Ed25519PrivateKey.generate() for node in session.nodes}
    directory = {node: key.public_key() for node, key in identities.items()}
    nodes = {me: Node(session, me, identities[me], directory) for me in session.nodes}
    receiver, clock = Receiver(session, directory), Clock()
    spent = {me: Clock() for me in nodes}
    sent = dict.fromkeys(nodes, 0)

    def count(me: int, message: bytes) -> bytes:
        sent[me] += len(message)
        return message

    adverts = {me: count(me, spent[me](node.advertise)) for me, node in nodes.items()}
    keys = clock(receiver.keys, adverts)
    shares = {me: count(me, spent[me](node.share, keys[me])) for me, node in nodes.items()}
    delivery = clock(receiver.deliver, shares)
    expected = np.zeros(session.length, session.dtype)
    survivors = session.nodes[work.lost :]
    for me in survivors:
        own = vector(me, session.length)
        expected += own
        clock(receiver.add, me, count(me, spent[me](nodes[me].mask, delivery[me], own)))
    fixed = clock(receiver.survivors)
    consents = {me: count(me, spent[me](nodes[me].consent, fixed[me])) for me in survivors}
    request = clock(receiver.request, consents)
    reveals = {me: count(me, spent[me](nodes[me].unmask, request[me])) for me in survivors}
    found, left = clock(receiver.sum, reveals)
    assert left == survivors, "others survive"
    assert (found == expected).all(), "the sums differ"
    return Measured(
        work.name,
        session.degree,
        session.threshold,
        statistics.median(spent[me].cpu for me in survivors),
        clock.cpu,
        clock.wall,
        max(sent.values()) / (4 * session.length),
    )


def line(work: Work, row: Measured) -> str:
    return (
        f"| {row.name}, {work.lost} lost | {row.degree or 'complete'} | {row.threshold}"
        f" | {1e3 * row.node:.0f} ms | {row.receiver:.2f} s | {row.wall:.2f} s"
        f" | {row.upload:.4f}x |"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=[work.name for work in WORKS])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", action="store_true", help="Flower's SecAgg+ on each sparse row")
    options = parser.parse_args(arguments)
    rows = []
    print("| round | degree | threshold | node | receiver | its wall time | upload |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for work in WORKS:
        if options.only not in (None, work.name):
            continue
        rows.append(measure(work))
        print(line(work, rows[-1]), flush=True)
        if options.peer and work.sparse:
            try:
                import flower
            except ImportError as error:
                print(f"| Flower's SecAgg+ is left out: {error} |")
                continue
            rows.append(flower.measure(work, *neighbours.degree(work.nodes)))
            print(line(work, rows[-1]), flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=2)
        )


if __name__ == "__main__":
    main()
