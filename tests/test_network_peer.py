"""Peers without a coordinator, with calls in place of sockets; real ones in test_network_gossip.

Killing is leaving an object behind and making a new one from the same folder.
"""

import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import torch

import tacit
from network_parties import until
from tacit.errors import InputError, MessageError
from tacit.network import party
from tacit.network.gossip import check
from tacit.network.peer import PeerRun
from tacit.network.protocol import Holds, Seek
from tacit.network.transport import Unreachable
from test_network_rounds import alone, experiment
from test_network_run import told_nothing

ONE_AT_A_TIME = threading.Lock()
BOUND = 300.0


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


def test_a_peer_that_is_gone_is_left_out_and_its_weight_is_the_own_model_s(tmp_path, monkeypatch):
    """A ring of 5 has weights 1/3: node 0 without node 1 is 2/3 of its own and 1/3 of node 4's."""
    monkeypatch.setattr(party, "_FAREWELL", 0.0)
    plan = plan_of(rounds=1)
    crowd = Crowd(plan, tmp_path)
    for name in plan.data.names:
        crowd.join(crowd.peer(name, grace=0.01))
    crowd.leave(plan.data.names[1])
    names = list(crowd.peers)
    ended = crowd.run(*names)
    trained = tacit.run(plan.replace(algorithm=tacit.Alone(), topology=None)).vectors
    models = dict(zip(names, crowd.models(), strict=True))
    first, second, last = plan.data.names[0], plan.data.names[1], plan.data.names[4]
    assert ended[first].reason == f"all 1 rounds are done, 1 without {second}"
    assert ended[last].reason == "all 1 rounds are done"
    assert torch.allclose(models[first], 2 / 3 * trained[0] + 1 / 3 * trained[4], atol=1e-5)
    assert torch.allclose(models[last], trained[[0, 3, 4]].mean(0), atol=1e-5)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("phase", ["before it sent", "after it sent", "after the round"])
def test_a_peer_that_was_killed_goes_on_and_sends_what_it_sent(phase, tmp_path):
    plan = plan_of(rounds=4, protection=[tacit.Clip(0.05)])
    crowd = Crowd(plan, tmp_path)
    victim = plan.data.names[2]
    for name in plan.data.names:
        crowd.join(crowd.peer(name))
    run, sent = crowd.peers[victim], []

    def die_in_training(*_):
        if run.notes.round == 1:
            raise Killed
        return train(*_)

    def die_in_waiting(round, names):
        if round == 1:
            sent.extend(run.notes.sent)
            raise Killed
        return gather(round, names)

    def die_in_the_end(row):
        if row["round"] == 2:
            raise Killed

    train, gather = run.peer.trainer.run, run._gather
    if phase == "before it sent":
        run.peer.trainer.run = die_in_training
    elif phase == "after it sent":
        run._gather = die_in_waiting
    else:
        run.on_round = die_in_the_end
    with ThreadPoolExecutor(8) as pool:
        others = [
            pool.submit(lambda peer: (peer.run(), peer.stay()), peer)
            for name, peer in crowd.peers.items()
            if name != victim
        ]
        with pytest.raises(Killed):
            run.run()
        again = crowd.peer(victim)
        crowd.join(again)  # nobody saw that it was gone, as after a quick restart
        assert again.notes == run.notes
        if sent:
            retrain = again.peer.trainer.run

            def other_noise(*job):
                vectors, losses = retrain(*job)
                return vectors + (again.notes.round == 1), losses

            again.peer.trainer.run = other_noise
        ended = again.run()
        again.stay()
        for other in others:
            other.result()
    assert ended.reason == "all 4 rounds are done"
    assert torch.allclose(crowd.models(), whole_models(plan), atol=1e-5)


def test_a_peer_lost_in_the_last_round_finds_the_others(tmp_path):
    plan = plan_of(rounds=2)
    crowd = Crowd(plan, tmp_path)
    victim, *names = plan.data.names
    for name in plan.data.names:
        crowd.join(crowd.peer(name))
    run, taken = crowd.peers[victim], threading.Barrier(len(names) + 1)
    looks = Counter[str]()

    def die(round, wanted):
        if round == 1:
            raise Killed
        return gather(round, wanted)

    def whole(name):
        other = crowd.peers[name]
        other.run()
        taken.wait(BOUND)  # all have its last model and need it no more
        other.wake = lambda _: (looks.update([name]), time.sleep(0.01))
        other.stay()

    gather, run._gather = run._gather, die
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(whole, name) for name in names]
        with pytest.raises(Killed):
            run.run()
        taken.wait(BOUND)
        crowd.leave(victim)
        before = looks.copy()
        until(lambda: all(looks[name] > before[name] + 1 for name in names))
        again = crowd.peer(victim)
        crowd.join(again)
        assert again.run().reason == "all 2 rounds are done"
        again.stay()
        for other in others:
            other.result(BOUND)
    assert torch.allclose(crowd.models(), whole_models(plan), atol=1e-5)


def test_a_late_peer_goes_on_where_its_neighbours_are(tmp_path):
    plan = plan_of(rounds=6)
    crowd = Crowd(plan, tmp_path)
    late, near = plan.data.names[0], plan.data.names[1]
    waiting, go_on = threading.Barrier(5), threading.Event()

    def pause(row):
        if row["round"] == 3:
            waiting.wait(BOUND)
            assert go_on.wait(BOUND)

    names = plan.data.names[1:]
    for name in plan.data.names:
        crowd.join(crowd.peer(name, grace=0.01, on_round=pause))
    crowd.leave(late)
    with ThreadPoolExecutor(8) as pool:
        others = [
            pool.submit(lambda peer: (peer.run(), peer.stay())[0], crowd.peers[name])
            for name in names
        ]
        waiting.wait(BOUND)  # four peers have closed three rounds
        found = []
        run = crowd.peer(late, on_round=lambda row: found.append(row["round"]))
        crowd.join(run)
        carry_out, began = run.peer.carry_out, []

        def note(round, *calls):
            began.append((round, run.peer.own["models"][0].clone()))
            return carry_out(round, *calls)

        run.peer.carry_out = note
        newest = crowd.peers[near].notes.sent[-1]
        sent = crowd.peers[near].tensors.get(newest.offer.digest)["model"]
        done = pool.submit(run.run)
        while len(began) < 2:
            time.sleep(0.01)
            assert not done.done()
        go_on.set()
        assert done.result(BOUND).outcome == "finished"
        run.stay()
        ended = [other.result(BOUND) for other in others]
    assert [round for round, _ in began] == [0, 3, 4, 5]
    assert torch.equal(began[1][1], sent)
    assert found == [4, 5, 6]
    assert ended[0].reason == ended[3].reason == f"all 6 rounds are done, 3 without {late}"
    assert ended[1].reason == ended[2].reason == "all 6 rounds are done"


def test_alone_a_peer_fails_with_the_reason(tmp_path):
    plan = plan_of()
    crowd = Crowd(plan, tmp_path)
    name, *_ = plan.data.names
    crowd.join(crowd.peer(name, patience=0.2))
    ended = crowd.peers[name].run()
    assert ended.outcome == "failed"
    assert ended.reason.startswith("round 1: nothing was heard for 0.2 seconds of any of")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"digest": "0" * 64}, "give both the same file"),
        ({"software": "0.0.1"}, "the same version"),
    ],
    ids=["code", "version"],
)
def test_a_peer_whom_all_refuse_fails_with_their_reason(changed, reason, tmp_path):
    crowd = Crowd(plan_of(), tmp_path)
    for name in crowd.plan.data.names:
        crowd.join(crowd.peer(name))
    other = crowd.peers[crowd.plan.data.names[0]]
    for name, value in changed.items():
        setattr(other, name, value)
    ended = other.run()
    assert ended.outcome == "failed"
    assert reason in ended.reason


def test_an_error_of_the_experiments_own_code_ends_a_peer_in_a_sentence(tmp_path, caplog):
    def broken(*_):
        raise ZeroDivisionError("of the experiment")

    crowd = Crowd(plan_of(), tmp_path)
    name, *_ = crowd.plan.data.names
    crowd.join(crowd.peer(name))
    crowd.peers[name].peer.carry_out = broken
    ended = crowd.peers[name].run()
    assert ended.outcome == "failed"
    assert ended.reason == "training failed: ZeroDivisionError('of the experiment')"
    assert "Traceback" in caplog.text


ROGUES = {
    "long": {"model": torch.zeros(45)},
    "nan": {"model": torch.full((44,), torch.nan)},
    "other": {"model": torch.zeros(44), "more": torch.zeros(1)},
    "double": {"model": torch.zeros(44, dtype=torch.float64)},
    "huge": {"model": torch.zeros(4400)},
    "bytes": b"no tensors",
}


@pytest.mark.parametrize("what", ROGUES.values(), ids=ROGUES)
def test_a_rogue_is_named_and_left_out(what, tmp_path, caplog):
    plan = plan_of(rounds=1)
    crowd = Crowd(plan, tmp_path)
    rogue = plan.data.names[3]
    for name in plan.data.names:
        crowd.join(crowd.peer(name))
    kept = crowd.peers[rogue].tensors
    put = kept.put

    def lies(tensors):
        if "model" not in tensors:
            return put(tensors)
        return kept.keep(what) if isinstance(what, bytes) else put(what)

    kept.put = lies
    ended = crowd.run(*plan.data.names)
    assert "left out of round 1" in caplog.text
    assert repr(rogue) in caplog.text
    for node in (2, 4):
        assert ended[plan.data.names[node]].reason.endswith(f"1 without {rogue}")
    assert crowd.models().isfinite().all()
    assert not list(tmp_path.glob("*/received/*"))  # a disk is not filled by what is refused


def test_whoever_does_not_belong_is_refused(tmp_path):
    plan = plan_of()
    crowd = Crowd(plan, tmp_path)
    name, other, *_ = plan.data.names
    run = crowd.peer(name)
    for asker, request, reason in [
        ("mallory", Seek(run.digest, run.software, 0), "no site"),
        (other, Seek("0" * 64, run.software, 0), "give both the same file"),
        (other, Seek(run.digest, "0.0.1", 0), "install the same version"),
    ]:
        with pytest.raises(MessageError, match=reason):
            run.answer(asker, request)
    with pytest.raises(InputError, match="site: 'mallory' was given"):
        PeerRun(run.peer.experiment, plan.data, "mallory", tmp_path, *[None] * 4)
    with pytest.raises(InputError, match="has no rows to train on"):
        PeerRun(crowd.public, crowd.public.data, name, tmp_path, *[None] * 4)


REFUSED = {
    "star": ({"algorithm": tacit.FedAvg(), "topology": None}, "use Gossip"),
    "push-sum": ({"algorithm": tacit.PushSum(), "topology": tacit.DirectedRing()}, "is Gossip()"),
    "attack": ({"attack": tacit.attacks.ALIE(nodes=["0"])}, "leave it out"),
    "choco": ({"compression": tacit.TopK(0.1)}, "float32 so far"),
    "loss": ({"aggregation": tacit.UBAR(0.5)}, "needs loss.*such as Balance"),
    "memory": ({"aggregation": tacit.WFAgg(f=0)}, "needs memory.*such as Balance"),
    "masks": (
        {"protection": [tacit.SecureAggregation()], "topology": tacit.Complete()},
        "not carry out so far; use Clip",
    ),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_peers_cannot_do_is_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        check(plan_of(**changes))


def test_local_noise_comes_from_no_seed(tmp_path):
    noise = tacit.GaussianNoise(multiplier=0.3, delta=1e-5, where="local")
    plan = plan_of(protection=[tacit.Clip(0.5), noise], rounds=1)
    runs = []
    for name in ("one", "two"):
        crowd = Crowd(plan, tmp_path / name)
        (tmp_path / name).mkdir()
        crowd.all()
        runs.append(crowd.models())
    # Each node's noise has deviation .15 in each coordinate, the difference of two means of three
    # .15 sqrt(2 / 3) = .12; over 220 correlated coordinates it lies far within a factor of two.
    assert 0.06 < (runs[0] - runs[1]).std() < 0.25
