"""How fast a model reaches many nodes and their updates come back, beside bare TLS sockets.

python benchmarks/network.py [--nodes 20] [--megabytes 10] [--repeats 5] [--json FILE]

A coordinator and each node are processes of their own, on loopback, with mutual TLS (1.3, P-256).
Tacit's side asks, offers, pulls in chunks, writes a file and checks its digest; the other side
sends the same bytes over connections that are open already, and drops them. Both take turns.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tacit.network import joining
from tacit.network.admission import Token
from tacit.network.authority import Authority
from tacit.network.blobs import Blobs, Offer
from tacit.network.identity import CA, TLS, Identity
from tacit.network.messages import Message
from tacit.network.transport import Endpoint

TIMEOUT = 120.0


class Fetch(Message, frozen=True):
    """A node pulls this, or, where it is None, takes that many bytes from its bare socket."""

    size: int
    offer: Offer | None = None


class Make(Message, frozen=True):
    """A node makes an update of that size, and offers it."""

    size: int


class Made(Message, frozen=True):
    offer: Offer


class Send(Message, frozen=True):
    """A node sends that many bytes through its bare socket."""

    size: int


class Report(Message, frozen=True):
    """A node says what it has used; at the end, it stops."""

    end: bool = False


class Used(Message, frozen=True):
    """CPU seconds so far, and the most bytes of memory, of a process."""

    cpu: float
    memory: int


@dataclass(frozen=True)
class Measured:
    """Medians; MB/s, and CPU seconds for each GB, of all processes together."""

    what: str
    tacit: float
    raw: float
    ratio: float
    tacit_cpu: float
    raw_cpu: float


def used() -> Used:
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return Used(time.process_time(), peak * 1024)


def context(folder: Path, purpose: ssl.Purpose) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cafile=folder / CA)
    made.minimum_version, made.verify_mode = ssl.TLSVersion.TLSv1_3, ssl.CERT_REQUIRED
    made.load_cert_chain(folder / TLS)
    return made


def receive(link: ssl.SSLSocket, size: int) -> None:
    buffer = bytearray(1 << 20)
    while size:
        size -= link.recv_into(buffer, min(size, len(buffer)))


def send(link: ssl.SSLSocket, size: int) -> None:
    data = memoryview(bytes(1 << 20))
    for at in range(0, size, len(data)):
        link.sendall(data[: size - at])


def node(text: str, folder: Path, raw: str) -> None:
    """A node's process, until it is told to stop."""
    identity, stop = joining.join(Token.from_text(text), folder), threading.Event()
    host, port = raw.split(":")
    plain = socket.create_connection((host, int(port)))
    link = context(folder, ssl.Purpose.SERVER_AUTH).wrap_socket(plain, server_hostname=host)
    link.sendall(f"{identity.name:63}".encode())
    with link, Endpoint(identity, connect=identity.connect) as endpoint:
        blobs = Blobs(endpoint)

        def fetch(_: str, asked: Fetch) -> Used:
            if asked.offer is None:
                receive(link, asked.size)
            else:
                blobs.pull("coordinator", asked.offer, folder / "model", most=asked.size)
            return used()

        def make(_: str, asked: Make) -> Made:
            (folder / "update").write_bytes(os.urandom(asked.size))
            return Made(blobs.offer(folder / "update"))

        def send_raw(_: str, asked: Send) -> Used:
            send(link, asked.size)
            return used()

        def report(_: str, asked: Report) -> Used:
            if asked.end:
                stop.set()
            return used()

        endpoint.serve(Fetch, fetch)
        endpoint.serve(Make, make)
        endpoint.serve(Send, send_raw)
        endpoint.serve(Report, report)
        stop.wait()
        time.sleep(0.5)  # the last reply is on its way


class Hall:
    """The coordinator's process, and the nodes that it started."""

    def __init__(self, folder: Path, nodes: int, size: int, stack: ExitStack) -> None:
        self.folder, self.size = folder / "coordinator", size
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        authority = Authority.init("benchmark", self.folder, [address])
        self.nodes = [f"node-{k}" for k in range(nodes)]
        tokens = [authority.invite(name) for name in self.nodes]
        identity = Identity.load(self.folder)
        self.endpoint = stack.enter_context(Endpoint(identity, listen=[address]))
        joining.serve(self.endpoint, authority)
        self.blobs = Blobs(self.endpoint)
        self.pool = stack.enter_context(ThreadPoolExecutor(2 * nodes))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=nodes))
        raw = f"127.0.0.1:{listener.getsockname()[1]}"
        for token in tokens:
            words = [token.to_text(), str(folder / token.name), raw]
            child = subprocess.Popen([sys.executable, __file__, "--node", *words])
            stack.callback(child.wait)
            stack.push(lambda failed, *_, child=child: child.kill() if failed else None)
        purpose = context(self.folder, ssl.Purpose.CLIENT_AUTH)
        self.links: dict[str, ssl.SSLSocket] = {}
        for _ in self.nodes:
            link = purpose.wrap_socket(listener.accept()[0], server_side=True)
            self.links[link.recv(63).decode().strip()] = stack.enter_context(link)
        while len(self.endpoint.alive()) < nodes:
            time.sleep(0.05)
        model = self.folder / "model"
        model.write_bytes(os.urandom(size))
        self.model = self.blobs.offer(model)
        self.updates = {
            name: self.endpoint.ask(name, Make(size), Made, TIMEOUT).offer for name in self.nodes
        }

    def all(self, task: Callable[[str], object]) -> None:
        """A task for every node, at the same time."""
        list(self.pool.map(task, self.nodes))

    def ask(self, name: str, message: Message) -> Used:
        return self.endpoint.ask(name, message, Used, TIMEOUT)

    def distribute(self, name: str) -> None:
        self.ask(name, Fetch(self.size, self.model))

    def collect(self, name: str) -> None:
        self.blobs.pull(name, self.updates[name], self.folder / name, most=self.size)

    def distribute_raw(self, name: str) -> None:
        answer = self.pool.submit(self.ask, name, Fetch(self.size))
        send(self.links[name], self.size)
        answer.result()

    def collect_raw(self, name: str) -> None:
        answer = self.pool.submit(self.ask, name, Send(self.size))
        receive(self.links[name], self.size)
        answer.result()

    def usage(self, end: bool = False) -> list[Used]:
        return [used(), *(self.ask(name, Report(end)) for name in self.nodes)]

    def timed(self, task: Callable[[str], object]) -> tuple[float, float]:
        """Wall seconds, and CPU seconds of all processes."""
        before, begun = self.usage(), time.perf_counter()
        self.all(task)
        wall = time.perf_counter() - begun
        return wall, sum(each.cpu for each in self.usage()) - sum(each.cpu for each in before)

    def compare(
        self, what: str, ours: Callable[[str], object], raw: Callable[[str], object], repeats: int
    ) -> Measured:
        turns = [(self.timed(ours), self.timed(raw)) for _ in range(repeats + 1)][1:]
        total = len(self.nodes) * self.size / 1e6
        median = statistics.median
        return Measured(
            what,
            tacit=total / median(t[0] for t, _ in turns),
            raw=total / median(r[0] for _, r in turns),
            ratio=median(r[0] / t[0] for t, r in turns),
            tacit_cpu=median(t[1] for t, _ in turns) / total * 1e3,
            raw_cpu=median(r[1] for _, r in turns) / total * 1e3,
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--node", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.node:
        text, folder, raw = options.node
        return node(text, Path(folder), raw)
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        hall = Hall(Path(made), options.nodes, int(options.megabytes * 1e6), stack)
        rows = [
            hall.compare("out", hall.distribute, hall.distribute_raw, options.repeats),
            hall.compare("in", hall.collect, hall.collect_raw, options.repeats),
        ]
        memory = [each.memory / 2**20 for each in hall.usage(end=True)]
    print("| | Tacit MB/s | bare TLS MB/s | ratio | Tacit CPU s/GB | bare TLS CPU s/GB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row.what} | {row.tacit:.0f} | {row.raw:.0f} | {row.ratio:.2f}"
            f" | {row.tacit_cpu:.1f} | {row.raw_cpu:.1f} |"
        )
    print(f"memory: coordinator {memory[0]:.0f} MiB, node {max(memory[1:]):.0f} MiB at most")
    if options.json:
        found = {"rows": [asdict(row) for row in rows], "memory": memory}
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
