"""The benchmark of encrypted sums runs, and says what it leaves out."""

from pathlib import Path
from types import ModuleType

import pytest

from tacit.errors import InputError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def encryption(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import encryption

    return encryption


def test_ckks_has_a_row(encryption: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """A ciphertext of 2,048 numbers is 2 x 4,096 x 8 bytes: 8 times float32, and what is around."""
    pytest.importorskip("tenseal")
    encryption.main(["--only", "ckks", "--length", "4095"])
    row = capsys.readouterr().out.splitlines()[2].split(" | ")
    assert row[0] == "| ckks"
    assert 8 <= float(row[6].rstrip("x")) < 8.2
    assert float(row[8].rstrip(" |")) < 1e-9


def test_what_does_not_load_is_left_out(
    encryption: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise InputError("there is no such library")

    monkeypatch.setattr(encryption, "ROWS", {"bfv": (missing, None)})
    encryption.main([])
    assert capsys.readouterr().out.endswith("bfv is left out: there is no such library\n")
