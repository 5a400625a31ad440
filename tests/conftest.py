"""What several test files need."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples everywhere, and none that fails because a machine is busy.
settings.register_profile(
    "tacit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tacit")

# Tests run side by side: one thread each, for torch here (not imported yet) and in subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def data_folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the data sets that are not bundled, named by TACIT_DATA for this test."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    monkeypatch.setenv("TACIT_DATA", str(folder))
    return folder
