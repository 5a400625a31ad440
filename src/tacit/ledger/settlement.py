"""Who is paid what of a pot, by the scores of an epoch: in whole numbers, alike everywhere."""

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K", int, str)


def payouts(scores: Mapping[K, int], pot: int) -> dict[K, int]:
    """Each member's part of a pot, by max(score, 0): all of it, or nothing if none is above 0.

    Rounded down, and what is left over goes one unit each to the largest remainders (Hamilton's
    method), of equal ones to the member that sorts first. Nobody pays for a low score: that is no
    proof of a fault.

    Args:
        scores: by member's name, or number.
        pot: whole units, from 0.
    """
    earned = {name: max(score, 0) for name, score in scores.items()}
    total = sum(earned.values())
    if not total:
        return dict.fromkeys(scores, 0)
    paid = {name: pot * score // total for name, score in earned.items()}
    left = pot - sum(paid.values())
    for name in sorted(earned, key=lambda name: (-(pot * earned[name] % total), name))[:left]:
        paid[name] += 1
    return paid
