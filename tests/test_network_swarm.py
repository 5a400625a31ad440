"""A swarm, with calls in place of sockets; real ones in test_network_swarm_process.

Killing is leaving an object behind and making a new one from the same folder.
"""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tacit
from tacit.errors import InputError, MessageError, TacitError
from tacit.network import rounds
from tacit.network.protocol import Talk
from tacit.network.replica import Replica
from tacit.network.swarm import SwarmRun, check
from tacit.network.transport import Unreachable
from test_network_rounds import alone, experiment
from test_network_run import told_nothing

ONE_AT_A_TIME = threading.Lock()
BOUND = 300.0
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in range(5)]


def plan_of(**changes):
    return experiment(**{"topology": tacit.Swarm()} | changes)


class Killed(TacitError):
    pass


def die(*_):
    raise Killed


class Swarm:
    """Members who call each other."""

    def __init__(self, plan, folder, record=False):
        self.plan, self.folder, self.names = plan, folder, plan.data.names
        self.record = record
        self.public = plan.replace(data=told_nothing(plan.data))
        self.members, self.files = {}, {}

    def ask(self, asker, name, talk):
        """Over bytes, as on the wire."""
        if name not in self.members or asker not in self.members:
            raise Unreachable(f"no {name}")
        talk = msgspec.msgpack.decode(msgspec.msgpack.encode(talk), type=Talk)
        reply = self.members[name].answer(asker, talk)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=Talk)

    def missing(self, asker, name, asked):
        if name not in self.members or asker not in self.members:
            raise Unreachable(f"no {name}")
        return self.members[name].replica.page(asked.first)

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

        def key_of(other):
            return KEYS[self.names.index(other)].public_key()

        if self.record:
            settings["replica"] = Replica(
                folder / "copy", folder / "record", self.public, name, KEYS[node], key_of
            )
            settings["missing"] = partial(self.missing, name)
        run = SwarmRun(
            self.public, alone(self.plan.data, node), name, folder, KEYS[node], key_of,
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
        for other in list(self.members.values()):
            run.here(other.name, True)
            other.here(run.name, True)
        self.members[run.name] = run

    def leave(self, name):
        run = self.members.pop(name)
        for other in list(self.members.values()):
            other.here(name, False)
        return run

    def all(self, **settings):
        """The whole run; how it ended for each."""
        for name in self.names:
            self.join(self.member(name, **settings))
        return self.run()

    def run(self):
        def whole(run):
            try:
                return run.run()
            except Killed:
                return None

        runs = list(self.members.values())
        with ThreadPoolExecutor(8) as pool:
            ended = dict(zip([r.name for r in runs], pool.map(whole, runs), strict=True))
        return {name: end for name, end in ended.items() if end}

    def leader(self, round, view=0):
        return next(iter(self.members.values())).committee.leader(round, view)

    def killed(self, run):
        """From here on the process is not there: it says nothing, writes nothing, hears nothing."""
        run._over = True
        run._write = run.offer = run.collecting.pull = die
        run.proposals.pull = run.proposals.offer = die
        if run.replica:
            run.replica._write = run.replica.log.append = run.replica.log.keep = die
            run.replica.close()
        self.leave(run.name)
        raise Killed

    def models(self):
        return {name: run.home()[0] for name, run in self.members.items()}


PLANS = {
    "fedavg": {},
    "scaffold": {"algorithm": tacit.Scaffold()},
    "adam": {"algorithm": tacit.FedOpt(tacit.ServerAdam(lr=0.05))},
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


def arm(swarm, run, name, when=lambda *_: True):
    """Kill a member in its round 2, when it is about to do something."""
    holder = run.agreement if hasattr(run.agreement, name) else run
    function = getattr(holder, name)

    def deadly(*given):
        if run.notes.round == 1 and when(*given):
            swarm.killed(run)
        return function(*given)

    setattr(run, name, deadly)


PHASES = {
    "before it collects": "_fetch",
    "before it proposes": "_close",
    "before it goes on from the decision": "_settle",
}


@pytest.mark.parametrize("method", PHASES.values(), ids=PHASES)
def test_the_others_go_on_without_a_leader_that_is_killed(method, tmp_path):
    plan = plan_of()
    swarm = Swarm(plan, tmp_path)
    for name in swarm.names:
        swarm.join(swarm.member(name))
    victim = swarm.leader(1)
    trained = count_trainings(swarm)
    arm(swarm, swarm.members[victim], method)
    ended = swarm.run()
    assert set(ended) == set(swarm.names) - {victim}
    assert {end.reason for end in ended.values()} == {f"all {plan.rounds} rounds are done"}
    assert all(trained[name] == [0, 1, 2] for name in ended)  # each round once, whoever led
    first, *others = swarm.models().values()
    assert all(torch.equal(first, other) for other in others)


def count_trainings(swarm):
    trained = {}
    for name, run in swarm.members.items():
        train, rounds = run.site._train, trained.setdefault(name, [])

        def counted(site, order, state, train=train, rounds=rounds):
            rounds.append(order.round)
            return train(site, order, state)

        run.site._train = counted
    return trained


def test_a_member_that_was_away_goes_on_from_the_newest_decision(tmp_path):
    plan = plan_of(rounds=5)
    swarm = Swarm(plan, tmp_path)
    back, arrived = threading.Event(), threading.Event()

    def pause(row):
        if row["round"] == 3:
            arrived.set()
            assert back.wait(BOUND)

    for name in swarm.names:
        swarm.join(swarm.member(name, on_round=pause))
    late = swarm.leader(1)
    arm(swarm, swarm.members[late], "_fetch")
    with ThreadPoolExecutor(2) as pool:
        others = pool.submit(swarm.run)
        assert arrived.wait(BOUND)
        found = []
        run = swarm.member(late, on_round=lambda row: found.append(row["round"]))
        assert run.notes.round == 1
        swarm.join(run)
        own = pool.submit(run.run)
        back.set()
        assert own.result(BOUND).reason == "all 5 rounds are done"
        ended = others.result(BOUND)
    assert len(ended) == 4
    assert found[0] >= 3  # it never carried out the rounds that went on without it
    assert found[-1] == 5
    first, *others = swarm.models().values()
    assert all(torch.equal(first, other) for other in others)


def test_who_is_started_again_says_again_what_it_said_and_nothing_else(tmp_path):
    swarm = Swarm(plan_of(), tmp_path)
    for name in swarm.names:
        swarm.join(swarm.member(name))
    voter = next(name for name in swarm.names if name != swarm.leader(1))
    run, said = swarm.members[voter], []

    def judged(judge):
        if run.notes.round == 1:
            done(judge)
            said.extend(run.notes.kept.said)
            swarm.killed(run)
        return done(judge)

    done = run._judge
    run._judge = judged
    with ThreadPoolExecutor(2) as pool:
        others = pool.submit(swarm.run)
        while not said or voter in swarm.members:
            threading.Event().wait(0.005)
        again = swarm.member(voter)
        assert again.agreement.kept.said[: len(said)] == tuple(said)
        swarm.join(again)
        assert again.run().outcome == "finished"
        others.result(BOUND)
    for member in swarm.members.values():
        assert not list(member.folder.glob("evidence*"))


ROGUES = {
    "another base": {"base": bytes(32)},
    "another round": {"round": 2},
    "few": {"included": (0, 1)},
    "twice": {"included": (0, 1, 2, 3, 3)},
    "nobody": {"included": (0, 1, 2, 3, 7)},
}


@pytest.mark.parametrize("lie", ROGUES.values(), ids=ROGUES)
def test_a_leader_that_proposes_what_cannot_be_is_passed_over(lie, tmp_path, caplog):
    plan = plan_of(rounds=1)
    swarm = Swarm(plan, tmp_path)
    for name in swarm.names:
        swarm.join(swarm.member(name))
    rogue = swarm.members[swarm.leader(0)]
    event = rogue._event

    def falsified(what):
        if getattr(what, "func", None) == rogue.agreement.offer:
            (value,) = what.args
            record = msgspec.structs.replace(rogue._records[value], **lie)
            rogue._records[record.value] = record
            what = partial(rogue.agreement.offer, record.value)
        return event(what)

    rogue._event = falsified
    ended = swarm.run()
    assert f"{rogue.name!r} proposes what cannot be" in caplog.text
    assert {end.outcome for end in ended.values()} == {"finished"}
    whole = plan.layout.vector(tacit.run(plan).model)
    for model in swarm.models().values():
        assert torch.allclose(model, whole, atol=1e-5)


@pytest.mark.parametrize("wrong", [torch.nan, "shape"])
def test_a_leader_s_model_that_is_none_is_passed_over(wrong, tmp_path, caplog):
    plan = plan_of(rounds=1)
    swarm = Swarm(plan, tmp_path)
    for name in swarm.names:
        swarm.join(swarm.member(name))
    rogue = swarm.members[swarm.leader(0)]
    put = rogue.proposals.files.put

    def falsified(tensors):
        bad = torch.zeros(3) if wrong == "shape" else torch.full((44,), torch.nan)
        return put(dict(tensors) | {"model": bad})

    rogue.proposals.files.put = falsified
    ended = swarm.run()
    assert f"{rogue.name!r} proposes what cannot be" in caplog.text
    assert {end.outcome for end in ended.values()} == {"finished"}
    for model in swarm.models().values():
        assert model.isfinite().all()


def test_why_a_member_cannot_train_is_in_its_log(tmp_path, caplog):
    swarm = Swarm(plan_of(rounds=1), tmp_path)
    for name in swarm.names:
        swarm.join(swarm.member(name))

    def breaks(*_):
        raise ValueError("a layer that does not fit")

    swarm.members[swarm.names[2]].site.update = breaks
    assert {ended.outcome for ended in swarm.run().values()} == {"finished"}
    assert "training failed" in caplog.text
    assert "a layer that does not fit" in caplog.text


def test_too_few_members_fail_with_the_reason(tmp_path):
    plan = plan_of()
    swarm = Swarm(plan, tmp_path)
    names = swarm.names[:3]  # of five, whose quorum is four
    for name in swarm.names:
        swarm.join(swarm.member(name, patience=0.5))
    for run in swarm.members.values():
        run._rows = dict(zip(swarm.names, plan.data.train.sizes.tolist(), strict=True))
    for name in swarm.names[3:]:
        swarm.leave(name)
    ended = swarm.run()
    assert set(ended) == set(names)
    for end in ended.values():
        assert end.outcome == "failed"
        assert "3 of 5 are here, 4 are needed" in end.reason


def test_who_was_never_there_is_named(tmp_path):
    swarm = Swarm(plan_of(), tmp_path)
    first, *others = swarm.names
    swarm.join(swarm.member(first, patience=0.2))
    ended = swarm.run()[first]
    assert (ended.outcome, ended.reason) == (
        "failed", f"{', '.join(others)} did not join within 0.2 seconds"
    )  # fmt: skip


def test_whoever_does_not_belong_is_refused(tmp_path):
    swarm = Swarm(plan_of(), tmp_path)
    name, other, *_ = swarm.names
    run = swarm.member(name)
    good = Talk(run.digest, run.software, b"12345678", 3, 0)
    run.answer(other, good)
    for asker, talk, reason in [
        ("mallory", good, "no site"),
        (other, msgspec.structs.replace(good, experiment="0" * 64), "give both the same file"),
        (other, msgspec.structs.replace(good, software="0.0.1"), "install the same version"),
        (other, msgspec.structs.replace(good, rows=4), "before it had others"),
    ]:
        with pytest.raises(MessageError, match=reason):
            run.answer(asker, talk)


REFUSED = {
    "star": ({"topology": tacit.Star()}, r"in a swarm allowed is Swarm\(\)"),
    "masks": ({"protection": [tacit.SecureAggregation()]}, "not masked so far"),
    "memory": ({"aggregation": tacit.FoolsGold()}, "remembers what nodes sent"),
    "attack": ({"attack": tacit.attacks.ALIE(nodes=["0"])}, "leave it out"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_a_swarm_cannot_do_is_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        check(plan_of(**changes))


def test_a_coordinator_does_not_carry_out_a_swarm():
    with pytest.raises(InputError, match="has no coordinator; use tacit swarm"):
        rounds.check(plan_of())
