"""Large values in chunks: whole, resumed, refused; with holders that lie, hang and are killed."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

import network_process
from network_parties import joined, listening, until
from tacit.errors import MessageError
from tacit.network import blobs
from tacit.network.authority import Authority
from tacit.network.blobs import TOPIC, WINDOW, Blobs, Offer
from tacit.network.configuration import CHUNK
from tacit.network.identity import Identity
from tacit.network.transport import Endpoint, Unreachable


class Pair:
    """A coordinator with a router in it, and a site; ``bern`` is for other processes."""

    def __init__(self, folder: Path) -> None:
        authority = Authority.init("hearts", folder / "coordinator", ["127.0.0.1:0"])
        for name in ("zurich", "bern"):
            joined(authority, folder / name, name)
        self.folder = folder
        self.coordinator = listening(Identity.load(authority.home))
        self.address: str = self.coordinator.address  # type: ignore[attr-defined]
        self.zurich = Endpoint(Identity.load(folder / "zurich"), connect=[self.address])
        self.holder, self.taker = Blobs(self.coordinator), Blobs(self.zurich)
        self.into = folder / "received"

    def partials(self) -> list[Path]:
        return list(self.folder.glob(".received.*"))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.zurich.close()
    made.coordinator.close()


def offer_of(data: bytes) -> Offer:
    return Offer(blake3(data).digest(), len(data))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 9 * CHUNK + 7])
def test_what_is_pulled_is_what_was_offered(pair: Pair, size: int) -> None:
    data, seen = os.urandom(size), list[int]()
    offer = pair.holder.offer(data)
    assert offer == offer_of(data)
    found = pair.taker.pull("coordinator", offer, pair.into, most=size, progress=seen.append)
    assert found == pair.into
    assert pair.into.read_bytes() == data
    assert seen == [min(k * CHUNK, size) for k in range(1, -(-size // CHUNK) + 1)]
    again = pair.taker.offer(pair.into)
    back = pair.holder.pull("zurich", again, pair.folder / "back", most=size)
    assert back.read_bytes() == data
    assert pair.partials() == []


def test_more_than_expected_is_refused_before_anything_is_asked(pair: Pair) -> None:
    pair.coordinator.serve_bytes(TOPIC, lambda *_: pytest.fail("asked"))
    huge = Offer(bytes(32), 2**47)
    with pytest.raises(MessageError, match="'coordinator' offers 140737488355328 bytes; at most 9"):
        pair.taker.pull("coordinator", huge, pair.into, most=9)
    assert pair.partials() == []


def test_only_those_to_whom_it_is_offered_get_it(pair: Pair) -> None:
    data = os.urandom(100)
    offer = pair.holder.offer(data, to=["bern"])
    with pytest.raises(Unreachable, match="sent no chunk for"):
        pair.taker.pull("coordinator", offer, pair.into, most=100, stall=0.3)
    pair.holder.offer(data, to=["bern", "zurich"])
    pair.taker.pull("coordinator", offer, pair.into, most=100)
    pair.holder.withdraw(offer)
    with pytest.raises(Unreachable):
        pair.taker.pull("coordinator", offer, pair.into, most=100, stall=0.3)


def test_a_holder_that_lies_is_found_out_and_nothing_is_kept(pair: Pair) -> None:
    data = os.urandom(3 * CHUNK)
    lies = {
        "something else than what it offered": lambda _, __: bytes(CHUNK),
        "a chunk of 9 bytes": lambda _, __: bytes(9),
        "a chunk of 524289 bytes": lambda _, __: bytes(CHUNK + 1),
        "a chunk of 0 bytes": lambda _, __: b"",
    }
    for sentence, lie in lies.items():
        pair.coordinator.serve_bytes(TOPIC, lie)
        with pytest.raises(MessageError, match=f"'coordinator' sent {sentence}"):
            pair.taker.pull("coordinator", offer_of(data), pair.into, most=len(data))
        assert pair.partials() == []
    assert not pair.into.exists()


def test_only_what_is_missing_is_asked_for(pair: Pair) -> None:
    data, asked = os.urandom(8 * CHUNK + 5), list[int]()
    offer = pair.holder.offer(data)

    def counted(sender: str, payload: bytes) -> bytes:
        asked.append(msgspec.msgpack.decode(payload)[1])
        return pair.holder._chunk(sender, payload)

    pair.coordinator.serve_bytes(TOPIC, counted)
    begun = pair.into.with_name(f".received.{offer.digest.hex()[:16]}")
    begun.write_bytes(data[: 3 * CHUNK + 99])  # killed while it wrote the fourth
    pair.taker.pull("coordinator", offer, pair.into, most=len(data))
    assert sorted(asked) == [3, 4, 5, 6, 7, 8]
    assert pair.into.read_bytes() == data
    begun.write_bytes(bytes(3 * CHUNK))  # a disk that forgot
    with pytest.raises(MessageError, match="something else"):
        pair.taker.pull("coordinator", offer, pair.into, most=len(data))
    pair.taker.pull("coordinator", offer, pair.into, most=len(data))
    assert pair.into.read_bytes() == data


def test_requests_that_make_no_sense_get_no_chunk(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tacit.network.audit")
    pair.holder.offer(b"x" * 100)
    digest = blake3(b"x" * 100).digest()
    for payload in (
        b"", b"\xc1", b"\xff" * 500, msgspec.msgpack.encode([digest, -1]),
        msgspec.msgpack.encode([digest, 2**40]), msgspec.msgpack.encode([digest[:31], 0]),
        msgspec.msgpack.encode([bytes(32), 0]), msgspec.msgpack.encode([digest, 0, 0]),
    ):  # fmt: skip
        with pytest.raises(Unreachable):
            pair.zurich.request("coordinator", TOPIC, payload, timeout=10).result()
    beyond = msgspec.msgpack.encode([digest, 1])
    assert pair.zurich.request("coordinator", TOPIC, beyond, timeout=10).result() == b""
    assert "was sent" not in caplog.text


def test_a_slow_transfer_that_moves_is_not_given_up(pair: Pair) -> None:
    data, turn = os.urandom(12 * CHUNK), threading.Lock()
    offer = pair.holder.offer(data)

    def slowly(sender: str, payload: bytes) -> bytes:
        with turn:
            time.sleep(0.25)  # 12 chunks take longer than the stall that is allowed
        return pair.holder._chunk(sender, payload)

    pair.coordinator.serve_bytes(TOPIC, slowly)
    pair.taker.pull("coordinator", offer, pair.into, most=len(data), stall=2.5)
    assert pair.into.read_bytes() == data


def test_a_request_that_is_lost_is_made_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "PATIENCE", 40)
    data, asked = os.urandom(9 * CHUNK), Counter[int]()
    offer = pair.holder.offer(data)
    over = threading.Event()

    def forgetful(sender: str, payload: bytes) -> bytes:
        chunk = msgspec.msgpack.decode(payload)[1]
        asked[chunk] += 1
        if chunk in (2, 7) and asked[chunk] == 1:
            over.wait(120)
        return pair.holder._chunk(sender, payload)

    pair.coordinator.serve_bytes(TOPIC, forgetful)
    try:
        pair.taker.pull("coordinator", offer, pair.into, most=len(data), stall=20)
    finally:
        over.set()
    assert pair.into.read_bytes() == data
    assert asked[2] > 1
    assert asked[7] > 1


def test_a_request_that_is_late_counts_as_well(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow link what is asked for again comes after what was asked for at first."""
    monkeypatch.setattr(blobs, "PATIENCE", 40)
    data, asked, late = os.urandom(100), Counter[int](), threading.Event()
    offer = pair.holder.offer(data)

    def slow(sender: str, payload: bytes) -> bytes:
        asked[0] += 1
        if asked[0] == 1:
            until(lambda: asked[0] > 1)
        else:
            late.wait(120)
        return pair.holder._chunk(sender, payload)

    pair.coordinator.serve_bytes(TOPIC, slow)
    try:
        pair.taker.pull("coordinator", offer, pair.into, most=len(data), stall=20)
    finally:
        late.set()
    assert pair.into.read_bytes() == data


def test_a_holder_is_killed_and_comes_back(pair: Pair) -> None:
    chunks = 50
    data, seen = os.urandom(chunks * CHUNK), list[int]()
    (pair.folder / "model").write_bytes(data)
    hold = ("hold", pair.folder / "bern", pair.address, pair.folder / "model")
    with ExitStack() as processes:
        first = processes.enter_context(network_process.start(*hold))

        def kill_at_40_percent(received: int) -> None:
            seen.append(received)
            if received == chunks * CHUNK * 2 // 5:
                first.kill()
                first.wait()
                second = processes.enter_context(network_process.start(*hold))
                processes.callback(second.kill)

        pair.taker.pull(
            "bern", offer_of(data), pair.into, most=len(data), stall=30, progress=kill_at_40_percent
        )
    assert pair.into.read_bytes() == data
    assert seen == [k * CHUNK for k in range(1, chunks + 1)]  # none of them twice


def test_a_taker_is_killed_and_goes_on(pair: Pair) -> None:
    chunks = 50
    data = os.urandom(chunks * CHUNK)
    offer = pair.holder.offer(data)
    take = (
        "take", pair.folder / "bern", pair.address, "coordinator", offer.digest.hex(), offer.size,
        pair.into,
    )  # fmt: skip
    with network_process.start(*take) as first:
        assert first.stdout is not None
        while int(first.stdout.readline()) < offer.size * 2 // 5:
            pass
        first.kill()
    kept = pair.partials()[0].stat().st_size
    assert kept >= offer.size * 2 // 5 - WINDOW * CHUNK
    with network_process.start(*take) as second:
        assert second.stdout is not None
        said = second.stdout.read().splitlines()
    assert pair.into.read_bytes() == data
    assert len(said) - 1 == chunks - kept // CHUNK


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_is_bounded_by_a_few_chunks(pair: Pair) -> None:
    size = 128 * 1024 * 1024
    with (pair.folder / "model").open("wb") as model:
        for _ in range(size // 2**20):
            model.write(os.urandom(2**20))
    offer = pair.holder.offer(pair.folder / "model")
    with network_process.start(
        "take", pair.folder / "bern", pair.address, "coordinator", offer.digest.hex(), offer.size,
        pair.into,
    ) as taker:  # fmt: skip
        assert taker.stdout is not None
        memory = int(taker.stdout.read().split()[-1])
    assert pair.into.stat().st_size == size
    assert memory < 32 * 2**20, f"{memory / 2**20:.0f} MiB"


def test_a_holder_that_hangs_is_noticed_and_taken_up_again(pair: Pair) -> None:
    data = os.urandom(20 * CHUNK)
    (pair.folder / "model").write_bytes(data)
    hold = ("hold", pair.folder / "bern", pair.address, pair.folder / "model")
    changes: list[tuple[str, bool]] = []
    with network_process.start(*hold) as holder:
        until(lambda: "bern" in pair.zurich.alive())
        pair.zurich.watch(lambda name, alive: changes.append((name, alive)))

        def hang(received: int) -> None:
            if received == 8 * CHUNK:
                os.kill(holder.pid, signal.SIGSTOP)

        try:
            with pytest.raises(Unreachable, match="'bern' sent no chunk for"):
                pair.taker.pull(
                    "bern", offer_of(data), pair.into, most=len(data), stall=1, progress=hang
                )
            until(lambda: ("bern", False) in changes)
            os.kill(holder.pid, signal.SIGCONT)
            pair.taker.pull("bern", offer_of(data), pair.into, most=len(data), stall=30)
        finally:
            holder.kill()
    assert pair.into.read_bytes() == data
