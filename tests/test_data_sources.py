import hashlib
import re

import numpy as np
import pytest
import torch

from tacit.data import ByKey, Dirichlet, check, describe, fetch, files, load, node_table, sources
from tacit.data.sources import SOURCES, shakespeare
from tacit.errors import InputError, MissingDataError


@pytest.mark.parametrize(
    ("name", "rows", "columns", "task"),
    [
        # The counts of scikit-learn's own pages on its toy data sets.
        ("breast-cancer", 569, 30, "classification"),
        ("digits", 1797, 64, "classification"),
        ("wine", 178, 13, "classification"),
        ("diabetes", 442, 10, "regression"),
    ],
)
def test_bundled_sets(name, rows, columns, task):
    data = load(name, nodes=3)
    assert len(data.train.y) + len(data.test.y) == rows
    assert data.train.x.shape[1:] == (columns,)
    assert (data.task, data.nodes, data.name) == (task, 3, name)
    assert data.train.x.dtype == torch.float32
    check(data)


def test_label_codes_are_those_of_the_papers():
    # Breast cancer: 212 malignant (0), 357 benign (1). Wine: 59, 71, 48.
    def counts(name):
        data = load(name, test_fraction=0)
        return torch.bincount(data.train.y).tolist()

    assert counts("breast-cancer") == [212, 357]
    assert counts("wine") == [59, 71, 48]


def test_regression_targets_are_a_column_in_their_own_unit():
    data = load("diabetes", test_fraction=0)
    assert data.train.y.shape == (442, 1)
    # The range on scikit-learn's page and the mean that Efron et al. (2004) give.
    assert (data.train.y.min(), data.train.y.max()) == (25, 346)
    assert data.train.y.mean().item() == pytest.approx(152.13, abs=0.01)
    assert data.train.x.mean(0).abs().max() < 1e-5


def test_heart_disease_is_prepared_as_in_flamby(data_folder):
    data = load("heart-disease")
    assert data.names == ("cleveland", "hungarian", "switzerland", "va")
    # FLamby's page on Fed-Heart-Disease: 486 rows to train on, 254 to test on, 13 features.
    assert data.train.sizes.tolist() == [199, 172, 30, 85]
    assert data.test.sizes.tolist() == [104, 89, 16, 45]
    assert data.train.x.shape[1] == len(data.columns) == 13

    raw = load("heart-disease", scaling="none", test_fraction=0)
    assert raw.train.sizes.tolist() == [303, 261, 46, 130]
    # The first line of the file: 63, male, typical angina, 145, 233, fbs 1, restecg 2, 150, 0, 2.3.
    first = dict(zip(raw.columns, raw.train.x[0].tolist(), strict=True))
    assert first == pytest.approx(
        {
            "age": 63,
            "sex": 1,
            "trestbps": 145,
            "chol": 233,
            "fbs": 1,
            "cp=2": 0,
            "cp=3": 0,
            "cp=4": 0,
            "restecg=1": 0,
            "restecg=2": 1,
            "thalach": 150,
            "exang": 0,
            "oldpeak": 2.3,
        }
    )
    # 139 of Cleveland's 303 are ill: 45.9 %.
    assert raw.label_counts()[0].tolist() == [164, 139]


def test_heart_disease_test_rows_keep_the_share_of_the_ill(data_folder):
    data = load("heart-disease")
    for (_, train), (_, test) in zip(data.train.parts(), data.test.parts(), strict=True):
        share = train.float().mean().item()
        # One row more or less is all that rounding may cost.
        assert abs(test.float().mean().item() - share) < 1.5 / len(test)


def test_mnist_has_the_official_counts_and_test_set(data_folder):
    data = load("mnist", nodes=100)
    assert data.train.x.shape == (60_000, 1, 28, 28)
    assert (data.train.x.min(), data.train.x.max()) == (0, 1)
    assert set(data.train.sizes.tolist()) == {600}
    assert data.label_counts().sum(0).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert data.shared_test
    assert torch.bincount(data.test.y).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]


def test_mnist_nodes_have_own_test_rows_when_a_fraction_is_asked_for(data_folder):
    data = load("mnist", nodes=2, test_fraction=0.1)
    assert data.test.sizes.tolist() == [3000, 3000]
    assert data.train.sizes.tolist() == [27_000, 27_000]


def test_shakespeare_is_a_speaker_a_node(data_folder):
    text = (data_folder / "tiny_shakespeare" / "input.txt").read_text()
    assert "".join(sorted(set(text))) == shakespeare.VOCABULARY
    assert len(shakespeare.VOCABULARY) == 65
    data = load("shakespeare")
    source = SOURCES["shakespeare"]
    assert (data.task, data.classes, data.nodes) == ("sequence", 65, source.nodes)
    assert len(data.train.y) + len(data.test.y) == source.rows
    assert data.train.x.shape[1:] == data.train.y.shape[1:] == (80,)
    assert torch.equal(data.train.x[:, 1:], data.train.y[:, :-1])

    def spoken(ids):
        return "".join(shakespeare.VOCABULARY[i] for i in ids.tolist())

    node = data.names.index("MENENIUS")
    assert spoken(data.train.node(node)[0][0]).startswith("What work's, my countrymen, in hand?")
    # His test windows are the last ones, and none is shared with his training windows.
    mine = re.findall(r"(?:^|\n\n)MENENIUS:\n(.*?)(?=\n\n|$)", text, re.DOTALL)
    windows = torch.cat([data.train.node(node)[0], data.test.node(node)[0]])
    assert "\n".join(mine).strip().startswith("".join(map(spoken, windows))[:5000])


def test_shakespeare_keeps_the_largest_speakers(data_folder):
    data = load("shakespeare", nodes=3)
    assert data.names == ("DUKE VINCENTIO", "GLOUCESTER", "KING RICHARD II")
    few = load("shakespeare", partition=ByKey("speaker", min_rows=200))
    assert (few.train.sizes + few.test.sizes).min() >= 200


def test_credit_default(data_folder):
    data = load("credit-default", test_fraction=0, scaling="none")
    assert data.train.x.shape == (30_000, 23)
    assert torch.bincount(data.train.y).tolist() == [23_364, 6_636]
    by = load("credit-default", partition=ByKey("EDUCATION"), test_fraction=0, scaling="none")
    assert by.names == tuple(f"EDUCATION={code}" for code in range(7))
    education = by.columns.index("EDUCATION")
    assert all((x[:, education] == code).all() for code, (x, _) in enumerate(by.train.parts()))
    assert load("credit-default", partition=ByKey("AGE")).names[0] == "AGE=20"


def test_beijing_air_is_a_station_a_node_in_time_order(data_folder):
    import polars as pl

    raw = files.contents("beijing-air", SOURCES["beijing-air"].files)
    assert [data.count(b"\n") - 1 for data in raw] == [35_064] * 12
    station = data_folder / "beijing_air" / "PRSA_Data_Dingling_20130301-20170228.csv.gz"
    table = pl.read_csv(station, null_values="NA", infer_schema_length=None)
    complete = table.drop_nulls(pl.exclude("wd"))
    data = load("beijing-air", scaling="none")
    assert (data.nodes, data.task) == (12, "regression")
    assert len(data.train.y) + len(data.test.y) == SOURCES["beijing-air"].rows
    node = data.names.index("Dingling")
    x, y = data.train.node(node)
    tested = data.test.node(node)[1]
    # In micrograms per cubic metre, first hour first; the last quarter is for testing.
    pm = complete["PM2.5"].to_numpy().astype(np.float32)
    np.testing.assert_array_equal(torch.cat([y, tested]).squeeze(1), pm)
    assert len(tested) == -(-len(pm) // 4)
    # The first complete row is of 2 o'clock, 30 degrees of the day; month 3 is a quarter turn.
    assert complete["hour"][0] == 2
    first = dict(zip(data.columns, x[0].tolist(), strict=True))
    assert first["sin hour"] == pytest.approx(0.5)
    assert first["cos hour"] == pytest.approx(3**0.5 / 2)
    assert first["sin month"] == pytest.approx(1)
    assert first["TEMP"] == pytest.approx(complete["TEMP"][0])


def test_a_natural_set_can_be_dealt_out_otherwise(data_folder):
    data = load("heart-disease", partition=Dirichlet(1.0), seed=3)
    assert data.names == ("0", "1", "2", "3")
    assert load("heart-disease", nodes=2).names == ("cleveland", "hungarian")


def test_the_same_seed_gives_the_same_federation():
    first, again = load("wine", nodes=3, seed=5), load("wine", nodes=3, seed=5)
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.train.x, load("wine", nodes=3, seed=6).train.x)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        InputError, match="no data set 'hart-disease'; did you mean 'heart-disease'"
    ):
        load("hart-disease")
    with pytest.raises(InputError, match="there are breast-cancer, digits"):
        fetch("zzz")


def test_every_listed_file_is_the_one_in_the_folder(data_folder):
    for source in sources():
        listed = files.contents(source.name, source.files)
        for file, data in zip(source.files, listed, strict=True):
            assert len(data) == file.size
            notes = (data_folder / file.path).parent / "SOURCE.txt"
            assert hashlib.sha256(data).hexdigest() in notes.read_text()
            assert file.url.startswith("https://")


def test_offline_without_data_says_both_ways(tmp_path, monkeypatch):
    def unreachable(url, timeout):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.delenv("TACIT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"heart_disease/processed.va.data, or run `tacit"):
        load("heart-disease")
    assert fetch("wine") == []


def test_a_table_shows_sizes_and_label_counts():
    data = load("wine", nodes=3, partition=Dirichlet(0.3), seed=1)
    table = node_table(data)
    assert [row["node"] for row in table] == ["0", "1", "2"]
    for node, row in enumerate(table):
        labels = torch.bincount(data.train.node(node)[1], minlength=3).tolist()
        assert [row[f"label {label}"] for label in range(3)] == labels
        assert row["train"] == sum(labels)
    lines = describe(data).splitlines()
    assert lines[0].startswith("wine: classification, 3 nodes, ")
    assert lines[1].split() == [
        "node",
        "train",
        "test",
        *["label", "0", "label", "1", "label", "2"],
    ]
    assert [int(cell) for cell in lines[2].split()] == [int(v) for v in table[0].values()]
    assert len({len(line) for line in lines[1:]}) == 1


def test_the_table_of_a_regression_has_no_labels():
    assert list(node_table(load("diabetes"))[0]) == ["node", "train", "test"]
