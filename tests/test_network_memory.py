"""What a run takes of memory beside its model: real processes, a model of 64 MiB and a tiny one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import network_memory


def most(folder: Path, width: int) -> dict[str, float]:
    folder.mkdir()
    words = [sys.executable, network_memory.__file__, str(folder), str(width)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_memory_grows_with_the_model_and_not_with_what_travels(tmp_path: Path) -> None:
    tiny, large = most(tmp_path / "tiny", 64), most(tmp_path / "large", 4096)
    assert large["model"] > 64
    # A round's model, as mapped pages of its file, and the next one; and what allocators leave.
    assert large["coordinator"] - tiny["coordinator"] < 3 * large["model"]
    # The vector that is trained, its gradients, what it becomes and where it came from; at the end
    # the initial module and its copy; and what refers to itself, until the collector comes by.
    assert large[network_memory.SITE] - tiny[network_memory.SITE] < 8 * large["model"]
