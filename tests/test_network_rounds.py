"""Rounds carried out in parts give the model of the same rounds in one process."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.data import Federation, Split, from_arrays
from tacit.data.sites import told
from tacit.network.rounds import Server, Site, check

ALGORITHMS = [
    tacit.FedAvg(), tacit.FedProx(mu=0.1), tacit.Scaffold(), tacit.FedNova(), tacit.FedDyn(),
    tacit.FedOpt(tacit.ServerAdam(lr=0.05)), tacit.Ditto(), tacit.FedPer(personal=("2",)),
    tacit.FedRep(personal=("2",)), tacit.FedSGD(),
]  # fmt: skip


def federation():
    random = np.random.default_rng(3)
    nodes = []
    for rows in (24, 40, 33, 18, 29):
        x = random.normal(size=(rows, 4)).astype(np.float32)
        nodes.append((x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)))
    return from_arrays(nodes)


def experiment(**changes):
    fields = {
        "data": federation(), "rounds": 3, "loss": nn.functional.cross_entropy,
        "model": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
        "training": tacit.SGD(lr=0.1, batch_size=8, epochs=1),
    }  # fmt: skip
    return tacit.Experiment(**fields | changes)


def alone(data: Federation, node: int) -> Federation:
    """What a site has: its own rows and nobody else's."""

    def kept(split):
        parts = split.parts()
        return Split.pack([p if i == node else (p[0][:0], p[1][:0]) for i, p in enumerate(parts)])

    return Federation(
        kept(data.train), kept(data.test), data.names, data.task, data.classes, data.columns
    )


def empty(data: Federation) -> Federation:
    none = Split(data.train.x[:0], data.train.y[:0], np.zeros(data.nodes + 1, np.int64))
    table = tacit.data.at_sites(data.names, target="y", columns=["a", "b", "c", "d"]).table
    return told(Federation(
        none, none, data.names, data.task, data.classes, data.columns, table=table
    ), data.train.sizes)  # fmt: skip


def in_parts(plan, lost=lambda round: ()):
    """The rounds of an experiment, with nothing but vectors between the parties."""
    public = plan.replace(data=empty(plan.data))
    check(public)
    sites = {node: Site(public, alone(plan.data, node), node) for node in range(plan.data.nodes)}
    server = Server(public)
    for round in range(plan.rounds):
        nodes = public.plan.sample(plan.data.nodes, plan.seed, round)
        shared = dict(server.shared)
        sent = {int(node): sites[int(node)].take_part(round, shared).steps for node in nodes}
        nodes = np.array([node for node in nodes if node not in lost(round)])
        exchanges = len(plan.algorithm.sends(plan.layout))
        wire = server.wire
        arrived = [
            [wire.unpack(sent[int(n)][e], int(n), round).__getitem__ for n in nodes]
            for e in range(exchanges)
        ]
        server.close(round, nodes, arrived)
    return server, sites


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_every_algorithm_learns_the_same_in_parts(algorithm):
    plan = experiment(algorithm=algorithm)
    whole = tacit.run(plan)
    server, sites = in_parts(plan)
    model = plan.layout.vector(whole.model)
    assert torch.allclose(server.shared["model"], model, atol=1e-6)
    for node, site in sites.items():
        rows, scores = site.measure(server.shared)
        assert rows == plan.data.test.sizes[node]
        assert scores["loss"] == pytest.approx(whole.nodes[node]["loss"], abs=1e-5)


HALF = tacit.Clip(0.5)
NOISE = {"multiplier": 0.3, "delta": 1e-5}
PLANS = {
    "cohort": {"topology": tacit.Star(cohort=2)},
    "median": {"aggregation": tacit.Median()},
    "krum": {"aggregation": tacit.Krum(f=1)},
    "clip": {"protection": [tacit.Clip(0.05)]},
}
NOISED = {
    "local": [HALF, tacit.GaussianNoise(**NOISE, where="local")],
    "central": [HALF, tacit.GaussianNoise(**NOISE, where="central")],
    "dpsgd": [tacit.DPSGD(norm=1.0, multiplier=0.5, delta=1e-5)],
}


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_every_plan_learns_the_same_in_parts(changes):
    plan = experiment(**changes)
    server, _ = in_parts(plan)
    model = plan.layout.vector(tacit.run(plan).model)
    assert torch.allclose(server.shared["model"], model, atol=1e-6)


def test_a_lost_node_is_left_out_of_the_mean():
    plan = experiment(rounds=1)
    server, _ = in_parts(plan, lost=lambda round: (2,))
    parts = plan.data.train.parts()
    left = from_arrays(
        [(x, y) if i != 2 else ([], []) for i, (x, y) in enumerate(parts)], test_fraction=0
    )
    expected = plan.layout.vector(tacit.run(plan.replace(data=left)).model)
    assert torch.allclose(server.shared["model"], expected, atol=1e-6)


@pytest.mark.parametrize("protection", NOISED.values(), ids=NOISED)
def test_noise_comes_from_no_seed(protection):
    plan = experiment(protection=protection, rounds=1)
    silent = [replace(part, multiplier=0.0) if part != HALF else part for part in protection]
    (first, _), (second, _) = in_parts(plan), in_parts(plan)
    exact, _ = in_parts(plan.replace(protection=silent))
    noises = [server.shared["model"] - exact.shared["model"] for server in (first, second)]
    for noise in noises:
        # Local: .3 x .5 on each of five, .067 on their mean; far from none and from ten times.
        assert 1e-4 < noise.std() < 1
    assert abs(torch.corrcoef(torch.stack(noises))[0, 1]) < 0.8  # of 44 pairs: by chance 1e-10


@pytest.mark.parametrize(
    ("algorithm", "alone"),
    [
        (tacit.FedOpt(tacit.ServerAdam(lr=0.05)), {"mean", "square"}),
        (tacit.FedOpt(tacit.ServerMomentum()), {"velocity"}),
        (tacit.FedDyn(), {"h"}),
        (tacit.Scaffold(), set()),
    ],
    ids=["adam", "momentum", "feddyn", "scaffold"],
)
def test_what_no_node_reads_stays_at_the_server_and_is_remembered(algorithm, alone):
    plan = experiment(algorithm=algorithm)
    server, _ = in_parts(plan)
    assert server.alone.keys() == alone
    assert not server.shared.keys() & alone
    server.memory["mean"] = torch.ones(2)  # a rule may choose the same name
    again = Server(plan.replace(data=empty(plan.data)))
    again.remember(server.shared, server.remembered())
    assert all(torch.equal(again.alone[name], server.alone[name]) for name in alone)
    assert all(server.alone[name].abs().sum() > 0 for name in alone)
    assert again.memory.keys() == {"mean"}
