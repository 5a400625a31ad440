"""How a run is doing, for Prometheus and for probes, over plain HTTP.

``/metrics`` in Prometheus' text format; ``/healthz`` is 200 while the run lives, else 503 with the
reason. Neither tells more than the log: counts, bytes and seconds, no row and no score.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import AF_INET, AF_INET6
from socketserver import ThreadingTCPServer

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from tacit.errors import InputError, TacitError, require
from tacit.network.status import Status

LOOPBACK = "127.0.0.1"
# Seconds after which a client that sends no request is dropped.
_IDLE = 10
_OUTCOMES = ("running", "finished", "failed")


class _Run(Collector):
    def __init__(self, status: Callable[[], Status], named: dict[str, str]) -> None:
        self.status, self.named = status, named

    def collect(self) -> Iterator[Metric]:
        now = self.status()
        yield InfoMetricFamily("tacit_run", "Of whom and what this is.", self.named)
        yield GaugeMetricFamily("tacit_rounds_done", "Rounds that are done.", now.round)
        yield GaugeMetricFamily("tacit_rounds", "Rounds of the run.", now.rounds)
        yield GaugeMetricFamily("tacit_members_here", "Other parties that are connected.", now.here)
        if now.seconds is not None:
            about = "Duration of the last round."
            yield GaugeMetricFamily("tacit_round_seconds", about, now.seconds)
        if now.epsilon is not None:
            yield GaugeMetricFamily("tacit_epsilon", "Privacy spent so far.", now.epsilon)
        for name, count in (("accepted", now.accepted), ("refused", now.refused)):
            if count is not None:
                about = f"Updates that were {name} since the process began."
                yield CounterMetricFamily(f"tacit_updates_{name}", about, count)
        about = "Bytes of models and updates since the process began."
        yield CounterMetricFamily("tacit_received_bytes", about, now.received)
        yield CounterMetricFamily("tacit_sent_bytes", about, now.sent)
        states = {name: name == now.outcome for name in _OUTCOMES}
        yield StateSetMetricFamily("tacit_outcome", "How the run stands.", states)


@contextmanager
def serving(address: str, status: Callable[[], Status], **named: str) -> Iterator[None]:
    """Answer at an address while it lasts.

    Args:
        address: ``host:port``, or a port alone, which is one of the loopback interface.
        named: labels of ``tacit_run_info``.

    Raises:
        InputError: the address is none, or is taken.
    """
    registry = CollectorRegistry()
    registry.register(_Run(status, named))

    class Handler(MetricsHandler):
        timeout = _IDLE

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    super().do_GET()
                case "/healthz":
                    self._health()
                case _:
                    self.send_error(404)

        def _health(self) -> None:
            try:
                trouble = status().trouble
            except (TacitError, OSError) as error:
                trouble = str(error)
            text = (trouble or "ok").encode() + b"\n"
            self.send_response(503 if trouble else 200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    Handler.registry = registry
    server = _bound(address, Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _bound(address: str, handler: type[MetricsHandler]) -> ThreadingTCPServer:
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or LOOPBACK

    class Server(ThreadingTCPServer):
        address_family = AF_INET6 if ":" in host else AF_INET
        allow_reuse_address = daemon_threads = True

    fits = port.isascii() and port.isdigit() and int(port) <= 65535
    require(fits, "--metrics", address, "a port, as in 9464, or host:port")
    try:
        return Server((host, int(port)), handler)
    except OSError as error:
        raise InputError(f"--metrics: {address!r} was given: {error}") from None
