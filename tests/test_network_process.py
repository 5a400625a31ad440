"""Real processes over real sockets, killed with SIGKILL in every phase of a run of two rounds.

Whoever dies is started again. Each run must end as the one in which nobody dies: an update that was
lost or counted twice would move the model, and with SCAFFOLD what the sites remember, too.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import network_killing
import tacit

pytestmark = pytest.mark.processes

Case = dict[str, Any]

# What is called, before or after which call, and the how manieth.
COORDINATOR = {
    "before a site joins": ("coordinator:Coordinator._join", "before", 1),
    "a site joined and is not told": ("store:Store.join", "after", 1),
    "all joined": ("store:Store.join", "after", 2),
    "the first state is not written": ("tensors:Tensors.put", "before", 1),
    "the first state is written": ("store:Store.begin", "before", 1),
    "the run is begun": ("store:Store.begin", "after", 1),
    "a round is open and nobody knows": ("coordinator:Coordinator._open", "after", 1),
    "the order is given": ("blobs:Blobs._chunk", "before", 1),
    "the state is pulled": ("blobs:Blobs._chunk", "after", 1),
    "an update is offered": ("coordinator:Coordinator._deliver", "before", 1),
    "an update is being pulled": ("blobs:Blobs._fill", "before", 1),
    "an update is pulled": ("blobs:Blobs.pull", "after", 1),
    "an update is examined": ("coordinator:examine", "after", 1),
    "an update is accepted and nobody told": ("store:Store.accept", "after", 1),
    "the last update is examined": ("store:Store.accept", "before", 2),
    "the last update is accepted": ("store:Store.accept", "after", 2),
    "the round is being closed": ("rounds:Server.close", "before", 1),
    "the round's state is in memory": ("rounds:Server.close", "after", 1),
    "the round's state is written": ("store:Store.advance", "before", 1),
    "the round is closed, its updates are there": ("tensors:Tensors.retain", "before", 2),
    "the round is closed": ("store:Store.advance", "after", 1),
    "between rounds": ("coordinator:Coordinator._open", "before", 2),
    "the second order is given": ("coordinator:Coordinator._open", "after", 2),
    "a model is measured": ("coordinator:Coordinator._measured", "before", 1),
    "an update of the second round is accepted": ("store:Store.accept", "after", 3),
    "the scores are described": ("store:Store.describe", "after", 1),
    "the second round is being closed": ("rounds:Server.close", "after", 2),
    "the last round is closed": ("store:Store.advance", "after", 2),
    "the last scores are awaited": ("coordinator:Coordinator._finish", "before", 1),
    "the end is not written": ("store:Store.end", "before", 1),
    "the end is written and nobody knows": ("store:Store.end", "after", 1),
    "farewell": ("coordinator:Coordinator.farewell", "before", 1),
}
SITE = {
    "before joining": ("site:SiteRun.run", "before", 1),
    "joined": ("site:SiteRun._take_part", "before", 1),
    "ordered": ("site:SiteRun._shared", "before", 1),
    "the state is pulled": ("site:SiteRun._shared", "after", 1),
    "trained": ("rounds:Site.take_part", "after", 1),
    "the update is written": ("tensors:Tensors.put", "after", 1),
    "what it keeps is written": ("tensors:Tensors.put", "after", 2),
    "noted": ("site:write", "after", 1),
    "offered": ("blobs:Blobs.offer", "after", 1),
    "being pulled": ("blobs:Blobs._chunk", "before", 1),
    "pulled": ("blobs:Blobs._chunk", "after", 1),
    "a model is measured": ("rounds:Site.measure", "after", 1),
    "trained again": ("rounds:Site.take_part", "after", 2),
    "the second update is not noted": ("site:write", "before", 2),
    "the second update is noted": ("site:write", "after", 2),
    "the first update is dropped": ("tensors:Tensors.drop", "after", 3),
    "being pulled again": ("blobs:Blobs._chunk", "before", 2),
    "the last model is measured": ("rounds:Site.measure", "after", 2),
    "told of the end": ("site:SiteRun.outcome", "before", 1),
    "its model is not written": ("processes:save_file", "before", 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def play() -> Iterator[Callable[[Case], Case]]:
    words = [sys.executable, network_killing.__file__]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:

        def play(case: Case) -> Case:
            print(json.dumps(case), file=driver.stdin, flush=True)
            line = driver.stdout.readline()  # type: ignore[union-attr]
            assert line, f"the process that starts all others ended with {driver.wait(60)}"
            told: Case = json.loads(line)
            return told

        yield play
        driver.stdin.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def model() -> list[float]:
    """Of the same rounds in one process."""
    plan = network_killing.plan()
    vector: list[float] = plan.layout.vector(tacit.run(plan).model).tolist()
    return vector


CASES = [("coordinator", *case) for case in COORDINATOR.items()]
CASES += [("north", *case) for case in SITE.items()]
# Of each phase one; all others are slow.
FAST = {
    "a site joined and is not told", "an update is accepted and nobody told",
    "the round's state is written", "between rounds", "the end is written and nobody knows",
    "trained", "noted", "told of the end",
}  # fmt: skip


def marked(role: str, phase: str, kill: tuple[str, str, int]) -> Any:
    marks = () if phase in FAST else pytest.mark.slow
    return pytest.param(role, phase, kill, id=f"{role}: {phase}", marks=marks)


@pytest.mark.parametrize(("role", "phase", "kill"), [marked(*case) for case in CASES])
def test_a_killed_process_changes_nothing(
    role: str,
    phase: str,
    kill: tuple[str, str, int],
    play: Callable[[Case], Case],
    model: list[float],
    tmp_path: Path,
) -> None:
    point, when, nth = kill
    told = play({"folder": str(tmp_path), "role": role, "point": point, "when": when, "nth": nth})
    assert told["killed"] == 1, f"nobody died: {told}"
    for name in ("coordinator", *network_killing.SITES):
        assert told[name].get("outcome") == "finished", (name, told)
    assert told["model"] == pytest.approx(model, abs=1e-6)
    rows = told["coordinator"]["rows"]
    assert [(row["round"], row["cohort"]) for row in rows] == [(1, 2), (2, 2)]
