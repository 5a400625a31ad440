"""The benchmark of aggregation rules runs, and notices when the two sides do not agree."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def aggregation(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import aggregation

    threads = torch.get_num_threads()
    yield aggregation
    torch.set_num_threads(threads)


def small(aggregation: ModuleType) -> object:
    return aggregation.Size(k=9, d=300, f=2, n=10, degree=4)


@pytest.mark.slow
def test_the_script_prints_and_writes_every_row(
    aggregation: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    aggregation.main(["--repeats", "1", "--json", str(path)], small(aggregation))
    found = json.loads(path.read_text())
    assert [row["name"] for row in found["rows"]] == [
        "krum", "nnm", "geometric-median", "centered-clipping",
        "median", "trimmed-mean", "sort", "balance",
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["difference"] < 1e-5
        assert row["least"] <= row["ratio"] <= row["most"]
        assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
    assert 0.05 < found["nnm_peak_gib"] < 1
    assert "BALANCE, a round of a network" in capsys.readouterr().out


def test_a_different_result_is_noticed(
    aggregation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregation.aggregators, "Median", lambda: lambda x: x.median(0).values + 1)
    with pytest.raises(AssertionError, match="median: the results differ by"):
        aggregation.main(["--only", "median", "--repeats", "1"], small(aggregation))


def test_the_loop_over_edges_accepts_within_the_radius(aggregation: ModuleType) -> None:
    from tacit.aggregation.balance import Balance
    from tacit.aggregation.rule import Round
    from tacit.topology import Ring

    # In a ring of four, 0 hears 1 and 3. Within 0.3 |x|: 10 hears 12 (2 <= 3) and not 20; 12 hears
    # 10 (2 <= 3.6) and 13; 13 hears 12 and not 20; 20 hears 13 (7 > 6) and 10 not.
    models = torch.tensor([[10.0], [12.0], [13.0], [20.0]])
    graph = Ring().graph(4, 0, 0)
    result = aggregation.edge_by_edge(graph, Balance(), Round(), models, torch.empty_like(models))
    assert result.squeeze(1).tolist() == pytest.approx([11.0, 11.75, 12.5, 20.0])


@pytest.mark.slow
def test_mixing_a_million_numbers_of_fifty_takes_less_than_a_gigabyte(
    aggregation: ModuleType,
) -> None:
    assert aggregation.peak(aggregation.Size()) < 1
