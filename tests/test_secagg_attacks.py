"""Receivers that lie, nodes that lie, and bytes that are not what they should be."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_round import IDENTITIES, Drill, session, total
from tacit.protection.secagg.messages import (
    SEALED,
    SHARE,
    SIGNATURE,
    Kind,
    Reader,
    advert_size,
    header,
    read_advert,
    write_set,
    write_table,
)
from tacit.protection.secagg.sealing import unseal
from tacit.protection.secagg.session import Aborted, Session
from tacit.protection.secagg.simulate import STAGES

HEADER = 40  # bytes: version, kind, 2 of padding, 32 of the session, 4 of the node
RECEIVED = STAGES[1:]  # the stages at which a node is sent something


def exact(drill: Drill, stage: str, survivors: tuple[int, ...]) -> None:
    """From the nodes' answers to this stage on, the sum of exactly these comes out."""
    found, left = drill.finish(stage)
    assert left == survivors
    assert (found == total(drill.session, survivors)).all()


def request(made: Session, me: int, survivors, signatures, sealed) -> bytes:
    """A REQUEST by a receiver that writes in it what it likes."""
    named = write_set(made, survivors) + write_table(signatures) + write_table(sealed)
    return header(made, Kind.REQUEST, me) + named


def opened(made: Session, me: int, message: bytes) -> tuple[dict, dict, dict]:
    """A REQUEST's signatures and boxes, and its set as the keys of the first."""
    reader = Reader(made, Kind.REQUEST, me, message)
    named = reader.set()
    return dict.fromkeys(named), reader.table(SIGNATURE), reader.table(SEALED)


def test_two_survivor_lists_are_caught() -> None:
    """The attack on a protocol without the consistency round.

    Half of the nodes are told that node 6 survives, half that it is lost, so that the receiver gets
    shares of both its seed and its mask key. No set finds the 4 signatures that it takes.
    """
    made = session()
    drill = Drill(made).after("mask")
    drill.receive("mask")
    fewer = (1, 2, 3, 4, 5)
    for me in (3, 4, 5):
        drill.inbox[me] = header(made, Kind.SURVIVORS, me) + write_set(made, fewer)
    drill.answer("consent")
    signatures = {me: message[-SIGNATURE:] for me, message in drill.outbox.items()}
    for me in fewer:
        told = fewer if me in (3, 4, 5) else made.nodes
        with pytest.raises(Aborted, match=r"[23] survivors signed this set; it takes 4"):
            drill.call("unmask", me, request(made, me, told, signatures, {}))


def test_no_part_of_the_cohort_can_be_split_off() -> None:
    """A receiver that shows four of six nodes each other's keys alone.

    Everybody is named alive and a survivor, and signs it; but the four mask with one another only,
    so that their masks cancel in their own sum, which is of fewer than all nodes ask for.
    """
    made, part = session(minimum=6), (1, 2, 3, 4)
    drill = Drill(made).before("share")
    for me in part:
        reader = Reader(made, Kind.KEYS, me, drill.inbox[me])
        adverts = reader.table(advert_size(made))
        shown = {peer: adverts[peer] for peer in part}
        drill.inbox[me] = header(made, Kind.KEYS, me) + write_table(shown)
    with pytest.raises(Aborted, match="4 holders of this node's shares are left; it takes 6"):
        drill.answer("share")


def test_a_quorum_is_of_signatures_that_are_the_signers_own() -> None:
    made = session()
    drill = Drill(made).before("unmask")
    named, _, sealed = opened(made, 1, drill.inbox[1])
    signatures = {me: message[-SIGNATURE:] for me, message in drill.outbox.items()}
    few = {me: signatures[me] for me in (1, 2, 3)}
    enough = few | {6: signatures[6]}
    forged = few | {4: signatures[3], 5: signatures[1]}
    drill.call("unmask", 2, request(made, 2, named, enough, sealed))
    with pytest.raises(Aborted, match="3 survivors signed"):
        drill.call("unmask", 1, request(made, 1, named, forged, sealed))


def test_those_who_were_lost_do_not_count_as_signers() -> None:
    made = session()
    drill = Drill(made).after("mask")
    del drill.outbox[6]
    drill.receive("mask")
    drill.answer("consent")
    survivors = (1, 2, 3, 4, 5)
    signatures = {me: message[-SIGNATURE:] for me, message in drill.outbox.items()}
    consent = header(made, Kind.CONSENT, 6) + write_set(made, survivors)
    signatures[6] = IDENTITIES[6].sign(consent)
    for me in (4, 5):
        del signatures[me]
    with pytest.raises(Aborted, match="3 survivors signed"):
        drill.call("unmask", 1, request(made, 1, survivors, signatures, {}))


def test_a_node_signs_and_answers_once() -> None:
    drill = Drill(session()).before("unmask")
    drill.call("unmask", 1, drill.inbox[1])
    with pytest.raises(Aborted, match="not this node's next stage"):
        drill.call("unmask", 1, drill.inbox[1])
    drill = Drill(session()).before("consent")
    drill.call("consent", 1, drill.inbox[1])
    with pytest.raises(Aborted, match="not this node's next stage"):
        drill.call("consent", 1, drill.inbox[1])


def test_another_set_than_the_signed_one_is_refused_however_many_signed_it() -> None:
    made = session()
    drill = Drill(made).before("unmask")
    fewer = write_set(made, (1, 2, 3, 4, 5))
    signatures = {
        me: IDENTITIES[me].sign(header(made, Kind.CONSENT, me) + fewer) for me in (2, 3, 4, 5)
    }
    with pytest.raises(Aborted, match="not the survivor set that I signed"):
        drill.call("unmask", 1, request(made, 1, (1, 2, 3, 4, 5), signatures, {}))


def test_a_node_gives_one_share_of_each_peer() -> None:
    """Whatever boxes come with the request: seeds of survivors, mask keys of the lost, no both."""
    made = session()
    drill = Drill(made).after("mask")
    lost = Reader(made, Kind.MASKED, 6, drill.outbox.pop(6))
    lost.take(4 * made.length)
    boxes_of_6 = lost.table(SEALED)
    drill.receive("mask")
    drill.answer("consent")
    drill.receive("consent")
    named, signatures, sealed = opened(made, 1, drill.inbox[1])
    # The receiver got node 6's vector and seed shares after all, and says that it did not.
    message = request(made, 1, named, signatures, sealed | {6: boxes_of_6[1]})
    reader = Reader(made, Kind.REVEAL, 1, drill.call("unmask", 1, message))
    assert set(reader.table(SHARE)) == {1, 2, 3, 4, 5}
    assert set(reader.table(SHARE)) == {6}


def test_nobody_survives_that_was_lost_before() -> None:
    made = session()
    drill = Drill(made).after("share")
    del drill.outbox[6]
    drill.receive("share")
    drill.answer("mask")
    drill.receive("mask")
    with pytest.raises(Aborted, match="survives that was lost before"):
        drill.call("consent", 1, header(made, Kind.SURVIVORS, 1) + write_set(made, made.nodes))


def test_a_node_does_not_open_a_set_without_itself() -> None:
    made = session()
    drill = Drill(made).before("consent")
    others = header(made, Kind.SURVIVORS, 1) + write_set(made, (2, 3, 4, 5, 6))
    with pytest.raises(Aborted, match="or this one is not among them"):
        drill.call("consent", 1, others)


def test_a_seeds_shares_go_only_where_a_mask_goes() -> None:
    """A receiver cannot have node 1 mask with one half of its neighbours and ask the other half.

    Told that 3 of its 7 share holders are lost, it seals shares of its seed for the other 4.
    """
    made = session(n=12, threshold=3, degree=7)
    drill = Drill(made).before("mask")
    hidden = sorted(drill.nodes[1]._holders)[:3]
    kept = drill.nodes[1]._holders - set(hidden)
    alive = write_set(made, made.members - set(hidden))
    message = drill.inbox[1][:HEADER] + alive + drill.inbox[1][HEADER + len(alive) :]
    reader = Reader(made, Kind.MASKED, 1, drill.call("mask", 1, message))
    reader.take(4 * made.length)
    assert set(reader.table(SEALED)) == kept


def adverts(drill: Drill, me: int) -> dict[int, bytes]:
    return Reader(drill.session, Kind.KEYS, me, drill.inbox[me]).table(advert_size(drill.session))


def forged(drill: Drill, node: int, key: Ed25519PrivateKey) -> bytes:
    """An advert with the forger's session keys."""
    keys = X25519PrivateKey.generate().public_key().public_bytes_raw() * 2
    body = header(drill.session, Kind.ADVERT, node) + keys
    body += write_set(drill.session, drill.session.nodes)
    return body + key.sign(body)


@pytest.mark.parametrize(("substituted", "left"), [((2, 3), 4), ((2, 3, 4), 3)])
def test_keys_put_in_by_the_receiver_are_not_used(substituted: tuple, left: int) -> None:
    drill = Drill(session()).before("share")
    table = adverts(drill, 1)
    for node in substituted:
        table[node] = forged(drill, node, Ed25519PrivateKey.generate())
    message = header(drill.session, Kind.KEYS, 1) + write_table(table)
    if left < 4:
        with pytest.raises(Aborted, match="3 holders of this node's shares are left; it takes 4"):
            drill.call("share", 1, message)
        return
    sent = Reader(drill.session, Kind.SHARES, 1, drill.call("share", 1, message)).table(SEALED)
    assert set(sent) == {1, 4, 5, 6}


def test_a_node_does_not_take_its_neighbours_advert_for_anothers() -> None:
    drill = Drill(session()).before("share")
    table = adverts(drill, 1)
    table[2], table[3] = table[3], table[2]
    message = header(drill.session, Kind.KEYS, 1) + write_table(table)
    sent = Reader(drill.session, Kind.SHARES, 1, drill.call("share", 1, message)).table(SEALED)
    assert set(sent) == {1, 4, 5, 6}


def test_a_wrong_signature_is_a_dropout() -> None:
    drill = Drill(session()).after("advertise")
    drill.outbox[2] = forged(drill, 2, IDENTITIES[3])
    exact(drill, "advertise", (1, 3, 4, 5, 6))


def test_a_key_of_low_order_is_a_dropout() -> None:
    drill = Drill(session()).after("advertise")
    zero = drill.outbox[2][:HEADER] + bytes(64) + drill.outbox[2][HEADER + 64 : -SIGNATURE]
    drill.outbox[2] = zero + IDENTITIES[2].sign(zero)
    read_advert(drill.session, 2, IDENTITIES[2].public_key(), drill.outbox[2])  # signed well
    exact(drill, "advertise", (1, 3, 4, 5, 6))
    # And a node that is sent such a key uses it for nothing.
    drill = Drill(session()).before("share")
    table = adverts(drill, 1)
    zero = table[2][:HEADER] + bytes(64) + table[2][HEADER + 64 : -SIGNATURE]
    table[2] = zero + IDENTITIES[2].sign(zero)
    drill.call("share", 1, header(drill.session, Kind.KEYS, 1) + write_table(table))
    assert set(drill.nodes[1]._channels) == {1, 3, 4, 5, 6}


@pytest.mark.parametrize("named", [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6)])
@pytest.mark.parametrize("signs", [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6)])
def test_a_consent_to_another_set_is_a_dropout(named: tuple, signs: tuple) -> None:
    """Whether the set that it names or the one that it signs is another."""
    drill = Drill(session()).before("consent")
    drill.answer("consent")
    head = header(drill.session, Kind.CONSENT, 2)
    signature = IDENTITIES[2].sign(head + write_set(drill.session, signs))
    drill.outbox[2] = head + write_set(drill.session, named) + signature
    drill.receive("consent")
    assert (2 in drill.inbox) == (named == signs == drill.session.nodes)


@pytest.mark.parametrize("stage", STAGES)
def test_a_swapped_sender_is_a_dropout(stage: str) -> None:
    drill = Drill(session()).after(stage)
    drill.outbox[2], drill.outbox[3] = drill.outbox[3], drill.outbox[2]
    lost = STAGES.index(stage) < 3
    exact(drill, stage, (1, 4, 5, 6) if lost else (1, 2, 3, 4, 5, 6))


OTHERS = {
    "experiment": bytes([1]) * 32,
    "model": bytes([1]) * 32,
    "round": 2,
    "nodes": (1, 2, 3, 4, 5, 7),
}


@pytest.mark.parametrize("field", OTHERS)
@pytest.mark.parametrize("stage", RECEIVED)
def test_what_was_sent_in_another_session_is_refused(stage: str, field: str) -> None:
    drill = Drill(session()).before(stage)
    other = Drill(session(**{field: OTHERS[field]})).before(stage)
    with pytest.raises(Aborted, match="does not belong to this session and stage"):
        drill.call(stage, 1, other.inbox[1])


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_node_sent_in_another_round_is_a_dropout(stage: str) -> None:
    drill = Drill(session()).after(stage)
    drill.outbox[2] = Drill(session(round=2)).after(stage).outbox[2]
    lost = STAGES.index(stage) < 3
    exact(drill, stage, (1, 3, 4, 5, 6) if lost else (1, 2, 3, 4, 5, 6))


def test_an_advert_of_another_round_is_a_dropout_for_nodes_too() -> None:
    drill = Drill(session()).before("share")
    table = adverts(drill, 1)
    table[2] = Drill(session(round=2)).after("advertise").outbox[2]
    message = header(drill.session, Kind.KEYS, 1) + write_table(table)
    sent = Reader(drill.session, Kind.SHARES, 1, drill.call("share", 1, message)).table(SEALED)
    assert set(sent) == {1, 3, 4, 5, 6}


def test_a_share_sealed_for_another_use_does_not_open() -> None:
    """Seed shares for mask key shares, and one direction's for the other's."""
    drill = Drill(session()).after("mask")
    reader = Reader(drill.session, Kind.MASKED, 2, drill.outbox[2])
    reader.take(4 * drill.session.length)
    box, made = reader.table(SEALED)[1], drill.session
    channel = drill.nodes[1]._channels[2]
    assert channel == drill.nodes[2]._channels[1]
    assert unseal(made, channel, Kind.MASKED, 2, 1, box) is not None
    assert unseal(made, channel, Kind.SHARES, 2, 1, box) is None
    assert unseal(made, channel, Kind.MASKED, 1, 2, box) is None
    assert unseal(made, drill.nodes[1]._channels[3], Kind.MASKED, 2, 1, box) is None
    assert unseal(session(round=2), channel, Kind.MASKED, 2, 1, box) is None


def test_one_flipped_bit_of_a_sealed_share_costs_that_share_alone() -> None:
    drill = Drill(session()).after("share")
    for stage in ("share", "mask"):
        for me in (2, 3):
            flipped = bytearray(drill.outbox[me])
            flipped[-1] ^= 1
            drill.outbox[me] = bytes(flipped)
        if stage == "share":
            drill.receive("share")
            drill.answer("mask")
    del drill.outbox[6]
    exact(drill, "mask", (1, 2, 3, 4, 5))


def test_a_false_share_of_a_mask_key_aborts() -> None:
    drill = Drill(session()).after("mask")
    del drill.outbox[6]
    drill.receive("mask")
    drill.answer("consent")
    drill.receive("consent")
    drill.answer("unmask")
    flipped = bytearray(drill.outbox[1])
    flipped[-1] ^= 1  # the last share is that of node 6
    drill.outbox[1] = bytes(flipped)
    with pytest.raises(Aborted, match="node 6's mask key is wrong"):
        drill.receive("unmask")


def test_a_node_reveals_no_share_that_was_not_asked_for() -> None:
    drill = Drill(session()).after("unmask")
    both = write_table({6: bytes(SHARE)})
    drill.outbox[1] = drill.outbox[1][:-4] + both  # an empty table before
    exact(drill, "unmask", (1, 2, 3, 4, 5, 6))


def damaged(message: bytes) -> st.SearchStrategy[bytes]:
    """Cut short, extended, a byte changed, an absurd count in any place, or noise."""
    at = st.integers(0, len(message) - 1)
    return st.one_of(
        at.map(lambda end: message[:end]),
        st.binary(min_size=1, max_size=40).map(lambda more: message + more),
        st.tuples(at, st.integers(1, 255)).map(
            lambda c: message[: c[0]] + bytes([message[c[0]] ^ c[1]]) + message[c[0] + 1 :]
        ),
        at.map(lambda i: message[:i] + b"\xff" * 4 + message[i + 4 :]),
        st.binary(max_size=200),
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("stage", RECEIVED)
def test_a_node_answers_any_bytes_with_a_message_or_an_abort(
    stage: str, data: st.DataObject
) -> None:
    drill = Drill(session(n=3, threshold=2)).before(stage)
    try:
        drill.call(stage, 1, data.draw(damaged(drill.inbox[1])))
    except Aborted:
        assert drill.nodes[1]._next is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("stage", STAGES)
def test_any_bytes_from_one_node_leave_the_others_a_sum(stage: str, data: st.DataObject) -> None:
    drill = Drill(session(n=4, threshold=3)).after(stage)
    drill.outbox[2] = data.draw(damaged(drill.outbox[2]))
    try:
        found, survivors = drill.finish(stage)
    except Aborted:
        # Only what parses and is wrong: a false share, found by the key that it makes.
        assert stage == "unmask"
        return
    assert set(survivors) >= {1, 3, 4}
    # A node's own vector and its shares of others' seeds are its to falsify.
    if stage in ("advertise", "share", "consent") or survivors == (1, 3, 4):
        assert (found == total(drill.session, survivors)).all()


@pytest.mark.parametrize("count", [5, 2**16, 2**32 - 1])
def test_a_count_beyond_the_cohort_is_refused_before_anything_is_read(count: int) -> None:
    made = session(n=4, threshold=3)
    message = header(made, Kind.KEYS, 1) + count.to_bytes(4, "little") + bytes(1000)
    reader = Reader(made, Kind.KEYS, 1, message)
    with pytest.raises(Aborted, match="malformed"):
        reader.table(1)
    assert reader.at == HEADER + 4


@pytest.mark.parametrize("rows", [[2, 1], [1, 1], [1, 9]])
def test_a_table_has_one_order_and_only_members(rows: list[int]) -> None:
    made = session(n=4, threshold=3)
    body = b"".join(row.to_bytes(4, "little") + b"x" for row in rows)
    message = header(made, Kind.KEYS, 1) + len(rows).to_bytes(4, "little") + body
    with pytest.raises(Aborted, match="malformed"):
        Reader(made, Kind.KEYS, 1, message).table(1)


def test_a_set_names_members_only() -> None:
    made = session(n=4, threshold=3)
    with pytest.raises(Aborted, match="malformed"):
        Reader(made, Kind.SURVIVORS, 1, header(made, Kind.SURVIVORS, 1) + b"\x1f").set()


def test_a_vector_of_another_kind_is_not_sent() -> None:
    for vector in (np.zeros(4, np.uint32), np.zeros(5, np.uint64), np.zeros((5, 1), np.uint32)):
        drill = Drill(session()).before("mask")
        with pytest.raises(Aborted, match="length and dtype"):
            drill.nodes[1].mask(drill.inbox[1], vector)
