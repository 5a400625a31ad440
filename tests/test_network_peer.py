"""Peers without a coordinator, with calls in place of sockets; real ones in test_network_gossip.

Killing is leaving an object behind and making a new one from the same folder.
"""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import torch

import tacit
from tacit.errors import InputError
from tacit.network.peer import PeerRun
from tacit.network.protocol import Holds, Seek
from tacit.network.transport import Unreachable
from test_network_rounds import alone, experiment
from test_network_run import told_nothing

ONE_AT_A_TIME = threading.Lock()
BOUND = 60.0


def plan_of(**changes):
    return experiment(**{"algorithm": tacit.Gossip(), "topology": tacit.Ring()} | changes)


class Crowd:
    """Peers who call each other."""

    def __init__(self, plan, folder):
        self.plan, self.folder = plan, folder
        self.public = plan.replace(data=told_nothing(plan.data))
        self.peers, self.files, self.news = {}, {}, {}

    def ask(self, asker, name, request):
        """Over bytes, as on the wire."""
        if name not in self.peers:
            raise Unreachable(f"no {name}")
        request = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Seek)
        reply = self.peers[name].answer(asker, request)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=Holds)

    def pull(self, asker, name, offer, path):
        source, allowed = self.files.get((name, offer.digest.hex()), (None, ()))
        if asker not in allowed:
            raise Unreachable(f"{name} does not offer that to {asker}")
        try:
            shutil.copy(source, path)
        except FileNotFoundError:
            raise Unreachable("withdrawn") from None

    def peer(self, name, **settings):
        node = self.plan.data.names.index(name)
        self.news[name] = news = threading.Event()
        folder = self.folder / name
        folder.mkdir(exist_ok=True)

        def wake(seconds):
            news.wait(seconds)
            news.clear()

        run = PeerRun(
            self.public, alone(self.plan.data, node), name, folder,
            lambda other, request: self.ask(name, other, request),
            lambda other, offer, path: self.pull(name, other, offer, path),
            lambda path, to: self.files.update({(name, path.name): (path, set(to))}),
            lambda offer: self.files.pop((name, offer.digest.hex()), None),
            lambda other: other in self.news and self.news[other].set(), wake,
            **{"patience": BOUND} | settings,
        )  # fmt: skip
        train = run.peer.trainer.run

        def one_at_a_time(*job):
            with ONE_AT_A_TIME:
                return train(*job)

        run.peer.trainer.run = one_at_a_time
        return run

    def join(self, run):
        """It is there, and sees who is."""
        for other in self.peers.values():
            run.here(other.name, True)
            other.here(run.name, True)
        self.peers[run.name] = run

    def leave(self, name):
        del self.peers[name]
        for other in self.peers.values():
            other.here(name, False)

    def all(self, *without, **settings):
        """The whole run; how it ended for each."""
        names = [name for name in self.plan.data.names if name not in without]
        for name in names:
            self.join(self.peer(name, **settings))
        return self.run(*names)

    def run(self, *names):
        def whole(name):
            ended = self.peers[name].run()
            self.peers[name].stay()
            return ended

        with ThreadPoolExecutor(8) as pool:
            return dict(zip(names, pool.map(whole, names), strict=True))

    def models(self):
        return torch.stack(
            [self.peers[name].peer.model({}) for name in self.plan.data.names if name in self.peers]
        )


def whole_models(plan):
    return tacit.run(plan).vectors


PLANS = {
    "ring": {},
    "regular": {"topology": tacit.RandomRegular(2), "seed": 5},
    "before": {"algorithm": tacit.Gossip(mix="before")},
    "pairs": {"topology": tacit.Pairwise(), "rounds": 5},
    "directed": {"topology": tacit.Epidemic(2)},
    "balance": {"aggregation": tacit.Balance(gamma=0.3)},
    "trimmed": {"topology": tacit.RandomRegular(4), "aggregation": tacit.TrimmedMean(f=1)},
    "start": {"aggregation": tacit.FLTrust()},
    "clip": {"protection": [tacit.Clip(0.05)]},
}


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_every_peer_has_the_model_of_one_process(changes, tmp_path):
    plan = plan_of(**changes)
    crowd = Crowd(plan, tmp_path)
    ended = crowd.all()
    assert {end.reason for end in ended.values()} == {f"all {plan.rounds} rounds are done"}
    assert torch.allclose(crowd.models(), whole_models(plan), atol=1e-5)
