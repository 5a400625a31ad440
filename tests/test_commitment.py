"""Commitments, the check of a published sum, and the norm proof to a single server."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("coincurve")

from tacit.errors import InputError, MessageError
from tacit.protection.proof import field, group
from tacit.protection.proof.commitment import (
    blinding,
    commit,
    coordinates,
    sum_holds,
    summed_blinding,
)
from tacit.protection.proof.committed import holds, prove, seal
from tacit.protection.proof.group import ORDER
from tacit.protection.proof.message import Parts, proof_size
from tacit.protection.proof.projection import NormClaim, combine, project
from tacit.randomness import generator

# A small norm has few bits and a fast proof. The honest fail with 2^-40.
CLAIM = NormClaim(norm=64, error=2**-40)
CONTEXT, SEED, BLINDING = b"c" * 32, b"s" * 32, 987654321


def vector(norm: float, dimension: int = 60) -> NDArray[np.int64]:
    drawn = generator(0, "commitment test").standard_normal(dimension)
    return np.trunc(drawn * (norm / np.linalg.norm(drawn))).astype(np.int64)


def projected(values: NDArray[np.int64], seed: bytes = SEED) -> list[int]:
    return field.decode(project(seed, CLAIM.projections, [field.encode(values)])[0]).tolist()


def accepts(values: NDArray[np.int64], proof: bytes, **other: bytes) -> bool:
    said = {"commitment": commit(values, BLINDING), "context": CONTEXT, "seed": SEED} | other
    return holds(CLAIM, len(values), proof=proof, **said)


# The group


def test_a_product_is_the_sum_of_multiples() -> None:
    stream = generator(0, "product test")
    bases = group.generators(7)
    scalars = [int.from_bytes(stream.bytes(32), "little") % ORDER for _ in bases]
    scalars[2:4] = [0, ORDER - 1]
    expected = group.add(*(group.multiply(b, s) for b, s in zip(bases, scalars, strict=True)))
    assert group.product(bases, scalars) == expected
    assert group.product([], []) is None
    assert group.product(bases[:2], [0, 0]) is None


def test_the_neutral_element() -> None:
    point = group.VALUE
    assert group.add(point, group.negate(point)) is None
    assert group.multiply(point, ORDER) is None
    assert group.multiply(point, ORDER + 2) == group.add(point, point)
    assert group.add(None, point) == point


def test_generators_differ_from_each_other() -> None:
    points = [group.VALUE, group.BLINDING, *group.generators(100)]
    assert len({group.encode(point) for point in points}) == 102


@pytest.mark.parametrize("data", [b"", bytes(33), b"\x02" + b"\xff" * 32, b"\x02" * 32])
def test_bytes_that_are_no_point_are_refused(data: bytes) -> None:
    with pytest.raises(MessageError, match="point"):
        group.parse(data)


def test_without_coincurve_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['coincurve'] = None; import tacit.protection.proof.commitment"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "protection: commitments need coincurve: pip install 'tacit[commitments]'"
    )


# The published sum


def test_the_published_sum_is_checked() -> None:
    vectors = [np.array(v) for v in ([1, -5, 0], [2**40, 7, -1], [-(2**40), -7, 3])]
    blindings = [blinding() for _ in vectors]
    commitments = [commit(v, r) for v, r in zip(vectors, blindings, strict=True)]
    total = np.array([1, -5, 2])
    assert sum_holds(commitments, total, sum(blindings))
    assert not sum_holds(commitments, total + np.array([0, 0, 1]), sum(blindings))
    assert not sum_holds(commitments, total, sum(blindings) + 1)
    assert not sum_holds(commitments[:2], total, sum(blindings))
    with pytest.raises(MessageError):
        sum_holds([*commitments, bytes(33)], total, sum(blindings))


def test_blindings_are_summed_as_masked_integers() -> None:
    blindings = [ORDER - 1, ORDER - 2, 12345, 2**200]
    summed = np.zeros(16, np.uint32)
    for value in blindings:
        summed += coordinates(value)
    assert summed_blinding(summed) == sum(blindings) % ORDER
    # 65,536 nodes with limbs of at most 2^16 - 1 stay below 2^32.
    assert 65536 * int(coordinates(ORDER - 1).max()) < 2**32


def test_a_commitment_hides_and_binds() -> None:
    values = np.array([3, -4, 0])
    assert commit(values, 1) != commit(values, 2)
    assert commit(values, 1) != commit(-values, 1)
    assert commit(np.zeros(3, np.int64), 5) == group.multiply(group.BLINDING, 5).format()
    with pytest.raises(InputError, match=r"^values: "):
        commit(np.zeros((2, 2), np.int64), 1)


# The proof


def test_weights_times_the_matrix() -> None:
    # w R x = w (R x), with R x from the other function.
    values, weights = vector(1000.0), [(1 << 127) + j**9 for j in range(128)]
    row = combine(SEED, weights, len(values))
    left = sum(a * int(v) for a, v in zip(row, values, strict=True))
    assert left == sum(w * y for w, y in zip(weights, projected(values), strict=True))


def test_the_honest_are_accepted_for_this_statement_alone() -> None:
    values = vector(CLAIM.norm)
    proof = prove(CLAIM, values, BLINDING, commit(values, BLINDING), CONTEXT, SEED)
    assert len(proof) == proof_size(CLAIM, len(values))
    assert accepts(values, proof)
    # Replayed in another round, for another seed, or about another commitment.
    assert not accepts(values, proof, context=b"d" * 32)
    assert not accepts(values, proof, seed=b"t" * 32)
    assert not accepts(values, proof, commitment=commit(values, BLINDING + 1))
    for wrong in (b"", proof[:-1], proof + b"0", bytes(len(proof))):
        with pytest.raises(MessageError):
            accepts(values, wrong)


class Digits:
    """Stands for the gap: its "bits" are whatever was given."""

    def __init__(self, digits: dict[int, int]) -> None:
        self.digits = digits

    def __rshift__(self, i: int) -> "Digits":
        return Digits({0: self.digits.get(i, 0)})

    def __and__(self, one: int) -> int:
        return self.digits[0]


def no_gap(values: NDArray[np.int64]) -> tuple[list[int], object]:
    return projected(values), 0


def one_big_bit(values: NDArray[np.int64]) -> tuple[list[int], object]:
    y = projected(values)
    return y, Digits({0: (CLAIM.threshold - sum(v * v for v in y)) % ORDER})


def another_vector(values: NDArray[np.int64]) -> tuple[list[int], object]:
    y = projected(vector(CLAIM.norm))
    return y, CLAIM.threshold - sum(v * v for v in y)


@pytest.mark.parametrize("forge", [no_gap, one_big_bit, another_vector])
def test_a_vector_longer_by_the_slack_is_refused(forge: Callable) -> None:
    # Rounding towards 0 takes up to sqrt(60) < 8 from the norm. Accepted with 2^-40.
    values = vector(CLAIM.slack(2**-40) * CLAIM.norm + 8)
    y, gap = forge(values)
    proof = seal(CLAIM, values, BLINDING, commit(values, BLINDING), CONTEXT, SEED, y, gap)
    assert not accepts(values, proof)


def test_smaller_squares_are_refused() -> None:
    # The excess is taken out of the first square's commitment, so that the sum opens.
    values = vector(CLAIM.slack(2**-40) * CLAIM.norm + 8)
    y = projected(values)
    excess = sum(v * v for v in y) - CLAIM.threshold
    proof = seal(CLAIM, values, BLINDING, commit(values, BLINDING), CONTEXT, SEED, y, 0)
    parts = Parts.parse(CLAIM, len(values), proof)
    parts.squares[0] = group.add(parts.squares[0], group.multiply(group.VALUE, -excess))
    assert not accepts(values, parts.encode())


def test_a_longer_vector_is_not_proved() -> None:
    values = vector(2 * CLAIM.norm)
    with pytest.raises(InputError, match=r"^values: "):
        prove(CLAIM, values, BLINDING, commit(values, BLINDING), CONTEXT, SEED)
