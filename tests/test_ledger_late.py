"""Records of asynchronous rounds, and every crime against one that ``verify`` must name."""

import shutil
import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import tacit
from tacit.engine.pairs import PairAveraging
from tacit.ledger import merkle, records
from tacit.ledger.recorder import LOG, Recorder
from tacit.ledger.rounds import due
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import verify
from test_ledger_record import NODES, entries, experiment, found, key, rewrite

RULES = {"algorithm": "x", "max_staleness": "1", "rounds": "4"}
# Of each step: node, the round whose model it trained from, and how often it had before.
STEPS = [
    [(0, 0, 0), (1, 0, 0)],
    [(1, 1, 0), (1, 1, 1), (2, 0, 0)],
    [(0, 1, 0)],
    [(2, 2, 0), (3, 3, 0)],
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By hand; entries 0 and 1 found it, then each step's opening, its parts and its end.

    2 opens, 3 and 4, 5 ends; 6 opens, 7 to 9, 10 ends; 11 opens, 12, 13 ends; 14 opens, 15 and 16,
    17 ends.
    """
    folder = tmp_path_factory.mktemp("record")
    recorder = Recorder(folder, bytes(32), NODES, [10, 200, 30, 4000], RULES, "none")
    for round, step in enumerate(STEPS):
        recorder.open(round, b"model %d" % round)
        for node, began, again in step:
            recorder.heard(node, b"update %d %d %d" % (node, began, again), began, again)
        late = {(2, 0, 0): "turned away by Krum"} if round == 1 else {}
        recorder.close(round, {}, b"model %d" % (round + 1), late)
    recorder.finish()
    return folder


@pytest.fixture
def record(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "record"))


def said(entry: bytes) -> Statement:
    return Envelope.from_bytes(entry).statement


def forged(record: Path, entry: bytes, subjects: Any = (), **says: Any) -> bytes:
    """Another statement in its place, signed by whom it takes."""
    old = said(entry)
    new = Statement(old.kind, {**old.subjects, **dict(subjects)}, {**old.says, **says})
    by = old.says["site"] if old.kind == "contribution" else "keeper"
    return signed(new, {by: key(record, "member", by)})


def commit(record: Path, new: list[bytes]) -> list[str]:
    """The keeper writes another history, in which openings name what stands before; the findings
    of an audit of it."""
    tree, whole = merkle.Growing(), list[bytes]()
    for place, entry in enumerate(new):
        if said(entry).kind == "round-open":
            entry = forged(record, entry, head={"size": place, "root": tree.root.hex()})
        tree.add(merkle.leaf_hash(entry))
        whole.append(entry)
    rewrite(record, whole)
    audit = verify(record)
    assert {finding.check for finding in audit.findings} <= {"rounds"}
    return list(map(str, audit.findings))


def test_it_holds(record: Path) -> None:
    audit = verify(record, against=record)
    assert audit.findings == ()
    assert dict(audit.checks)["rounds"] == "4 rounds"
    assert dict(audit.checks)["openings"] == "8 commitments opened"
    told = [said(entry) for entry in entries(record)]
    assert [each.says["included"] for each in told if each.kind == "aggregate"] == [
        [3, 4], [7, 8], [12], [15, 16]
    ]  # fmt: skip
    assert told[10].says["excluded"] == [{"entry": 9, "reason": "turned away by Krum"}]
    assert commit(record, entries(record)) == []


@pytest.mark.parametrize("rules", [{}, {"rounds": "4"}])
def test_without_the_rule_each_site_contributes_once_and_to_the_open_round(
    rules: dict[str, str], record: Path
) -> None:
    new = entries(record)
    new[0] = forged(record, new[0], rules=rules)
    assert commit(record, new) == [
        "entry 8: basel contributes twice to round 1",
        "entry 9: zurich contributes to another round than 1",
        "entry 12: bern contributes to another round than 2",
        "entry 15: zurich contributes to another round than 3",
    ]


def test_a_contribution_replayed_into_a_later_step(record: Path) -> None:
    old = entries(record)
    told = "basel contributes once more what stands in entry 7"
    assert commit(record, [*old[:12], old[7], *old[13:]]) == [f"entry 12: {told}"]
    # In one step, in place of its second one.
    assert commit(record, [*old[:8], old[7], *old[9:]]) == [f"entry 8: {told}"]
    # Signed anew.
    again = forged(record, old[7], rows="10-99")
    assert commit(record, [*old[:12], again, *old[13:]]) == [f"entry 12: {told}"]


def test_a_base_that_never_was(record: Path) -> None:
    old = entries(record)
    first = {"base": said(old[2]).subjects["base"]}

    def told(entry: bytes) -> list[str]:
        return commit(record, [*old[:12], entry, *old[13:]])

    wrong = ["entry 12: bern had another model than round 1 began with"]
    assert told(forged(record, old[12], {"base": bytes(32)})) == wrong
    assert told(forged(record, old[12], first)) == wrong
    found = told(forged(record, old[12], round=3))  # which has not begun there
    assert found == ["entry 12: bern had another model than round 3 began with"]


def test_one_counted_in_two_steps(record: Path) -> None:
    old = entries(record)

    def told(included: list[int]) -> list[str]:
        end = forged(record, old[13], included=included)
        return commit(record, [*old[:13], end, *old[14:]])

    assert told([8, 12]) == ["entry 13: it counts entry 8, which is no contribution of this round"]
    assert told([12, 12]) == ["entry 13: it counts a contribution twice"]


def test_one_left_out(record: Path) -> None:
    old = entries(record)
    less = forged(record, old[10], included=[7])
    assert commit(record, [*old[:10], less, *old[11:]]) == [
        "entry 10: it leaves out the contribution of basel in entry 8"
    ]
    # By beginning the step once more, without it.
    again, none = forged(record, old[11], view=1), forged(record, old[13], included=[])
    assert commit(record, [*old[:13], again, none]) == [
        "entry 14: it leaves out what bern sent in entry 12"
    ]
    # What was cut off may begin again with all that came, under other nonces.
    part = forged(record, old[12], {"commitment": bytes(32)})
    whole = forged(record, old[13], included=[14])
    twice = forged(record, again, view=2)
    assert commit(record, [*old[:13], again, part, whole]) == []
    last = [*old[:13], again, twice, part, forged(record, old[13], included=[15])]
    assert commit(record, last) == []
    # Between two steps.
    assert commit(record, [*old[:11], old[12], old[11], none]) == ["entry 11: no round is open"]


def test_one_that_is_too_stale(record: Path) -> None:
    old = entries(record)
    stale = forged(record, old[12], {"base": said(old[2]).subjects["base"]}, round=0)
    assert commit(record, [*old[:12], stale, *old[13:]]) == [
        "entry 12: bern began 2 rounds before; 1 is the most"
    ]


def test_a_round_that_is_none(record: Path) -> None:
    with sqlite3.connect(record / LOG) as db:
        entry = forged(record, entries(record)[12], round=-1)
        db.execute("UPDATE entries SET entry = ? WHERE place = 12", (entry,))
    # Its opening is there, and of no commitment now.
    assert "entry 12: rounds are counted from 0" in map(str, verify(record).findings)


@pytest.mark.parametrize("text", ["", "-1", "1.0", "٣", "9" * 10, "one"])
def test_a_rule_that_is_no_number(text: str, record: Path) -> None:
    new = entries(record)
    new[0] = forged(record, new[0], rules=RULES | {"max_staleness": text})
    rewrite(record, new)
    assert "entry 0: its rule 'max_staleness' is no whole number from 0" in map(
        str, verify(record).findings
    )


def test_a_withheld_contribution_is_proven_once_it_can_count_no_more(record: Path) -> None:
    old = entries(record)
    assert [due(said(old[0]), round) for round in range(4)] == [1, 2, 3, 3]
    withheld, none = old[12], forged(record, old[13], included=[])
    report = records.incident("keeper", [withheld])
    told = signed(report, {"bern": key(record, "member", "bern")})

    def holds(entries: list[bytes]) -> bool:
        rewrite(record, entries)
        return ("incidents", len(entries) - 1) not in found(verify(record))

    assert not holds([*old[:12], told])  # step 1, whose model it began with, is over, and 2 is not
    assert holds([*old[:12], none, told])
    assert not holds([*old, told])


# Runs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": tacit.AsyncSGD(spread=2.0)},
        {
            "data": tacit.data.load("breast-cancer", nodes=5),
            "algorithm": tacit.FedBuff(buffer=5, staleness="constant", spread=3.0),
            "aggregation": tacit.Krum(f=1),
        },
        {"protection": [tacit.Clip(1.0), tacit.GaussianNoise(
            multiplier=1.0, delta=1e-5, where="local")]},
        {"attack": tacit.attacks.SignFlip(nodes=["1"])},
    ],
    ids=["fedbuff", "sgd", "krum", "noise", "attack"],
)  # fmt: skip
def test_a_run_names_the_model_that_each_node_trained_from(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"algorithm": tacit.FedBuff(buffer=3, spread=3.0), "rounds": 6} | changes
    plan = experiment(**settings)
    with_one = tacit.run(plan, record=tmp_path)
    assert verify(tmp_path).findings == ()
    # A plan's arrivals follow from its seed alone, so that who began where is known beforehand.
    expected = [
        sorted((plan.data.names[node], step - stale) for node, stale in zip(
            came.nodes, came.staleness, strict=True))
        for step, came in enumerate(plan.arrivals)
    ]  # fmt: skip
    assert any(began < step for step, parts in enumerate(expected) for _, began in parts)
    told, bases = list[list[tuple[str, int]]](), dict[int, bytes]()
    out = 0
    for entry in entries(tmp_path):
        statement = said(entry)
        match statement.kind:
            case "round-open":
                bases[statement.says["round"]] = statement.subjects["base"]
                told.append([])
            case "contribution":
                assert statement.subjects["base"] == bases[statement.says["round"]]
                told[-1].append((statement.says["site"], statement.says["round"]))
            case "aggregate":
                out += len(statement.says["excluded"])
    assert [sorted(parts) for parts in told] == expected
    assert out == (4 * 6 if "aggregation" in changes else 0)  # Krum takes one of five
    without = tacit.run(plan)
    assert without.metrics[-1]["loss"] == with_one.metrics[-1]["loss"]


def test_of_pairs_both_contribute_what_they_send(tmp_path: Path) -> None:
    plan = experiment(algorithm=tacit.ADPSGD(), topology=tacit.Ring(), rounds=3)
    result, plain = tacit.run(plan, record=tmp_path / "record"), tacit.run(plan)
    assert result.vectors is not None
    assert plain.vectors is not None
    assert result.vectors.equal(plain.vectors)
    audit = verify(tmp_path / "record")
    assert audit.findings == ()
    links, names = plan.plan.graph(4, plan.seed, 0), plan.data.names
    expected = []
    for round, came in enumerate(plan.arrivals or ()):
        partners = PairAveraging(links, plan.seed, round).partners(came.nodes)
        expected.append({names[node] for node in (*came.nodes, *partners)})
    told = [set[str]() for _ in expected]
    for statement in map(said, entries(tmp_path / "record")):
        if statement.kind == "contribution":
            told[statement.says["round"]].add(statement.says["site"])
    assert told == expected


def test_a_run_that_is_cut_off_goes_on_with_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = experiment(algorithm=tacit.FedBuff(buffer=3, spread=3.0), rounds=6)

    def stop_at(last: int) -> Callable[[dict[str, Any]], None]:
        def told(row: dict[str, Any]) -> None:
            if row["round"] == last:
                raise KeyboardInterrupt

        return told

    run, record = tmp_path / "run", tmp_path / "record"
    for last in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            tacit.run(plan, folder=run, record=record, resume=True, on_round=stop_at(last))
    keep, calls = Recorder._keep, count(1)

    def cut(*given: Any) -> None:
        if next(calls) == 1:  # contributions are in the record, and their step's end is not
            raise KeyboardInterrupt
        keep(*given)

    monkeypatch.setattr(Recorder, "_keep", cut)
    with pytest.raises(KeyboardInterrupt):
        tacit.run(plan, folder=run, record=record, resume=True)
    tacit.run(plan, folder=run, record=record, resume=True)
    audit = verify(record)
    assert audit.findings == ()
    assert dict(audit.checks)["openings"] == f"{6 * 3 + 6} commitments opened"
    kinds = [said(entry).kind for entry in entries(record)]
    assert kinds.count("round-open") == 7
    assert kinds.count("contribution") == 7 * 3
