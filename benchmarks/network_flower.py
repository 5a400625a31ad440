"""What a round costs beside training in Flower, beside ``network_rounds.py``.

python benchmarks/network_flower.py [--nodes 20] [--rounds 3] [--flower FOLDER_OF_ITS_COMMANDS]

Flower (its own environment: ``pip install flwr==1.41.0``) runs FedAvg as it is deployed by default:
a SuperLink and SuperNodes, each with its SuperExec, which starts a process for the ServerApp and
for every task of a ClientApp. ``--isolation process`` would change who starts a SuperExec, not what
it does. Both sides take the same model of 1 KB, each node is a process of its own, nodes send an
update back without training, and a round is timed from the end of the one before, so that the
first, with its joining, is left out. Flower's connections are without TLS (``--insecure``), Tacit's
with mutual TLS.
"""

import argparse
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from network_rounds import overhead

LIMIT = 900.0  # seconds for a side, its start included
PROJECT = """
[project]
name = "overhead"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"

[tool.flwr.app.config]
nodes = {nodes}
rounds = {rounds}
"""
APP = """
import json
import time

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid, context):
    nodes, ends = context.run_config["nodes"], []
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    result = strategy.start(
        grid, ArrayRecord([np.zeros(256, np.float32)]),
        num_rounds=context.run_config["rounds"],
        evaluate_fn=lambda round, arrays: ends.append(time.monotonic()),
    )
    assert len(result.train_metrics_clientapp) == context.run_config["rounds"]
    print("ENDS", json.dumps(ends), flush=True)


@client.train()
def train(message, context):
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    return Message(content=content, reply_to=message)
"""
CONNECTION = """
[superlink]
default = "benchmark"

[superlink.benchmark]
address = "127.0.0.1:{port}"
insecure = true
"""


@contextmanager
def family() -> Iterator[None]:
    """Whatever was started in the block ends with it, and whatever that started in turn (Linux)."""
    subreaper = 36  # PR_SET_CHILD_SUBREAPER: orphans become this process's children, prctl(2)
    ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0)
    try:
        yield
    finally:
        # A second signal would leave the rest running.
        ends = {
            each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)
        }
        mine = Path(f"/proc/self/task/{os.getpid()}/children")
        while children := mine.read_text().split():
            for pid in map(int, children):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for each, handler in ends.items():
            signal.signal(each, handler)


def ports(count: int) -> list[int]:
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in free]


def listens(link: "subprocess.Popen[bytes]", port: int, deadline: float) -> None:
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 60):
            return
        assert link.poll() is None, "Flower's SuperLink ended"
        assert time.monotonic() < deadline, "Flower's SuperLink does not listen"
        time.sleep(0.1)


def flower(nodes: int, rounds: int, commands: Path, folder: Path) -> float:
    """Milliseconds a round."""
    port, *own = ports(1 + nodes)
    (folder / "pyproject.toml").write_text(PROJECT.format(nodes=nodes, rounds=rounds))
    (folder / "app.py").write_text(APP)
    (folder / "config.toml").write_text(CONNECTION.format(port=port))
    home = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "HOME": str(folder), "FLWR_HOME": str(folder), "TMPDIR": str(folder),
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "NO_PROXY": "127.0.0.1",
        "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
    }  # fmt: skip
    deadline = time.monotonic() + LIMIT

    def start(log: str, command: str, *words: str) -> "subprocess.Popen[bytes]":
        with (folder / f"{log}.log").open("wb") as out:
            line = [commands / command, *words]
            return subprocess.Popen(line, env=home, cwd=folder, stdout=out, stderr=out)

    with family():
        link = start(
            "link", "flower-superlink", "--insecure", "--port", str(port),
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        listens(link, port, deadline)
        for its in own:
            start(
                f"node-{its}", "flower-supernode", "--insecure", "--port", str(its),
                "--superlink", f"127.0.0.1:{port}",
            )  # fmt: skip
        run = start("run", "flwr", "run", str(folder), "benchmark", "--stream")
        with suppress(subprocess.TimeoutExpired):
            run.wait(deadline - time.monotonic())
    said, told = ((folder / f"{name}.log").read_text() for name in ("run", "link"))
    ends = [line for line in said.splitlines() if line.startswith("ENDS ")]
    if not ends:
        sys.exit(
            f"Flower's run did not finish; its last lines:\n{said[-1500:]}\n"
            f"its SuperLink's:\n{told[-1500:]}"
        )
    _, *after = json.loads(ends[0].removeprefix("ENDS "))
    return statistics.median(1e3 * (b - a) for a, b in itertools.pairwise(after))


def tacit(nodes: int, rounds: int, folder: Path) -> float:
    """Milliseconds a round."""
    with family():
        return float(overhead(nodes, rounds, nodes, folder)["round_ms"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flower", type=Path, help="the folder of flower-superlink")
    options = parser.parse_args(arguments)
    superlink = shutil.which("flower-superlink", path=options.flower)
    if superlink is None:
        sys.exit(
            "Flower's commands are missing: run `pip install flwr==1.41.0` in an environment of its"
            " own, and give its bin folder to --flower."
        )
    if options.rounds < 2:
        parser.error("--rounds: the first round is left out, so there must be two or more")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with tempfile.TemporaryDirectory() as theirs, tempfile.TemporaryDirectory() as ours:
        load = os.getloadavg()[0]
        other = flower(
            options.nodes, options.rounds, Path(superlink).absolute().parent, Path(theirs)
        )
        own = tacit(options.nodes, options.rounds, Path(ours))
    print(
        f"{options.nodes} nodes, a model of 1 KB, {options.rounds} rounds, load average {load:.1f}"
        " before:\n\n| | ms a round | times Tacit's |\n| --- | --- | --- |\n"
        f"| Tacit, mutual TLS | {own:.0f} | 1 |\n"
        f"| Flower, no TLS | {other:.0f} | {other / own:.0f} |"
    )


if __name__ == "__main__":
    main()
