"""The norm proof: the honest pass, each kind of cheat is refused, and nothing is ground."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, chi2, kstest

from tacit.errors import InputError, MessageError
from tacit.protection.proof import field, node
from tacit.protection.proof.field import Field, P
from tacit.protection.proof.node import Layout, Prover, UnluckyError, seal
from tacit.protection.proof.projection import NormClaim, project
from tacit.protection.proof.verifier import Toss, Verifier, accepted
from tacit.protection.sharing import TAG, Helper, Server, Session, expand, split
from tacit.randomness import generator

# The honest of these tests fail with 2^-40 each.
CLAIM = NormClaim(norm=2**20, error=2**-40)
Forge = Callable[["Round", int], bytes]


def session(dimension: int = 200, round: int = 1) -> Session:
    return Session(b"experiment".ljust(32, b"."), round, dimension, P, minimum=2)


def vector(norm: float, dimension: int = 200, *address: int) -> NDArray[np.int64]:
    """Many coordinates of like size, rounded towards 0."""
    drawn = generator(0, "norm proof test", *address).standard_normal(dimension)
    return np.trunc(drawn * (norm / np.linalg.norm(drawn))).astype(np.int64)


def join(one: Toss, other: Toss) -> bytes:
    first, second = one.reveal(other.commitment), other.reveal(one.commitment)
    seed = one.result(second)
    assert other.result(first) == seed
    return seed


class Round:
    """Both aggregators in one process, up to the point where proofs are awaited."""

    def __init__(
        self,
        vectors: dict[int, NDArray[np.int64]],
        round: int = 1,
        known: bytes | None = None,
    ) -> None:
        self.session = session(len(next(iter(vectors.values()))), round)
        self.values = {n: field.encode(v) for n, v in vectors.items()}
        self.server, self.helper = Server(self.session), Helper(self.session)
        self.seeds: dict[int, bytes] = {}
        self.provers: dict[int, Prover] = {}
        for n, v in vectors.items():
            if np.linalg.norm(v.astype(float)) <= CLAIM.norm:
                self.provers[n] = Prover(self.session, CLAIM, n, self.values[n])
                upload, seed = self.provers[n].upload, self.provers[n].seed
            else:
                upload, seed = split(self.session, n, self.values[n])
            self.server.receive(n, upload)
            self.helper.receive(n, seed)
            self.seeds[n] = seed[TAG:]
        self.sides = Verifier(CLAIM, self.server), Verifier(CLAIM, self.helper)
        nodes = self.server.nodes
        tossed = join(*(side.fix_uploads(nodes) for side in self.sides))
        self.challenge = known or tossed
        for side in self.sides:
            side.project(nodes, self.challenge)

    def projected(self, n: int) -> NDArray[np.int64]:
        return field.decode(project(self.challenge, CLAIM.projections, [self.values[n]])[0])

    def prove(self, n: int) -> bytes:
        return self.provers[n].prove(self.challenge)

    def seal(self, n: int, y: NDArray[np.int64], gap: int) -> bytes:
        return seal(self.session, CLAIM, n, y, gap, self.seeds[n])

    def altered(self, n: int, change: Callable[[Field], Field], message: bytes) -> bytes:
        """The message with its proof opened, changed and masked again."""
        context = self.session.bind("proof share", n)
        mask = expand(self.seeds[n], context, Layout(CLAIM).proof, P)
        proof = field.add(np.frombuffer(message[TAG:], np.uint64), mask)
        return message[:TAG] + field.subtract(change(proof), mask).tobytes()

    def verdict(self, messages: dict[int, bytes]) -> list[int]:
        server, helper = self.sides
        for n, message in messages.items():
            server.receive(n, message)
        query = join(*(side.fix_proofs(server.proved) for side in self.sides))
        return accepted(server.query(query), helper.query(query))


# The field


@given(st.integers(0, P - 1), st.integers(0, P - 1))
def test_field_arithmetic_is_pythons(a: int, b: int) -> None:
    x, y = np.array([a], np.uint64), np.array([b], np.uint64)
    assert int(field.add(x, y)[0]) == (a + b) % P
    assert int(field.subtract(x, y)[0]) == (a - b) % P
    assert int(field.multiply(x, y)[0]) == a * b % P


def test_field_arithmetic_at_the_edges() -> None:
    edge = [0, 1, 2, 2**32 - 2, 2**32 - 1, 2**32, 2**63, P - 2**32, P - 2, P - 1]
    x = np.array([a for a in edge for _ in edge], np.uint64)
    y = np.array([b for _ in edge for b in edge], np.uint64)
    pairs = [(a, b) for a in edge for b in edge]
    assert field.add(x, y).tolist() == [(a + b) % P for a, b in pairs]
    assert field.subtract(x, y).tolist() == [(a - b) % P for a, b in pairs]
    assert field.multiply(x, y).tolist() == [a * b % P for a, b in pairs]
    assert int(field.total(x)) == sum(a for a, _ in pairs) % P
    assert int(field.dot(x, y)) == sum(a * b for a, b in pairs) % P


def test_signed_integers_and_back() -> None:
    integers = np.array([0, 1, -1, 2**62, -(2**62)])
    assert field.encode(integers).tolist() == [0, 1, P - 1, 2**62, P - 2**62]
    assert field.decode(field.encode(integers)).tolist() == integers.tolist()


def test_the_transform_evaluates_at_the_roots_of_unity() -> None:
    coefficients = np.array([3, P - 1, 2**40, 5, 0, 7, 1, 2], np.uint64)
    root = pow(7, (P - 1) // 8, P)
    expected = [
        sum(int(c) * pow(root, i * j, P) for j, c in enumerate(coefficients)) % P for i in range(8)
    ]
    assert field.transform(coefficients).tolist() == expected
    assert field.transform(field.transform(coefficients), inverse=True).tolist() == (
        coefficients.tolist()
    )
    assert pow(root, 4, P) == P - 1


# What the projections tell


def poisson_tail(mean: float, least: int) -> float:
    """P[a Poisson variable >= least], summed term by term."""
    terms = (math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(least, 4000))
    return math.fsum(terms)


@pytest.mark.parametrize(
    ("k", "error", "expected"),
    [
        (128, 1e-6, 1.82), (128, 2**-40, 2.46), (256, 1e-6, 1.53),
        (256, 2**-40, 1.88), (1024, 1e-6, 1.23), (1024, 2**-40, 1.37),
    ],
)  # fmt: skip
def test_slack_from_chi_square_tails(k: int, error: float, expected: float) -> None:
    # For even k, P[chi2_k < x] = P[Poisson(x / 2) >= k / 2], and P[chi2_k > x] its complement,
    # P[Poisson(x / 2) <= k / 2 - 1], each summed as it stands.
    def above(x: float) -> float:
        return math.fsum(
            math.exp(i * math.log(x / 2) - x / 2 - math.lgamma(i + 1)) for i in range(k // 2)
        )

    low = brentq(lambda x: math.log(poisson_tail(x / 2, k // 2) / error), k / 4, k)
    high = brentq(lambda x: math.log(above(x) / error), k, 2.5 * k)
    claim = NormClaim(2**20, k, error)
    assert claim.slack(error) == pytest.approx(math.sqrt(high / low), rel=1e-6)
    # The specification's figures, to their two decimals (rounded up or to the nearest).
    assert claim.slack(error) == pytest.approx(expected, abs=0.0075)
    assert claim.threshold == pytest.approx(2**40 / 2 * high, rel=1e-6)


def test_projections_are_the_matrix_that_the_seed_says() -> None:
    # Columns one by one give R; any vector's projection must then be R x, over the integers.
    size, rows = 700, 128
    basis = list(np.eye(size, dtype=np.uint64))
    matrix = field.decode(project(b"s" * 32, rows, basis)).T
    # Entries -1, 0, 1 with 1/4, 1/2, 1/4, counts within five deviations (6e-7 each).
    cells = rows * size
    for value, chance in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        deviation = math.sqrt(cells * chance * (1 - chance))
        assert abs((matrix == value).sum() - cells * chance) < 5 * deviation
    x = vector(2.0**50, size)
    assert field.decode(project(b"s" * 32, rows, [field.encode(x)])[0]).tolist() == (
        [sum(int(r) * int(v) for r, v in zip(row, x, strict=True)) for row in matrix]
    )


def test_squared_projections_are_chi_square() -> None:
    x = vector(2.0**20)
    drawn = [
        field.decode(project(i.to_bytes(32, "little"), 128, [field.encode(x)])[0])
        for i in range(500)
    ]
    found = [2 * float((y.astype(float) ** 2).sum()) / float(x @ x) for y in drawn]
    assert kstest(found, chi2(128).cdf).pvalue > 1e-6


@pytest.mark.parametrize("error", [1e-6, 2**-40])
def test_one_coordinate_is_refused_more_surely_than_many(error: float) -> None:
    # x = (c, 0, 0, ...): sum(y^2) / c^2 is binomial(128, 1/2). Its tails against the claim's.
    claim = NormClaim(2**20, 128, error)
    scaled = claim.threshold / claim.norm**2
    assert binom.sf(math.floor(scaled), 128, 0.5) < error
    assert binom.cdf(math.floor(scaled / claim.slack(error) ** 2), 128, 0.5) < error


@pytest.mark.parametrize(
    "x",
    [
        [(P + 1) // 2], [(P - 1) // 2, 1], [P // 3, P // 3], [P // 4] * 8, [2 * CLAIM.limit],
        [P - 2 * CLAIM.limit, 5], [1 << 40] * 300, [(P + 1) // 2] * 301,
    ],
)  # fmt: skip
def test_wrap_around_lemma(x: list[int]) -> None:
    # One large coordinate: a projection falls into the window with probability at most 1/2. Of
    # 4,096, more than the limit with 1e-6.
    values = np.array(x, np.uint64)
    y = np.concatenate([project(bytes([i] * 32), 1024, [values])[0] for i in range(4)])
    integers = field.decode(y)
    inside = (integers >= -CLAIM.limit) & (integers < CLAIM.limit)
    assert inside.sum() <= binom.isf(1e-6, 4096, 0.5)


# The honest


def test_the_honest_are_accepted_and_their_sum_is_exact() -> None:
    # Twelve vectors on the bound: one is unlucky with 12 x 2^-40.
    vectors = {n: vector(CLAIM.norm, 200, n) for n in range(0, 24, 2)}
    done = Round(vectors)
    found = done.verdict({n: done.prove(n) for n in vectors})
    assert found == list(vectors)
    total = done.server.finish(found, done.helper.answer(found))
    assert field.decode(total).tolist() == sum(vectors.values()).tolist()


@pytest.mark.parametrize("x", [[0] * 5, [CLAIM.norm, 0, 0], [-1, 0, 0], [0, 0, -CLAIM.norm]])
def test_short_and_sparse_vectors_are_accepted(x: list[int]) -> None:
    done = Round({0: np.array(x), 1: np.array(x)})
    assert done.verdict({n: done.prove(n) for n in (0, 1)}) == [0, 1]


def test_a_node_does_not_try_to_prove_what_is_false() -> None:
    with pytest.raises(InputError, match=r"^values: "):
        Prover(session(), CLAIM, 0, field.encode(vector(1.001 * CLAIM.norm)))


def test_an_unlucky_node_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Round({0: vector(CLAIM.norm), 1: vector(CLAIM.norm)})
    large = np.full((1, 128), CLAIM.limit, np.uint64)
    monkeypatch.setattr(node, "project", lambda *_: large)
    with pytest.raises(UnluckyError):
        done.prove(0)


# Cheats: each leaves the honest node 0 accepted and node 1 refused


def no_gap(done: Round, n: int) -> bytes:
    """Right projections, and a gap of 0 where there is none."""
    return done.seal(n, done.projected(n), 0)


def wrapped_gap(done: Round, n: int) -> bytes:
    """tau - sum(y^2) < 0 as a field element in one "bit"."""
    y = done.projected(n)
    gap = (CLAIM.threshold - sum(int(v) ** 2 for v in y)) % P

    def one_big_bit(proof: Field) -> Field:
        layout = Layout(CLAIM)
        proof[layout.gap.start] = gap
        proof[layout.gap.stop + 2 * layout.gap.start] = gap * gap % P
        return proof

    return done.altered(n, one_big_bit, done.seal(n, y, 0))


def consistent_wrapped_gap(done: Round, n: int) -> bytes:
    """As above, with f^2 of that very witness: only the bit's own check is left."""
    layout, y = Layout(CLAIM), done.projected(n)
    gap = (CLAIM.threshold - sum(int(v) ** 2 for v in y)) % P
    z = np.zeros(layout.size, np.uint64)
    z[layout.ranges] = node.bits(y + CLAIM.limit, CLAIM.bits)
    z[layout.gap.start] = gap
    z[layout.projections] = field.encode(y)
    forged = np.concatenate([z[: layout.gap.stop], node.interpolate(z)])
    return done.altered(n, lambda _: forged, done.seal(n, y, 0))


def smaller_squares(done: Round, n: int) -> bytes:
    """Squares of projections that are said to be 0: the linear checks hold, f^2 does not."""
    y = done.projected(n)

    def zeros(proof: Field) -> Field:
        layout = Layout(CLAIM)
        squares = proof[layout.gap.stop :]
        squares[2 * layout.projections.start : 2 * layout.projections.stop : 2] = 0
        gap = node.bits(np.array([CLAIM.threshold]), CLAIM.gap_bits)
        proof[layout.gap] = gap
        squares[2 * layout.gap.start : 2 * layout.gap.stop : 2] = gap
        return proof

    return done.altered(n, zeros, done.seal(n, y, 0))


def another_vector(done: Round, n: int) -> bytes:
    """A proof about a vector that was not committed: the shared one, scaled into the bound."""
    y = field.decode(
        project(done.challenge, CLAIM.projections, [field.encode(vector(CLAIM.norm, 200, n))])[0]
    )
    return done.seal(n, y, CLAIM.threshold - sum(int(v) ** 2 for v in y))


@pytest.mark.parametrize(
    "forge", [no_gap, wrapped_gap, consistent_wrapped_gap, smaller_squares, another_vector]
)
def test_a_vector_longer_by_the_slack_is_refused(forge: Forge) -> None:
    # Accepted with 2^-40 (the projections) + 2^-46 (the check); node 0 unlucky with 2^-40.
    long = vector(CLAIM.slack(2**-40) * CLAIM.norm * 1.001, 200, 1)
    done = Round({0: vector(CLAIM.norm), 1: long})
    assert done.verdict({0: done.prove(0), 1: forge(done, 1)}) == [0]


def test_a_wrong_commitment_is_refused_inside_the_bound_too() -> None:
    done = Round({0: vector(CLAIM.norm), 1: vector(1000.0, 200, 2)})
    assert done.verdict({0: done.prove(0), 1: another_vector(done, 1)}) == [0]


def test_squares_that_wrap_are_refused_by_the_ranges() -> None:
    # c = 2^24 - 2^72 is a square root of 2 (mod p): its square is 2^48 + 2 + 2^144 and 2^96 = -1.
    # With x = (c, 0, ...), sum(y^2) is 2 for each y that is not 0, but y is far outside the range.
    root = (2**24 - 2**72) % P
    assert root * root % P == 2
    x = field.decode(np.array([root, 0, 0], np.uint64))
    done = Round({0: vector(1000.0, 3), 1: x})
    y = done.projected(1)
    assert done.verdict(
        {0: done.prove(0), 1: done.seal(1, y, CLAIM.threshold - 2 * int((y != 0).sum()))}
    ) == [0]


def test_each_single_changed_word_is_refused() -> None:
    layout = Layout(CLAIM)
    places = [0, 1, layout.gap.start, layout.gap.stop - 1, layout.gap.stop, layout.proof - 1]
    done = Round({n: vector(CLAIM.norm, 200, n) for n in range(len(places) + 1)})

    def changed(place: int) -> Callable[[Field], Field]:
        return lambda proof: field.add(proof, (np.arange(len(proof)) == place).astype(np.uint64))

    messages = {n: done.altered(n, changed(p), done.prove(n)) for n, p in enumerate(places)}
    last = len(places)
    assert done.verdict(messages | {last: done.prove(last)}) == [last]


def null_vector(challenge: bytes, size: int = 129) -> Field:
    """x with R x = 0 (mod p) for a known R of 128 rows: Gauss's elimination."""
    basis = list(np.eye(size, dtype=np.uint64))
    matrix = np.ascontiguousarray(project(challenge, 128, basis).T)
    pivots: list[int] = []
    for column in range(size):
        row = len(pivots)
        below = np.flatnonzero(matrix[row:, column])
        if row == 128 or len(below) == 0:
            continue
        matrix[[row, row + below[0]]] = matrix[[row + below[0], row]]
        inverse = np.uint64(pow(int(matrix[row, column]), -1, P))
        matrix[row] = field.multiply(matrix[row], inverse)
        others = np.arange(128) != row
        step = field.multiply(matrix[others, column, None], matrix[row])
        matrix[others] = field.subtract(matrix[others], step)
        pivots.append(column)
    free = min(set(range(size)) - set(pivots))
    x = np.zeros(size, np.uint64)
    x[free] = 1
    x[pivots] = field.subtract(np.zeros(len(pivots), np.uint64), matrix[: len(pivots), free])
    return x


def test_known_randomness_would_pass_and_a_tossed_one_does_not() -> None:
    known = b"ground".ljust(32, b".")
    x = field.decode(null_vector(known))
    assert np.linalg.norm(x.astype(float)) > 1e9 * CLAIM.norm
    nothing = np.zeros(128, np.int64)
    # The attack works where R is known before the commitment ...
    ground = Round({0: x, 1: x}, known=known)
    assert ground.verdict({n: ground.seal(n, nothing, CLAIM.threshold) for n in (0, 1)}) == [0, 1]
    # ... and both of its ways out fail where it is drawn after it.
    drawn = Round({0: x, 1: x})
    said = {0: drawn.seal(0, nothing, CLAIM.threshold), 1: no_gap(drawn, 1)}
    assert drawn.verdict(said) == []


def test_nothing_is_drawn_before_what_it_challenges_is_fixed() -> None:
    of = session()
    server = Server(of)
    side = Verifier(CLAIM, server)
    with pytest.raises(MessageError, match="after the uploads"):
        side.project([0], bytes(32))
    upload, _ = split(of, 0, field.encode(vector(1.0)))
    server.receive(0, upload)
    side.fix_uploads([0])
    with pytest.raises(MessageError, match="late"):
        server.receive(1, split(of, 1, field.encode(vector(1.0)))[0])
    with pytest.raises(MessageError, match="after the proofs"):
        side.query(bytes(32))
    with pytest.raises(MessageError, match=r"\[3\]"):
        Verifier(CLAIM, Server(of)).fix_uploads([3])


def test_no_step_is_done_twice() -> None:
    # Two proofs share their masks; f at two points tells the witness without its mask.
    done = Round({0: vector(1.0), 1: vector(1.0)})
    done.verdict({n: done.prove(n) for n in (0, 1)})
    with pytest.raises(MessageError, match="one proof"):
        done.prove(0)
    for side in done.sides:
        with pytest.raises(MessageError, match="once"):
            side.fix_uploads([0, 1])
        with pytest.raises(MessageError, match="once"):
            side.project([0, 1], bytes(32))
        with pytest.raises(MessageError, match="once"):
            side.fix_proofs([0, 1])
        with pytest.raises(MessageError, match="once"):
            side.query(bytes(32))


def test_a_proof_after_the_query_or_a_second_one_is_refused() -> None:
    done = Round({0: vector(1.0), 1: vector(1.0)})
    server, _ = done.sides
    message = done.prove(0)
    server.receive(0, message)
    with pytest.raises(MessageError, match="awaited"):
        server.receive(0, message)
    server.fix_proofs([0])
    with pytest.raises(MessageError, match="awaited"):
        server.receive(1, done.prove(1))


def test_replayed_proofs_are_refused() -> None:
    vectors = {0: vector(1000.0), 1: vector(1000.0)}
    first, second = Round(vectors, round=1), Round(vectors, round=2)
    old, honest, server = first.prove(1), second.prove(0), second.sides[0]
    for message in (old, honest):
        with pytest.raises(MessageError, match="of this round"):
            server.receive(1, message)
    # Under a new header the old masks and projections do not fit.
    relabelled = second.session.bind("proof", 1) + old[TAG:]
    assert second.verdict({0: honest, 1: relabelled}) == [0]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: b"", lambda m: m[:-1], lambda m: m + b"0", lambda m: m[:TAG], lambda m: m[TAG:],
        lambda m: m[:-8] + b"\xff" * 8, lambda m: bytes(len(m)),
    ],
)  # fmt: skip
def test_malformed_proofs_are_refused(change: Callable[[bytes], bytes]) -> None:
    done = Round({0: vector(1.0), 1: vector(1.0)})
    with pytest.raises(MessageError):
        done.sides[0].receive(0, change(done.prove(0)))


def test_malformed_answers_of_the_other_side_refuse_the_node() -> None:
    good = np.array([3, 9, 0], "<u8").tobytes()
    blank = bytes(24)
    assert accepted({0: good}, {0: blank}) == [0]
    for wrong in (
        b"",
        blank[:-1],
        blank + b"0",
        b"\xff" * 24,
        np.array([0, 0, 1], "<u8").tobytes(),
    ):
        assert accepted({0: good}, {0: wrong}) == []
    assert accepted({0: good}, {}) == []


# The toss


def test_neither_side_can_choose_after_it_has_seen() -> None:
    one, other = (Toss(session(), role, "t", [0, 1]) for role in ("server", "helper"))
    with pytest.raises(MessageError, match="open"):
        one.result(other._coin)
    one.reveal(other.commitment)
    with pytest.raises(MessageError, match="changed"):
        one.reveal(bytes(32))
    for coin in (bytes(32), b"", other._coin + b"0"):
        with pytest.raises(MessageError, match="open"):
            one.result(coin)


@pytest.mark.parametrize(
    "changed",
    [
        Toss(session(), "helper", "t", [0, 2]), Toss(session(round=2), "helper", "t", [0, 1]),
        Toss(session(), "helper", "u", [0, 1]),
    ],
)  # fmt: skip
def test_a_toss_about_something_else_does_not_open(changed: Toss) -> None:
    one = Toss(session(), "server", "t", [0, 1])
    one.reveal(changed.commitment)
    with pytest.raises(MessageError, match="open"):
        one.result(changed.reveal(one.commitment))


def test_a_commitment_cannot_be_sent_back() -> None:
    # A side that echoes the other's commitment and coin would make both coins one.
    one = Toss(session(), "server", "t", [0, 1])
    coin = one.reveal(one.commitment)
    with pytest.raises(MessageError, match="open"):
        one.result(coin)


# What one aggregator sees


def test_the_servers_view_of_a_proof_is_uniform() -> None:
    done = Round({0: np.zeros(200, np.int64), 1: vector(1.0)})
    counts = np.bincount(np.frombuffer(done.prove(0)[TAG:], np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, 255)


def test_the_opened_value_hides_behind_the_mask() -> None:
    # u = f(r) at one fixed r for one witness: the mask alone must make it uniform over the field.
    layout, claim = Layout(CLAIM), CLAIM
    z = np.zeros(layout.size, np.uint64)
    z[layout.projections] = field.encode(vector(1000.0, claim.projections))
    powers = field.powers(12345, layout.size)
    shown = []
    for mask in (0, 1, 2):
        z[0] = mask
        shown.append(int(field.dot(field.transform(z, inverse=True), powers)))
    # Affine in the mask with a slope that is not 0: a bijection of the field.
    slope = (shown[1] - shown[0]) % P
    assert slope != 0
    assert (shown[2] - shown[1]) % P == slope


def test_every_proof_has_a_mask_of_its_own() -> None:
    done = Round({0: vector(1.0), 1: vector(1.0)})
    masks: list[int] = []
    for n in (0, 1):
        done.altered(n, lambda proof: masks.append(int(proof[0])) or proof, done.prove(n))
    assert 0 not in masks
    assert masks[0] != masks[1]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"norm": 0}, "norm"), ({"norm": 2**30}, "norm"), ({"projections": 64}, "projections"),
        ({"projections": 130}, "projections"), ({"error": 0.0}, "error"),
    ],
)  # fmt: skip
def test_unusable_claims_are_named(wrong: dict, named: str) -> None:
    with pytest.raises(InputError, match=f"^{named}: "):
        NormClaim(**({"norm": 2**20} | wrong))


def test_the_lemmas_conditions_at_the_largest_norms() -> None:
    # The largest power of two that each k allows; d < 2^32 in every session.
    for k in (128, 256, 1024):
        norm = 1
        while True:
            try:
                claim = NormClaim(norm, k)
            except InputError:
                break
            assert k * claim.limit**2 + 2**claim.gap_bits < P
            assert (2 * (2**32 - 1) + 1) * claim.limit < P
            assert claim.limit**2 > claim.threshold
            assert Layout(claim).size <= 2**15
            norm *= 2
        assert norm >= 2**22


def test_a_session_of_another_modulus_is_refused() -> None:
    CLAIM.check(session())
    with pytest.raises(InputError, match=r"^modulus: "):
        CLAIM.check(Session(bytes(32), 0, 3, 2**64, 2))


def test_the_benchmark_counts_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import proofs

    dimension = 500
    row = proofs.measure(dimension, 128, 1)
    # Tags of 32 bytes before the 8-byte words, the 32-byte seed and the proof.
    assert row.upload == 32 + 8 * dimension + 32 + 32
    assert row.proof == 32 + 8 * Layout(NormClaim(2**20, 128)).proof
    assert row.slack == pytest.approx(1.82, abs=0.006)
