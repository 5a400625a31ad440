"""The page "from zero to three hospitals", run as it stands: real processes over real sockets."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from network_parties import free_port

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/three-hospitals.md").read_text()


@pytest.mark.slow
def test_the_page_runs_and_gives_the_model_of_one_process(tmp_path: Path) -> None:
    for file in (ROOT / "examples/hospitals").glob("*.py"):
        shutil.copy(file, tmp_path)
    subprocess.run([sys.executable, "make_tables.py"], cwd=tmp_path, check=True)
    script = "set -e\n" + "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S))
    ports = {page: free_port() for page in ("7447", "7448", "7449", "7450")}
    # Nobody joins faster than a coordinator starts, however slow this machine is.
    listens = "until (exec 3<> /dev/tcp/127.0.0.1/7447) 2> /dev/null; do sleep 0.1; done\n"
    script = script.replace("tacit node join", f"{listens}tacit node join", 1)
    script = re.sub("74(47|48|49|50)", lambda found: str(ports[found[0]]), script)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # A group of its own, so that nothing is left running whatever goes wrong.
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path, env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = shell.communicate(timeout=900)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, said
    assert said.count("finished: all 10 rounds are done") == 4 + 3, said
    alone = load_file(tmp_path / "one/model.safetensors")
    for site in ("north", "south", "west"):
        found = load_file(tmp_path / f"runs/hospitals-{site}/model.safetensors")
        assert found.keys() == alone.keys()
        for name, tensor in alone.items():
            assert torch.allclose(found[name], tensor, atol=1e-5)
        own = load_file(tmp_path / f"peers/{site}/model.safetensors")
        assert own.keys() == alone.keys()
