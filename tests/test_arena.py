"""The arena: which cells there are, what is kept of them, and what they add up to."""

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tacit
from tacit.aggregation import Aggregated, Aggregation, Round
from tacit.attacks.base import UpdateAttack
from tacit.attacks.view import View
from tacit.report.arena import page
from tacit.robustness import defaults
from tacit.robustness.arena import arena
from tacit.robustness.cells import fitted, malicious, on
from tacit.robustness.scores import MEASURES, Arena
from tacit.topology import Hierarchical, RandomRegular, Ring, Star

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Blow(UpdateAttack):
    """Sends a multiple of what was trained."""

    knowledge: str = "own"
    times: float = -3.0

    def lie(self, view: View) -> Tensor:
        return self.times * view.own


@dataclass(frozen=True, kw_only=True)
class Peers(Blow):
    """As ``Blow``, where there is no server."""

    needs_graph: ClassVar[bool] = True


@dataclass(frozen=True)
class Picky(Aggregation):
    """The coordinates' median, of at least 2 f + 3 inputs."""

    f: int

    @property
    def least(self) -> int:
        return 2 * self.f + 3

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        return Aggregated(received.median(-2).values, torch.ones_like(weight))


@dataclass(frozen=True)
class Bursting(Aggregation):
    """Makes models whose loss is not finite."""

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        return Aggregated(torch.full_like(own, 1e38), torch.ones_like(weight))


def experiment(**changes: object) -> tacit.Experiment:
    draw = np.random.default_rng(5)

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = draw.normal(size=(count, 3))
        return x, (x[:, 0] > 0).astype(np.int64)

    data = tacit.data.from_arrays([rows(12) for _ in range(6)], test=rows(40))
    fields = {
        "data": data,
        "model": lambda: nn.Linear(3, 2),
        "loss": nn.functional.cross_entropy,
        "training": tacit.SGD(lr=0.5, batch_size=6),
        "rounds": 3,
    }
    return tacit.Experiment(**(fields | changes))


ATTACKS = {"blow": Blow(nodes=0.3), "peers": Peers(nodes=0.3)}
DEFENCES = {"mean": tacit.Mean(), "picky": lambda k, f: Picky(f)}
TOPOLOGIES = {"star": Star(), "ring": Ring()}


def row(defence: str, attack: str, worst: float | None, **values: object) -> Row:
    return (
        {"topology": "star", "defence": defence, "rule": f"{defence.title()}()", "attack": attack}
        | dict.fromkeys(MEASURES)
        | {"outcome": "done", "note": "", "seconds": 1.0, "accuracy": worst}
        | {"worst_accuracy": worst}
        | values
    )


@pytest.fixture(scope="module")
def found() -> Arena:
    """Two defences, two attacks, and one defence that cannot be used."""
    return Arena(
        experiment(),
        [
            row("mean", "none", 0.9),
            row("mean", "flip", 0.0, outcome="diverged in round 2"),
            row("mean", "backdoor", 0.85, attack_success=0.75),
            row("median", "none", 0.8),
            row("median", "flip", 0.7),
            row("median", "backdoor", 0.75, attack_success=0.25),
            row("krum", "none", None, outcome="not applicable", note="5 inputs, not 7"),
            row("krum", "flip", None, outcome="not applicable", note="5 inputs, not 7"),
            row("krum", "backdoor", None, outcome="not applicable", note="5 inputs, not 7"),
        ],
    )


def test_a_score_is_the_worst_case(found: Arena) -> None:
    # mean: min(0.9, 0.0, 0.85); median: min(0.8, 0.7, 0.75); krum was never run.
    assert [(r["defence"], r["score"], r["attack"]) for r in found.scores()] == [
        ("median", 0.7, "flip"),
        ("mean", 0.0, "flip"),
    ]
    best = found.scores()[0]
    assert (best["unattacked"], best["attack_success"], best["tried"]) == (0.8, 0.25, 2)


def test_gaps_are_to_the_same_defence_without_attack(found: Arena) -> None:
    gaps = {(r["defence"], r["attack"]): r["gap"] for r in found.table()}
    assert gaps["mean", "flip"] == -0.9
    assert gaps["median", "flip"] == pytest.approx(-0.1)  # 0.7 - 0.8
    assert gaps["mean", "none"] == 0
    assert gaps["krum", "flip"] is None


def test_the_answer_in_words(found: Arena) -> None:
    says = found.best()["star"]
    assert says == [
        "Use median, Median(). In the worst case (flip) the worst honest node is right in 70.0%;"
        " without attack in 80.0%.",
        "Without a defence, by Mean(), it is 0.0%, under flip.",
        "Under median a backdoor still had its way with up to 25.0% of the triggered rows.",
    ]


def test_what_test_rows_cannot_tell_is_said() -> None:
    # 40 test rows: one standard error at 0.7 is sqrt(0.7 * 0.3 / 40) = 0.0725.
    cells = [
        row(name, attack, worst)
        for name, worst in (("one", 0.7), ("two", 0.63), ("three", 0.62))
        for attack in ("none", "flip")
    ]
    says = Arena(experiment(), cells).best()["star"]
    assert "As good, as far as these test rows can tell: two." in says


def test_a_defence_that_only_guesses_is_not_advised() -> None:
    # Two labels: guessing is right in 0.5; one standard error at 0.55 is sqrt(0.55 * 0.45 / 40) =
    # 0.079, and 0.55 - 0.079 < 0.5, while 0.6 - 0.077 > 0.5.
    for score, advised in ((0.55, False), (0.6, True)):
        cells = [row("one", "none", 0.9), row("one", "flip", score)]
        (first, *_) = Arena(experiment(), cells).best()["star"]
        assert first.startswith("Use one, One()." if advised else "None withstands every attack")
        assert ("the best, one, One(), is no better than guessing" in first) == (not advised)


def test_no_defence_at_all() -> None:
    cells = [row("krum", "none", None, outcome="not applicable", note="too few")]
    nothing = Arena(experiment(), cells)
    assert nothing.best() == {"star": ["None of these defences can be used."]}
    assert nothing.scores() == []
    assert "krum: too few" in nothing.to_text()


@pytest.mark.parametrize("width", [30, 60, 120])
def test_text_keeps_to_its_width(found: Arena, width: int) -> None:
    lines = found.to_text(width).splitlines()
    assert max(map(len, lines[1:])) <= width
    text = found.to_text(width)
    for shown in ("0.850", "lost", "0.700", "case", "krum: 5 inputs, not 7"):
        assert shown in text


def test_csv_and_json_are_the_table(found: Arena) -> None:
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [r["defence"] for r in rows] == [r["defence"] for r in found.table()]
    assert rows[1]["outcome"] == "diverged in round 2"
    assert float(rows[1]["gap"]) == -0.9
    assert rows[-1]["worst_accuracy"] == ""
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["table"] == found.table()
    assert plain["scores"] == found.scores()
    assert plain["best"] == found.best()


def heard(here: tacit.Experiment, *liars: int) -> tuple[int, int]:
    return here.inputs, here.exposure(np.array(liars, dtype=np.int64))


def test_inputs_by_hand() -> None:
    here = experiment(topology=Ring(), algorithm=tacit.Gossip())
    # 0-1-2-3-4-5-0: node 2 hears 1 and 3; 0 and 4 hear one liar each.
    assert heard(here, 1, 3) == (2, 2)
    assert heard(here, 3, 4) == (2, 1)
    assert heard(here) == (2, 0)
    # Liars 0, 1, 2 surround 1: only honest receivers count, and 3 and 5 hear one each.
    assert heard(here, 0, 1, 2) == (2, 1)
    assert heard(experiment(), 1, 3) == (6, 2)
    # Groups 0, 1 | 2, 3 | 4, 5, then three aggregates at the top; 0, 1, 2 | 3, 4, 5, then two.
    assert heard(experiment(topology=Hierarchical(groups=2)), 1, 3) == (2, 1)
    assert heard(experiment(topology=Hierarchical(groups=3)), 1, 3) == (2, 1)


def test_inputs_of_cohorts_are_those_of_the_rounds() -> None:
    here = experiment(topology=Star(cohort=3), rounds=5)
    cohorts = [set(here.plan.sample(6, 0, round).tolist()) for round in range(5)]
    most = max(len(cohort & {0, 2, 4}) for cohort in cohorts)
    assert heard(here, 0, 2, 4) == (3, most)


def test_f_is_the_largest_that_works() -> None:
    # 2 f + 3 inputs: 11 for 4 liars; of 10, f = 3 is the most (9), of 9, too, of 5, f = 1.
    assert fitted(lambda k, f: Picky(f), 11, 4) == (Picky(4), "")
    for k, f in ((10, 3), (9, 3), (5, 1)):
        rule, note = fitted(lambda k, f: Picky(f), k, 4)
        assert rule == Picky(f)
        assert note == f"f is {f}: the rule cannot be set for 4 liars among {k} inputs"
    with pytest.raises(tacit.InputError, match="it needs 11 or more"):
        fitted(lambda k, f: Picky(f), 4, 4)
    assert fitted(lambda k, f: Picky(f), 3, 0) == (Picky(0), "")
    assert fitted(Picky(2), 7, 1) == (Picky(2), "")
    with pytest.raises(tacit.InputError, match="it needs 7 or more"):
        fitted(Picky(2), 6, 1)


def test_ten_attacks_and_ten_defences_the_one_made_here_among_them() -> None:
    assert len(defaults.attacks(experiment())) == len(defaults.defences()) == 10
    assert defaults.defences()["StepBound"](8, 2) == tacit.aggregation.StepBound(f=2)


def test_another_topology_may_need_another_algorithm() -> None:
    assert on(experiment(), Ring()).algorithm == tacit.Gossip()
    assert on(experiment(algorithm=tacit.Gossip()), Star()).algorithm == tacit.FedAvg()
    prox = tacit.FedProx(mu=0.1)
    assert on(experiment(algorithm=prox), Star(cohort=3)).algorithm == prox
    momentum = tacit.Gossip(mix="before")
    assert on(experiment(algorithm=momentum), RandomRegular(3)).algorithm == momentum


def test_a_small_grid() -> None:
    done = []
    found = arena(
        experiment(), ATTACKS, DEFENCES, TOPOLOGIES, on_cell=lambda *given: done.append(given)
    )
    rows = found.table()
    assert [(r["topology"], r["defence"], r["attack"]) for r in rows] == [
        (topology, defence, attack)
        for topology in ("star", "ring")
        for defence in ("mean", "picky")
        for attack in ("none", "blow", "peers")
    ]
    assert [given[1:] for given in done] == [(i, 12) for i in range(1, 13)]
    by_name = {(r["topology"], r["defence"], r["attack"]): r for r in rows}
    # 2 of 6 nodes lie: Picky(2) needs 7 inputs, so the star has Picky(1); the ring has 2 inputs.
    assert by_name["star", "picky", "blow"]["rule"] == "Picky(f=1)"
    assert by_name["ring", "picky", "none"]["outcome"] == "not applicable"
    assert "it needs 7 or more" in by_name["ring", "picky", "none"]["note"]
    assert by_name["star", "mean", "peers"]["outcome"] == "not applicable"
    assert by_name["ring", "mean", "peers"]["outcome"] == "done"
    same = experiment(topology=Ring(), algorithm=tacit.Gossip(), attack=ATTACKS["blow"])
    last = tacit.run(same).metrics[-1]
    for measure in ("accuracy", "worst_accuracy", "consensus_distance"):
        assert by_name["ring", "mean", "blow"][measure] == last[measure]
    assert len(malicious(same, ATTACKS["blow"])) == 2
    assert by_name["star", "mean", "none"]["worst_accuracy"] > 0.8
    assert by_name["star", "mean", "blow"]["gap"] < -0.2


def test_a_cell_that_diverges_counts_as_nothing() -> None:
    found = arena(experiment(), {}, {"bursting": Bursting()}, {"star": Star()})
    (cell,) = found.table()
    assert cell["outcome"].startswith("diverged in round ")
    assert cell["worst_accuracy"] == 0
    assert found.scores()[0]["score"] == 0


@dataclass(frozen=True)
class Overflowing(Aggregation):
    """Makes models that overflow, after the last training that would have noticed."""

    def aggregate(self, own: Tensor, received: Tensor, weight: Tensor, round: Round) -> Aggregated:
        factor = 1e38 if round.index + 1 == round.total else 1
        return Aggregated(own.sign() * 3 * factor * own.abs(), torch.ones_like(weight))


def test_models_that_overflow_at_the_end_have_diverged() -> None:
    found = arena(experiment(), {}, {"overflowing": Overflowing()}, {"ring": Ring()})
    (cell,) = found.table()
    assert cell["outcome"] == "diverged by the end"
    assert cell["worst_accuracy"] == 0
    assert found.scores()[0]["score"] == 0
    numbers = [value for value in cell.values() if isinstance(value, float)]
    assert np.isfinite(numbers).all()
    json.dumps(found.to_dict(), allow_nan=False)
    assert "lost" in found.to_text(80)
    assert "nan" not in page(found).split("</style>")[1].split("<h2>To repeat it")[0].lower()


def test_what_cannot_work_without_attack_is_an_error() -> None:
    with pytest.raises(tacit.InputError, match="its last layer needs one output for each"):
        arena(experiment(data=tacit.data.load("wine"), model=lambda: nn.Linear(13, 2)))
    x = np.zeros((4, 3))
    numbers = tacit.data.from_arrays([(x, x[:, :1])] * 2, test=(x, x[:, :1]))
    with pytest.raises(tacit.InputError, match="a regression was given"):
        arena(experiment(data=numbers))


def test_finished_cells_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = experiment(), ATTACKS, DEFENCES, TOPOLOGIES
    first = arena(*given, folder=tmp_path)
    ran = []

    def spy(plan: tacit.Experiment) -> tacit.Result:
        ran.append(plan)
        return tacit.run(plan)

    monkeypatch.setattr("tacit.robustness.arena.run", spy)
    assert arena(*given, folder=tmp_path).table() == first.table()
    assert {repr(plan.attack) for plan in ran} <= {repr(ATTACKS["peers"])}  # refused, not run
    assert {plan.evaluate_every for plan in ran} <= {3}  # after the last round alone
    ran.clear()
    more = {"weak": dataclasses.replace(ATTACKS["blow"], times=0.5)}
    arena(*given[:1], ATTACKS | more, *given[2:], folder=tmp_path)
    assert [plan.attack for plan in ran if plan.attack != ATTACKS["peers"]] == [more["weak"]] * 3


@pytest.mark.parametrize("lost", [1, 40])
def test_a_torn_last_line_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    given = experiment(), ATTACKS, {"mean": tacit.Mean()}, {"ring": Ring()}
    first = arena(*given, folder=tmp_path)
    path = tmp_path / "cells.jsonl"
    whole = path.read_bytes()
    assert whole.count(b"\n") == 3
    path.write_bytes(whole[:-lost])
    second = arena(*given, folder=tmp_path)

    def without_seconds(found: Arena) -> list[Row]:
        return [row | {"seconds": 0} for row in found.table()]

    assert without_seconds(second) == without_seconds(first)
    monkeypatch.delattr("tacit.robustness.arena.run")  # nothing is left to run
    assert arena(*given, folder=tmp_path).table() == second.table()


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_arena import DEFENCES, ATTACKS, TOPOLOGIES, arena, experiment

def on_cell(row, done, cells):
    if done == 4:
        Path("reached").touch()
        time.sleep(60)

arena(experiment(), ATTACKS, DEFENCES, TOPOLOGIES, folder="kept", on_cell=on_cell)
"""


@pytest.mark.slow
def test_a_killed_arena_goes_on(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not (tmp_path / "reached").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = (tmp_path / "kept" / "cells.jsonl").read_text().splitlines()
    assert len(kept) == 3  # the third of the first four cells is not applicable
    found = arena(experiment(), ATTACKS, DEFENCES, TOPOLOGIES, folder=tmp_path / "kept")
    seconds = [row["seconds"] for row in found.table()]
    assert [json.loads(line)["seconds"] for line in kept] == [seconds[0], seconds[1], seconds[3]]
    alone = arena(experiment(), ATTACKS, DEFENCES, TOPOLOGIES)
    assert [r["worst_accuracy"] for r in found.table()] == [
        r["worst_accuracy"] for r in alone.table()
    ]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"attacks": {"x": "alie"}}, r"attacks\['x'\]: 'alie' was given; allowed is"),
        ({"attacks": {"x": []}}, r"attacks\['x'\]: \[\] was given"),
        ({"attacks": [tacit.attacks.ALIE()]}, "attacks: .* allowed is a mapping of names"),
        ({"defences": {"x": "krum"}}, r"defences\['x'\]: 'krum' .* a rule such as Median\(\)"),
        ({"defences": {"x": tacit.Krum}}, r"defences\['x'\]: <class .* a rule such as Median\(\)"),
        ({"topologies": {"x": "ring"}}, r"topologies\['x'\]: 'ring' .* such as Ring\(\)"),
    ],
)
def test_parts_that_are_none(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(tacit.InputError, match=message):
        tacit.arena(experiment(), **parts)
    with pytest.raises(tacit.InputError, match="defences: 'krum' was given; allowed is a function"):
        fitted(lambda k, f: "krum", 5, 1)
