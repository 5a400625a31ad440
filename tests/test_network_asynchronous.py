"""Asynchronous rounds among machines, with calls in place of sockets; in the order that they had,
the same updates make the same model in one process.

Killing is leaving an object behind and making a new one from the same folder.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file
from torch import nn

import tacit
from network_parties import until
from tacit.algorithms.arrivals import Arrivals
from tacit.errors import CheckpointError, InputError, MessageError
from tacit.network.asynchronous import AsyncCoordinator, AsyncSiteRun
from tacit.network.blobs import Offer
from tacit.network.protocol import Ask, Deliver, Done, Join, Taken, Train, Wait
from tacit.network.software import software
from tacit.network.store import Store
from tacit.network.transport import Unreachable
from test_network_rounds import alone, experiment
from test_network_run import Bench

ONE_AT_A_TIME = threading.RLock()
BOUND = 60.0


class Killed(BaseException):
    pass


def asynchronous(**changes):
    settings = {"algorithm": tacit.FedBuff(buffer=2), "rounds": 6, "evaluate_every": 6}
    return experiment(**settings | changes)


class Slowly(AsyncSiteRun):
    """Nothing is trained or measured in several threads at once: sites are processes."""

    before = staticmethod(lambda order: None)

    def _site(self, rows):
        with ONE_AT_A_TIME:
            if self.site is None:
                site = super()._site(rows)
                measure = site.measure
                site.measure = lambda state: self.alone(measure, state)
            return self.site

    def _part(self, site, order, state):
        self.before(order)
        return self.alone(super()._part, site, order, state)

    @staticmethod
    def alone(call, *arguments):
        with ONE_AT_A_TIME:
            return call(*arguments)


class AsyncBench(Bench):
    """A coordinator of asynchronous rounds, and the folders of all."""

    over = False

    def __init__(self, *arguments, **settings):
        self.back = threading.Event()
        super().__init__(*arguments, **settings)

    def start(self):
        self.store = Store(self.folder / "coordinator", self.public.digest())
        self.coordinator = AsyncCoordinator(
            self.public, self.store, self.pull, lambda path: None,
            **{"patience": BOUND} | self.settings,
        )  # fmt: skip

    def site(self, name, before=None, **options):
        threaded = super().site(name)

        def pull(offer, path):
            try:
                threaded.pull(offer, path)
            except FileNotFoundError:  # of a model that nobody is given any more
                raise Unreachable("withdrawn") from None

        run = Slowly(
            self.public, alone(self.plan.data, threaded.node), name, threaded.folder,
            threaded.ask, pull, threaded.offer, threaded.wake, **options,
        )  # fmt: skip
        if before:
            run.before = before
        return run

    def ask(self, name, request):
        if self.over:
            raise RuntimeError("the test is over")
        return super().ask(name, request)

    @contextmanager
    def sites(self, *sites):
        """Sites that run, each in a thread, until the run is over or the test has failed."""
        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(site.run) for site in sites]
            try:
                yield
                self.done = [site.result(BOUND) for site in running]
            except BaseException:
                self.over = True
                self.back.set()
                raise

    def all(self):
        with self.sites(*map(self.site, self.plan.data.names)):
            return self.coordinator.run()

    def replayed(self):
        """The model of the same arrivals in one process."""
        arrived, names = self.store.arrivals(), self.plan.data.names
        buffer, found = self.plan.algorithm.buffer, []
        for round in range(self.plan.rounds):
            taken = arrived[round * buffer : (round + 1) * buffer]
            nodes = np.array([names.index(arrival.site) for arrival in taken])
            staleness = np.array([round - arrival.round for arrival in taken])
            again = np.array([arrival.again for arrival in taken])
            assert (staleness >= 0).all()
            concurrency = self.plan.algorithm.concurrency or len(names)
            none = np.empty(0, np.int64)
            found.append(Arrivals(nodes, staleness, again, none, concurrency, 0, round + 1))
        plan = self.plan.replace(seed=self.plan.seed)
        vars(plan)["arrivals"] = tuple(found)
        return plan.layout.vector(tacit.run(plan).model)

    def model(self, kept):
        return self.store.tensors.get(kept.state.digest)["past"][0]

    def check(self, kept):
        """It ended, with every update that was accepted in one step, and none twice."""
        assert kept.outcome == "finished"
        arrived = self.store.arrivals()
        assert len(arrived) == self.plan.rounds * self.plan.algorithm.buffer
        assert len({(a.site, a.round, a.again) for a in arrived}) == len(arrived)
        assert torch.allclose(self.model(kept), self.replayed(), rtol=0, atol=1e-5)


def normed():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


PLANS = {
    "fedbuff": {},
    "sgd": {"algorithm": tacit.AsyncSGD(lr=0.5), "rounds": 12},
    "one": {"algorithm": tacit.FedBuff(buffer=2, concurrency=1)},
    "normed": {"model": normed},
    "momentum": {"training": tacit.SGD(lr=0.05, batch_size=4, steps=3, momentum=0.5)},
    "median": {"algorithm": tacit.FedBuff(buffer=5, staleness="constant"),
               "aggregation": tacit.Median()},
    "clip": {"protection": [tacit.Clip(0.05)]},
}  # fmt: skip


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_the_order_of_arrivals_makes_the_model(changes, tmp_path):
    bench = AsyncBench(asynchronous(**changes), tmp_path)
    kept = bench.all()
    bench.check(kept)
    rows = bench.store.metrics()
    assert [row["round"] for row in rows] == list(range(1, bench.plan.rounds + 1))
    assert {done.outcome for done in bench.done} == {"finished"}
    # The last two models, what the rule remembers, and models that late sites were given.
    assert len(list(bench.store.tensors.folder.iterdir())) <= 3 + len(bench.plan.data.names)


def test_a_slow_site_holds_nobody_back(tmp_path):
    # The slow one is done with its first training when ten steps have been taken without it.
    bench = AsyncBench(asynchronous(algorithm=tacit.FedBuff(buffer=1), rounds=24), tmp_path)
    names, began = bench.plan.data.names, threading.Event()

    def slow(order):
        began.set()
        until(lambda: len(bench.store.arrivals()) >= 10, BOUND)

    with Running(bench) as running, bench.sites(bench.site(names[0], slow)):
        assert began.wait(BOUND)
        with bench.sites(*map(bench.site, names[1:3])):
            kept = running.kept.result(BOUND)
    bench.check(kept)
    arrived = bench.store.arrivals()
    assert names[0] not in {a.site for a in arrived[:10]}
    (late,) = [i for i, a in enumerate(arrived) if a.site == names[0] and a.round == 0]
    assert late >= 10  # it began at the first model, and still counts
    assert {a.site for a in arrived} == set(names[:3])


def deliver(bench, name, model, again=0, value=1.0):
    """One update by hand, and the reply once it was pulled; ``model`` is the round's number."""
    size, path = bench.plan.layout.size, bench.folder / f"{name}-{model}-{again}-{value}"
    save_file({"0": torch.full((size,), value)}, path)
    raw = path.read_bytes()
    offer = Offer(blake3(raw).digest(), len(raw))
    bench.offers[name, offer.digest.hex()] = path
    found = []

    def answered():
        found.append(bench.ask(name, Deliver(bench.public.digest(), model, offer, 0.5, again)))
        return not isinstance(found[-1], Wait)

    until(answered, BOUND)
    return found[-1]


class Running:
    """A coordinator in a thread; ``stop`` kills it."""

    def __init__(self, bench):
        self.bench, self.pool = bench, ThreadPoolExecutor(1)
        self.kept = self.pool.submit(bench.coordinator.run)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.kept.done():
            self.bench.coordinator.attendance.end(InputError("stopped"))
            self.kept.exception(BOUND)
        self.pool.shutdown()

    def at(self, round):
        """Waits until so many steps are done."""
        until(lambda: (k := self.bench.coordinator._kept) and k.round >= round, BOUND)


def join(bench, name, rows=18):
    return bench.ask(name, Join(bench.public.digest(), software(), rows))


def order(bench, name):
    found = []

    def asked():
        found.append(bench.ask(name, Ask(bench.public.digest())))
        return not isinstance(found[-1], Wait)

    until(asked, BOUND)
    return found[-1]


def test_a_step_takes_the_weights_of_staleness(tmp_path):
    # From w0 = the start: a delivers 1 from model 0 (step 1: + 1), b delivers 4 from model 0 when
    # one step has been taken: + 4 / sqrt(2).
    bench = AsyncBench(asynchronous(algorithm=tacit.FedBuff(buffer=1), rounds=3), tmp_path)
    with Running(bench) as running:
        for name in ("0", "1"):
            join(bench, name)
            assert order(bench, name).round == 0
        assert deliver(bench, "0", 0, value=1.0).used
        running.at(1)
        assert deliver(bench, "1", 0, value=4.0).used
        running.at(2)
        found = bench.model(bench.coordinator._kept) - bench.plan.start()
    assert found.tolist() == pytest.approx([1 + 4 / 2**0.5] * len(found), rel=1e-5)
    assert bench.store.metrics()[1]["staleness"] == 1


def test_who_joins_late_is_given_the_newest_model(tmp_path):
    bench = AsyncBench(asynchronous(algorithm=tacit.FedBuff(buffer=1), rounds=9), tmp_path)
    with Running(bench) as running:
        join(bench, "0")
        for round in range(3):
            assert order(bench, "0").round == round
            assert deliver(bench, "0", round).used
            running.at(round + 1)
        late = join(bench, "3", 13)
        assert isinstance(late, Train)
        assert (late.round, late.train) == (3, True)
        assert late.rows == (18, 0, 0, 13, 0)


def test_what_is_too_stale_is_refused_with_the_reason(tmp_path):
    algorithm = tacit.FedBuff(buffer=1, max_staleness=1)
    bench = AsyncBench(asynchronous(algorithm=algorithm, rounds=9), tmp_path)
    with Running(bench) as running:
        for name in ("0", "1"):
            join(bench, name)
            order(bench, name)
        for round in range(2):
            assert deliver(bench, "0", round).used
            running.at(round + 1)
        for _ in range(2):  # asked twice, answered the same
            reply = deliver(bench, "1", 0)
            assert reply == Taken(
                bench.public.digest(), False, "the update is 2 steps old; 1 is the most"
            )
        assert order(bench, "1").round == 2
        assert deliver(bench, "1", 2).used
        running.at(3)
    assert [row["dropped"] for row in bench.store.metrics()] == [0, 0, 1]


def test_a_site_delivers_often_and_each_time_once(tmp_path):
    bench = AsyncBench(asynchronous(algorithm=tacit.FedBuff(buffer=3), rounds=1), tmp_path)
    with Running(bench):
        join(bench, "0")
        for again in range(2):
            given = order(bench, "0")
            assert (given.round, given.again) == (0, again)
            for _ in range(2):
                assert deliver(bench, "0", 0, again).used
            assert len(bench.store.arrivals()) == again + 1
        for model, again in ((0, 3), (1, 0)):
            with pytest.raises(MessageError, match="not asked for"):
                deliver(bench, "0", model, again)


def test_no_more_sites_train_than_agreed_on_and_all_have_their_turn(tmp_path):
    algorithm = tacit.FedBuff(buffer=1, concurrency=1)
    bench = AsyncBench(asynchronous(algorithm=algorithm, rounds=9), tmp_path, grace=1e9)
    with Running(bench):
        for name in ("0", "1", "2"):
            join(bench, name)
        assert order(bench, "0").train
        asked = Ask(bench.public.digest())
        for name in ("2", "1"):
            assert isinstance(bench.ask(name, asked), Wait)
        assert deliver(bench, "0", 0).used
        # It was node-2 who asked first.
        assert isinstance(bench.ask("1", asked), Wait)
        assert order(bench, "2").train


@pytest.mark.parametrize("phase", ["arrive", "take", "advance", "opened"])
def test_a_coordinator_that_is_killed_loses_and_counts_nothing_twice(phase, tmp_path):
    bench = AsyncBench(asynchronous(algorithm=tacit.FedBuff(buffer=3), rounds=4), tmp_path)
    killed = threading.Event()
    first, store = bench.coordinator, bench.store

    def kill(*_):
        """From here on, nothing that this process does is kept."""
        killed.set()
        for part, name in ((store, "arrive"), (store, "advance"), (store.tensors, "retain")):
            setattr(part, name, dead)
        first.attendance.end(InputError("killed"))
        raise Killed

    def dead(*_):
        raise Killed

    def after(call, times):
        left = [times]

        def counted(*arguments):
            found = call(*arguments)
            left[0] -= 1
            return kill() if not left[0] else found

        return counted

    if phase == "arrive":  # an update is accepted, and its site does not hear of it
        store.arrive = after(store.arrive, 5)
    elif phase == "take":  # the buffer is full, and no step taken
        first.scores.report = after(first.scores.report, 2)
    elif phase == "advance":  # the step is kept, and nobody told
        store.advance = after(store.advance, 2)
    else:
        store.tensors.retain = after(store.tensors.retain, 3)

    def run():
        with pytest.raises((Killed, CheckpointError)):
            first.run()
        killed.set()

    def switched(name, request):
        """Sites find nobody while the coordinator is away."""
        while True:
            if killed.is_set() and not bench.over:
                assert back.wait(BOUND)
            try:
                return bench.ask(name, request)
            except (Killed, RuntimeError):  # it was killed in the meantime
                if not killed.is_set() or bench.over:
                    raise

    back, names = bench.back, bench.plan.data.names
    sites = [bench.site(name) for name in names]
    for site in sites:
        site.ask = lambda request, name=site.name: switched(name, request)
    with bench.sites(*sites):
        run()
        # A pull that is on its way may still end: then it was accepted, and is in the store.
        first.intake._pool.shutdown(wait=True)
        before = store.arrivals()
        assert len(before) >= 4
        store.close()
        bench.start()
        back.set()
        kept = bench.coordinator.run()
    bench.check(kept)
    assert {done.outcome for done in bench.done} == {"finished"}
    assert bench.store.arrivals()[: len(before)] == before
    assert [row["round"] for row in bench.store.metrics()] == [1, 2, 3, 4]


def test_a_site_that_is_killed_after_training_delivers_without_training_again(tmp_path):
    bench = AsyncBench(asynchronous(algorithm=tacit.FedBuff(buffer=2), rounds=2), tmp_path)
    with Running(bench):
        site = bench.site("0")
        site._hand_over = lambda notes: (_ for _ in ()).throw(Killed)
        with pytest.raises(Killed):
            site.run()
        trained = site.notes
        back = bench.site("0", before=lambda order: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):  # at its next training
            back.run()
        (arrival,) = bench.store.arrivals()
        assert (arrival.round, arrival.again) == (0, 0)
        assert arrival.digest == trained.update.digest


@pytest.mark.slow
def test_a_site_stops_when_what_was_paid_for_is_spent(tmp_path):
    # By the plan each of the two delivers so often; one of them is much faster here.
    protection = [tacit.DPSGD(norm=1.0, multiplier=0.5, delta=1e-5)]
    plan = asynchronous(
        algorithm=tacit.FedBuff(buffer=1, spread=0.0), rounds=10, protection=protection
    )
    most = plan.guard.turns(10)
    assert most == 2  # of ten steps of five nodes that are equally fast
    bench = AsyncBench(plan, tmp_path)
    first, *others = plan.data.names
    with Running(bench) as running, bench.sites(bench.site(first)):
        until(lambda: first in bench.coordinator.intake.declined, BOUND)
        assert len(bench.store.arrivals()) == most
        assert not running.kept.done()
        with bench.sites(*map(bench.site, others)):
            kept = running.kept.result(BOUND)
    assert kept.outcome == "finished"
    came = [arrival.site for arrival in bench.store.arrivals()]
    assert {name: came.count(name) for name in plan.data.names} == dict.fromkeys(
        plan.data.names, most
    )


def test_settings_of_rounds_that_wait_are_refused(tmp_path):
    for setting in ({"quorum": 2}, {"deadline": 5.0}):
        with pytest.raises(InputError, match="quorum and deadline"):
            AsyncBench(asynchronous(), tmp_path, **setting)


def test_the_end_is_told_to_a_site_that_comes_too_late(tmp_path):
    bench = AsyncBench(asynchronous(algorithm=tacit.FedBuff(buffer=1), rounds=1), tmp_path)
    running = Running(bench)
    for name in ("0", "1"):
        join(bench, name)
        order(bench, name)
    assert deliver(bench, "0", 0).used
    reply = deliver(bench, "1", 0)
    assert not reply.used
    assert "all the updates" in reply.reason
    for name in bench.plan.data.names:
        bench.coordinator.here(name, False)
    assert running.kept.result(BOUND).outcome == "finished"
    assert isinstance(order(bench, "1"), Done)
