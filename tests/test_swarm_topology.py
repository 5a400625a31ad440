"""A swarm in one process is a star; its words say who leads, and what it cannot do is refused."""

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import tacit
from tacit.cli import app
from tacit.errors import InputError
from tacit.explain import explain
from test_network_rounds import experiment


def plan(**changes):
    return experiment(**{"topology": tacit.Swarm()} | changes)


@pytest.mark.parametrize("drawn", [{}, {"cohort": 3}, {"cohort": 2, "sampling": "cyclic"}])
def test_in_one_process_a_swarm_is_a_star(drawn):
    swarm = tacit.run(plan(topology=tacit.Swarm(**drawn)))
    star = tacit.run(plan(topology=tacit.Star(**drawn)))
    for mine, theirs in zip(swarm.model.parameters(), star.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_it_discloses_is_said_of_the_leader():
    told = explain(plan())
    text = told.to_text()
    nodes, rounds = 5, 3
    up, down = told.rows
    assert (up.receiver, down.sender) == ("the leader of the round",) * 2
    assert up.messages == down.messages == rounds * (nodes - 1)
    assert "The leader of the round sees every update in the clear" in text
    assert "the 5 nodes lead in turn, so that 3 of them or more" in text
    assert "no more than 1 of them crash or lie" in text
    assert "the server sees" not in text.lower()
    assert "each of them sees in its rounds" in explain(plan(rounds=5)).to_text()
    some = explain(plan(topology=tacit.Swarm(cohort=2)))
    assert [row.messages for row in some.rows] == [rounds * 2, rounds * 4]


def test_its_masks_are_taken_off_by_the_leader():
    masked = plan(protection=[tacit.SecureAggregation()])
    text = explain(masked).to_text()
    assert "The leader of the round: learns the sum" in text
    assert "server sends" not in text


REFUSED = {
    "central": (
        {
            "protection": [
                tacit.Clip(1.0),
                tacit.GaussianNoise(multiplier=1.0, delta=1e-5, where="central"),
            ]
        },
        r'every node leads in its turn; use GaussianNoise\(where="local"\)',
    ),
    "shares": ({"protection": [tacit.SecretSharing()]}, "needs a server that is no node"),
    "gossip": ({"algorithm": tacit.Gossip()}, "works without a server"),
    "cohort": ({"topology": tacit.Swarm(cohort=9)}, "allowed is 1 to 5"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_takes_one_server_is_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        plan(**changes).check()


def test_fewer_than_four_nodes_are_refused():
    data = tacit.data.load("breast-cancer", nodes=3)
    with pytest.raises(InputError, match="for 3 nodes; fewer than 4 tolerate no traitor"):
        plan(data=data, model=lambda: nn.Linear(30, 2)).check()


def test_a_file_with_a_swarm_runs_and_is_explained(tmp_path):
    file = tmp_path / "pulse.py"
    file.write_text(
        "import tacit\nfrom torch import nn\n"
        "experiment = tacit.Experiment(\n"
        "    data=tacit.data.load('breast-cancer', nodes=4), rounds=1, topology=tacit.Swarm(),\n"
        "    model=lambda: nn.Linear(30, 2), loss=nn.functional.cross_entropy,\n"
        "    training=tacit.SGD(lr=0.1, batch_size=64, epochs=1),\n)\n"
    )
    told = CliRunner().invoke(app, ["explain", str(file)])
    assert told.exit_code == 0
    assert told.stdout.startswith("FedAvg, Swarm: breast-cancer, 4 nodes, 1 rounds")
    ran = CliRunner().invoke(app, ["run", str(file), "--json", "--folder", str(tmp_path / "run")])
    assert ran.exit_code == 0, ran.output
    few = ["run", str(file), "--set", "data.nodes=3"]
    assert CliRunner().invoke(app, few).exit_code == 2
