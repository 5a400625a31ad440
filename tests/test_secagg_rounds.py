"""Rounds with dropouts at any stage: the exact sum of the survivors, or a clean abort."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_round import DIRECTORY, IDENTITIES, Drill, session, total, vectors
from tacit.protection.secagg import masks, shamir
from tacit.protection.secagg.messages import SHARE, Kind, Reader, write_set
from tacit.protection.secagg.node import Node
from tacit.protection.secagg.session import Aborted
from tacit.protection.secagg.simulate import STAGES, simulate

COMPLETE = st.integers(3, 7).flatmap(
    lambda n: st.builds(
        session,
        n=st.just(n),
        threshold=st.integers(n // 2 + 1, n),
        dtype=st.sampled_from([np.dtype(np.uint32), np.dtype(np.uint64)]),
    )
)
# A quorum is 9 of 12, so that at most 3 are lost and each node keeps 4 of its 7 share holders.
SPARSE = st.builds(session, n=st.just(12), threshold=st.integers(2, 4), degree=st.just(7))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), made=COMPLETE | SPARSE)
def test_the_survivors_exact_sum_or_a_clean_abort(data: st.DataObject, made) -> None:
    quorum = made.threshold if made.degree is None else 9
    lost = data.draw(st.lists(st.sampled_from(made.nodes), unique=True, max_size=4))
    dropped: dict[str, set[int]] = {stage: set() for stage in STAGES}
    for node in lost:
        dropped[data.draw(st.sampled_from(STAGES))].add(node)
    if len(made.nodes) - len(lost) < quorum:
        with pytest.raises(Aborted):
            simulate(made, IDENTITIES, vectors(made), dropped)
        return
    found, survivors = simulate(made, IDENTITIES, vectors(made), dropped)
    gone = dropped["advertise"] | dropped["share"] | dropped["mask"]
    assert survivors == tuple(node for node in made.nodes if node not in gone)
    assert (found == total(made, survivors)).all()


@pytest.mark.parametrize("stage", STAGES)
def test_one_below_the_threshold_aborts_and_opens_nothing(stage: str) -> None:
    drill = Drill(session()).after(stage)
    drill.outbox = {me: drill.outbox[me] for me in (1, 2, 3)}
    with pytest.raises(Aborted, match="3 nodes are left; it takes 4"):
        drill.receive(stage)
    for later in ("deliver", "request", "sum"):
        with pytest.raises(Aborted, match="not the receiver's next stage"):
            getattr(drill.receiver, later)({})
    # What was added up is still masked: one of 5 coordinates is right by chance once in 8e8 runs.
    added = drill.receiver._seeds.keys()
    assert bool(added) == (stage in STAGES[2:])
    if added:
        assert not (drill.receiver._total == total(drill.session, added)).any()


def test_a_node_whose_share_holders_are_lost_drops_out() -> None:
    # All 7 share holders must be left. After the header of 40 bytes comes the set of those alive.
    made = session(n=16, threshold=7, degree=7)
    drill = Drill(made).before("mask")
    alive = made.members - {min(drill.nodes[1]._holders)}
    message = drill.inbox[1][:40] + write_set(made, alive) + drill.inbox[1][42:]
    with pytest.raises(Aborted, match="6 holders of this node's shares are left; it takes 7"):
        drill.call("mask", 1, message)


def test_late_and_second_vectors_are_discarded() -> None:
    drill = Drill(session()).after("mask")
    late = drill.outbox.pop(6)
    for me, message in drill.outbox.items():
        drill.receiver.add(me, message)
        drill.receiver.add(me, message)
    drill.inbox = drill.receiver.survivors()
    drill.receiver.add(6, late)
    drill.answer("consent")
    found, survivors = drill.finish("consent")
    assert survivors == (1, 2, 3, 4, 5)
    assert (found == total(drill.session, survivors)).all()


def test_a_partys_minimum_is_its_own() -> None:
    drill = Drill(session()).before("mask")
    strict = session(minimum=6)
    assert strict.context == drill.session.context
    drill.nodes[1].session = strict
    drill.answer("mask")
    del drill.outbox[6]
    drill.receive("mask")
    with pytest.raises(Aborted, match=r"5 nodes are left.*it takes 6"):
        drill.call("consent", 1, drill.inbox[1])


def test_keys_are_fresh_and_wiped() -> None:
    first, second = Drill(session()).after("advertise"), Drill(session()).after("advertise")
    for me in first.nodes:
        assert first.outbox[me][40:72] != second.outbox[me][40:72]
        assert first.outbox[me][72:104] != second.outbox[me][72:104]
    drill = Drill(session()).before("mask")
    node = drill.nodes[1]
    assert any(node._mask_key)
    drill.answer("mask")
    assert not any(node._mask_key)
    assert not any(any(key) for key in node._pairwise.values())
    drill.outbox.pop(6)
    drill.finish("mask")
    for kept in (node._channels, node._key_shares):
        assert kept
        assert not any(any(secret) for secret in kept.values())


def test_an_abort_wipes_too() -> None:
    drill = Drill(session()).before("mask")
    node = drill.nodes[1]
    with pytest.raises(Aborted):
        node.mask(b"", drill.given[1])
    assert not any(node._mask_key)
    assert not any(any(key) for kept in (node._channels, node._pairwise) for key in kept.values())
    with pytest.raises(Aborted, match="not this node's next stage"):
        node.mask(drill.inbox[1], drill.given[1])


def chi_square(values: np.ndarray) -> float:
    """Of the bytes, against 256 equally likely ones."""
    counts = np.bincount(values.view(np.uint8), minlength=256)
    expected = values.nbytes / 256
    return float(((counts - expected) ** 2).sum() / expected)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("degree", [None, 3])
def test_what_the_receiver_sees_looks_random(equal: bool, degree: int | None) -> None:
    """Every vector as it arrives, and every sum of fewer than all with their own masks off.

    False alarms: 19 chi-square tests at 4e-8 each, 8e-7 in all; masks are the operating system's.
    """
    from scipy.stats import chi2

    made = session(n=4, threshold=3, length=2**15, degree=degree)
    drill = Drill(made).before("mask")
    if equal:
        drill.given = {node: np.full(made.length, 5, np.uint32) for node in made.nodes}
    drill.answer("mask")
    masked = {}
    for node, message in drill.outbox.items():
        reader = Reader(made, Kind.MASKED, node, message)
        masked[node] = np.frombuffer(reader.take(4 * made.length), np.uint32).copy()
    limit = float(chi2.isf(4e-8, 255))
    assert all(chi_square(vector) < limit for vector in masked.values())
    # What the receiver can open in the end, taken from what nodes reveal.
    drill.receive("mask")
    drill.answer("consent")
    drill.receive("consent")
    drill.answer("unmask")
    shares: dict[int, dict[int, int]] = {node: {} for node in made.nodes}
    for at, (holder, message) in enumerate(drill.outbox.items(), 1):
        seeds = Reader(made, Kind.REVEAL, holder, message)
        for node, share in seeds.table(SHARE).items():
            shares[node][at] = int.from_bytes(share, "little")
    for node in made.nodes:
        secret = shamir.combine(dict(list(shares[node].items())[:3])).to_bytes(32, "little")
        masks.add(masked[node], [(masks.key(secret, made.context, b"self"), -1)])
    for size in (1, 2, 3):
        for some in combinations(made.nodes, size):
            seen = np.sum([masked[node] for node in some], axis=0, dtype=np.uint32)
            assert chi_square(seen) < limit
    # The test can tell: all together are the plain sum, and equal inputs' is no noise.
    whole = np.sum(list(masked.values()), axis=0, dtype=np.uint32)
    assert (whole == np.sum(list(drill.given.values()), axis=0, dtype=np.uint32)).all()
    assert not equal or chi_square(whole) > limit


def test_a_node_needs_everybodys_keys() -> None:
    with pytest.raises(ValueError, match="directory"):
        Node(session(), 1, IDENTITIES[1], {1: DIRECTORY[1]})
    with pytest.raises(ValueError, match="me: 9"):
        Node(session(), 9, IDENTITIES[9], DIRECTORY)
