from dataclasses import replace

import numpy as np
import pytest
import torch

from tacit.data import Contract, check, from_arrays
from tacit.errors import ContractError, InputError

COLUMNS = ("age", "chol")


def good(rows=4):
    return np.arange(2.0 * rows).reshape(rows, 2), np.arange(rows) % 2


def differences(second, **options) -> list[str]:
    """What is wrong with a second node, next to a good first one."""
    options = {"columns": COLUMNS, "names": ["a", "b"], **options}
    with pytest.raises(ContractError) as caught:
        from_arrays([good(), second], **options)
    return caught.value.differences


def with_value(value, row, column):
    x, y = good()
    x[row, column] = value
    return x, y


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_by_node_column_and_row(value):
    x, y = with_value(value, 2, 0)
    x[3, 0] = value
    found = f"(first {value:g} in row 2)"
    assert differences((x, y)) == [f"node 'b', column 'age': 2 values are not finite {found}"]
    # Without names, columns are numbered.
    assert differences((x, y), columns=()) == [
        f"node 'b', column 0: 2 values are not finite {found}"
    ]


def test_every_difference_is_told_at_once():
    x, y = good()
    x[1] = np.nan
    with pytest.raises(ContractError, match=r"break the contract \(3 differences\)") as caught:
        from_arrays([good(), (x, y), (x[:, :1], y)], columns=COLUMNS)
    assert caught.value.differences == [
        "node '1', column 'age': 1 value is not finite (first nan in row 1)",
        "node '1', column 'chol': 1 value is not finite (first nan in row 1)",
        "node '2', x: a row's shape is (1,), the contract has (2,)",
    ]


def test_a_number_beyond_float32_is_not_finite():
    assert "1 value is not finite" in differences(with_value(1e300, 0, 1))[0]


X, Y = good()


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        ([0, 1, -1, 0], "labels: 1 value is outside 0 to 1 (first -1 in row 2)"),
        ([0.0, 1.0, 0.5, 1.0], "labels: 1 value is not whole (first 0.5 in row 2)"),
        ([0.0, np.nan, 0.0, 1.0], "labels: 1 value is not finite (first nan in row 1)"),
        (["no", "yes", "no", "no"], "labels: y holds text, numbers are needed"),
        ([[0], [1], [0], [1]], "labels: a row's shape is (1,), the contract has ()"),
    ],
)
def test_label_codes(y, sentence):
    assert differences((X, np.array(y))) == [f"node 'b', {sentence}"]


def test_labels_above_the_number_of_classes():
    assert differences((X, Y + 2), classes=3) == [
        "node 'b', labels: 2 values are outside 0 to 2 (first 3 in row 1)"
    ]


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (X.astype(str), "x: it holds text, numbers are needed"),
        (X.astype(object), "x: it holds values of dtype object, numbers are needed"),
        (X[:, 0], "x: its shape is (4,), (rows, columns) is needed"),
        (np.zeros((4, 3)), "x: a row's shape is (3,), the contract has (2,)"),
        (
            X.astype(np.int64),
            "x: it holds whole numbers (tokens), the contract has decimal numbers",
        ),
        (X[:3], "x has 3 rows, y has 4"),
    ],
)
def test_inputs_of_another_kind(x, sentence):
    assert differences((x, Y)) == [f"node 'b', {sentence}"]


def test_regression_targets():
    nodes = [(X, Y / 2), (X, np.array([0.5, np.inf, 1.0, 2.0]))]
    with pytest.raises(ContractError) as caught:
        from_arrays(nodes)
    assert caught.value.differences == [
        "node '1', targets: 1 value is not finite (first inf in row 1)"
    ]


def test_tokens_out_of_the_vocabulary():
    tokens = np.array([[0, 1, 2], [2, 1, 0]])
    with pytest.raises(ContractError) as caught:
        from_arrays([(tokens, tokens), (tokens + 1, tokens - 1)], classes=3)
    assert caught.value.differences == [
        "node '1', x: 2 values are outside 0 to 2 (first 3 in row 0)",
        "node '1', target tokens: 2 values are outside 0 to 2 (first -1 in row 0)",
    ]


def test_test_rows_are_checked_too():
    with pytest.raises(ContractError, match="test set, labels: 1 value is outside 0 to 1"):
        from_arrays([good(), good()], test=(X[:1], np.array([7])))
    with pytest.raises(ContractError, match="test rows of node '1', column 1: 1 value"):
        from_arrays([good(), good()], test=[good(), with_value(np.nan, 0, 1)])


def test_minimum_rows_and_classes_present_are_asked_for_by_the_contract():
    contract = Contract("classification", 2, (2,), (), columns=COLUMNS, min_rows=3)
    assert differences((X[:2], Y[:2]), contract=contract) == [
        "node 'b': 2 rows, at least 3 are needed"
    ]
    contract = replace(contract, min_rows=0, all_classes=True)
    assert differences((X, Y * 0), contract=contract) == ["node 'b', labels: no row of 1"]


def test_nodes_with_one_class_one_row_or_none_keep_the_default_contract():
    federation = from_arrays([([], []), (X, Y * 0), (X[:1], Y[:1]), (X, Y)])
    check(federation)
    assert federation.train.sizes.tolist() == [0, 3, 1, 3]


def test_a_given_contract_names_missing_foreign_and_displaced_columns():
    contract = Contract("classification", 2, (2,), (), columns=COLUMNS)
    federation = from_arrays([good()], columns=("age", "salt"))
    with pytest.raises(ContractError) as caught:
        check(federation, contract)
    assert caught.value.differences[:2] == [
        "node '0', column 'chol': missing",
        "node '0', column 'salt': not in the contract",
    ]
    swapped = from_arrays([good()], columns=("chol", "age"))
    with pytest.raises(ContractError, match="column 'chol': the contract has 'age' at its place"):
        check(swapped, contract)


def test_check_finds_what_was_broken_after_loading():
    federation = from_arrays([good(), good()], names=["a", "b"])
    check(federation)
    federation.train.x[4, 1] = float("nan")  # of 3 + 3 training rows the second of node b
    federation.test.y[0] = 9
    with pytest.raises(ContractError) as caught:
        check(federation)
    assert caught.value.differences == [
        "node 'b', column 1: 1 value is not finite (first nan in row 1)",
        "test rows of node 'a', labels: 1 value is outside 0 to 1 (first 9 in row 0)",
    ]


def test_images_are_named_as_a_whole():
    x = torch.zeros(2, 1, 2, 2)
    x[1, 0, 0, 0] = torch.nan
    with pytest.raises(ContractError, match=r"node '0', x: 1 value is not finite \(first nan in"):
        from_arrays([(x, torch.tensor([0, 1]))])


@pytest.mark.parametrize("nodes", [[], [([], [])], [([], []), (np.zeros((0, 3)), np.zeros(0))]])
def test_an_empty_federation_is_refused(nodes):
    with pytest.raises(InputError, match="the federation is empty; give at least one node"):
        from_arrays(nodes)
