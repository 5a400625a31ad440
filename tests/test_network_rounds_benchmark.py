"""The benchmark of rounds runs, with real processes, and says what it should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "network_rounds.py"


@pytest.mark.slow
def test_the_script_prints_and_writes_what_it_found(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    words = ["--nodes", "3", "--rounds", "3", "--json", str(found)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "3 nodes, a model of 1024 bytes:" in done.stdout
    told = json.loads(found.read_text())
    assert 0 < told["round_ms"] <= told["longest_ms"]
    assert told["coordinator_MiB"] > 0
