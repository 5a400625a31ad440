import gzip

import polars as pl
import pytest

from tacit.data import from_csv
from tacit.errors import ContractError, InputError

A = "age,sex,ill\n50,0,1\n60,1,0\n"
B = "age,sex,ill\n40,1,1\n"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def read(files, **options):
    return from_csv(files, **{"target": "ill", "scaling": "none", "test_fraction": 0, **options})


def test_one_file_a_node_by_list_dict_and_folder(write, tmp_path):
    a, b = write("a.csv", A), write("b.csv", B)
    for files in ([a, str(b)], tmp_path):
        federation = read(files)
        assert federation.names == ("a", "b")
        assert federation.columns == ("age", "sex")
        assert federation.train.x.tolist() == [[50, 0], [60, 1], [40, 1]]
        assert federation.train.y.tolist() == [1, 0, 1]
        assert federation.train.sizes.tolist() == [2, 1]
    assert read({"north": b, "south": a}).names == ("north", "south")


def test_one_file_with_a_node_column(write):
    path = write("all.csv", "age,site,ill\n1,10,0\n2,9,1\n3,10,1\n")
    federation = read(path, node_column="site")
    assert federation.names == ("9", "10")
    assert federation.train.x.tolist() == [[2], [1], [3]]


def test_parquet_and_gzip_are_read_like_csv(write, tmp_path):
    pl.read_csv(write("a.csv", A)).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(B.encode()))
    federation = read([tmp_path / "a.parquet", tmp_path / "b.csv.gz"])
    assert federation.names == ("a", "b")
    assert federation.train.x.tolist() == [[50, 0], [60, 1], [40, 1]]


def test_columns_are_found_by_name_and_others_left_aside(write):
    files = [write("a.csv", A), write("b.csv", "ill,note,sex,age\n1,well,0,33\n")]
    assert read(files, columns=["sex", "age"]).train.x.tolist() == [[0, 50], [1, 60], [0, 33]]


def test_inputs_are_scaled_the_federated_way_by_default(write):
    # Ages 50, 60, 40: mean 50.
    federation = from_csv(
        [write("a.csv", A), write("b.csv", B)], target="ill", columns=["age"], test_fraction=0
    )
    assert federation.train.x[0].item() == 0


def test_words_become_labels_in_sorted_order_or_in_the_one_given(write):
    files = [write("a.csv", "x,ill\n1,no\n2,yes\n"), write("b.csv", "x,ill\n3,maybe\n")]
    assert read(files).train.y.tolist() == [1, 2, 0]  # maybe, no, yes
    given = read(files, labels=["no", "maybe", "yes", "never"])
    assert given.train.y.tolist() == [0, 2, 1]
    assert given.classes == 4
    with pytest.raises(ContractError) as caught:
        read(files, labels=["no", "yes"])
    assert caught.value.differences == ["node 'b', column 'ill': 'maybe' is not one of 'no', 'yes'"]


def test_numbers_can_be_relabelled_and_decimals_are_a_regression(write):
    path = write("a.csv", "x,ill\n1,-1\n2,1\n")
    assert read([path], labels=[-1, 1]).train.y.tolist() == [0, 1]
    decimal = read([write("b.csv", "x,ill\n1,0.5\n2,1.5\n")])
    assert (decimal.task, decimal.train.y.tolist()) == ("regression", [[0.5], [1.5]])


def test_categories_become_a_column_each(write):
    path = write("a.csv", "pain,x,ill\nmild,7,0\nnone,8,1\n")
    federation = read([path], categories={"pain": ["none", "mild", "strong"]})
    assert federation.columns == ("pain=none", "pain=mild", "pain=strong", "x")
    assert federation.train.x.tolist() == [[0, 1, 0, 7], [1, 0, 0, 8]]
    with pytest.raises(ContractError, match="column 'pain': 'mild' is not one of 'none'"):
        read([path], categories={"pain": ["none"]})


def test_a_node_with_a_header_only_has_no_rows(write):
    federation = read([write("a.csv", A), write("b.csv", "age,sex,ill\n")])
    assert federation.train.sizes.tolist() == [2, 0]


def test_differences_are_told_for_every_node_and_column(write):
    files = {
        "good": write("a.csv", A),
        "short": write("b.csv", "age,ill\n1,1\n"),
        "wide": write("c.csv", "age,sex,salt,ill\n1,0,2,1\n"),
        "words": write("d.csv", "age,sex,ill\n1,m,1\n2,0,1\n"),
        "gaps": write("e.csv", "age,sex,ill\n1,0,\n2,0,1\n"),
    }
    with pytest.raises(ContractError) as caught:
        read(files)
    assert caught.value.differences == [
        "node 'short', column 'sex': missing",
        "node 'wide', column 'salt': not in the contract",
        "node 'words', column 'sex': it holds words (first 'm' in row 0); numbers are needed,"
        " or its values in categories",
        "node 'gaps', target 'ill': 1 rows are empty",
    ]


def test_empty_cells_are_not_finite(write):
    for name, text in (("a.csv", "age,ill\n1,1\n,0\n"), ("b.csv", "age,ill\n,1\n,0\n")):
        with pytest.raises(ContractError, match=r"column 'age': .* not finite"):
            read([write(name, text)])


def test_dates_are_no_numbers(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"day": [1], "ill": [0]}).with_columns(pl.col("day").cast(pl.Date)).write_parquet(
        path
    )
    with pytest.raises(ContractError, match="column 'day': it holds Date, numbers are needed"):
        read([path])


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["missing.csv"], {}, "there is no file .*missing.csv"),
        (["a.csv"], {"target": "il"}, "there is no column 'il'; did you mean 'ill'"),
        (["a.csv"], {"columns": ["agee"]}, "there is no column 'agee'; did you mean 'age'"),
        (["a.csv"], {"categories": {"sexx": [0]}}, "'sexx'; did you mean 'sex'"),
        (["empty.csv"], {}, "empty.csv is empty; a header is needed"),
        (["a.txt"], {}, "a name in .csv, .csv.gz, .parquet is allowed"),
        (["broken.parquet"], {}, "broken.parquet cannot be read as a table"),
        (["a.csv", "other/a.csv"], {}, "would both be node 'a'"),
        ([], {}, "files: none was given"),
        ("a.csv", {}, "is one file; say node_column"),
        ("other", {"target": "x"}, "the folder .* has no .csv, .csv.gz, .parquet file"),
        ("a.csv", {"node_column": "sax"}, "there is no column 'sax'; did you mean 'sex'"),
        ("holes.csv", {"node_column": "site"}, "'site' is empty in 1 rows"),
        (["a.csv"], {"node_column": "sex"}, "node_column needs a single one"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(write, tmp_path, files, options, message):
    write("a.csv", A)
    write("a.txt", A)
    write("empty.csv", "")
    write("broken.parquet", "not parquet")
    write("holes.csv", "site,x,ill\n1,2,0\n,3,1\n")
    (tmp_path / "other").mkdir()
    where = tmp_path / files if isinstance(files, str) else [tmp_path / file for file in files]
    with pytest.raises(InputError, match=message):
        read(where, **options)
