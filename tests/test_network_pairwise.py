"""Peers that average in pairs, with calls in place of sockets; at the end, three processes.

Killing is leaving an object behind and making a new one from the same folder.
"""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import tacit
from network_gossip import EXPERIMENT
from network_parties import free_port, joined, until
from tacit.cli.source import load
from tacit.data import from_arrays
from tacit.errors import InputError, MessageError
from tacit.network.approval import approve
from tacit.network.authority import Authority
from tacit.network.gossip import check
from tacit.network.identity import MEMBERS
from tacit.network.pairwise import PairRun
from tacit.network.protocol import Average, Averaged, Seek
from tacit.network.transport import Unreachable
from test_network_peer import BOUND, ONE_AT_A_TIME, Crowd
from test_network_rounds import alone, experiment


def plan_of(**changes):
    fields = {"algorithm": tacit.ADPSGD(), "topology": tacit.Complete()}
    return experiment(**fields | changes)


# Steps of 1e-12 are none in float32, beside models of about 1.
STILL = {"training": tacit.SGD(lr=1e-12, batch_size=8)}


class Pairs(Crowd):
    """Peers who call each other.

    Attributes:
        lost: whose replies do not come.
        dead: runs whose process was killed, of which nothing comes any more.
    """

    lost = frozenset()
    dead = frozenset()

    def average(self, asker, name, request):
        """Over bytes, as on the wire."""
        if name not in self.peers:
            raise Unreachable(f"no {name}")
        request = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Average)
        run = self.peers[name]
        if run in self.dead:
            raise Unreachable(f"{name} was killed")
        reply = run.average(asker, request)
        if name in self.lost or run in self.dead:
            raise Unreachable(f"the reply of {name} is lost")
        return msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=Averaged)

    def peer(self, name, **settings):
        node = self.plan.data.names.index(name)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        run = PairRun(
            self.public, alone(self.plan.data, node), name, folder,
            lambda other, request: self.ask(name, other, request),
            lambda other, request: self.average(name, other, request),
            lambda other, offer, path: self.pull(name, other, offer, path),
            lambda path, to: self.files.update({(name, path.name): (path, set(to))}),
            lambda offer: self.files.pop((name, offer.digest.hex()), None),
            **{"patience": BOUND} | settings,
        )  # fmt: skip
        train = run.peer.trainer.run

        def one_at_a_time(*job):
            with ONE_AT_A_TIME:
                return train(*job)

        run.peer.trainer.run = one_at_a_time
        return run

    def again(self, name):
        """The process was killed, and is started again."""
        for key in [key for key in self.files if key[0] == name]:
            del self.files[key]
        self.join(self.peer(name))
        return self.peers[name]


def crowd_of(plan, folder, **settings):
    """Peers with models that have nothing in common; and those."""
    crowd = Pairs(plan, folder)
    first = torch.randn(
        plan.data.nodes, plan.layout.size, generator=torch.Generator().manual_seed(1)
    )
    for name, model in zip(plan.data.names, first, strict=True):
        run = crowd.peer(name, **settings)
        crowd.join(run)
        run._note(model.clone())
    return crowd, first


def models(crowd):
    return torch.stack([crowd.peers[name].model for name in crowd.plan.data.names])


def exchange(run, name):
    """One ask, as a training makes it; whether the two averaged."""
    run.begin(name)
    try:
        return run.hear(name, run.notes.asked[name].model)
    finally:
        run.let_go()


def nodes_of(count):
    draw = np.random.default_rng(3)
    tables = [draw.normal(size=(16, 4)).astype(np.float32) for _ in range(count)]
    return from_arrays([(x, (x[:, 0] > 0).astype(np.int64)) for x in tables])


@pytest.mark.parametrize("count", [2, 5])
def test_all_ask_all_at_once_and_the_mean_stays(count, tmp_path):
    """Nobody can go on alone: each training waits for that of all others."""
    plan = plan_of(data=nodes_of(count), rounds=8, **STILL)
    crowd, first = crowd_of(plan, tmp_path)
    together = threading.Barrier(count)
    for run in crowd.peers.values():

        def train(*job, train=run.peer.trainer.run):
            together.wait(BOUND)
            return train(*job)

        run.peer.trainer.run = train
    ended = crowd.run(*plan.data.names)
    assert {end.reason for end in ended.values()} == {"all 8 rounds are done"}
    assert torch.allclose(models(crowd).mean(0), first.mean(0), atol=1e-5)
    # Of d independent numbers each; an exchange of two at random takes half of their difference.
    assert models(crowd).std(0).mean() < 0.2 * first.std(0).mean()
    assert all(not run.notes.asked for run in crowd.peers.values())


def test_a_peer_that_asks_is_busy_and_both_end_with_the_mean(tmp_path):
    crowd, first = crowd_of(plan_of(), tmp_path)
    one, other, *_ = crowd.peers.values()
    one.begin(other.name)
    assert not exchange(other, one.name)
    assert torch.equal(models(crowd), first)
    assert one.hear(other.name, one.notes.asked[other.name].model)
    for run in (one, other):
        assert torch.equal(run.model, (first[0] + first[1]) / 2)
    assert torch.equal(models(crowd)[2:], first[2:])
    one.let_go()
    assert exchange(other, one.name)


def test_what_was_learned_is_added_to_the_mean(tmp_path):
    """On a path of two, whose other end stays as it is: (x + 1) / 2 + step, the step from x."""
    plan = plan_of(data=nodes_of(2), rounds=1)
    crowd, first = crowd_of(plan, tmp_path)
    one, other = crowd.peers.values()
    learned, train = [], one.peer.trainer.run

    def kept(*job):
        # Others may average with a peer while it trains.
        assert exchange(other, one.name)
        ends, losses = train(*job)
        learned.append(ends[0].clone())
        return ends, losses

    one.peer.trainer.run = kept
    one._train(0)
    mean = (first[0] + first[1]) / 2
    assert not torch.equal(learned[0], first[0])
    assert torch.allclose(one.model, mean + learned[0] - first[0], atol=1e-6)
    assert torch.equal(other.model, mean)
    assert one.row["partner"] == other.name


class Killed(BaseException):
    pass


def die(*_, **__):
    raise Killed


KILLS = [
    "the asker before it asks", "the neighbour before it notes", "the neighbour before it answers",
    "the asker before it notes", "both before they know",
]  # fmt: skip


@pytest.mark.parametrize("who", KILLS)
def test_an_exchange_is_done_once_or_not_at_all(who, tmp_path):
    crowd, first = crowd_of(plan_of(**STILL), tmp_path)
    one, other, third, *_ = crowd.peers.values()
    done = who not in KILLS[:2]
    if who == "the asker before it asks":
        one.begin(other.name)
    elif who == "the neighbour before it notes":
        other._note = die
        with pytest.raises(Killed):
            exchange(one, other.name)
        other = crowd.again(other.name)
    else:
        crowd.lost = frozenset([other.name])
        with pytest.raises(Unreachable):
            exchange(one, other.name)
        crowd.lost = frozenset()
        if who != "the asker before it notes":
            other = crowd.again(other.name)
    if who in ("the asker before it asks", "the asker before it notes", "both before they know"):
        one = crowd.again(one.name)
    assert set(one.notes.asked) == {other.name}
    assert torch.equal(one.model, first[0])
    # Both go on with others before they know.
    assert exchange(one, third.name)
    assert exchange(third, other.name)
    for _ in range(2):
        assert one.ready(other.name) == ""
    assert not one.notes.asked
    step = (first[1] - first[0]) / 2 if done else torch.zeros(len(first[0]))
    assert torch.allclose(one.model, (first[0] + first[2]) / 2 + step, atol=1e-6)
    assert torch.allclose(models(crowd).mean(0), first.mean(0), atol=1e-6)
    one, other = crowd.again(one.name), crowd.again(other.name)
    assert one.ready(other.name) == ""
    assert torch.allclose(models(crowd).mean(0), first.mean(0), atol=1e-6)
    # No model is kept that nobody may ask for any more.
    for run in crowd.peers.values():
        assert len(list(run.tensors.folder.iterdir())) <= 1 + len(run.notes.given)


def test_an_ask_that_comes_late_finds_the_exchange_called_off(tmp_path):
    crowd, first = crowd_of(plan_of(), tmp_path)
    one, other, *_ = crowd.peers.values()
    one.begin(other.name)
    late = Average(one.digest, one.software, 1, one.notes.asked[other.name].model)
    pull = other.pull

    def overtaken(*arguments):
        assert one.ready(other.name) == ""
        return pull(*arguments)

    other.pull = overtaken
    assert other.average(one.name, late) == Averaged(None)
    assert not one.notes.asked
    assert torch.equal(models(crowd), first)


def test_a_peer_killed_in_its_run_goes_on_and_the_mean_stays(tmp_path):
    plan = plan_of(rounds=6, **STILL)
    crowd, first = crowd_of(plan, tmp_path)
    victim, *names = plan.data.names
    run = crowd.peers[victim]
    hear = run.hear

    def die_once_answered(name, model):
        if run.notes.round == 3:
            crowd.average(victim, name, Average(run.digest, run.software, run.notes.number, model))
            crowd.dead = {run}
            raise Killed
        return hear(name, model)

    run.hear = die_once_answered
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(lambda name: crowd.run(name)[name], name) for name in names]
        with pytest.raises(Killed):
            run.run()
        again = crowd.again(victim)
        assert again.notes.round == 3
        assert len(again.notes.asked) == 1
        assert again.run().reason == "all 6 rounds are done"
        again.stay()
        assert {other.result(BOUND).reason for other in others} == {"all 6 rounds are done"}
    assert not again.notes.asked
    assert torch.allclose(models(crowd).mean(0), first.mean(0), atol=1e-5)


def test_a_slow_peer_holds_nobody_back(tmp_path):
    """Its first training takes as long as all those of all others, with whom it averages."""
    plan = plan_of(rounds=10)
    crowd, _ = crowd_of(plan, tmp_path)
    slow, *names = plan.data.names
    go_on = threading.Event()
    train = crowd.peers[slow].peer.trainer.run

    def wait(*job):
        assert go_on.wait(BOUND)
        return train(*job)

    crowd.peers[slow].peer.trainer.run = wait
    with ThreadPoolExecutor(8) as pool:
        last = pool.submit(crowd.run, slow)
        try:
            for done in [pool.submit(crowd.peers[name].run) for name in names]:
                assert done.result(BOUND).outcome == "finished"
            assert crowd.peers[slow].notes.round == 0
            # Whom each of them asks first follows from the seed, and is sometimes this one.
            assert crowd.peers[slow].notes.given
        finally:
            go_on.set()
        assert last.result(BOUND)[slow].outcome == "finished"


def test_a_neighbour_that_is_gone_is_skipped(tmp_path):
    plan = plan_of(rounds=3)
    crowd, _ = crowd_of(plan, tmp_path)
    gone, one, *names = plan.data.names
    crowd.leave(gone)
    assert crowd.peers[one].run().outcome == "finished"
    for name in names:
        crowd.leave(name)
    run = crowd.again(one)
    run.notes = msgspec.structs.replace(run.notes, round=2)
    run.patience = 0.2
    for name in plan.data.names:
        run.here(name, False)
    ended = run.run()
    assert ended.outcome == "failed"
    assert ended.reason.startswith(
        "round 3: nobody could be averaged with for 0.2 seconds: '0' is not here"
    )


ROGUES = {
    "long": {"model": torch.zeros(45)},
    "nan": {"model": torch.full((44,), torch.nan)},
    "other": {"model": torch.zeros(44), "more": torch.zeros(1)},
    "double": {"model": torch.zeros(44, dtype=torch.float64)},
    "huge": {"model": torch.zeros(4400)},
}


@pytest.mark.parametrize("what", ROGUES.values(), ids=ROGUES)
def test_a_rogue_s_model_is_refused_on_either_side(what, tmp_path):
    crowd, first = crowd_of(plan_of(), tmp_path)
    rogue, victim, third, *_ = crowd.peers.values()
    offer = rogue.tensors.put(what)
    rogue.offer(rogue.tensors.path(offer.digest), [victim.name])
    with pytest.raises(MessageError, match=f"'{rogue.name}'"):
        victim.average(rogue.name, Average(rogue.digest, rogue.software, 1, offer))
    rogue.average = lambda *_: Averaged(offer)
    with pytest.raises(MessageError, match=f"'{rogue.name}'"):
        exchange(victim, rogue.name)
    assert torch.equal(models(crowd), first)
    # It is asked for nothing else before it tells the truth; others are.
    assert f"'{rogue.name}'" in victim.ready(rogue.name)
    assert exchange(victim, third.name)
    assert not list(victim._asks.folder.iterdir()) + list(victim._replies.folder.iterdir())


def test_whoever_does_not_belong_is_refused(tmp_path):
    crowd, first = crowd_of(plan_of(topology=tacit.Ring()), tmp_path)
    one, other, far, *_ = crowd.peers.values()
    model = one.notes.own
    for asker, request, reason in [
        ("mallory", Average(other.digest, other.software, 1, model), "no site"),
        (one.name, Average("0" * 64, other.software, 1, model), "give both the same file"),
        (one.name, Average(other.digest, "0.0.1", 1, model), "install the same version"),
        (far.name, Average(other.digest, other.software, 1, model), "no neighbour of '0'"),
    ]:
        with pytest.raises(MessageError, match=reason):
            (one if asker == far.name else other).average(asker, request)
    with pytest.raises(MessageError, match="give both the same file"):
        other.answer(one.name, Seek("0" * 64, other.software, 0))
    assert torch.equal(models(crowd), first)
    for number in (-1, 0, 2**60):
        request = msgspec.msgpack.encode(Average(other.digest, other.software, number, None))
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(request, type=Average)


def test_an_old_number_changes_nothing(tmp_path):
    crowd, _ = crowd_of(plan_of(), tmp_path)
    one, other, *_ = crowd.peers.values()
    one.begin(other.name)
    first = Average(one.digest, one.software, 1, one.notes.asked[other.name].model)
    reply = other.average(one.name, first)
    settled = other.model
    assert other.average(one.name, first) == reply
    assert reply.model is not None
    assert torch.equal(other.model, settled)
    one.ready(other.name)
    one.let_go()
    assert exchange(one, other.name)
    settled = other.model
    with pytest.raises(MessageError, match="asks for exchange 1, but 2 was the last"):
        crowd.again(other.name).average(one.name, first)
    assert torch.equal(crowd.peers[other.name].model, settled)


def test_plans_are_refused_as_in_process():
    check(plan_of())
    for changes, reason in [
        ({"protection": [tacit.Clip(0.5)]}, "sends no update"),
        ({"aggregation": tacit.Median()}, "averages two models at a time"),
        ({"topology": tacit.Epidemic(2)}, "fixed graph with links both ways"),
        ({"topology": tacit.Star()}, "peers have no server"),
    ]:
        with pytest.raises(InputError, match=reason):
            check(plan_of(**changes))


@pytest.mark.parametrize("protection", [[], [tacit.DPSGD(norm=1.0, multiplier=0.3, delta=1e-5)]])
def test_peers_learn_and_come_together(protection, tmp_path):
    """Wisconsin's breast tumours, of which 37% are malignant, among four hospitals."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    parts = [(x[node::4], y[node::4].astype(np.int64)) for node in range(4)]
    plan = plan_of(
        data=from_arrays(parts), topology=tacit.Ring(), rounds=8, protection=protection,
        model=lambda: nn.Linear(30, 2), loss=nn.functional.cross_entropy,
    )  # fmt: skip
    losses = {name: list[float]() for name in plan.data.names}
    crowd = Pairs(plan, tmp_path)
    for name in plan.data.names:
        run = crowd.peer(
            name, on_round=lambda row, name=name: losses[name].append(row["train_loss"])
        )
        crowd.join(run)
    first = crowd.peers[plan.data.names[0]].model.clone()
    crowd.run(*plan.data.names)
    for name in plan.data.names:
        assert len(losses[name]) == 8
        assert np.mean(losses[name][-2:]) < 0.8 * losses[name][0]  # near 0.5
    end, inputs = models(crowd), torch.from_numpy(x)
    mean = plan.layout.module(plan.template, end.mean(0))
    assert (mean(inputs).argmax(1).numpy() == y).mean() > 0.9
    assert (end - end.mean(0)).norm(dim=1).max() < 0.5 * (end.mean(0) - first).norm()
    name, *_ = plan.data.names
    assert torch.equal(crowd.peers[name].peer.model({}), end[0])


NAMES = ("a", "b", "c")


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    made = list[subprocess.Popen[str]]()
    yield made
    for process in made:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.processes
def test_three_processes_average_in_pairs_and_one_is_killed(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    authority = Authority.init("hearts", tmp_path / "coordinator", ["127.0.0.1:1"])
    for name in NAMES:
        joined(authority, tmp_path / name, name, ("127.0.0.1",))
    for name in NAMES:
        shutil.copy(tmp_path / "coordinator" / MEMBERS, tmp_path / name / MEMBERS)
    draw, file = np.random.default_rng(7), tmp_path / "pulse.py"
    text = EXPERIMENT.replace("tacit.Gossip()", "tacit.ADPSGD()").replace("rounds=12", "rounds=10")
    file.write_text(text)
    digest, addresses = load(file).digest(), [f"127.0.0.1:{free_port()}" for _ in NAMES]
    for name in NAMES:
        approve(tmp_path / name, digest)
        lines = [f"{u},{v},{int(u + v > 0)}" for u, v in draw.normal(size=(40, 2))]
        (tmp_path / f"{name}.csv").write_text("\n".join(["u,v,y", *lines]))

    def start(name: str) -> subprocess.Popen[str]:
        words = [
            "peer", file, "--home", tmp_path / name, "--data", tmp_path / f"{name}.csv",
            "--listen", addresses[NAMES.index(name)], "--folder", tmp_path / "runs" / name,
            "--patience", "300", "--json", *([] if name == "a" else ["--connect", addresses[0]]),
        ]  # fmt: skip
        program = "from tacit.cli import app; app()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    processes = {name: start(name) for name in NAMES}
    notes = tmp_path / "runs" / "c" / "peer.json"
    until(lambda: notes.exists() and json.loads(notes.read_bytes())["round"] > 0, BOUND)
    processes["c"].kill()
    processes["c"].wait(BOUND)
    processes["c"] = start("c")
    for process in processes.values():
        told = json.loads(process.communicate(timeout=BOUND)[0])
        assert (told["outcome"], told["reason"]) == ("finished", "all 10 rounds are done")
        assert Path(told["model"]).exists()
