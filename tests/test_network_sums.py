"""Secure sums between a coordinator and its sites, over calls and over sockets."""

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import load_file
from torch import nn

import tacit
from network_parties import free_port, joined, until
from tacit.compression import RandomK
from tacit.data.sites import told
from tacit.errors import InputError
from tacit.network import processes
from tacit.network.authority import Authority
from tacit.network.protocol import Answer, Decline, Enter, Ready, Request, Taken, Train
from tacit.network.rounds import Server, Site, check
from test_network_rounds import HALF, NOISE, alone, experiment, in_parts
from test_network_run import Bench, Threaded, model, told_nothing

NAMES = experiment().data.names
KEYS = {name: Ed25519PrivateKey.generate() for name in NAMES}
MASKS = [tacit.SecureAggregation()]
CLIPPED = [HALF, *MASKS]
# Of five sites four must be left: two thirds, rounded up.
NOISED = [HALF, tacit.GaussianNoise(**NOISE, where="distributed"), *MASKS]


def public(name):
    return KEYS[name].public_key()


class Lost(Exception):
    """A site's process is gone."""


class Masked(Bench):
    """Keeps the bytes that came to the coordinator.

    Attributes:
        dies: (site, round, stage): the site is gone before it answers there.
    """

    def __init__(self, plan, folder, dies=(), **settings):
        self.dies, self.heard = set(dies), []
        super().__init__(plan, folder, patience=120, grace=0.05, key_of=public, **settings)

    def site(self, name, **options):
        return super().site(name, signer=KEYS[name], key_of=public, **options)

    def pull(self, site, offer, path):
        super().pull(site, offer, path)
        self.heard.append(path.read_bytes())

    def ask(self, name, request):
        if isinstance(request, Answer) and (name, request.round, request.stage) in self.dies:
            self.coordinator.here(name, False)
            raise Lost
        self.heard.append(msgspec.msgpack.encode(request))
        return super().ask(name, request)

    def all(self):
        def run(name):
            try:
                with contextlib.suppress(Lost):
                    self.site(name).run()
            finally:
                self.coordinator.here(name, False)

        with ThreadPoolExecutor(8) as pool:
            sites = [pool.submit(run, name) for name in self.plan.data.names]
            kept = self.coordinator.run()
            for site in sites:
                site.result()
        return kept


@pytest.mark.parametrize(
    "changes",
    [
        {"protection": CLIPPED},
        {"protection": MASKS},
        {"protection": MASKS, "algorithm": tacit.Scaffold()},
        {"protection": CLIPPED, "topology": tacit.Star(cohort=4)},
    ],
    ids=["clip", "masks", "scaffold", "cohort"],
)
def test_a_run_with_secure_sums_gives_the_bits_of_one_process(changes, tmp_path):
    plan = experiment(**changes)
    bench = Masked(plan, tmp_path)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    whole = tacit.run(plan)
    assert torch.equal(model(plan, kept, bench.store), plan.layout.vector(whole.model))
    for mine, theirs in zip(bench.store.metrics(), whole.metrics, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)


def test_distributed_noise_is_another_in_each_run(tmp_path):
    plan = experiment(protection=NOISED)
    found = []
    for run in "ab":
        (tmp_path / run).mkdir()
        bench = Masked(plan, tmp_path / run)
        kept = bench.all()
        assert kept.outcome == "finished", kept.reason
        found.append(model(plan, kept, bench.store))
        assert [row["epsilon"] for row in bench.store.metrics()] == [
            row["epsilon"] for row in tacit.run(plan).metrics
        ]
    # A coordinate's noise has a deviation of 0.03 (0.3 x 0.5 / 5) and more, in steps of 2^-16 or
    # less: most of the 44 are the same with probability 0 for all purposes.
    assert (found[0] != found[1]).sum() > 22
    assert (found[0] - found[1]).abs().max() < 5


@pytest.mark.parametrize("stage", ["advertise", "share", "mask", "consent", "unmask"])
def test_a_site_lost_at_any_stage_is_left_out_from_there_on(stage, tmp_path):
    plan = experiment(protection=MASKS)
    bench = Masked(plan, tmp_path, dies=[(NAMES[2], 1, stage)])
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    # Whose vector has come is in the sum, whatever becomes of it then.
    last = 1 if stage in ("advertise", "share", "mask") else 2
    server, _ = in_parts(
        plan.replace(protection=[]), lost=lambda round: (2,) if round >= last else ()
    )
    # Three sums of values to 16 in steps of 2^-24 or less.
    assert torch.allclose(model(plan, kept, bench.store), server.shared["model"], rtol=0, atol=1e-5)
    left_out = [row["left_out"] for row in bench.store.metrics()]
    assert left_out == [[NAMES[2]] if round >= last else [] for round in range(3)]


class Blinking(Masked):
    """Two of five sites are out of reach in the first session, until it has ended."""

    def ask(self, name, request):
        if isinstance(request, Answer) and request.session == 0 and request.stage == "share":
            self._blink(name)
        return super().ask(name, request)

    def _blink(self, name):
        if name in NAMES[3:]:
            coordinator = self.coordinator
            coordinator.here(name, False)
            until(lambda: (sum := coordinator.summing.sum) is None or sum.number > 0)
            with coordinator._changed:  # both are back at once
                for both in NAMES[3:]:
                    coordinator.here(both, True)


def test_a_sum_that_ends_is_tried_again_with_fresh_keys(tmp_path):
    plan = experiment(protection=CLIPPED, rounds=1)
    bench = Blinking(plan, tmp_path)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    # The session is another one, the sum is not: of the same vectors, rounded alike.
    assert torch.equal(model(plan, kept, bench.store), plan.layout.vector(tacit.run(plan).model))
    said = [msgspec.msgpack.decode(raw, type=Request) for raw in bench.heard]
    adverts = {
        (said.session, said.body[40:104])
        for said in said
        if isinstance(said, Answer) and said.stage == "advertise"
    }
    assert sorted(session for session, _ in adverts) == [0] * 5 + [1] * 5
    assert len({keys for _, keys in adverts}) == 10


def test_with_fewer_than_the_threshold_the_run_ends_and_says_why(tmp_path):
    plan = experiment(protection=MASKS)
    bench = Masked(plan, tmp_path, dies=[(NAMES[0], 1, "share"), (NAMES[4], 1, "mask")])
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(bench.all)
        until(lambda: len(bench.store.metrics()) == 1)
        until(
            lambda: (
                len(bench.coordinator.attendance.away) == 2
                and bench.coordinator.summing.sum is None
            )
        )
        bench.coordinator.attendance.patience = 1
        kept = run.result()
    assert kept.outcome == "failed"
    assert kept.round == 1  # no step was taken
    assert "3 nodes are left; it takes 4" in kept.reason
    assert "3 of 5 updates came, 4 are needed" in kept.reason


@pytest.mark.parametrize("stage", ["advertise", "share", "mask", "consent"])
def test_a_coordinator_that_is_killed_before_the_sum_is_open_begins_it_anew(stage, tmp_path):
    class Killed(Exception):
        """In the coordinator's own thread."""

    killed = []

    def tell(site):
        sum = bench.coordinator.summing.sum
        if sum and (sum.session.round, sum.stage) == (1, stage) and not killed:
            killed.append(site)
            raise Killed

    plan = experiment(protection=CLIPPED)
    bench = Masked(plan, tmp_path, tell=tell)
    with ThreadPoolExecutor(8) as pool:
        sites = [pool.submit(bench.site(name).run) for name in NAMES]
        with pytest.raises(Killed):
            bench.coordinator.run()
        bench.start()
        kept = bench.coordinator.run()
        for site in sites:
            site.result()
    assert kept.outcome == "finished", kept.reason
    assert torch.equal(model(plan, kept, bench.store), plan.layout.vector(tacit.run(plan).model))


def trained(monkeypatch):
    """Every step and every vector that a site made, as bytes."""
    found = []
    take_part, hidden = Site.take_part, Site.hidden

    def steps(self, *args):
        part = take_part(self, *args)
        found.extend(step.numpy().tobytes() for step in part.steps)
        return part

    def vector(self, *args):
        found.append(hidden(self, *args).tobytes())
        return np.frombuffer(found[-1], np.uint32)

    monkeypatch.setattr(Site, "take_part", steps)
    monkeypatch.setattr(Site, "hidden", vector)
    return found


def pieces(vectors):
    """Two numbers each, and not of zeros alone: by chance in n bytes with n / 2^64."""
    for raw in vectors:
        for at in range(0, len(raw) - 7, 4):
            if sum(map(bool, raw[at : at + 8])) > 5:
                yield raw[at : at + 8]


@pytest.mark.parametrize("secure", [True, False])
def test_the_coordinator_receives_no_vector_in_the_clear(secure, tmp_path, monkeypatch):
    clear = trained(monkeypatch)
    bench = Masked(experiment(protection=MASKS if secure else [HALF]), tmp_path)
    assert bench.all().outcome == "finished"
    heard = b"|".join(bench.heard)
    assert len(clear) == (30 if secure else 15)
    assert any(piece in heard for piece in pieces(clear)) != secure


class Told:
    """A site whose coordinator the test is."""

    def __init__(self, bench, name):
        self.said, self.replies = [], []
        self.digest = bench.public.digest()
        rows = tuple(int(n) for n in bench.plan.data.train.sizes)
        self.rows = rows
        server = Server(bench.public.replace(data=told(bench.public.data, rows)))
        self.state = bench.store.tensors.put(server.shared)
        self.site = bench.site(name)
        self.site.ask = self.ask

    def ask(self, request):
        self.said.append(request)
        return Taken(self.digest, True)

    def train(self, round=0):
        self.site._take_part(Train(self.digest, round, self.rows, self.state, False, True))
        return self.said.pop()

    def enter(self, session, exchange=0, nodes=(0, 1, 2, 3, 4), round=0):
        self.site._summed(Enter(self.digest, round, session, exchange, nodes))
        return self.said.pop()


def test_a_site_enters_a_session_once(tmp_path):
    bench = Masked(experiment(protection=MASKS), tmp_path)
    site = Told(bench, NAMES[1])
    assert isinstance(site.enter(0), Decline)  # nothing was trained
    assert site.train().session == 0
    first = site.enter(0)
    assert isinstance(first, Answer)
    assert site.enter(0) == first  # whose reply was lost
    assert site.train().session == 1
    assert site.enter(1).body != first.body
    assert isinstance(site.enter(0), Decline)
    for nodes in [(0, 2, 3, 4), (0, 1), (0, 1, 2, 3, 9), (0, 1, 1, 2, 3)]:
        assert isinstance(site.enter(2, nodes=nodes), Decline)
    assert isinstance(site.enter(2, exchange=1), Decline)
    assert isinstance(site.enter(2, round=1), Decline)


def test_a_site_that_was_started_anew_within_a_session_declines_the_round(tmp_path):
    bench = Masked(experiment(protection=MASKS), tmp_path)
    site = Told(bench, NAMES[1])
    assert isinstance(site.train(), Ready)
    again = Told(bench, NAMES[1])
    assert isinstance(again.train(), Ready)  # it had entered none
    assert isinstance(again.enter(0), Answer)
    anew = Told(bench, NAMES[1])
    assert isinstance(anew.train(), Decline)
    assert isinstance(anew.enter(0), Decline)
    assert isinstance(anew.train(round=1), Ready)


def test_a_site_helps_to_open_one_sum_of_an_update(tmp_path):
    """Two of different nodes would differ by what one of them hides."""
    bench = Masked(experiment(protection=MASKS, rounds=1), tmp_path)
    assert bench.all().outcome == "finished"
    site = Told(bench, NAMES[1])
    site.site._sum = object()  # as if it were the same process
    assert isinstance(site.train(), Decline)
    site.site._sum = None
    assert isinstance(site.enter(1, nodes=(0, 1, 2, 3)), Decline)


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ([tacit.SecretSharing()], "SecureAggregation()"),
        ([tacit.HomomorphicEncryption()], "SecureAggregation()"),
        ([tacit.Clip(1.0), tacit.SecureAggregation(), tacit.NormProof()], "leave it out"),
    ],
    ids=["sharing", "one key", "proved"],
)
def test_other_secure_sums_are_refused(part, instead):
    plan = experiment(protection=part)
    with pytest.raises(InputError, match=re.escape(instead)):
        check(plan)


@pytest.mark.parametrize(
    "changes",
    [
        {"protection": CLIPPED},
        pytest.param(
            {"protection": [*CLIPPED, tacit.VerifiableSum()], "compression": RandomK(0.8)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["masks", "checked and compressed"],
)
def test_the_same_over_sockets(changes, tmp_path, monkeypatch):
    """With vectors that do not fit into a message."""
    monkeypatch.setattr(processes, "SiteRun", Threaded)
    plan = experiment(
        **changes, rounds=2,
        model=lambda: nn.Sequential(nn.Linear(4, 2500), nn.ReLU(), nn.Linear(2500, 2)),
    )  # fmt: skip
    public = plan.replace(data=told_nothing(plan.data))
    address = f"127.0.0.1:{free_port()}"
    authority = Authority.init("hearts", tmp_path / "hub", [address])
    for name in NAMES:
        joined(authority, tmp_path / name, name)

    def take_part(name):
        return processes.take_part(
            public, alone(plan.data, NAMES.index(name)), tmp_path / name, tmp_path / f"{name}-run",
            connect=[address],
        )  # fmt: skip

    (tmp_path / "run").mkdir()
    with ThreadPoolExecutor(6) as pool:
        hub = pool.submit(
            processes.coordinate, public, tmp_path / "hub", tmp_path / "run", listen=[address]
        )
        sites = [pool.submit(take_part, name) for name in NAMES]
        kept, rows = hub.result(timeout=300)
        taken = [site.result(timeout=60) for site in sites]
    assert kept.outcome == "finished", kept.reason
    assert [row["left_out"] for row in rows] == [[], []]
    whole = plan.layout.vector(tacit.run(plan).model)
    for end in taken:
        saved = load_file(end.model)
        vector = torch.cat([saved[entry.name].flatten() for entry in plan.layout.entries])
        assert torch.equal(vector, whole)
