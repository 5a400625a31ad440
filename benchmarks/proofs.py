"""What the norm proofs cost, for two aggregators and for one server: CPU seconds and bytes.

    OMP_NUM_THREADS=1 python benchmarks/proofs.py [--dimensions 10000 100000 1000000] [--json FILE]

CPU time of the process, the least of three runs: other work on the machine disturbs it little.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

from tacit.protection.proof import field, group
from tacit.protection.proof.commitment import blinding, commit, sum_holds
from tacit.protection.proof.committed import holds, prove
from tacit.protection.proof.node import Prover
from tacit.protection.proof.projection import NormClaim
from tacit.protection.proof.verifier import Verifier, accepted
from tacit.protection.sharing import Helper, Server, Session

T = TypeVar("T")
NORM = 2**20
NODES = 2


@dataclass(frozen=True)
class Row:
    """Of one node where not said otherwise; bytes beside those of d float32."""

    dimension: int
    projections: int
    share: float
    prove: float
    project: float
    query: float
    upload: int
    proof: int
    expansion: float
    slack: float


class Clock:
    """CPU seconds of each named step, in the order of the calls."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.spent: dict[str, float] = {}

    def __call__(self, name: str, step: Callable[[], T]) -> T:
        start = time.process_time()
        result = step()
        self.spent[name] = self.spent.get(name, 0.0) + (time.process_time() - start) / self.nodes
        return result


def once(dimension: int, projections: int) -> tuple[dict[str, float], int, int]:
    """One round of honest nodes; each step's seconds a node, bytes of upload and of proof."""
    clock, session = Clock(NODES), Session(bytes(32), 0, dimension, field.P, 2)
    claim = NormClaim(NORM, projections)
    server, helper = Server(session), Helper(session)
    drawn = np.random.default_rng(0).standard_normal((NODES, dimension))
    rows = np.trunc(drawn * (NORM / np.linalg.norm(drawn, axis=1, keepdims=True)))
    provers = []
    for node, row in enumerate(rows.astype(np.int64)):
        values = field.encode(row)
        prover = clock("share", lambda n=node, v=values: Prover(session, claim, n, v))
        server.receive(node, prover.upload)
        helper.receive(node, prover.seed)
        provers.append(prover)
    sides = Verifier(claim, server), Verifier(claim, helper)
    one, other = (side.fix_uploads(server.nodes) for side in sides)
    coin = other.reveal(one.commitment)
    one.reveal(other.commitment)
    challenge = one.result(coin)
    clock("project", lambda: sides[0].project(server.nodes, challenge))
    sides[1].project(server.nodes, challenge)
    for node, prover in enumerate(provers):
        proof = clock("prove", lambda p=prover: p.prove(challenge))
        sides[0].receive(node, proof)
    for side in sides:
        side.fix_proofs(range(NODES))
    answers = clock("query", lambda: sides[0].query(challenge))
    assert accepted(answers, sides[1].query(challenge)) == list(range(NODES))
    return clock.spent, len(provers[0].upload) + len(provers[0].seed), len(proof)


def measure(dimension: int, projections: int, repeats: int) -> Row:
    runs = [once(dimension, projections) for _ in range(repeats)]
    least = {name: min(spent[name] for spent, _, _ in runs) for name in runs[0][0]}
    _, upload, proof = runs[0]
    expansion = (upload + proof) / (4 * dimension)
    slack = NormClaim(NORM, projections).slack(1e-6)
    return Row(
        dimension,
        projections,
        **least,
        upload=upload,
        proof=proof,
        expansion=expansion,
        slack=slack,
    )


def commitments(dimension: int) -> dict[str, float]:
    """CPU seconds of the single server's variant (k 128), after the generators are made."""
    group.generators(dimension)
    claim, context, seed = NormClaim(NORM), bytes(32), bytes(32)
    drawn = np.random.default_rng(0).standard_normal(dimension)
    values = np.trunc(drawn * (NORM / np.linalg.norm(drawn))).astype(np.int64)
    clock, mask = Clock(1), blinding()
    made = clock("commit", lambda: commit(values, mask))
    proof = clock("prove", lambda: prove(claim, values, mask, made, context, seed))
    assert clock("verify", lambda: holds(claim, dimension, made, context, seed, proof))
    assert clock("sum", lambda: sum_holds([made] * 10, 10 * values, 10 * mask))
    return {"dimension": dimension, **clock.spent, "bytes": len(proof)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--projections", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--committed", type=int, nargs="*", default=[10_000, 100_000])
    options = parser.parse_args(arguments)
    rows = []
    print("d, k | node: share, prove | aggregator: project, query | bytes | x float32 | slack")
    for dimension in options.dimensions:
        for projections in options.projections:
            row = measure(dimension, projections, options.repeats)
            rows.append(asdict(row))
            print(
                f"{row.dimension:>9,} {row.projections:>5} | {row.share * 1e3:6.1f}"
                f" {row.prove * 1e3:6.1f} | {row.project * 1e3:6.1f} {row.query * 1e3:6.1f} ms"
                f" | {row.upload + row.proof:>10,} | {row.expansion:5.2f} | {row.slack:.2f}"
            )
    single = [commitments(dimension) for dimension in options.committed]
    print("one server: d | node: commit, prove | server: verify, check of a sum | proof bytes")
    for found in single:
        print(
            f"{found['dimension']:>9,} | {found['commit']:5.2f} {found['prove']:6.2f}"
            f" | {found['verify']:6.2f} {found['sum']:5.2f} s | {found['bytes']:,}"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rows": rows, "committed": single}, file, indent=1)


if __name__ == "__main__":
    main()
