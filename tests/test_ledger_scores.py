"""Scores, payouts and incidents in a record, and what an audit says of false ones."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tacit
from tacit.cli import app
from tacit.engine.scoring import contributions
from tacit.errors import InputError, MessageError
from tacit.ledger import records, scores
from tacit.ledger.contribution import CGSV, TMC, Shapley
from tacit.ledger.recorder import Recorder
from tacit.ledger.statement import Envelope, Statement, signed
from tacit.ledger.verify import verify
from test_ledger_record import NODES, entries, key, rewrite
from test_scoring import experiment

SCORE, PAID = 14, 15
QUORUM = ("keeper", "bern", "basel", "zurich")  # of five


def glove(members: frozenset[int]) -> float:
    """Bern has a left glove, basel and zurich a right one each; a pair is worth 1."""
    return float(0 in members and bool(members & {1, 2}))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of two rounds: 0, 1 found it, 2 to 13 are rounds, 14 scores, 15 pays."""
    folder = tmp_path_factory.mktemp("scores")
    recorder = Recorder(folder, bytes(32), NODES, [10] * 4, {}, "none")
    for round in range(2):
        recorder.open(round, b"model %d" % round)
        for node in range(4):
            recorder.heard(node, b"update %d %d" % (round, node))
        recorder.close(round, {}, b"model %d" % (round + 1))
    subsets = [scores._members(bits) for bits in range(16)]
    games = [scores.Game(r, [0, 1, 2, 3], {s: glove(s) for s in subsets}) for r in range(2)]
    # Shapley (1953): the left glove has 2/3, each right one 1/6; twice, and geneva has nothing.
    found = 2 * np.array([2 / 3, 1 / 6, 1 / 6, 0])
    recorder.scored(Shapley(), [[name] for name in NODES], games, found, 10**18)
    recorder.finish()
    return folder


@pytest.fixture
def record(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "record"))


def found(record: Path) -> list[str]:
    return [str(finding) for finding in verify(record).findings]


def said(record: Path, place: int) -> Statement:
    return Envelope.from_bytes(entries(record)[place]).statement


def forge(
    record: Path, place: int, statement: Statement, by: tuple[str, ...] = QUORUM, drop: int = 0
) -> list[str]:
    """Members put another statement into the record, and everybody cosigns it."""
    new = entries(record)
    entry = signed(statement, {name: key(record, "member", name) for name in by})
    rewrite(record, [*new[:place], entry, *new[place + 1 : len(new) - drop]])
    return found(record)


def changed(statement: Statement, **says: Any) -> Statement:
    return Statement(statement.kind, statement.subjects, dict(statement.says) | says)


def test_scores_and_payouts_by_hand(record: Path) -> None:
    audit = verify(record)
    assert audit.findings == ()
    assert dict(audit.checks)["scores"] == "1 told, 1 computed again, 1 settled"
    scored, paid = said(record, SCORE), said(record, PAID)
    assert scored.says["scores"] == {
        "bern": 1333333, "basel": 333333, "zurich": 333333, "geneva": 0,
    }  # fmt: skip
    assert {name: int(amount) for name, amount in paid.says["payouts"].items()} == {
        # 10**18 by 1333333 : 333333 : 333333 of 1999999
        "bern": 666666833333416667, "basel": 166666583333291667, "zurich": 166666583333291666,
        "geneva": 0,
    }  # fmt: skip
    assert sorted(Envelope.from_bytes(entries(record)[SCORE]).signatures) == ["bern", "keeper"]
    assert (record / "utilities-000014.json").stat().st_mode & 0o077 == 0


def test_without_the_utilities_scores_are_as_they_were_said(record: Path) -> None:
    (record / "utilities-000014.json").unlink()
    assert dict(verify(record).checks)["scores"] == "1 told, 0 computed again, 1 settled"


def test_scores_that_do_not_follow_from_their_utilities(record: Path) -> None:
    scored = said(record, SCORE)
    wrong = dict(scored.says["scores"]) | {"geneva": 5}
    assert f"entry {SCORE}: geneva scores 5 here, and 0 by the utilities" in forge(
        record, SCORE, changed(scored, scores=wrong)
    )


def test_changed_utilities(record: Path) -> None:
    path = record / "utilities-000014.json"
    path.write_text(path.read_text().replace("1000000", "1000001", 1))
    assert found(record) == [
        f"entry {SCORE}: the file of its utilities is another than its scorers had"
    ]


def test_two_scorers_who_disagree(record: Path) -> None:
    scored = said(record, SCORE)
    other = changed(scored, scores=dict(scored.says["scores"]) | {"basel": 7}, first=1)
    assert f"entry 16: its scorers disagree with those of entry {SCORE}" in forge(
        record, 16, other, ("zurich", "basel")
    )


def test_a_second_scorer_who_comes_to_others_does_not_sign(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, bytes(32), NODES[:1], [10], {}, "none")
    games = [scores.Game(0, [0], {frozenset(): 0.0, frozenset({0}): 1.0})]
    with pytest.raises(MessageError, match="bern scores 2000000 here, and 1000000 by"):
        recorder.scored(Shapley(), [["bern"]], games, np.array([2.0]), None)
    recorder.finish()


def test_one_scorer_is_not_enough(record: Path) -> None:
    assert f"entry {SCORE}: it takes 2 of 5 members to sign it" in forge(
        record, SCORE, said(record, SCORE), ("bern",)
    )


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda s: changed(s, last=2), "it scores rounds that are not over"),
        (lambda s: changed(s, first=-1), "it scores rounds that are not over"),
        (lambda s: changed(s, seed="mine"), "its seed is not the experiment's"),
        (lambda s: changed(s, method={"name": "Guess"}), "no known method of scoring"),
        (
            lambda s: changed(s, scores={"rome": 1}),
            "it scores rome, which contributed nothing in these rounds",
        ),
        (
            lambda s: Statement(
                s.kind, dict(s.subjects) | {"experiment": bytes([1] * 32)}, s.says
            ),
            "it is about another experiment",
        ),
    ],
)  # fmt: skip
def test_other_false_scores(
    change: Callable[[Statement], Statement], wrong: str, record: Path
) -> None:
    assert f"entry {SCORE}: {wrong}" in forge(record, SCORE, change(said(record, SCORE)))


def test_false_payouts(record: Path) -> None:
    paid = said(record, PAID)
    more = dict(paid.says["payouts"]) | {"geneva": "5"}
    subjects = dict(paid.subjects) | {"payouts": records.payout_digest(more)}
    generous = Statement(paid.kind, subjects, dict(paid.says) | {"payouts": more})
    for statement, wrong in (
        (generous, "it pays geneva 5, where 0 is due"),
        (changed(paid, payouts=more), "its digest is not that of its payouts"),
        (changed(paid, score=3), "it pays by an entry that is no score"),
        (changed(paid, pot="9" * 5000), "its pot is no number"),
        (changed(paid, pot="-3"), "its pot is no number"),
    ):
        assert f"entry {PAID}: {wrong}" in forge(record, PAID, statement)
    few = ("keeper", "bern", "basel")
    assert f"entry {PAID}: it takes 4 of 5 members to sign it" in forge(record, PAID, paid, few)
    forge(record, PAID, paid)
    assert forge(record, PAID + 1, paid) == [
        f"entry {PAID + 1}: it pays for rounds that entry {PAID} has paid for"
    ]


# Incidents


def test_two_statements_that_contradict_each_other(record: Path) -> None:
    first = entries(record)[2]
    opened = Envelope.from_bytes(first).statement
    other = Statement(opened.kind, dict(opened.subjects) | {"base": bytes(32)}, opened.says)
    lie = signed(other, {"keeper": key(record, "member", "keeper")})
    assert forge(record, 16, records.incident("keeper", [first, lie]), ("geneva",)) == []
    assert dict(verify(record).checks)["incidents"] == (
        "keeper signed what contradicts itself: entry 16 proves it"
    )
    for about, told, why in (
        ("keeper", [first, first], "the two do not contradict each other"),
        ("keeper", [first, entries(record)[8]], "the two do not contradict each other"),
        ("bern", [first, lie], "bern has not signed both"),
        ("keeper", [first, lie.replace(b'"sig":"', b'"sig":"AAAA')], "is wrong"),
        ("keeper", [first, lie, lie], "it takes two statements, or one contribution"),
    ):
        (finding,) = forge(record, 16, records.incident(about, told), ("geneva",))
        assert finding.startswith(f"entry 16: it reports {about}, and proves nothing: ")
        assert finding.endswith(why)


def test_a_contribution_that_was_withheld(record: Path) -> None:
    part = said(record, 6)
    another = Statement(
        part.kind, dict(part.subjects) | {"commitment": bytes(32)}, part.says
    )  # fmt: skip
    sent = signed(another, {"geneva": key(record, "member", "geneva")})
    assert forge(record, 16, records.incident("keeper", [sent]), ("geneva",)) == []
    assert dict(verify(record).checks)["incidents"] == (
        "keeper left a contribution out: entry 16 has it"
    )
    early = signed(changed(another, round=2), {"geneva": key(record, "member", "geneva")})
    for about, text, why in (
        ("keeper", entries(record)[6], "the contribution is in the record"),
        ("keeper", early, "the round of the contribution is not closed"),
        ("bern", sent, "a keeper withholds contributions, and nobody anything else"),
    ):
        (finding,) = forge(record, 16, records.incident(about, [text]), ("geneva",))
        assert finding == f"entry 16: it reports {about}, and proves nothing: {why}"


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_scores_make_the_audit_fail_by_themselves(data: st.DataObject, kept: Path) -> None:
    """Hostile scorers and payers of the right shape, and files of whatever is in them."""
    number, name = st.integers(-3, 20), st.sampled_from([*NODES, "rome", ""])
    text = st.sampled_from(["", "0", "-1", "9" * 5000, "x", "experiment", "1e3", "null"])
    with TemporaryDirectory() as folder:
        record = Path(shutil.copytree(kept, Path(folder) / "record"))
        method = st.fixed_dictionaries(
            {"name": st.sampled_from([*scores.METHODS, "x"])},
            optional={"orders": text, "most": text},
        )
        value = st.none() | number | text | st.lists(number) | st.dictionaries(text, number)
        game = st.fixed_dictionaries({"round": value, "players": value, "worth": value})
        file = {"players": [[n] for n in NODES], "rounds": data.draw(st.lists(game, max_size=2))}
        (record / "utilities-000014.json").write_text(json.dumps(file))
        digest = hashlib.sha256((record / "utilities-000014.json").read_bytes()).digest()
        score = Statement(
            "score", {"experiment": bytes(32), "utilities": digest},
            {
                "first": data.draw(number), "last": data.draw(number), "seed": "experiment",
                "method": data.draw(method), "scores": data.draw(st.dictionaries(name, number)),
            },
        )  # fmt: skip
        paid = changed(
            said(record, PAID), score=data.draw(number), pot=data.draw(text),
            payouts=data.draw(st.dictionaries(name, text)),
        )  # fmt: skip
        told = records.incident("keeper", [data.draw(text).encode()] * data.draw(st.integers(0, 3)))
        by = {name: key(record, "member", name) for name in QUORUM}
        new = [signed(each, by) for each in (score, paid, told)]
        rewrite(record, [*entries(record)[:SCORE], *new])
        verify(record)


# Of runs


@pytest.mark.parametrize(
    ("changes", "method", "again"),
    [
        ({}, None, 1),
        ({}, TMC(orders=7, most=25), 1),
        ({}, CGSV(), 0),
        ({"topology": tacit.Star(cohort=2), "rounds": 2}, None, 1),
        (
            {
                "data": tacit.data.load("breast-cancer", nodes=7),
                "topology": tacit.Hierarchical(groups=2),
                "protection": [tacit.SecureAggregation(threshold=3)],
            },
            None,
            1,
        ),
    ],
    ids=["shapley", "tmc", "cgsv", "cohort", "groups"],
)
def test_a_runs_scores_are_computed_again(
    changes: dict[str, Any], method: Any, again: int, tmp_path: Path
) -> None:
    plan = experiment(**changes)
    result = contributions(plan, method, record=tmp_path, pot=1000)
    audit = verify(tmp_path)
    assert audit.findings == ()
    assert dict(audit.checks)["scores"] == f"1 told, {again} computed again, 1 settled"
    scored, paid = (said(tmp_path, len(entries(tmp_path)) - back) for back in (2, 1))
    total = sum(result.scores[result_first(result)])
    assert sum(scored.says["scores"].values()) == pytest.approx(1e6 * total, abs=5)
    assert sum(int(amount) for amount in paid.says["payouts"].values()) == 1000


def result_first(result: Any) -> Any:
    """One node of each group; all, where nodes are scored one by one."""
    if result.groups is None:
        return slice(None)
    return np.unique(result.groups, return_index=True)[1]


def test_the_record_of_a_run_that_is_scored_later(tmp_path: Path) -> None:
    tacit.run(experiment(), record=tmp_path)
    before = entries(tmp_path)
    contributions(experiment(), record=tmp_path)
    assert entries(tmp_path)[:-1] == before
    assert verify(tmp_path).findings == ()
    with pytest.raises(InputError, match="pot: 5 was given; allowed is none without a record"):
        contributions(experiment(), pot=5)


def test_rounds_are_paid_once_and_not_scored_otherwise(tmp_path: Path) -> None:
    contributions(experiment(), record=tmp_path, pot=1000)
    before = entries(tmp_path)
    with pytest.raises(InputError, match=f"entry {len(before) - 1} of .* has paid"):
        contributions(experiment(), record=tmp_path, pot=1000)
    with pytest.raises(InputError, match="scores these rounds by Shapley"):
        contributions(experiment(), CGSV(), record=tmp_path)
    assert entries(tmp_path) == before
    contributions(experiment(), record=tmp_path)  # says the same again
    assert found(tmp_path) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("experiment.py").write_text(
        "import tacit, torch.nn as nn\n"
        "experiment = tacit.Experiment(\n"
        '    data=tacit.data.load("breast-cancer", nodes=3), model=lambda: nn.Linear(30, 2),\n'
        "    loss=nn.functional.cross_entropy, training=tacit.SGD(lr=0.1), rounds=2)\n"
    )
    call = lambda *words: CliRunner().invoke(app, [*words])  # noqa: E731
    done = call("contributions", "experiment.py", "--record", "r", "--pot", "100")
    assert done.exit_code == 0, done.output
    done = call("verify", "r")
    assert done.exit_code == 0
    assert "1 told, 1 computed again, 1 settled" in done.stdout
    assert call("contributions", "experiment.py", "--pot", "100").exit_code == 2
