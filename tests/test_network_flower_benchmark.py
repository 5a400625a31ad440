"""The benchmark beside Flower, with real processes; runs where Flower is on the PATH."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "network_flower.py"


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=900
    )


def test_the_script_says_what_to_install(tmp_path: Path) -> None:
    done = run("--flower", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        "Flower's commands are missing: run `pip install flwr==1.41.0` in an environment of its"
        " own, and give its bin folder to --flower.\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("flower-superlink") is None, reason="needs flwr")
def test_the_script_prints_both_rows() -> None:
    done = run("--nodes", "2", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    found = re.search(r"\| Tacit.* \| (\d+) \| 1 \|\n\| Flower.* \| (\d+) \| (\d+) \|", done.stdout)
    assert found, done.stdout
    assert all(int(value) > 0 for value in found.groups())
