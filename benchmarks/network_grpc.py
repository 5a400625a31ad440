"""What the exchange of ``network.py`` costs over gRPC: rate, CPU seconds a GB, and memory.

python benchmarks/network_grpc.py [--nodes 20] [--megabytes 10] [--repeats 5] [--json FILE]

Needs grpcio. Its server and nodes are processes of their own beside Tacit's, with the same
certificates, and both take turns. A model is a stream of messages of 512 KiB in either direction;
as on Tacit's side, whoever receives writes a file and checks its BLAKE3 digest.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blake3 import blake3

from network import Hall, Used, used
from tacit.network.configuration import CHUNK
from tacit.network.identity import CA, TLS


def pem(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Certificate authority, key, certificate."""
    key, begin, chain = (folder / TLS).read_bytes().partition(b"-----BEGIN CERTIFICATE")
    return (folder / CA).read_bytes(), key, begin + chain


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def keep(received: Iterable[bytes], path: Path, digest: str) -> None:
    found = blake3()
    with path.open("wb") as file:
        for chunk in received:
            file.write(chunk)
            found.update(chunk)
    assert found.hexdigest() == digest


def serve(folder: Path, address: str, workers: int) -> None:
    """The server's process, until its input ends."""
    import grpc

    model = folder / "model"
    digest = blake3(model.read_bytes()).hexdigest()

    def put(sent: Iterator[bytes], call: Any) -> bytes:
        name, digest = next(sent).decode().split()
        keep(sent, folder / f"{name}.grpc", digest)
        return b""

    handlers = {
        "out": grpc.unary_stream_rpc_method_handler(lambda _, call: chunks(model)),
        "in": grpc.stream_unary_rpc_method_handler(put),
    }
    server = grpc.server(ThreadPoolExecutor(workers))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("exchange", handlers)])
    ca, key, chain = pem(folder)
    server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)], ca, True))
    server.start()
    print(digest, flush=True)
    for _ in sys.stdin:
        say()
    server.stop(None)


def node(folder: Path, address: str, digest: str, size: int) -> None:
    """A node's process, until its input ends."""
    import grpc

    ca, key, chain = pem(folder)
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, chain))
    out, into = channel.unary_stream("/exchange/out"), channel.stream_unary("/exchange/in")
    update = folder / "update.grpc"
    update.write_bytes(os.urandom(size))
    mine = blake3(update.read_bytes()).hexdigest()

    def stream() -> Iterator[bytes]:
        yield f"{folder.name} {mine}".encode()
        yield from chunks(update)

    with channel:
        grpc.channel_ready_future(channel).result(60)
        say()
        for line in sys.stdin:
            if line == "out\n":
                keep(out(b""), folder / "model.grpc", digest)
            elif line == "in\n":
                into(stream())
            say()


def say() -> None:
    now = used()
    print(json.dumps({"cpu": now.cpu, "memory": now.memory}), flush=True)


class Peers:
    """gRPC's processes: the server, and nodes."""

    def __init__(self, hall: Hall, stack: ExitStack) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.stack, home = stack, hall.folder.parent
        self.server = self.start("--server", str(hall.folder), address, str(len(hall.nodes)))
        assert self.server.stdout is not None
        words = [address, self.server.stdout.readline().strip(), str(hall.size)]
        self.nodes = [self.start("--node", str(home / name), *words) for name in hall.nodes]
        for each in self.nodes:
            self.hear(each)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        command, pipe = [sys.executable, __file__, *words], subprocess.PIPE
        child = self.stack.enter_context(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        )
        assert child.stdin is not None
        self.stack.callback(child.stdin.close)
        return child

    @staticmethod
    def hear(child: "subprocess.Popen[str]") -> Used:
        assert child.stdout is not None
        return Used(**json.loads(child.stdout.readline()))

    def all(self, what: str) -> None:
        """One thing at all nodes, at the same time."""
        for child in self.nodes:
            self.tell(child, what)
        for child in self.nodes:
            self.hear(child)

    @staticmethod
    def tell(child: "subprocess.Popen[str]", what: str) -> None:
        assert child.stdin is not None
        child.stdin.write(what + "\n")
        child.stdin.flush()

    def usage(self) -> list[Used]:
        children = [self.server, *self.nodes]
        for child in children:
            self.tell(child, "report")
        return [self.hear(child) for child in children]


def timed(task: Callable[[], object], usage: Callable[[], list[Used]]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of all processes."""
    before, begun = usage(), time.perf_counter()
    task()
    wall = time.perf_counter() - begun
    return wall, sum(each.cpu for each in usage()) - sum(each.cpu for each in before)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--server", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--node", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.server:
        folder, address, workers = options.server
        return serve(Path(folder), address, int(workers))
    if options.node:
        folder, address, digest, size = options.node
        return node(Path(folder), address, digest, int(size))
    try:
        import grpc  # noqa: F401
    except ImportError:
        return print("skipped: grpcio is not installed")
    size, found = int(options.megabytes * 1e6), {}
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        hall = Hall(Path(made), options.nodes, size, stack)
        peers = Peers(hall, stack)
        idle = hall.usage(), peers.usage()
        for what, ours in (("out", hall.distribute), ("in", hall.collect)):
            turns = [
                (
                    timed(lambda: hall.all(ours), hall.usage),  # noqa: B023
                    timed(lambda: peers.all(what), peers.usage),  # noqa: B023
                )
                for _ in range(options.repeats + 1)
            ][1:]
            total, median = options.nodes * size / 1e9, statistics.median
            found[what] = {
                "tacit_MB_s": 1e3 * total / median(t[0] for t, _ in turns),
                "grpc_MB_s": 1e3 * total / median(g[0] for _, g in turns),
                "ratio": median(g[0] / t[0] for t, g in turns),
                "tacit_cpu_s_GB": median(t[1] for t, _ in turns) / total,
                "grpc_cpu_s_GB": median(g[1] for _, g in turns) / total,
            }
        busy = hall.usage(end=True), peers.usage()
    print("| | Tacit MB/s | gRPC MB/s | ratio | Tacit CPU s/GB | gRPC CPU s/GB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for what, row in found.items():
        print(f"| {what} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")
    for who, before, after in zip(("Tacit", "gRPC"), idle, busy, strict=True):
        (hub, hubs), (one, nodes) = (
            (first.memory / 2**20, last.memory / 2**20)
            for first, last in (
                (before[0], after[0]),
                (max(before[1:], key=memory), max(after[1:], key=memory)),
            )
        )
        print(
            f"{who}: coordinator {hubs:.0f} MiB at most ({hub:.0f} before the exchange), node"
            f" {nodes:.0f} MiB ({one:.0f})"
        )
        found[who] = {"coordinator_MiB": hubs, "node_MiB": nodes}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


def memory(each: Used) -> int:
    return each.memory


if __name__ == "__main__":
    main()
