"""Seconds of a gossip round among peers, beside the same bytes over bare TLS sockets.

python benchmarks/network_gossip.py [--peers 16] [--megabytes 10] [--repeats 5] [--json FILE]

Every peer is a process of its own, listens, and holds a model; in a round each pulls the models of
all its neighbours at once, to files whose digests are checked. The ideal is the time that the same
bytes take between the same processes over bare sockets with mutual TLS that are open already, one
for each direction of an edge, whose receiver drops them. Both take turns; nobody trains.
"""

import argparse
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from network import TIMEOUT, context, receive, send
from network_rounds import members
from tacit.network.blobs import Blobs, Offer
from tacit.network.identity import Identity
from tacit.network.transport import Endpoint


def told(child: "subprocess.Popen[str]", **message: Any) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps(message) + "\n")
    child.stdin.flush()


def heard(child: "subprocess.Popen[str]") -> Any:
    assert child.stdout is not None
    return json.loads(child.stdout.readline())


def peer(folder: Path, address: str, seed: str, size: int) -> None:
    """A peer's process, until its input ends."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        identity = Identity.load(folder)
        connect = [] if seed == address else [seed]
        endpoint = stack.enter_context(Endpoint(identity, listen=[address], connect=connect))
        blobs, model = Blobs(endpoint), folder / "model"
        model.write_bytes(os.urandom(size))
        offer = blobs.offer(model)
        say(digest=offer.digest.hex(), port=listener.getsockname()[1])
        setting = json.loads(sys.stdin.readline())
        neighbours: dict[str, list[str]] = setting["graphs"]
        offers = {name: Offer(bytes.fromhex(digest), size) for name, digest in setting["offers"]}
        both = sorted({name for names in neighbours.values() for name in names})
        incoming, outgoing = links(folder, identity.name, listener, setting["ports"], both)
        pool = stack.enter_context(ThreadPoolExecutor(2 * len(both)))
        while not endpoint.alive() >= set(both):
            time.sleep(0.05)
        say(ready=True)
        for line in sys.stdin:
            what, graph = json.loads(line).values()
            near = neighbours[graph]
            begun = time.process_time()
            if what == "tacit":
                tasks = [
                    pool.submit(blobs.pull, name, offers[name], folder / name, most=size)
                    for name in near
                ]
            else:
                tasks = [pool.submit(send, outgoing[name], size) for name in near]
                tasks += [pool.submit(receive, incoming[name], size) for name in near]
            for task in tasks:
                task.result(TIMEOUT)
            say(cpu=time.process_time() - begun)


def links(
    folder: Path, me: str, listener: socket.socket, ports: dict[str, int], near: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Bare sockets from each neighbour and to it."""
    outgoing: dict[str, Any] = {}

    def connect() -> None:
        for name in near:
            plain = socket.create_connection(("127.0.0.1", ports[name]))
            purpose = context(folder, ssl.Purpose.SERVER_AUTH)
            outgoing[name] = purpose.wrap_socket(plain, server_hostname="127.0.0.1")
            outgoing[name].sendall(f"{me:63}".encode())

    connecting = threading.Thread(target=connect)
    connecting.start()
    incoming, purpose = {}, context(folder, ssl.Purpose.CLIENT_AUTH)
    for _ in near:
        link = purpose.wrap_socket(listener.accept()[0], server_side=True)
        incoming[link.recv(63).decode().strip()] = link
    connecting.join()
    return incoming, outgoing


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def measure(peers: int, size: int, repeats: int, folder: Path) -> list[dict[str, Any]]:
    from tacit.topology import RandomRegular, Ring  # which need torch: no peer does

    names = [f"peer-{k}" for k in range(peers)]
    members(folder, names, "127.0.0.1:1", hosts=("127.0.0.1",))
    addresses = []
    with ExitStack() as held:
        for _ in names:
            free = held.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            addresses.append(f"127.0.0.1:{free.getsockname()[1]}")
    graphs = {"ring": Ring(), "4-regular": RandomRegular(4)}
    edges = {what: neighbours(graph, names) for what, graph in graphs.items()}
    with ExitStack() as stack:
        children = []
        for name, address in zip(names, addresses, strict=True):
            words = ["--peer", str(folder / name), address, addresses[0], str(size)]
            child = subprocess.Popen(
                [sys.executable, __file__, *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            children.append(stack.enter_context(child))
            stack.callback(child.stdin.close)  # type: ignore[union-attr]
        first = [heard(child) for child in children]
        offers = [(name, each["digest"]) for name, each in zip(names, first, strict=True)]
        ports = {name: each["port"] for name, each in zip(names, first, strict=True)}
        for name, child in zip(names, children, strict=True):
            mine = {what: near[name] for what, near in edges.items()}
            told(child, graphs=mine, offers=offers, ports=ports)
        for child in children:
            heard(child)

        def timed(what: str, graph: str) -> tuple[float, float]:
            begun = time.perf_counter()
            for child in children:
                told(child, what=what, graph=graph)
            cpu = sum(heard(child)["cpu"] for child in children)
            return time.perf_counter() - begun, cpu

        rows = []
        for graph, near in edges.items():
            turns = [(timed("tacit", graph), timed("raw", graph)) for _ in range(repeats + 1)][1:]
            total = sum(map(len, near.values())) * size
            median = statistics.median
            rows.append(
                {
                    "graph": graph, "GB": total / 1e9,
                    "seconds": median(t[0] for t, _ in turns),
                    "ideal_seconds": median(r[0] for _, r in turns),
                    "ratio": median(r[0] / t[0] for t, r in turns),
                    "cpu_s_per_GB": median(t[1] for t, _ in turns) / total * 1e9,
                    "ideal_cpu_s_per_GB": median(r[1] for _, r in turns) / total * 1e9,
                }
            )  # fmt: skip
        return rows


def neighbours(graph: Any, names: list[str]) -> dict[str, list[str]]:
    near: dict[str, list[str]] = {name: [] for name in names}
    for one, other in zip(*graph.links(len(names), 0, 0), strict=True):
        near[names[one]].append(names[other])
    return near


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=int, default=16)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peer:
        folder, address, seed, size = options.peer
        return peer(Path(folder), address, seed, int(size))
    with tempfile.TemporaryDirectory() as made:
        size = int(options.megabytes * 1e6)
        rows = measure(options.peers, size, options.repeats, Path(made))
    print("| graph | GB | Tacit s | bare TLS s | ratio | Tacit CPU s/GB | bare TLS CPU s/GB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        numbers = " | ".join(f"{value:.2f}" for value in list(row.values())[1:])
        print(f"| {row['graph']} | {numbers} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
