"""Figures and health of a run, asked for over real HTTP and read by Prometheus' own parser."""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from network_parties import free_port, joined, until
from network_small import SITES, Small
from tacit.errors import CheckpointError, InputError
from tacit.network import processes
from tacit.network.metrics import serving
from tacit.network.status import Status
from tacit.network.transport import Unreachable

NOW = Status(
    round=3,
    rounds=10,
    here=2,
    accepted=5,
    refused=1,
    seconds=0.25,
    epsilon=1.5,
    sent=700,
    received=900,
)


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figures(address: str) -> dict[str, float]:
    """Each sample's value by its name, which an outcome follows."""
    status, text = get(address, "/metrics")
    assert status == 200
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {s.name + s.labels.get("tacit_outcome", ""): s.value for s in samples}


@contextmanager
def served(status: Callable[[], Status], host: str = "127.0.0.1") -> Iterator[str]:
    while True:
        address = f"{host}:{free_port()}"
        try:
            with serving(address, status, federation="hearts", member="north"):
                yield address
                return
        except InputError:  # another process was faster to take the port
            continue


def test_every_figure_is_there() -> None:
    with served(lambda: NOW) as address:
        assert figures(address) == {
            "tacit_run_info": 1.0, "tacit_rounds_done": 3.0, "tacit_rounds": 10.0,
            "tacit_members_here": 2.0, "tacit_round_seconds": 0.25, "tacit_epsilon": 1.5,
            "tacit_updates_accepted_total": 5.0, "tacit_updates_refused_total": 1.0,
            "tacit_received_bytes_total": 900.0, "tacit_sent_bytes_total": 700.0,
            "tacit_outcomerunning": 1.0, "tacit_outcomefinished": 0.0,
            "tacit_outcomefailed": 0.0,
        }  # fmt: skip
        assert 'federation="hearts",member="north"' in get(address, "/metrics")[1]


def test_what_a_role_does_not_have_is_not_there() -> None:
    with served(lambda: Status(round=0, rounds=2, here=0)) as address:
        found = figures(address)
    assert found["tacit_rounds_done"] == 0
    assert not {"tacit_epsilon", "tacit_round_seconds", "tacit_updates_accepted_total"} & {*found}


def test_health_is_503_with_the_reason() -> None:
    now: list[Status | Exception] = [NOW]

    def status() -> Status:
        if isinstance(now[0], Exception):
            raise now[0]
        return now[0]

    with served(status) as address:
        assert get(address, "/healthz") == (200, "ok\n")
        now[0] = replace(NOW, trouble="all sites are gone")
        assert get(address, "/healthz") == (503, "all sites are gone\n")
        now[0] = CheckpointError("the database is gone")
        assert get(address, "/healthz") == (503, "the database is gone\n")
        assert get(address, "/metrics/")[0] == 404
        assert get(address, "/")[0] == 404
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(f"http://{address}/healthz", timeout=60)


def test_a_port_alone_is_one_of_the_loopback_interface() -> None:
    with served(lambda: NOW, host="") as address:
        assert get(f"127.0.0.1{address}", "/healthz")[0] == 200
        with pytest.raises(OSError, match="refused"):  # all of 127/8 is this machine
            urllib.request.urlopen(f"http://127.0.0.2{address}/healthz", timeout=60)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "::::"])
def test_a_bad_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="--metrics: "), serving(address, lambda: NOW):
        pass


def test_a_run_is_watched(tmp_path: Path) -> None:
    small, at = Small(tmp_path), f"127.0.0.1:{free_port()}"
    seen: list[dict[str, float]] = []
    health: list[tuple[int, str]] = []

    def look(_: object) -> None:
        until(lambda: figures(at)["tacit_members_here"] == len(SITES))
        seen.append(figures(at))
        health.append(get(at, "/healthz"))

    kept, _ = small.all(metrics=at, on_round=look)
    assert kept.outcome == "finished"
    assert health == [(200, "ok\n")] * 2
    first, second = seen
    assert [found["tacit_rounds_done"] for found in seen] == [1, 2]
    assert first["tacit_rounds"] == 2
    assert [found["tacit_updates_accepted_total"] for found in seen] == [2, 4]
    assert second["tacit_updates_refused_total"] == 0
    # Two sites have sent an update of SCAFFOLD each: 2 x 5602 float32, and a header.
    numbers = 2 * 2 * 5602
    assert 4 * numbers < first["tacit_received_bytes_total"] < 4 * numbers + 2000
    assert first["tacit_sent_bytes_total"] > 4 * numbers
    assert second["tacit_round_seconds"] > 0


def test_a_site_is_watched(tmp_path: Path) -> None:
    small, at = Small(tmp_path), f"127.0.0.1:{free_port()}"
    seen: list[dict[str, float]] = []
    small.settings["north"] = {"metrics": at}

    def look(row: dict[str, object]) -> None:
        if row["round"] == 2:
            until(lambda: figures(at)["tacit_members_here"] == 1)  # the coordinator
            seen.append(figures(at))
            assert get(at, "/healthz") == (200, "ok\n")

    small.all(on_round=look)
    (found,) = seen
    assert found["tacit_rounds_done"] == 2
    assert found["tacit_round_seconds"] > 0
    assert "tacit_updates_accepted_total" not in found


def test_a_store_that_is_gone_is_no_health(tmp_path: Path) -> None:
    from tacit.network.coordinator import Coordinator
    from tacit.network.status import of_coordinator
    from tacit.network.store import Store

    small = Small(tmp_path)
    store = Store(tmp_path, small.public.digest())
    run = Coordinator(small.public, store, lambda *_: None, lambda _: None)
    blobs: Any = SimpleNamespace(sent=0, received=0)
    with served(lambda: of_coordinator(run, blobs)) as address:
        assert get(address, "/healthz") == (200, "ok\n")
        store.close()
        (tmp_path / "tacit.db").unlink()
        (tmp_path / "tacit.db").mkdir()
        until(lambda: get(address, "/healthz")[0] == 503)
    run.stop()


def test_a_site_that_looks_for_its_coordinator_is_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, at = Small(tmp_path), f"127.0.0.1:{free_port()}"
    joined(small.authority, tmp_path / "north", "north")

    def nobody(*_: object, **__: object) -> None:
        raise Unreachable("nobody is there")

    def looked(_: str) -> None:
        raise LookupError(get(at, "/healthz"), figures(at)["tacit_members_here"])

    monkeypatch.setattr(processes, "Endpoint", nobody)
    with pytest.raises(LookupError) as found:
        processes.take_part(
            small.public, small.whole.data, tmp_path / "north", tmp_path / "run", metrics=at,
            on_wait=looked,
        )  # fmt: skip
    assert found.value.args == ((200, "ok\n"), 0)
