"""Rows that are read at their sites, under a table agreed on before."""

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.data import at_sites, fill, from_csv
from tacit.data.sites import told
from tacit.errors import ContractError, InputError

SITES = ("north", "south", "west")
AGREED = {
    "target": "out", "columns": ["age", "kind"], "categories": {"kind": ["u", "v"]},
    "labels": ["no", "yes"],
}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    for at, site in enumerate(SITES):
        rows = [
            f"{random.normal():.6f},{random.choice(['u', 'v'])},{random.choice(['no', 'yes'])}"
            for _ in range(20 + 10 * at)
        ]
        (tmp_path / f"{site}.csv").write_text("\n".join(["age,kind,out", *rows]))
    return {site: tmp_path / f"{site}.csv" for site in SITES}


def experiment(data):
    return tacit.Experiment(
        data=data, model=lambda: nn.Linear(3, 2), loss=nn.functional.cross_entropy,
        training=tacit.SGD(lr=0.1, batch_size=8, epochs=1), rounds=2,
    )  # fmt: skip


def test_sites_that_are_all_filled_are_the_tables_read_together(files):
    filled = fill(at_sites(SITES, **AGREED), files)
    together = from_csv(files, scaling="node", **AGREED)
    assert filled.columns == together.columns == ("age", "kind=u", "kind=v")
    for part in ("train", "test"):
        for mine, theirs in zip(
            getattr(filled, part).parts(), getattr(together, part).parts(), strict=True
        ):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])


def test_a_site_alone_has_the_rows_that_it_has_among_all(files):
    empty = at_sites(SITES, **AGREED)
    alone, everybody = fill(empty, {"south": files["south"]}), fill(empty, files)
    assert alone.train.sizes.tolist() == [0, 22, 0]  # ceil(.25 x 30) = 8 are held out
    for mine, theirs in zip(alone.train.node(1), everybody.train.node(1), strict=True):
        assert torch.equal(mine, theirs)


def test_an_experiment_without_rows_is_checked_hashed_and_not_run(files):
    empty = experiment(at_sites(SITES, **AGREED))
    empty.check()
    assert empty.digest() == experiment(at_sites(SITES, **AGREED)).digest()
    assert empty.digest() != experiment(at_sites(SITES, **AGREED, seed=1)).digest()
    with pytest.raises(InputError, match="no site's rows are here"):
        tacit.run(empty)
    assert len(tacit.run(empty.replace(data=fill(empty.data, files))).metrics) == 2


def test_told_sizes_count_without_rows(files):
    known = told(at_sites(SITES, **AGREED), [15, 22, 30])
    assert known.train.sizes.tolist() == [15, 22, 30]
    experiment(known).check()


def test_what_does_not_fit_is_named(files, tmp_path):
    empty = at_sites(SITES, **AGREED)
    with pytest.raises(InputError, match=r"site.*'east'"):
        fill(empty, {"east": files["west"]})
    with pytest.raises(InputError, match="all here"):
        fill(from_csv(files, **AGREED), files)
    (tmp_path / "odd.csv").write_text("age,kind,out\n1.0,w,no\n")
    with pytest.raises(ContractError, match=r"node 'south', column 'kind': 'w' is not one of"):
        fill(empty, {"south": tmp_path / "odd.csv"})
    (tmp_path / "less.csv").write_text("age,out\n1.0,no\n")
    with pytest.raises(ContractError, match="kind"):
        fill(empty, {"south": tmp_path / "less.csv"})
    for field, wrong in (
        ("names", ()), ("names", ("a", "a")), ("scaling", "federated"), ("labels", ["one"]),
        ("columns", []), ("test_fraction", 1.0), ("categories", {"sex": ["f"]}),
    ):  # fmt: skip
        changed = {"names": SITES} | AGREED | {field: wrong}
        with pytest.raises(InputError):
            at_sites(changed.pop("names"), **changed)
