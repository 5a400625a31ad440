"""Payouts by hand, and that every unit of a pot is somebody's."""

from hypothesis import given
from hypothesis import strategies as st

from tacit.ledger.settlement import payouts


@given(
    st.dictionaries(st.text(max_size=3), st.integers(-(2**52), 2**52), max_size=8),
    st.integers(0, 10**24),
)
def test_payouts_are_whole_and_add_up(scores: dict[str, int], pot: int) -> None:
    paid = payouts(scores, pot)
    earned = {name: max(score, 0) for name, score in scores.items()}
    assert paid.keys() == scores.keys()
    assert sum(paid.values()) == (pot if any(earned.values()) else 0)
    for name, part in paid.items():  # within a unit of the exact part
        assert abs(part * sum(earned.values()) - pot * earned[name]) < max(1, sum(earned.values()))


def test_payouts_by_hand() -> None:
    # 10 by thirds: 3 each, and of equal remainders the first name takes the one left.
    assert payouts({"c": 1, "b": 1, "a": 1, "d": -5}, 10) == {"c": 3, "b": 3, "a": 4, "d": 0}
    # 100 by 5:3:1 of 9: 55.56, 33.33, 11.11; the one left goes to the largest remainder.
    assert payouts({"a": 5, "b": 3, "c": 1}, 100) == {"a": 56, "b": 33, "c": 11}
    # A pot in wei, which a double could not divide: 10**18 by 2:1.
    assert payouts({"a": 2, "b": 1}, 10**18) == {"a": 666666666666666667, "b": 333333333333333333}
    assert payouts({"a": 0, "b": -1}, 10) == {"a": 0, "b": 0}
