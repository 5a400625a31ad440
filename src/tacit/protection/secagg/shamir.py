"""Shamir's secret sharing (CACM 1979) over the prime field of 2^255 - 19.

Python integers cannot be wiped: shares and coefficients live until they are collected.
"""

import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from math import prod
from operator import mul

PRIME = 2**255 - 19


def draw() -> int:
    """A secret, uniform over the field, from the operating system."""
    return secrets.randbelow(PRIME)


def split(secret: int, threshold: int, points: Iterable[int]) -> dict[int, int]:
    """The value at each point (at least 1) of a random polynomial of degree threshold - 1.

    Its value at 0 is the secret; any ``threshold`` of the values determine it, fewer say nothing.
    """
    coefficients = [secret, *(draw() for _ in range(threshold - 1))]
    return {x: sum(map(mul, coefficients, _powers(x, threshold))) % PRIME for x in points}


def combine(shares: Mapping[int, int]) -> int:
    """The polynomial's value at 0, given its values at exactly ``threshold`` points."""
    return sum(map(mul, shares.values(), _lagrange(tuple(shares)))) % PRIME


@lru_cache(4096)
def _powers(x: int, count: int) -> tuple[int, ...]:
    return tuple(pow(x, power, PRIME) for power in range(count))


@lru_cache(4096)
def _lagrange(points: tuple[int, ...]) -> tuple[int, ...]:
    """The weights of the values in the value at 0: prod of x_m / (x_m - x_i) over m != i."""
    above = prod(points)
    below = [x * prod([other - x for other in points if other != x]) % PRIME for x in points]
    return tuple(above * inverse % PRIME for inverse in _inverses(below))


def _inverses(values: list[int]) -> list[int]:
    """All modular inverses for the price of one (Montgomery, Math. Comp. 48, 1987)."""
    before = list(accumulate(values, lambda a, b: a * b % PRIME, initial=1))
    rest = pow(before.pop(), -1, PRIME)  # of the product of all values up to the current one
    inverses = []
    for value, product in zip(reversed(values), reversed(before), strict=True):
        inverses.append(rest * product % PRIME)
        rest = rest * value % PRIME
    return inverses[::-1]
