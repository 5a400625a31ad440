"""Four members on real sockets, each a process, whose leader is killed with SIGKILL."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tacit
from network_swarm import NAMES, OF_RECORD, POINTS, ROUNDS, experiment
from tacit.ledger.verify import verify

BOUND = 300.0


class Player:
    """The process that plays cases."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("network_swarm.py")
        self.process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def play(
        self, folder: Path, point: str, again: bool = False, record: bool = False
    ) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        case = {"folder": str(folder), "point": point, "again": again, "record": record}
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    made = Player()
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.mark.slow
def test_four_processes_learn_what_one_does(player: Player, tmp_path: Path) -> None:
    told = player.play(tmp_path, "")
    assert not told["fault"], told["fault"]
    whole = tacit.run(experiment())
    state = whole.model.state_dict()
    wanted = torch.cat([state[name].flatten() for name in sorted(state)])
    for name in NAMES:
        assert told[name].get("reason") == f"all {ROUNDS} rounds are done", told
        assert torch.allclose(torch.tensor(told[name]["model"]), wanted, atol=1e-5)


def ended_alike(told: dict[str, Any], names: set[str]) -> None:
    assert not told["fault"], told["fault"]
    assert told["killed"] == 1
    for name in names:
        assert told[name].get("reason") == f"all {ROUNDS} rounds are done", told
    assert len({str(told[name]["model"]) for name in names}) == 1


def recorded_alike(folder: Path, names: set[str]) -> None:
    """Every copy of the record holds to its end, and all say the same."""
    first, *others = [folder / "records" / name for name in sorted(names)]
    for other in others:
        audit = verify(first, against=other)
        assert audit.findings == ()
        assert audit.head == verify(other).head
    assert dict(audit.checks)["rounds"] == f"{ROUNDS} rounds"


@pytest.mark.processes
@pytest.mark.parametrize("point", POINTS)
def test_the_run_goes_on_without_a_killed_leader(
    player: Player, tmp_path: Path, point: str
) -> None:
    record = point in OF_RECORD
    told = player.play(tmp_path, point, record=record)
    ended_alike(told, left := set(NAMES) - {told["victim"]})
    if record:
        recorded_alike(tmp_path, left)


@pytest.mark.processes
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_leader_that_comes_back_ends_where_the_others_do(
    player: Player, tmp_path: Path, point: str
) -> None:
    ended_alike(player.play(tmp_path, point, again=True, record=True), set(NAMES))
    recorded_alike(tmp_path, set(NAMES))
