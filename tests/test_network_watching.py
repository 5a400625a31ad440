"""What the drivers of killed processes say of one that crashes, fails or hangs."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
from pathlib import Path

from network_watching import forked, watch

folder, how, bound = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])


def crashing():
    os.kill(os.getpid(), signal.SIGSEGV)

def failing():
    raise ValueError("no good")

def hanging():
    print("waits", flush=True)
    time.sleep(300)

def again():
    os.kill(os.getpid(), signal.SIGKILL)

def passing():
    pass

def foreseen(role, code):
    if code == -signal.SIGKILL:
        running[forked(passing, folder / "one.log", 60)] = role
    return code in (0, -signal.SIGKILL)

running = {forked(globals()[how], folder / "one.log", 60): "one"}
if how in ("crashing", "failing"):
    running[forked(hanging, folder / "other.log", 60)] = "other"
hangs = {"hanging": "one", "crashing": "other", "failing": "other"}.get(how)
while hangs and "waits" not in (folder / f"{hangs}.log").read_text():
    time.sleep(0.01)
print(watch(running, folder, bound, foreseen))
"""


def watched(folder: Path, how: str, bound: float = 60) -> str:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    words = [sys.executable, script, folder, how, str(bound)]
    run = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, timeout=120, env=environment
    )
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("how", "fault", "log"),
    [
        ("crashing", "one died of SIGSEGV", "Segmentation fault"),
        ("failing", "one ended with 1", "ValueError: no good"),
    ],
)
def test_who_ends_as_it_should_not_ends_the_case(
    how: str, fault: str, log: str, tmp_path: Path
) -> None:
    said = watched(tmp_path, how)
    assert said.startswith(f"{fault}\n--- one.log\n")
    assert f"in {how}" in said
    assert log in said
    assert "in hanging" in said.split("--- other.log\n")[1]


def test_who_hangs_says_where(tmp_path: Path) -> None:
    said = watched(tmp_path, "hanging", bound=0.5)
    assert said.startswith("not ended within 0.5 s: one\n--- one.log\n")
    assert "in hanging" in said


@pytest.mark.parametrize("how", ["passing", "again"])
def test_who_ends_as_it_should_is_no_fault(how: str, tmp_path: Path) -> None:
    assert watched(tmp_path, how) == ""
