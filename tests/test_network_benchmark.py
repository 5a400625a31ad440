"""The benchmark of the network runs, with real processes, and says what it should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "network.py"


@pytest.mark.slow
def test_the_script_prints_and_writes_every_row(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    words = ["--nodes", "2", "--megabytes", "1.3", "--repeats", "1", "--json", str(found)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "| out |" in done.stdout
    assert "memory: coordinator" in done.stdout
    rows = json.loads(found.read_text())["rows"]
    assert [row["what"] for row in rows] == ["out", "in"]
    assert all(value > 0 for row in rows for value in list(row.values())[1:])
