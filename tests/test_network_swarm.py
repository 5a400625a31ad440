"""A swarm, with calls in place of sockets; real ones in test_network_swarm_process.

Killing is leaving an object behind and making a new one from the same folder.
"""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tacit
from tacit.network.protocol import Talk
from tacit.network.swarm import SwarmRun
from tacit.network.transport import Unreachable
from test_network_rounds import alone, experiment
from test_network_run import told_nothing

ONE_AT_A_TIME = threading.Lock()
BOUND = 300.0
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in range(5)]


def plan_of(**changes):
    return experiment(**{"topology": tacit.Swarm()} | changes)


class Swarm:
    """Members who call each other."""

    def __init__(self, plan, folder):
        self.plan, self.folder, self.names = plan, folder, plan.data.names
        self.public = plan.replace(data=told_nothing(plan.data))
        self.members, self.files = {}, {}

    def ask(self, asker, name, talk):
        """Over bytes, as on the wire."""
        if name not in self.members or asker not in self.members:
            raise Unreachable(f"no {name}")
        talk = msgspec.msgpack.decode(msgspec.msgpack.encode(talk), type=Talk)
        reply = self.members[name].answer(asker, talk)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=Talk)

    def pull(self, asker, name, offer, path):
        source, allowed = self.files.get((name, offer.digest.hex()), (None, ()))
        if name not in self.members or (allowed is not None and asker not in allowed):
            raise Unreachable(f"{name} does not offer that to {asker}")
        try:
            shutil.copy(source, path)
        except FileNotFoundError:
            raise Unreachable("withdrawn") from None

    def member(self, name, **settings):
        node = self.names.index(name)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        run = SwarmRun(
            self.public, alone(self.plan.data, node), name, folder, KEYS[node],
            lambda other: KEYS[self.names.index(other)].public_key(),
            lambda other, talk: self.ask(name, other, talk),
            lambda other, offer, path: self.pull(name, other, offer, path),
            lambda path, to: self.files.update({(name, path.name): (path, to)}),
            **{"patience": BOUND, "stall": BOUND, "grace": 0.05} | settings,
        )  # fmt: skip
        update = run.site.update

        def one_at_a_time(*order):
            with ONE_AT_A_TIME:
                return update(*order)

        run.site.update = one_at_a_time
        return run

    def join(self, run):
        """It is there, and sees who is."""
        for other in self.members.values():
            run.here(other.name, True)
            other.here(run.name, True)
        self.members[run.name] = run

    def leave(self, name):
        run = self.members.pop(name)
        for other in self.members.values():
            other.here(name, False)
        return run

    def all(self, *without, **settings):
        """The whole run; how it ended for each."""
        names = [name for name in self.names if name not in without]
        for name in names:
            self.join(self.member(name, **settings))
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(names, pool.map(lambda n: self.members[n].run(), names), strict=True))

    def models(self):
        return {name: run.home()[0] for name, run in self.members.items()}


PLANS = {
    "fedavg": {},
    "scaffold": {"algorithm": tacit.Scaffold()},
    "cohort": {"topology": tacit.Swarm(cohort=3)},
    "median": {"aggregation": tacit.Median()},
}


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_every_member_has_the_model_of_one_process(changes, tmp_path):
    plan = plan_of(**changes)
    swarm = Swarm(plan, tmp_path)
    ended = swarm.all()
    assert {end.reason for end in ended.values()} == {f"all {plan.rounds} rounds are done"}
    whole = plan.layout.vector(tacit.run(plan).model)
    for model in swarm.models().values():
        assert torch.allclose(model, whole, atol=1e-5)
