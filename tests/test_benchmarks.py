"""The benchmark script runs, compares like with like, and notices when it does not."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import simulation

    threads = torch.get_num_threads()
    yield simulation
    torch.set_num_threads(threads)


def small_works(simulation: ModuleType) -> tuple:
    from tacit import Gossip, Ring

    gossip = simulation.small().replace(algorithm=Gossip(), topology=Ring())
    return tuple(
        simulation.Work(name, name, 0.0, 0.0, lambda made=made: made)
        for name, made in (("server", simulation.small()), ("peers", gossip))
    )


def test_the_script_prints_and_writes_every_row(
    simulation: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(simulation, "WORKS", small_works(simulation))
    simulation.main(["--repeats", "1", "--json", str(tmp_path / "found.json")])
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["server", "peers"]
    for row in rows:
        assert row["difference"] < 1e-6
        assert row["least"] <= row["ratio"] <= row["most"]
        assert row["ratio"] == pytest.approx(row["floor"] / row["ours"])
        assert 0 < row["overhead"] < 1
    printed = capsys.readouterr().out
    assert "server" in printed
    assert "peers" in printed


@pytest.mark.parametrize("index", [0, 1])
def test_a_different_result_is_noticed(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    train = simulation.Floor._train
    # The floor leaves out each node's last step.
    monkeypatch.setattr(
        simulation.Floor, "_train", lambda self, start, batches: train(self, start, batches[:-1])
    )
    with pytest.raises(AssertionError, match="parameters differ"):
        simulation.measure(small_works(simulation)[index], 1)


def test_every_row_of_the_table_is_a_valid_experiment_of_its_own_name(
    simulation: ModuleType,
) -> None:
    names = [work.name for work in simulation.WORKS]
    assert len(set(names)) == len(names)
    for work in simulation.WORKS:
        assert work.required < work.aim


@pytest.mark.slow
def test_memory_does_not_grow_from_round_to_round(simulation: ModuleType) -> None:
    sizes = dict(simulation.memory(500, 100))
    assert list(sizes) == [100, 200, 300, 400, 500]
    assert sizes[500] - sizes[100] < 2  # MiB; a model kept each round would be 3.2, its rows 46
