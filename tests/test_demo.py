"""``tacit demo``: the story that it tells is the one that its data give."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tacit import demo
from tacit.cli import app
from tacit.compare import compare
from tacit.errors import DivergenceError


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The demo runs on one thread; other tests get theirs back."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_eight_offices_of_very_unequal_size() -> None:
    data = demo.experiment().data
    assert data.nodes == 8
    assert data.train.sizes.max() > 10 * data.train.sizes.min()
    assert len(data.train.y) + len(data.test.y) == 1797  # as the story says


def test_the_story_at_a_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    short = demo.experiment().replace(rounds=2)
    protected = {n: p.replace(rounds=2) for n, p in demo.private(short).items()}
    monkeypatch.setattr(demo, "experiment", lambda seed: short.replace(seed=seed))
    monkeypatch.setattr(demo, "private", lambda _: protected)
    result = CliRunner().invoke(app, ["demo", "--out", "here"])
    assert result.exit_code == 0, result.exception
    assert " ".join(result.stdout.split()).startswith(demo.STORY)
    for shown in (
        "office 8", "majority", "sent", "Learning together", "here/report.html",
        "BALANCE, a third lies", "Poisoned:", "epsilon 2, masked", "Protected:",
    ):  # fmt: skip
        assert shown in result.stdout
    # 2 entries found the record; a round is opened, has 8 parts, is closed and measured.
    said = " ".join(result.stdout.split())
    assert "left 24 signed entries" in said
    assert "the record holds. Then one byte of one entry is changed: entry 5: " in said
    assert Path("here/report.html").stat().st_size > 10_000
    result = CliRunner().invoke(app, ["demo", "--json"])
    found = json.loads(result.stdout)
    assert len(found["table"]) == 4
    assert [row["run"] for row in found["poisoned"]] == list(demo.poisoned(short))
    assert [row["epsilon"] for row in found["private"]][1:] == pytest.approx([8, 2], rel=2e-3)
    assert found["audits"][0] == []
    assert all(finding.startswith("entry 5: ") for finding in found["audits"][1][:2])
    assert Path("runs/demo/report.html").is_file()


def test_a_third_of_eight_offices_lies() -> None:
    before, broken, defended = demo.poisoned(demo.experiment()).values()
    assert before.attacks == ()
    # floor(8 / 3 + 1 / 2) = 3
    assert len(broken.malicious) == 3
    assert list(broken.malicious) == list(defended.malicious)


def test_a_run_that_diverges_counts_as_nothing_and_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def diverge(plan: object, **_: object) -> None:
        raise DivergenceError("office 1", 2)

    monkeypatch.setattr(demo, "run", diverge)
    rows = demo.withstand(demo.experiment())
    assert [(row["accuracy"], row["diverged"]) for row in rows] == [(0.0, True)] * 3
    assert demo.moral(rows).count("0.0% (training diverged)") == 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_falls_and_balance_does_not(seed: int) -> None:
    before, broken, defended = (row["accuracy"] for row in demo.withstand(demo.experiment(seed)))
    assert before - broken > 0.2
    assert before - defended < 0.1


@pytest.mark.slow
def test_privacy_costs_more_the_smaller_epsilon(tmp_path: Path) -> None:
    plain, wide, narrow = (row["accuracy"] for row in demo.protect(demo.experiment(), tmp_path))
    assert plain > wide > narrow > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_small_offices_gain_and_the_large_do_not_lose(seed: int) -> None:
    found = compare(demo.experiment(seed))
    by_size = sorted(found.nodes(), key=lambda row: row["rows"])
    small, large = by_size[:4], by_size[4:]
    assert sum(row["gain"] for row in small) / 4 > 0.03
    assert all(abs(row["gain"]) < 0.02 for row in large)
    accuracy = {row["name"]: row["accuracy"] for row in found.table()}
    assert accuracy["alone"] + 0.03 < accuracy["federated"] <= accuracy["pooled"] + 0.01
