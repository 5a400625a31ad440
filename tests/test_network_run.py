"""A coordinator and its sites, with calls in place of sockets; real ones in test_network_process.

Killing is leaving an object behind and making a new one from the same folder.
"""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

import tacit
from tacit.network.coordinator import Coordinator
from tacit.network.protocol import Reply, Request
from tacit.network.site import SiteRun
from tacit.network.store import Store
from test_network_rounds import alone, empty, experiment

ONE_AT_A_TIME = threading.Lock()


class Threaded(SiteRun):
    """Nothing is trained in several threads at once: sites are processes."""

    def _take_part(self, order):
        with ONE_AT_A_TIME:
            return super()._take_part(order)


class Bench:
    """A coordinator and the folders of all."""

    def __init__(self, plan, folder, **settings):
        self.plan, self.folder, self.settings = plan, folder, settings
        self.public = plan.replace(data=told_nothing(plan.data))
        self.offers = {}
        self.start()

    def start(self):
        self.store = Store(self.folder / "coordinator", self.public.digest())
        self.coordinator = Coordinator(
            self.public, self.store, self.pull, lambda path: None, **self.settings
        )

    def pull(self, site, offer, path):
        shutil.copy(self.offers[site, offer.digest.hex()], path)

    def ask(self, name, request):
        """Over bytes, as on the wire."""
        request = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request)
        self.coordinator.here(name, True)
        reply = self.coordinator.answer(name, request)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=Reply)

    def site(self, name, **options):
        node = self.plan.data.names.index(name)

        def offer(path):
            self.offers[name, path.name] = path

        def pull(wanted, path):
            shutil.copy(self.store.tensors.path(wanted.digest), path)

        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return Threaded(
            self.public, alone(self.plan.data, node), name, folder,
            lambda request: self.ask(name, request), pull, offer, lambda _: time.sleep(0.005),
            **options,
        )  # fmt: skip

    def all(self):
        """The whole run; its kept end."""
        with ThreadPoolExecutor(8) as pool:
            sites = [pool.submit(self.site(name).run) for name in self.plan.data.names]
            kept = self.coordinator.run()
            self.done = [site.result() for site in sites]
        return kept


def told_nothing(data):
    public = empty(data)
    none = np.zeros(data.nodes + 1, np.int64)
    return replace(public, train=replace(public.train, offsets=none))


def model(plan, kept, store):
    return store.tensors.get(kept.state.digest)["model"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": tacit.Scaffold()},
        {"topology": tacit.Star(cohort=2)},
        {"aggregation": tacit.Median()},
    ],
    ids=["fedavg", "scaffold", "cohort", "median"],
)
def test_the_run_gives_the_model_of_one_process(changes, tmp_path):
    plan = experiment(**changes)
    bench = Bench(plan, tmp_path, patience=20)
    kept = bench.all()
    assert kept.outcome == "finished"
    whole = tacit.run(plan)
    assert torch.allclose(
        model(plan, kept, bench.store), plan.layout.vector(whole.model), atol=1e-6
    )
    # The last two states, what the rule remembers, and no update.
    assert len(list(bench.store.tensors.folder.iterdir())) <= 3
    rows = bench.store.metrics()
    assert [row["round"] for row in rows] == [1, 2, 3]
    for mine, theirs in zip(rows, whole.metrics, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
