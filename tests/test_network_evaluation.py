"""What a networked run's record tells of how good its models are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tacit.ledger.recorder import OPENINGS
from tacit.network.attendance import Attendance
from tacit.network.protocol import Measured
from tacit.network.scores import Scores
from test_network_records import statements
from test_network_release import NAMES, Hall, hall

__all__ = ["hall"]
DIGEST = "0" * 64


def scores(folder: Path) -> Scores:
    """Of a run whose first round is closed."""
    rows: list[dict[str, Any]] = [{"round": 1}]
    store: Any = SimpleNamespace(
        metrics=lambda: rows, describe=lambda at, row: rows.__setitem__(at, row)
    )
    plan: Any = SimpleNamespace(evaluate_every=1, rounds=2)
    made = Scores(plan, store, Attendance(NAMES, folder, 60, 0))
    made.open(1)
    return made


def take(made: Scores, site: str, rows: int, accuracy: float) -> None:
    with made.attendance.changed:
        made.take(site, Measured(DIGEST, 1, rows, {"accuracy": accuracy}))


def test_a_mean_is_told_of_three_sites_and_of_no_fewer(tmp_path: Path) -> None:
    made = scores(tmp_path)
    take(made, "0", 10, 0.5)
    take(made, "1", 10, 1.0)
    (row,) = made.report()
    assert row["accuracy"] == pytest.approx(0.75)  # the coordinator is told of each
    assert made.told(row) == {}
    take(made, "2", 20, 0.25)
    (row,) = made.report()
    assert made.told(row) == {"accuracy": pytest.approx((10 * 0.5 + 10 * 1.0 + 20 * 0.25) / 40)}
    assert made.report() == []


def test_a_model_is_evaluated_once_and_to_the_percent(hall: Hall) -> None:
    hall.recording.evaluated(1, {})  # too few have measured it
    hall.recording.evaluated(0, {"accuracy": 0.1})  # an older one
    hall.recording.evaluated(1, {"loss": 0.1})  # no share
    assert statements(hall.folder / "record")[-1].kind == "aggregate"
    hall.recording.evaluated(1, {"accuracy": 0.666, "loss": 0.25})
    hall.recording.close()
    hall.recording = hall.again()  # killed, and all have measured it again
    hall.recording.go_on(1, hall.model, {"left_out": []}, True)
    hall.recording.evaluated(1, {"accuracy": 0.5})
    assert hall.release() == ""
    hall.recording.end()
    hall.follow()
    said = [said for said in statements(hall.folder / "record") if said.kind == "evaluation"]
    assert [each.says for each in said] == [{"round": 0, "metric": "accuracy", "percent": 67}]
    assert hall.findings() == []
    assert (hall.folder / "record" / OPENINGS).stat().st_mode & 0o077 == 0
