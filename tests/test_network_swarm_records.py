"""The record that a swarm leaves: the same at every member, and held to what the members signed."""

from pathlib import Path

import pytest
import torch

import tacit
from tacit.ledger.recorder import kept
from tacit.ledger.statement import Envelope, Statement
from tacit.ledger.verify import verify
from test_network_swarm import BOUND, Swarm, arm, plan_of


def copies(swarm: Swarm) -> list[Path]:
    return [swarm.folder / name / "copy" for name in swarm.names]


def statements(record: Path) -> list[Statement]:
    _, log = kept(record)
    return [Envelope.from_bytes(entry).statement for entry in log]


def close(swarm: Swarm) -> None:
    for run in swarm.members.values():
        run.replica.close()


@pytest.mark.parametrize(
    "changes", [{}, {"topology": tacit.Swarm(cohort=3)}, {"aggregation": tacit.Krum(f=1)}]
)
def test_all_copies_say_the_same_and_hold(changes, tmp_path):
    plan = plan_of(rounds=6, **changes)
    swarm = Swarm(plan, tmp_path, record=True)
    ended = swarm.all()
    assert {end.outcome for end in ended.values()} == {"finished"}
    whole = plan.layout.vector(tacit.run(plan).model)
    for model in swarm.models().values():
        assert torch.allclose(model, whole, atol=1e-5)
    close(swarm)
    first, *others = copies(swarm)
    for other in others:
        audit = verify(first, against=other)
        assert audit.findings == ()
    said = statements(first)
    assert [each.kind for each in said if each.kind != "contribution"] == [
        "genesis", *["round-open", "aggregate"] * 6
    ]  # fmt: skip
    assert (first / "policy.txt").read_text() == (others[0] / "policy.txt").read_text()
