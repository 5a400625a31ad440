"""Real processes over real sockets, killed with SIGKILL in every phase of a run of two rounds.

Whoever dies is started again. Each run must end as the one in which nobody dies: an update that was
lost or counted twice would move the model, and with SCAFFOLD what the sites remember, too.

A table of points for each role; the casts of the runs are in network_killing.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

import network_killing
import network_links
import tacit
from tacit.network.blobs import WINDOW
from tacit.network.configuration import CHUNK, LEASE

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
    "an update is examined": ("wire:Wire.examine", "after", 1),
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
    "a model is measured": ("scores:Scores.take", "before", 1),
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
PEER = {
    "before its first round": ("peer:PeerRun.run", "before", 1),
    "its first state is written": ("tensors:Tensors.put", "after", 1),
    "about to train": ("gossip:Peer.carry_out", "before", 1),
    "trained": ("gossip:Mixing._guarded", "after", 1),
    "its model is written": ("tensors:Tensors.put", "after", 2),
    "its model is offered and not noted": ("peer:write", "before", 1),
    "its model is noted": ("peer:write", "after", 1),
    "asked for what it has": ("peer:PeerRun.answer", "before", 1),
    "answered": ("peer:PeerRun.answer", "after", 2),
    "being pulled": ("blobs:Blobs._chunk", "before", 1),
    "pulled": ("blobs:Blobs._chunk", "after", 1),
    "about to pull": ("blobs:Blobs.pull", "before", 1),
    "one neighbour's model is here": ("peer:PeerRun._take", "after", 1),
    "all neighbours' models are here": ("peer:PeerRun._gather", "after", 1),
    "mixed": ("gossip:Peer.carry_out", "after", 1),
    "its new state is written": ("tensors:Tensors.put", "after", 3),
    "the round is noted": ("peer:write", "after", 2),
    "the last state is dropped": ("tensors:Tensors.drop", "after", 3),
    "in the last round, trained": ("gossip:Mixing._guarded", "after", 2),
    "in the last round, its model is noted": ("peer:write", "after", 3),
    "in the last round, being pulled": ("blobs:Blobs._chunk", "before", 3),
    "in the last round, all models are here": ("peer:PeerRun._gather", "after", 2),
    "the last round is noted": ("peer:write", "after", 4),
    "its model is not saved": ("processes:_saved", "before", 1),
    "before it stays": ("peer:PeerRun.stay", "before", 1),
}
# Of a run that leaves a record: its entries are the genesis, then in each round its beginning, two
# contributions, and its end.
RECORDED = {
    "coordinator": {
        "all have signed, and nothing is written": ("recording:write", "before", 1),
        "the record is founded": ("recording:Log.append", "after", 1),
        "the first round is not in the record": ("recording:Log.append", "before", 2),
        "the first round is in the record": ("recording:Log.append", "after", 2),
        "a head is cosigned once": ("recording:Recording._take", "after", 1),
        "a contribution is not in the record": ("recording:Log.append", "before", 3),
        "a contribution is in the record, its update is not": ("store:Store.accept", "before", 1),
        "all contributions are in the record": ("recording:Log.append", "after", 4),
        "the first round's end is not in the record": ("recording:Log.append", "before", 5),
        "the first round's end is in the record": ("recording:Log.append", "after", 5),
        "the last round's end is in the record": ("recording:Log.append", "after", 9),
        "the last head is cosigned once": ("recording:Recording._take", "after", 5),
    },
    "north": {
        "its witness key is made": ("witnessing:sign_key", "after", 1),
        "it has signed the beginning": ("witnessing:write", "after", 1),
        "it has cosigned and told nobody": ("witnessing:Witness.cosign", "after", 1),
        "it has signed a contribution and told nobody": ("receipts:signed", "after", 1),
        "it has not looked for its receipt": ("witnessing:Witnessing._receipt", "before", 1),
        "it has its receipt": ("witnessing:Witnessing._receipt", "after", 1),
        "it has cosigned the end": ("witnessing:Witness.cosign", "after", 3),
    },
}
# Of one whose model is handed out, too: then three members sign, and three are a quorum.
RELEASED = {
    "coordinator": {
        "the folder is not made": ("releasing:fill", "before", 1),
        "the folder is made, elsewhere": ("releasing:fill", "after", 1),
        "the folder is in its place": ("recording:Recording.release", "before", 1),
        "nobody has signed": ("recording:Recording.release", "after", 1),
        "one has signed": ("joint:Joint.take", "after", 1),
        "the release is not in the record": ("recording:Log.append", "before", 10),
        "the release is in the record": ("recording:Log.append", "after", 10),
        "the release is recorded, and the end is not written": ("store:Store.end", "before", 1),
    },
    "north": {
        "asked to sign": ("witnessing:Witnessing._released", "before", 1),
        "it has signed and told nobody": ("witnessing:Witnessing._released", "after", 1),
    },
}
# Of one that waits for nobody: three steps of two updates, of each the end in one with what came.
LATE = {
    "coordinator": {
        "an update has come and is not written": ("store:Store.arrive", "before", 1),
        "an update is written and nobody knows": ("store:Store.arrive", "after", 1),
        "the first step is to be taken": ("asynchronous:take_step", "before", 1),
        "the first step is not written": ("store:Store.advance", "before", 1),
        "the first step is written, and not in the record": ("recording:Log.append", "before", 3),
        "the first step is in the record": ("recording:Log.append", "after", 3),
        "the second step is open": ("recording:Log.append", "after", 4),
        "an update of the second step is written": ("store:Store.arrive", "after", 3),
        "the last step is in the record": ("recording:Log.append", "after", 7),
    },
    "north": {
        "it has signed an update and not noted it": ("receipts:signed", "after", 1),
        "it has noted an update and not sent it": ("site:write", "after", 1),
        "it has sent an update": ("site:SiteRun._deliver", "after", 1),
        "its update was taken": ("receipts:Receipts.expect", "before", 1),
        "its update is waited for": ("receipts:Receipts.expect", "after", 1),
        "it has cosigned a step and told nobody": ("witnessing:Witness.cosign", "after", 2),
        "it has not looked for its receipt": ("receipts:Receipts.found", "before", 1),
        "it has its receipt": ("receipts:Receipts.found", "after", 1),
    },
}
# Of peers that leave records: in each log are the genesis, then of each round its beginning, what
# the peer sent, what it had, and its end.
_RECORDED_PEER = {
    "its log's key is made": ("recording:sign_key", "after", 1),
    "its witness key is made": ("witnessing:sign_key", "after", 1),
    "it has signed another's beginning": ("witnessing:write", "after", 1),
    "all have signed its own, and nothing is written": ("recording:write", "before", 1),
    "its record is founded": ("recording:Log.append", "after", 1),
    "its first round is in its record": ("recording:Log.append", "after", 2),
    "it has cosigned and told nobody": ("witnessing:Witness.cosign", "after", 1),
    "its head is cosigned once": ("recording:Recording._take", "after", 1),
    "it has signed its model and noted nothing": ("receipts:Receipts.contribution", "after", 1),
    "its model is noted, and is not in its record": ("peer_record:PeerRecord.sent", "before", 1),
    "its model is in its record, its receipt is not": ("receipts:Receipts.found", "before", 1),
    "its neighbours' models are in its record": ("recording:Log.append", "after", 4),
    "the round is noted, and its record is behind": ("peer_record:PeerLog.bring_to", "before", 2),
    "the round's end is in its record": ("recording:Log.append", "after", 5),
    "the next one's beginning is in its record": ("recording:Log.append", "after", 6),
    "the last round's end is in its record": ("recording:Log.append", "after", 9),
    "before it waits for all cosignatures": ("peer_record:PeerRecord.farewell", "before", 1),
}  # fmt: skip
RECORDED_PEERS = {
    "a": dict(list(_RECORDED_PEER.items())[::2]),
    "b": dict(list(_RECORDED_PEER.items())[1::2]),
}
# By turns the peer to which all others connect, and another.
POINTS = {
    "coordinator": COORDINATOR,
    "north": SITE,
    "a": dict(list(PEER.items())[::2]),
    "b": dict(list(PEER.items())[1::2]),
}
# Where updates travel in messages.
SMALL = {
    "coordinator": {
        "a small update has come": ("intake:Intake.take", "before", 1),
        "a small update is written and nobody told": ("store:Store.accept", "after", 1),
        "the last small update is written": ("store:Store.accept", "after", 2),
        "the round of small updates is closed": ("store:Store.advance", "after", 1),
    },
    "north": {
        "its small update is not sent": ("site:SiteRun._deliver", "before", 1),
        "its small update is sent": ("site:SiteRun._deliver", "after", 1),
    },
}


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


def flat(plan: tacit.Experiment) -> list[float]:
    """The model of a run in one process."""
    vector: list[float] = plan.layout.vector(tacit.run(plan).model).tolist()
    return vector


@pytest.fixture(scope="module")
def model() -> list[float]:
    """Of the same rounds in one process."""
    return flat(network_killing.plan())


@pytest.fixture(scope="module")
def small_model() -> list[float]:
    """Of the same rounds in one process."""
    return flat(network_killing.small_plan())


@pytest.fixture(scope="module")
def models() -> list[list[float]]:
    """The peers', of the same rounds in one process."""
    plan = network_killing.peer_plan()
    vectors = tacit.run(plan).vectors
    assert vectors is not None
    modules = [plan.layout.module(plan.template, vector) for vector in vectors]
    return [network_killing.flat(module.state_dict()) for module in modules]


def cases(cast: str, points: dict[str, dict[str, tuple[str, str, int]]] = POINTS) -> list[Any]:
    roles = [role for role in network_killing.CASTS[cast].roles if role in points]
    return [
        pytest.param(role, kill, id=f"{role}: {phase}")
        for role in roles
        for phase, kill in points[role].items()
    ]


def case(cast: str, role: str, kill: tuple[str, str, int], folder: Path) -> Case:
    point, when, nth = kill
    who = {"folder": str(folder), "cast": cast, "role": role}
    return who | {"point": point, "when": when, "nth": nth}


def all_finished(told: Case, cast: str, killed: int = 1) -> None:
    assert not told["fault"], told["fault"]
    assert told["killed"] == killed, f"{killed} were to die: {told}"
    for name in network_killing.CASTS[cast].roles:
        assert told[name].get("outcome") == "finished", (name, told)


def test_there_are_enough_points() -> None:
    assert sum(map(len, POINTS.values())) >= 40


@pytest.mark.parametrize(
    ("cast", "role", "kill"),
    [
        pytest.param(cast, *each.values, id=f"{cast}: {each.id}")
        for cast, points in (("server", POINTS), ("small", SMALL))
        for each in cases(cast, points)
    ],
)
def test_a_killed_process_changes_nothing(
    cast: str,
    role: str,
    kill: tuple[str, str, int],
    play: Callable[[Case], Case],
    model: list[float],
    small_model: list[float],
    tmp_path: Path,
) -> None:
    told = play(case(cast, role, kill, tmp_path))
    all_finished(told, cast)
    expected = {"server": model, "small": small_model}[cast]
    assert told["model"] == pytest.approx(expected, abs=1e-6)
    rows = told["coordinator"]["rows"]
    assert [(row["round"], row["cohort"]) for row in rows] == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("cast", "role", "kill"),
    [
        pytest.param(cast, *each.values, id=f"{cast}: {each.id}")
        for cast, points in (("recorded", RECORDED), ("released", RELEASED))
        for each in cases(cast, points)
    ],
)
def test_a_killed_process_leaves_the_record_whole(
    cast: str,
    role: str,
    kill: tuple[str, str, int],
    play: Callable[[Case], Case],
    model: list[float],
    tmp_path: Path,
) -> None:
    told = play(case(cast, role, kill, tmp_path))
    all_finished(told, cast)
    assert told["findings"] == []
    one = ["round-open", "contribution", "contribution", "aggregate"]
    released = ["release"] * (cast == "released")
    assert told["kinds"] == ["genesis", *one, *one, *released]
    assert told["model"] == pytest.approx(model, abs=1e-6)


@pytest.mark.parametrize(("role", "kill"), cases("late", LATE))
def test_a_killed_process_leaves_the_record_whole_where_nobody_is_waited_for(
    role: str, kill: tuple[str, str, int], play: Callable[[Case], Case], tmp_path: Path
) -> None:
    told = play(case("late", role, kill, tmp_path))
    all_finished(told, "late")
    assert told["findings"] == []
    one = ["round-open", "contribution", "contribution", "aggregate"]
    assert told["kinds"] == ["genesis", *one, *one, *one]
    assert told["came"] == told["counted"]
    assert told["opened"] == 6  # whoever sent them has seen all of them in the record
    assert told["reports"] == []


@pytest.mark.parametrize(("role", "kill"), cases("gossip"))
def test_a_killed_peer_changes_nothing(
    role: str,
    kill: tuple[str, str, int],
    play: Callable[[Case], Case],
    models: list[list[float]],
    tmp_path: Path,
) -> None:
    told = play(case("gossip", role, kill, tmp_path))
    all_finished(told, "gossip")
    for name, wanted in zip(network_killing.PEERS, models, strict=True):
        assert told[name]["reason"] == "all 2 rounds are done"
        assert told[name]["model"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("role", "kill"), cases("recorded peers", RECORDED_PEERS))
def test_a_killed_peer_s_record_holds(
    role: str,
    kill: tuple[str, str, int],
    play: Callable[[Case], Case],
    models: list[list[float]],
    tmp_path: Path,
) -> None:
    told = play(case("recorded peers", role, kill, tmp_path))
    all_finished(told, "recorded peers")
    assert told["findings"] == []
    one = ["round-open", *["contribution"] * 3, "aggregate"]
    for name, wanted in zip(network_killing.PEERS, models, strict=True):
        assert told["kinds"][name] == ["genesis", *one, *one]
        assert told[name]["reason"] == "all 2 rounds are done"
        assert told[name]["model"] == pytest.approx(wanted, abs=1e-5)


JUMPS = {
    "coordinator": ("store:Store.accept", "after", 1),
    "north": ("rounds:Site.take_part", "after", 1),
}


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize(("role", "at"), JUMPS.items(), ids=JUMPS)
def test_a_clock_that_jumps_changes_nothing(
    role: str,
    at: tuple[str, str, int],
    hours: int,
    play: Callable[[Case], Case],
    model: list[float],
    tmp_path: Path,
) -> None:
    told = play(case("server", role, at, tmp_path) | {"jump": 3600 * hours})
    all_finished(told, "server", killed=0)
    assert (tmp_path / "killed").exists()  # it did jump
    assert told["model"] == pytest.approx(model, abs=1e-6)


# Links that are slow, lossy or cut


@pytest.fixture(scope="module")
def networks() -> None:
    """Networks of one's own, or no test."""
    words = [sys.executable, network_links.__file__]
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    if said:
        pytest.skip(said.strip())


# Longer than a link without a sign of life is kept.
CUT = 3 * LEASE / 1000
LINKS = {
    "slow and lossy": {"delay": 0.2, "loss": 0.02, "rate": 10e6 / 8},
    "cut in the handshake": {"cuts": [("10.9.0.2", 2_000, CUT)]},
    "cut in a round": {"cuts": [("10.9.0.2", 12_000, CUT)]},
    "cut twice, at both": {"cuts": [("10.9.0.2", 10_000, CUT), ("10.9.0.3", 12_000, CUT)]},
    "the coordinator is cut off": {"cuts": [("10.9.0.1", 18_000, CUT)]},
}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
@pytest.mark.usefixtures("networks")
def test_a_bad_network_changes_nothing(
    links: Case, play: Callable[[Case], Case], model: list[float], tmp_path: Path
) -> None:
    told = play({"folder": str(tmp_path), "cast": "server", "links": links})
    all_finished(told, "server", killed=0)
    assert told["uncut"] == []
    assert told["model"] == pytest.approx(model, abs=1e-6)


PEER_LINKS = {
    "slow and lossy": {"delay": 0.2, "loss": 0.02, "rate": 10e6 / 8},
    "split and healed": {"cuts": [("10.9.0.2", 16_000, CUT)]},
    "all cut off": {"cuts": [(f"10.9.0.{i}", 16_000, CUT) for i in (1, 2, 3)]},
}


@pytest.mark.parametrize("links", PEER_LINKS.values(), ids=PEER_LINKS)
@pytest.mark.usefixtures("networks")
def test_a_bad_network_among_peers_changes_nothing(
    links: Case, play: Callable[[Case], Case], models: list[list[float]], tmp_path: Path
) -> None:
    told = play({"folder": str(tmp_path), "cast": "gossip", "links": links})
    all_finished(told, "gossip", killed=0)
    assert told["uncut"] == []
    for name, wanted in zip(network_killing.PEERS, models, strict=True):
        assert told[name]["model"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.usefixtures("networks")
def test_a_transfer_that_is_cut_sends_only_what_is_missing_again(
    play: Callable[[Case], Case], tmp_path: Path
) -> None:
    links = {"rate": 10e6 / 8, "cuts": [("10.9.0.2", 4 * CHUNK, CUT)]}
    told = play({"folder": str(tmp_path), "cast": "transfer", "links": links})
    all_finished(told, "transfer", killed=0)
    assert told["uncut"] == []
    assert told["coordinator"]["same"]
    asked = told["north"]["asked"]
    assert set(asked) == set(range(-(-network_killing.LARGE // CHUNK)))
    assert len(asked) > len(set(asked))
    # What is under way when a link breaks is a window of chunks; all before it is kept.
    assert all(
        chunk >= highest - WINDOW
        for chunk, highest in zip(asked, accumulate(asked, max), strict=True)
    )
