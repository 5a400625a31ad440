"""The benchmark of secure aggregation runs, and notices a wrong sum."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def secagg(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import secagg

    small = tuple(
        secagg.Work(name, 12, 2, sparse, length=1_000)
        for name, sparse in (("sparse", True), ("complete", False))
    )
    monkeypatch.setattr(secagg, "WORKS", small)
    return secagg


def test_the_script_prints_and_writes_every_row(
    secagg: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secagg.main(["--json", str(tmp_path / "found.json")])
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [(row["name"], row["degree"]) for row in rows] == [("sparse", 4), ("complete", None)]
    for row in rows:
        assert row["node"] > 0
        assert row["receiver"] > 0
        # By the layout: five headers of 40, keys of 64, 2 sets of 2 and signatures of 64, rows of
        # 52 to each of h holders twice and 4 for each of 4 tables; 36 for each of up to 11 shares
        # of others (12 with its own in the complete graph) that it reveals.
        h, others = (4, 11) if row["degree"] else (12, 12)
        fixed = 5 * 40 + 64 + 2 * (2 + 64) + 2 * 52 * h + 4 * 4
        assert 1 + fixed / 4_000 < row["upload"] <= 1 + (fixed + 36 * others) / 4_000
    assert "| complete, 2 lost | complete | 9 |" in capsys.readouterr().out


def test_without_flower_its_row_is_left_out_and_says_why(
    secagg: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    monkeypatch.delitem(sys.modules, "flower", raising=False)
    secagg.main(["--only", "sparse", "--peer"])
    sparse = [row for row in secagg.WORKS if row.sparse]
    assert capsys.readouterr().out.count("Flower's SecAgg+ is left out: ") == len(sparse)


def test_flower_finds_the_mean_of_the_survivors(secagg: ModuleType) -> None:
    pytest.importorskip("flwr")
    import flower

    row = flower.measure(secagg.WORKS[0], degree=8, threshold=4)
    assert row.node > 0
    assert row.receiver > 0
    assert row.upload > 2  # int64 for float32


def test_a_wrong_sum_is_noticed(secagg: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    add = secagg.Receiver.add

    def wrong(receiver, node: int, message: bytes) -> None:
        add(receiver, node, message)
        receiver._total += np.uint32(1)

    monkeypatch.setattr(secagg.Receiver, "add", wrong)
    with pytest.raises(AssertionError, match="the sums differ"):
        secagg.measure(secagg.WORKS[0])
