"""What several test files need."""

from pathlib import Path

import pytest


@pytest.fixture
def data_folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the data sets that are not bundled, named by TACIT_DATA for this test."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    monkeypatch.setenv("TACIT_DATA", str(folder))
    return folder
