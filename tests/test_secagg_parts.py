"""Secret sharing, masks, the graph, what a session refuses; by papers and published vectors."""

from itertools import combinations

import numpy as np
import pytest

from secagg_round import session
from tacit.errors import InputError
from tacit.protection.secagg import masks, neighbours, shamir


def test_shares_are_those_of_a_polynomial_worked_out_by_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 1234 + 166 x + 94 x^2 at 1 to 5.
    drawn = iter([166, 94])
    monkeypatch.setattr(shamir, "draw", lambda: next(drawn))
    shares = shamir.split(1234, 3, range(1, 6))
    assert shares == {1: 1494, 2: 1942, 3: 2578, 4: 3402, 5: 4414}
    for points in combinations(shares, 3):
        assert shamir.combine({x: shares[x] for x in points}) == 1234


def test_a_line_is_opened_modulo_the_prime_by_hand() -> None:
    # The line through (1, 0) and (2, 1) is x - 1: p - 1 at 0.
    assert shamir.combine({1: 0, 2: 1}) == 2**255 - 20


def test_large_secrets_and_thresholds_come_back() -> None:
    secret = shamir.PRIME - 1
    shares = shamir.split(secret, 67, range(1, 1001))
    assert shamir.combine(dict(list(shares.items())[-67:])) == secret
    assert shamir.combine(dict(list(shares.items())[-66:])) != secret


def test_a_mask_is_aes_in_counter_mode() -> None:
    # AES-128 under the zero key of the blocks 0 and 1: H and E(K, Y0) + 1 of McGrew and Viega, "The
    # Galois/Counter Mode of operation", test cases 1 and 2.
    blocks = bytes.fromhex("66e94bd4ef8a2c3b884cfa59ca342b2e58e2fccefa7e3061367f1d57a4e7455a")
    for dtype in (np.uint32, np.uint64):
        expected = np.frombuffer(blocks, np.dtype(dtype).newbyteorder("<"))
        total = np.ones(len(expected), dtype)
        masks.add(total, [(bytes(16), 1)])
        assert (total == expected + np.ones(1, dtype)).all()
        masks.add(total, [(bytes(16), -1)])
        assert (total == 1).all()


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("length", [1, 65_537, 200_003])
def test_threads_make_the_same_masks(dtype: type, length: int) -> None:
    signed = [(bytes([key] * 16), sign) for key, sign in ((1, 1), (2, -1), (3, 1))]
    one, two, stream = (np.zeros(length, dtype) for _ in range(3))
    masks.add(one, signed)
    masks.add(two, signed, threads=2)
    assert (one == two).all()
    # One mask at a time and whole, without chunks.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    for key, sign in signed:
        cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        mask = np.frombuffer(cipher.update(bytes(stream.nbytes)), dtype)
        stream = stream + mask if sign > 0 else stream - mask
    assert (one == stream).all()


@pytest.mark.parametrize(
    ("nodes", "corrupt", "expected"),
    [
        (100, 0.1, (22, 11)),
        (1_000, 0.1, (46, 26)),
        (10_000, 0.1, (54, 30)),
        (100, 0.2, (32, 21)),
        (1_000, 0.2, (68, 43)),
        (100, 0.33, (42, 32)),
        (1_000, 0.33, (102, 72)),
    ],
)
def test_degree_and_threshold_by_exact_tails(
    nodes: int, corrupt: float, expected: tuple[int, int]
) -> None:
    found = neighbours.degree(nodes, corrupt)
    assert found == expected
    # Tails summed in whole numbers, without scipy.
    from math import comb

    def tail(marked: int, k: int, least: int) -> tuple[int, int]:
        """Ways to draw k of n - 1 with at least this many of the marked, and all ways."""
        counts = range(least, min(k, marked) + 1)
        ways = sum(comb(marked, m) * comb(nodes - 1 - marked, k - m) for m in counts)
        return ways, comb(nodes - 1, k)

    def holds(k: int, t: int) -> bool:
        unsafe, all_ways = tail(round(corrupt * nodes), k, t)
        short, _ = tail(round(0.1 * nodes), k, k - t + 1)
        return nodes * unsafe * 2**40 < all_ways and nodes * short * 2**20 < all_ways

    k, t = found
    assert holds(k, t)
    assert not holds(k, t - 1)
    assert not any(holds(k - 2, other) for other in range(2, k - 1))


def test_a_small_cohort_has_no_sparse_graph() -> None:
    with pytest.raises(InputError, match="use the complete graph"):
        neighbours.degree(5, corrupt=0.3, dropout=0.3)
    with pytest.raises(InputError, match="corrupt"):
        neighbours.degree(100, corrupt=0.34)
    with pytest.raises(InputError, match="dropout"):
        neighbours.degree(100, dropout=0.34)


def test_a_node_draws_others_and_not_always_the_same() -> None:
    nodes = tuple(range(40))
    drawn = {neighbours.draw(nodes, 3, 10) for _ in range(3)}
    # The same 10 of 39 twice: once in 600 million.
    assert len(drawn) == 3
    assert all(len(holders) == 10 and 3 not in holders for holders in drawn)
    assert neighbours.draw(nodes, 3, None) == set(nodes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threshold": 3}, "threshold: 3 .*more than half of 6"),
        ({"threshold": 7}, "threshold: 7"),
        ({"degree": 6}, "degree: 6"),
        ({"degree": 3}, "threshold: 4"),
        ({"dtype": np.dtype(np.int32)}, "dtype"),
        ({"nodes": (1, 1, 2)}, "nodes"),
        ({"nodes": (2, 1, 3)}, "nodes"),
        ({"nodes": (-1, 1, 3)}, "nodes"),
        ({"nodes": (1, 2, 2**32)}, "nodes"),
        ({"minimum": 1}, "minimum: 1"),
        ({"minimum": 7}, "minimum: 7"),
        ({"length": 0}, "length: 0"),
        ({"round": -1}, "round: -1"),
        ({"model": b""}, "model"),
        ({"experiment": b""}, "experiment"),
    ],
)
def test_a_session_refuses_what_cannot_hold(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session(**changed)


def test_everything_but_a_partys_own_policy_is_bound() -> None:
    base = session(degree=5)
    others = [
        session(degree=5, experiment=bytes([1]) * 32),
        session(degree=5, model=bytes([1]) * 32),
        session(degree=5, round=2),
        session(degree=5, nodes=(1, 2, 3, 4, 5, 7)),
        session(degree=5, threshold=5),
        session(degree=5, length=6),
        session(degree=5, dtype=np.uint64),
        session(degree=4),
        session(),
    ]
    assert len({base.context, *(other.context for other in others)}) == 10
    assert session(degree=5, minimum=3).context == base.context


def test_a_key_is_bound_to_session_and_purpose() -> None:
    found = {masks.key(b"s", context, use) for context in (b"a", b"b") for use in (b"x", b"y")}
    assert len(found) == 4
