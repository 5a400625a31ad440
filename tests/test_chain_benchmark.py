"""The figures that docs/chain.md gives are the contracts' own."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_table_of_gas_is_what_the_benchmark_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import chain

    gas = chain.measured()
    assert chain.table(gas) in (ROOT / "docs/chain.md").read_text()
    assert max(gas["anchor"]) <= 61_000  # a round's
    assert sum(sum(gas[step]) for step in chain.STEPS) <= 3_000_000  # of twenty sites
