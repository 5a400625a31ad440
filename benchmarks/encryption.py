"""What a weighted sum under homomorphic encryption costs: CPU seconds, bytes, and its error.

python benchmarks/encryption.py [--only NAME] [--length D]

Ten nodes in this process send weighted vectors: under BFV as the integers of the codec, of which
the sum is exact, under CKKS as they are. A row whose library does not load here says so. Needs no
torch, so that it runs on whatever Python OpenFHE loads.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.protection.codec import Codec
from tacit.protection.encryption import bfv, ckks
from tacit.protection.encryption.node import Node
from tacit.protection.encryption.receiver import Receiver
from tacit.protection.secagg.session import Session

NODES = 10
LIMIT = 1.0
_T = TypeVar("_T")


@dataclass
class Party:
    """CPU seconds spent in what is called through it, by stage, and bytes of what came out."""

    seconds: dict[str, float] = field(default_factory=dict)
    sent: int = 0

    def __call__(self, stage: str, function: Callable[..., _T], *arguments: object) -> _T:
        start = time.process_time()
        result = function(*arguments)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - start
        self.sent += len(result) if isinstance(result, bytes) else 0
        return result


@dataclass(frozen=True)
class Measured:
    """CPU seconds, of a node the median; bytes of a node over those of its vector in float32.

    Attributes:
        keys: of a node, for its part of the key and shares of it.
        encrypt: of a node.
        add: of the receiver, for everything until it has the ciphertext of the sum.
        decrypt: of a node; of the holder of the key under CKKS.
        finish: of the receiver, from the nodes' parts of the decryption to the sum.
        error: largest of a coordinate, in units of the largest value of a node.
    """

    keys: float
    encrypt: float
    add: float
    decrypt: float
    finish: float
    upload: float
    download: float
    error: float


def session(length: int, threshold: int) -> Session:
    nodes = tuple(range(NODES))
    return Session(bytes(32), bytes(32), 0, nodes, threshold, length, np.dtype(np.uint32), 2)


def work(length: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(nodes, d) values to LIMIT and (nodes,) weights to 1."""
    draw = np.random.default_rng(0)
    values = draw.uniform(-LIMIT, LIMIT, (NODES, length)).astype(np.float32)
    return values, draw.uniform(0.1, 1.0, NODES)


def under_bfv(length: int, threshold: int) -> Measured:
    """One sum; all but ``threshold`` nodes are lost after they have sent their ciphertexts."""
    values, weights = work(length)
    codec = Codec.for_sum(
        float("inf"), NODES, length, coordinate_range=LIMIT, max_weight=float(weights.max())
    )
    made = session(codec.length, threshold)
    identities = {node: Ed25519PrivateKey.generate() for node in made.nodes}
    directory = {node: key.public_key() for node, key in identities.items()}
    nodes = {me: Node(made, me, identities[me], directory) for me in made.nodes}
    receiver, server = Receiver(made, directory), Party()
    party = {me: Party() for me in nodes}

    adverts = {me: party[me]("keys", node.advertise) for me, node in nodes.items()}
    keys = server("add", receiver.keys, adverts)
    shares = {me: party[me]("keys", node.share, keys[me]) for me, node in nodes.items()}
    parts = server("add", receiver.deliver, shares)
    commitments, integers = {}, np.zeros(codec.length, np.uint32)
    for me, node in nodes.items():
        vector = codec.encode(values[me], np.random.default_rng(me), weights[me])
        integers += vector
        commitments[me] = party[me]("encrypt", node.commit, parts[me], vector)
    commits = server("add", receiver.commits, commitments)
    for me, node in nodes.items():
        server("add", receiver.add, me, party[me]("encrypt", node.upload, commits[me]))
    uploads = server("add", receiver.uploads)
    left = made.nodes[NODES - threshold :]
    partials = {me: party[me]("decrypt", nodes[me].decrypt, uploads.items()) for me in left}
    request = server("finish", receiver.request, partials)
    reveals = {me: party[me]("decrypt", nodes[me].rebuild, request[me]) for me in left}
    found, survivors = server("finish", receiver.sum, reveals)
    assert survivors == made.nodes, "others survive"
    assert (found == integers).all(), "the sum is not exact"
    total, _ = codec.decode(found)
    received = len(keys[left[0]]) + len(parts[left[0]]) + len(commits[left[0]])
    received += sum(map(len, uploads.values())) + len(request[left[0]])
    median = {
        stage: statistics.median(party[me].seconds[stage] for me in left)
        for stage in ("keys", "encrypt", "decrypt")
    }
    return Measured(
        **median,
        add=server.seconds["add"],
        finish=server.seconds["finish"],
        upload=party[left[0]].sent / (4 * length),
        download=received / (4 * length),
        error=float(np.abs(total - weights @ values).max()) / LIMIT,
    )


def under_ckks(length: int) -> Measured:
    """One sum, the weight as one more coordinate."""
    values, weights = work(length)
    made = session(length + 1, 6)
    identities = {node: Ed25519PrivateKey.generate() for node in made.nodes}
    directory = {node: key.public_key() for node, key in identities.items()}
    holder, server = Party(), Party()
    key = holder("keys", ckks.Holder, made, LIMIT)
    public = key.public()
    receiver, party = ckks.Receiver(made, directory, public), {me: Party() for me in made.nodes}
    for me in made.nodes:
        vector = np.append(weights[me] * values[me].astype(np.float64), weights[me])
        node = ckks.Node(made, me, identities[me], public)
        server("add", receiver.add, me, party[me]("encrypt", node.encrypt, vector))
    message, _ = server("add", receiver.sum)
    total = holder("decrypt", key.open, message)[:length]
    return Measured(
        keys=holder.seconds["keys"],
        encrypt=statistics.median(each.seconds["encrypt"] for each in party.values()),
        add=server.seconds["add"],
        decrypt=holder.seconds["decrypt"],
        finish=0.0,
        upload=party[0].sent / (4 * length),
        download=len(public) / (4 * length),
        error=float(np.abs(total - weights @ values).max()) / LIMIT,
    )


ROWS: dict[str, tuple[Callable[[], object], Callable[[int], Measured]]] = {
    "ckks": (ckks.library, under_ckks),
    "bfv-10-of-10": (bfv.library, lambda length: under_bfv(length, 10)),
    "bfv-7-of-10": (bfv.library, lambda length: under_bfv(length, 7)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=list(ROWS))
    parser.add_argument("--length", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    print("| sum | keys | encrypt | add | decrypt | finish | upload | download | error |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, (library, measure) in ROWS.items():
        if options.only not in (None, name):
            continue
        try:
            library()
        except InputError as reason:
            print(f"{name} is left out: {reason}")
            continue
        row = measure(options.length)
        print(
            f"| {name} | {row.keys:.2f} s | {row.encrypt:.2f} s | {row.add:.2f} s"
            f" | {row.decrypt:.2f} s | {row.finish:.2f} s | {row.upload:.2f}x"
            f" | {row.download:.1f}x | {row.error:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
