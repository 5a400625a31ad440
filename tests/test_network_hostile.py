"""Members with valid certificates that lie: a site to the coordinator, and that to a site."""

import ast
import errno
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import tacit
from network_parties import until
from tacit.engine.recording import rules
from tacit.errors import CheckpointError, MessageError, TacitError
from tacit.network import protocol, store
from tacit.network.blobs import Offer
from tacit.network.malformed import MALFORMED
from tacit.network.messages import Message
from tacit.network.protocol import (
    Answer,
    Ask,
    Cosign,
    Cosigned,
    Decline,
    Deliver,
    Done,
    Enter,
    Extend,
    Extension,
    Found,
    Founded,
    Go,
    Introduce,
    Introduced,
    Join,
    Leave,
    Measured,
    Ready,
    Receipt,
    Release,
    Released,
    Taken,
    Train,
    Wait,
)
from tacit.network.software import software
from tacit.network.store import Update
from tacit.network.transport import Unreachable
from tacit.network.witnessing import Witnessing
from test_network_rounds import experiment
from test_network_run import Bench

KEY = Ed25519PrivateKey.generate()
FEW = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
DIGEST = st.binary(min_size=32, max_size=32)
OFFER = st.builds(Offer, DIGEST, st.integers(0, 2**48 - 1))
ROUND = st.integers(0, 3) | st.integers(0, 2**31 - 1)
COUNT = st.integers(0, 5) | st.integers(0, 2**53 - 1)
NUMBER = st.floats() | st.sampled_from([1e308, -1e308])
SCORE = st.dictionaries(st.sampled_from(["loss", "accuracy", "auc", "rows", "\n"]), NUMBER)
STAGE = st.sampled_from(["advertise", "share", "mask", "unmask"])
BODY = st.binary(max_size=200) | OFFER


class Rogue(Bench):
    """One site lies; what it offers is what a test says."""

    def __init__(self, folder: Path, plan: Any = None, **options: Any) -> None:
        self.served: Any = MessageError("nothing is there")
        super().__init__(plan or experiment(), folder, grace=0.05, **options)
        self.name, *self.honest = reversed(self.plan.data.names)
        self.digest = self.coordinator.digest
        self.running = ThreadPoolExecutor(1)
        self.end = self.running.submit(self.coordinator.run)
        rows = self.plan.data.train.sizes
        for name, count in zip(self.plan.data.names, rows, strict=True):
            self.ask(name, Join(self.digest, software(), int(count)))
        until(lambda: self.coordinator._kept is not None, 60)

    def pull(self, site: str, offer: Offer, path: Path) -> None:
        if site != self.name:
            super().pull(site, offer, path)
        elif isinstance(self.served, Exception):
            raise self.served
        else:
            path.write_bytes(self.served)

    def deliver(self, raw: bytes, inside: bytes = b"") -> None:
        """The rogue's update, pulled or in the message, and looked at."""
        self.served = raw
        offer = Offer(blake3(raw).digest(), len(raw))
        self.ask(self.name, Deliver(self.digest, 0, offer, 0.5, inside=inside))
        until(lambda: not self.coordinator.intake.pulling, 60)

    def finish(self) -> Any:
        """The others carry the run out; how it ended."""
        self.coordinator.here(self.name, False)
        with ThreadPoolExecutor(8) as pool:
            sites = [pool.submit(self.site(name).run) for name in self.honest]
            kept = self.end.result(timeout=120)
            for site in sites:
                site.result(timeout=120)
        return kept

    def stop(self) -> None:
        """Nothing of it is left running."""
        self.coordinator.attendance.end(CheckpointError("the test is over"))
        self.coordinator.stop()
        self.running.shutdown(wait=True)


@pytest.fixture
def rogue(tmp_path: Path) -> Iterator[Rogue]:
    made = Rogue(tmp_path, patience=60)
    yield made
    made.stop()


def requests(digest: str) -> st.SearchStrategy[Any]:
    ours = st.just(digest) | st.just("0" * 64)
    return st.one_of(
        st.builds(Join, ours, st.sampled_from([software(), "0.0", ""]), COUNT),
        st.builds(Ask, ours),
        st.builds(Leave, ours),
        st.builds(Deliver, ours, ROUND, OFFER, NUMBER, COUNT, st.binary(max_size=200)),
        st.builds(Ready, ours, ROUND, NUMBER, COUNT),
        st.builds(Answer, ours, ROUND, COUNT, STAGE, BODY),
        st.builds(Measured, ours, ROUND, COUNT, SCORE),
        st.builds(Decline, ours, ROUND, st.text(max_size=40), st.text(max_size=200)),
        st.builds(Introduced, ours, st.text(max_size=200)),
        st.builds(Founded, ours, st.binary(min_size=64, max_size=64)),
        st.builds(Released, ours, st.binary(min_size=64, max_size=64)),
        st.builds(Extend, ours, COUNT, st.none() | ROUND),
        st.builds(Cosigned, ours, COUNT, st.text(max_size=200)),
    )


def test_every_kind_of_message_is_fuzzed() -> None:
    for union in (protocol.Request, protocol.Reply):
        assert {kind.__name__ for kind in union.__args__} <= globals().keys()


def test_no_message_of_a_site_stops_the_others(rogue: Rogue) -> None:
    @FEW
    @given(requests(rogue.digest), st.sampled_from([rogue.name, rogue.name, "stranger"]))
    def storm(request: Any, sender: str) -> None:
        with suppress(MessageError, msgspec.ValidationError):
            rogue.ask(sender, request)
        held, intake = rogue.coordinator, rogue.coordinator.intake
        for kept in (
            intake.updates,
            intake.declined,
            intake.pulling,
            held._rows,
            *held.scores.tables.values(),
        ):
            assert set(kept) <= set(rogue.plan.data.names)

    storm()
    assert rogue.finish().outcome == "finished"
    assert [row["cohort"] for row in rogue.store.metrics()] == [4, 4, 4]


@FEW
@given(st.binary(max_size=300), st.integers(0, 60), st.integers(0, 255))
def test_bytes_are_a_message_or_malformed(raw: bytes, at: int, byte: int) -> None:
    order = Train("0" * 64, 1, (3, 4), Offer(bytes(32), 9), False, True)
    for kind, message in (
        (protocol.FromSite, protocol.FromSite(Ask("0" * 64))),
        (protocol.FromCoordinator, protocol.FromCoordinator(order)),
    ):
        changed = bytearray(msgspec.msgpack.encode(message))
        changed[at % len(changed)] = byte
        for given_ in (raw, bytes(changed), bytes(changed[:at])):
            with suppress(*MALFORMED):
                assert isinstance(msgspec.msgpack.decode(given_, type=kind), Message)


SIZE = 44  # of the model: 4 x 6 + 6 + 6 x 2 + 2
GOOD = save({"0": torch.zeros(SIZE)})
UPDATES = {
    "nothing": b"",
    "not safetensors": b"\x80\x04N." * 20,
    "truncated": GOOD[:-1],
    "too long": GOOD + b"0",
    "a header without end": b"\xff" * 8 + GOOD[8:],
    "another dtype": save({"0": torch.zeros(SIZE, dtype=torch.float64)}),
    "another shape": save({"0": torch.zeros(1, SIZE)}),
    "another size": save({"0": torch.zeros(SIZE + 1)}),
    "another name": save({"model": torch.zeros(SIZE)}),
    "a name of many digits": save({"9" * 5000: torch.zeros(SIZE)}),
    "one more": save({"0": torch.zeros(SIZE), "1": torch.zeros(1)}),
    "NaN": save({"0": torch.full((SIZE,), torch.nan)}),
    "infinity": save({"0": torch.full((SIZE,), torch.inf)}),
}


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("raw", UPDATES.values(), ids=UPDATES)
def test_an_update_that_is_none_is_left_out_and_its_sender_named(
    raw: bytes, small: bool, rogue: Rogue, caplog: pytest.LogCaptureFixture
) -> None:
    rogue.deliver(raw, inside=raw if small else b"")
    assert rogue.name in rogue.coordinator.intake.declined
    assert repr(rogue.name) in caplog.text
    assert not rogue.store.accepted(0)
    assert isinstance(rogue.ask(rogue.name, Ask(rogue.digest)), Wait)


def test_a_good_update_is_accepted_once(rogue: Rogue) -> None:
    rogue.deliver(GOOD)
    assert set(rogue.store.accepted(0)) == {rogue.name}
    replay = Deliver(rogue.digest, 0, Offer(bytes(32), 9), 0.1)
    assert rogue.ask(rogue.name, replay) == Taken(rogue.digest, True)
    assert rogue.store.accepted(0)[rogue.name][0] == blake3(GOOD).digest()
    for round in (1, 2**31 - 1):
        other = Deliver(rogue.digest, round, Offer(bytes(32), 9), 0.1)
        assert rogue.ask(rogue.name, other) == Taken(rogue.digest, False)


def test_a_small_update_is_accepted_once_and_is_what_was_offered(rogue: Rogue) -> None:
    rogue.deliver(UPDATES["NaN"], inside=GOOD)
    assert rogue.name in rogue.coordinator.intake.declined
    other = rogue.honest[0]
    offer = Offer(blake3(GOOD).digest(), len(GOOD))
    for _ in range(2):
        told = rogue.ask(other, Deliver(rogue.digest, 0, offer, 0.5, inside=GOOD))
        assert told == Taken(rogue.digest, True)
    assert rogue.store.accepted(0) == {other: Update(offer.digest, 0.5, GOOD)}


def test_offers_are_bounded_before_anything_is_pulled(rogue: Rogue) -> None:
    with pytest.raises(MessageError, match=rogue.name):
        rogue.ask(rogue.name, Deliver(rogue.digest, 0, Offer(bytes(32), 2**40), 0.1))
    assert not rogue.coordinator.intake.pulling


def test_an_offer_of_the_state_itself_does_not_remove_it(rogue: Rogue) -> None:
    state = rogue.coordinator._kept.state
    path = rogue.store.tensors.path(state.digest)
    rogue.deliver(path.read_bytes())
    assert path.exists()
    assert rogue.finish().outcome == "finished"


def test_who_offers_and_sends_nothing_is_left_out(rogue: Rogue) -> None:
    rogue.served = Unreachable("no chunk came")
    for attempt in range(3):
        assert rogue.name not in rogue.coordinator.intake.declined, attempt
        rogue.ask(rogue.name, Deliver(rogue.digest, 0, Offer(bytes(32), 9), 0.1))
        until(lambda: not rogue.coordinator.intake.pulling, 60)
    assert rogue.name in rogue.coordinator.intake.declined


def test_many_messages_take_no_room(rogue: Rogue) -> None:
    slow = threading.Event()
    rogue.coordinator.intake.pull = lambda *_: slow.wait(60)
    try:
        for i in range(5000):
            offer = Offer(i.to_bytes(32, "big"), 9)
            rogue.ask(rogue.name, Deliver(rogue.digest, 0, offer, 0.1))
        assert rogue.coordinator.intake.pulling == {rogue.name}
        assert rogue.coordinator.intake._pool._work_queue.qsize() == 0
    finally:
        slow.set()
        until(lambda: not rogue.coordinator.intake.pulling, 60)


def test_what_was_begun_and_left_takes_the_room_of_one_update(rogue: Rogue) -> None:
    folder = rogue.store.tensors.folder

    def half(site: str, offer: Offer, path: Path) -> None:
        path.with_name(f".{path.name}.{offer.digest.hex()[:16]}").write_bytes(b"half")
        raise Unreachable("no chunk came")

    rogue.coordinator.intake.pull = half
    before = len(list(folder.iterdir()))
    for i in range(20):
        with suppress(TacitError):
            rogue.coordinator.intake.receive(rogue.name, Offer(i.to_bytes(32, "big"), 9))
    assert len(list(folder.iterdir())) == before + 1


def test_scores_of_a_round_that_measures_nothing_are_of_no_use(rogue: Rogue) -> None:
    lie = Measured(rogue.digest, 0, 5, {"loss": 0.1})
    assert rogue.ask(rogue.name, lie) == Taken(rogue.digest, False)
    assert rogue.finish().outcome == "finished"


@pytest.mark.parametrize("rows", [0, 2**53 - 1])
def test_row_counts_that_cannot_be_are_refused(rows: int, tmp_path: Path) -> None:
    bench = Bench(experiment(), tmp_path)
    name = bench.plan.data.names[0]
    with pytest.raises(MessageError, match=name):
        bench.ask(name, Join(bench.coordinator.digest, software(), rows))


def test_another_version_or_experiment_is_refused_in_a_sentence(rogue: Rogue) -> None:
    with pytest.raises(MessageError, match="install the same version"):
        rogue.ask(rogue.name, Join(rogue.digest, "0.0.1", 5))
    with pytest.raises(MessageError, match="the same file and settings"):
        rogue.ask(rogue.name, Ask("0" * 64))
    with pytest.raises(MessageError, match="the data that it joined with"):
        rogue.ask(rogue.name, Join(rogue.digest, software(), 5))


def test_a_full_disk_ends_the_coordinator_and_not_the_run(rogue: Rogue) -> None:
    rogue.served = OSError(28, "No space left on device")
    rogue.ask(rogue.name, Deliver(rogue.digest, 0, Offer(bytes(32), 9), 0.1))
    with pytest.raises(CheckpointError, match=r"No space left on device.*start again"):
        rogue.end.result(timeout=60)
    assert rogue.store.read().outcome is None


def test_a_database_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    kept = store.Store(tmp_path, "0" * 64)
    (tmp_path / "tacit.db").rename(tmp_path / "gone")
    kept.close()
    (tmp_path / "tacit.db").mkdir()
    with pytest.raises(CheckpointError, match="start again"):
        kept.join("north", 5)
    kept.close()


@pytest.mark.parametrize("room", [2, 3, 5, 8])
def test_a_run_goes_on_when_there_is_room_again(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, fsync, calls = experiment(rounds=2), os.fsync, itertools.count()

    def full(file: int) -> None:
        if next(calls) >= room and threading.current_thread().name == "coordinator":
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    bench = Bench(plan, tmp_path, patience=60)
    over: list[TacitError] = []

    def run() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                bench.coordinator.run()
            except TacitError as error:
                over.append(error)
        bench.start()
        bench.coordinator.run()

    coordinator = threading.Thread(target=run, name="coordinator")
    coordinator.start()
    with ThreadPoolExecutor(8) as pool:
        for done in pool.map(lambda name: bench.site(name).run(), plan.data.names):
            assert done.outcome == "finished"
    coordinator.join(60)
    assert "No space left on device" in str(over[0])
    assert "make room and start again" in str(over[0])
    found = bench.store.tensors.get(bench.store.read().state.digest)["model"]
    assert torch.allclose(found, plan.layout.vector(tacit.run(plan).model), atol=1e-6)


# A coordinator that lies


class Liar:
    """A site and what its coordinator says to it: replies from a list, then that it is over."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.bench = Bench(experiment(**changes), folder)
        self.name = self.bench.plan.data.names[0]
        self.digest = self.bench.public.digest()
        self.asked: list[Any] = []
        self.replies: list[Any] = []
        self.pulled = 0
        self.site = self.bench.site(self.name)
        self.site.record = Witnessing(
            folder / "record", self.digest, 3, self.name, KEY, "coordinator",
            lambda _: KEY.public_key(), self.ask, rules=rules(self.bench.public),
        )  # fmt: skip
        self.site.ask, self.site.pull, self.site.wake = self.ask, self.pull, lambda _: None
        self.states: dict[bytes, bytes] = {}
        start = self.bench.plan.algorithm.init(self.bench.plan.start(), 5, self.bench.plan.layout)
        self.state = self.offer(save(start))

    def offer(self, raw: bytes, size: int | None = None) -> Offer:
        made = Offer(blake3(raw).digest(), len(raw) if size is None else size)
        self.states[made.digest] = raw
        return made

    def pull(self, offer: Offer, path: Path) -> None:
        self.pulled += 1
        if offer.digest not in self.states:
            raise Unreachable("no chunk came")
        path.write_bytes(self.states[offer.digest])

    def ask(self, request: Any) -> Any:
        self.asked.append(request)
        assert len(self.asked) < 1000
        if not isinstance(request, Join | Ask | Extend):
            return Taken(self.digest, True)
        return self.replies.pop(0) if self.replies else Done(self.digest, "failed", "", None, ())

    def order(self, **changes: Any) -> Train:
        rows = tuple(int(n) for n in self.bench.plan.data.train.sizes)
        order = Train(self.digest, 0, rows, self.state, False, True)
        return msgspec.structs.replace(order, **changes)

    def run(self, *replies: Any) -> list[Any]:
        """What the site sends."""
        self.replies = list(replies)
        self.site.run()
        return self.asked


@pytest.fixture
def liar(tmp_path: Path) -> Liar:
    return Liar(tmp_path)


def test_an_honest_order_is_carried_out(liar: Liar) -> None:
    sent = liar.run(liar.order())
    assert [type(each).__name__ for each in sent] == ["Join", "Deliver", "Ask"]


@pytest.mark.parametrize("protection", [(), (tacit.SecureAggregation(),)], ids=["plain", "secure"])
def test_a_site_started_again_offers_what_may_be_half_pulled(
    protection: tuple[Any, ...], tmp_path: Path
) -> None:
    liar = Liar(tmp_path, protection=protection)
    liar.run(liar.order())
    liar.bench.offers.clear()
    again = liar.bench.site(liar.name)
    assert again.notes is not None
    update = (liar.name, again.notes.update.digest.hex())
    assert set(liar.bench.offers) == (set() if protection else {update})


STATES = {
    "no tensors": b"\x80\x04N.",
    "truncated": save({"model": torch.zeros(SIZE)})[:-1],
    "another shape": save({"model": torch.zeros(SIZE - 1)}),
    "another dtype": save({"model": torch.zeros(SIZE, dtype=torch.float16)}),
    "another name": save({"weights": torch.zeros(SIZE)}),
    "one more": save({"model": torch.zeros(SIZE), "m": torch.zeros(1)}),
    "NaN": save({"model": torch.full((SIZE,), torch.nan)}),
}


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("raw", STATES.values(), ids=STATES)
def test_a_state_that_is_none_is_refused(raw: bytes, small: bool, liar: Liar) -> None:
    with pytest.raises(MessageError, match=r"coordinator|cannot be read"):
        liar.run(liar.order(state=liar.offer(raw), inside=raw if small else b""))
    assert not any(isinstance(each, Deliver) for each in liar.asked)


def test_another_state_than_is_offered_is_refused(liar: Liar) -> None:
    with pytest.raises(MessageError, match="coordinator sent something else"):
        liar.run(liar.order(inside=STATES["NaN"]))


def test_a_state_that_is_too_large_is_not_pulled(liar: Liar) -> None:
    with pytest.raises(MessageError, match="is the most"):
        liar.run(liar.order(state=liar.offer(b"", 2**40)))
    assert not liar.pulled


@pytest.mark.parametrize(
    "rows", [(), (1, 2, 3, 4, 5), (2**52, 40, 33, 18, 29), (18, 2**52, 33, 18, 29)]
)
def test_other_row_counts_are_refused(rows: tuple[int, ...], liar: Liar) -> None:
    with pytest.raises(MessageError, match="row counts"):
        liar.run(liar.order(rows=rows))


def test_a_full_disk_ends_a_site_in_a_sentence(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="make room and start again"):
            liar.run(liar.order())
    assert any(isinstance(each, Deliver) for each in liar.run(liar.order()))


def test_no_round_is_trained_twice_or_backwards(liar: Liar) -> None:
    sent = liar.run(liar.order(round=1), liar.order(round=1))
    first, second = (each for each in sent if isinstance(each, Deliver))
    assert first == second
    with pytest.raises(MessageError, match="asks for round 1 of 3"):
        liar.run(liar.order(round=0))


def test_no_round_beyond_the_last_is_trained(liar: Liar) -> None:
    with pytest.raises(MessageError, match="asks for round 4 of 3"):
        liar.run(liar.order(round=3))


def test_no_round_of_others_is_trained(tmp_path: Path) -> None:
    liar = Liar(tmp_path, topology=tacit.Star(cohort=1))
    plan = liar.bench.public
    others = [r for r in range(3) if 0 not in plan.plan.sample(5, plan.seed, r)]
    with pytest.raises(MessageError, match="cohort"):
        liar.run(liar.order(round=others[0]))


def replies(liar: Liar) -> st.SearchStrategy[Any]:
    ours = st.just(liar.digest)
    rows = st.just(liar.order().rows) | st.lists(COUNT, max_size=6).map(tuple)
    offer = st.just(liar.state) | OFFER
    nodes = st.lists(COUNT, max_size=6).map(tuple)
    return st.one_of(
        st.builds(Wait, ours, st.text(max_size=50)),
        st.builds(
            Train,
            ours,
            ROUND,
            rows,
            offer,
            st.booleans(),
            st.booleans(),
            COUNT,
            st.binary(max_size=200),
        ),
        st.builds(Enter, ours, ROUND, COUNT, st.integers(0, 15), nodes),
        st.builds(Go, ours, ROUND, COUNT, STAGE, BODY),
        st.builds(Taken, ours, st.booleans()),
        st.builds(Introduce, ours),
        st.builds(Found, ours, st.text(max_size=50), st.binary(max_size=50)),
        st.builds(Release, ours, st.binary(max_size=50)),
        st.builds(Cosign, ours),
        st.builds(
            Extension, ours, st.text(max_size=50), st.just(()), st.binary(max_size=50),
            st.builds(Receipt, COUNT, st.just(())), st.none(),
        ),
    )  # fmt: skip


def test_no_reply_of_a_coordinator_stops_a_site_but_in_a_sentence(tmp_path: Path) -> None:
    liar = Liar(tmp_path)

    @settings(FEW, max_examples=25)
    @given(st.lists(replies(liar), max_size=5))
    def storm(said: list[Any]) -> None:
        liar.asked.clear()
        with suppress(TacitError):
            liar.run(*said)

    storm()


# What handles received bytes


def imported(root: Path) -> dict[Path, ast.Module]:
    """The files of the package that the network's files import, and those that these import."""
    source = root.parent
    found: dict[Path, ast.Module] = {}
    waiting = sorted((root / "network").glob("*.py"))
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        tree = found[path] = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                base = source / Path(*name.split("."))
                waiting += [
                    p for p in (base.with_suffix(".py"), base / "__init__.py") if p.exists()
                ]
    return found


EXECUTING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def offences(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in EXECUTING]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] * (node.module.split(".")[0] in EXECUTING)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] * (called in {"eval", "exec", "torch.load", "yaml.load"})
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            found += [called] * (keywords.get("allow_pickle", "False") != "False")
    return found


def test_nothing_that_is_received_is_executed() -> None:
    files = imported(Path(tacit.__file__).parent)
    assert len(files) > 40
    # Speaks through pipes to processes that it forked itself, and runs no part of a network.
    del files[Path(tacit.__file__).parent / "engine" / "workers.py"]
    assert {path.name: wrong for path, tree in files.items() if (wrong := offences(tree))} == {}
    for bad in ("import pickle", "from marshal import loads", "torch.load(f)", "eval('1')"):
        assert offences(ast.parse(bad)), bad
