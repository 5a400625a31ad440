"""Additive sharing: exact sums, what each side sees, and what each side refuses."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from tacit.errors import InputError, MessageError
from tacit.protection import sharing
from tacit.protection.proof import field
from tacit.protection.sharing import (
    SEED,
    TAG,
    Helper,
    Server,
    Session,
    expand,
    keystream,
    split,
)

MODULI = [2**32, 2**64, field.P]


def session(modulus: int = 2**32, dimension: int = 3, round: int = 1) -> Session:
    return Session(bytes(range(32)), round, dimension, modulus, minimum=2)


def received(of: Session, values: dict[int, list[int]]) -> tuple[Server, Helper]:
    server, helper = Server(of), Helper(of)
    for node, row in values.items():
        upload, seed = split(of, node, np.array(row, of.dtype))
        server.receive(node, upload)
        helper.receive(node, seed)
    return server, helper


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_sum_is_exact(data: st.DataObject) -> None:
    modulus = data.draw(st.sampled_from(MODULI))
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, modulus - 1), min_size=3, max_size=3), min_size=2, max_size=6
        )
    )
    alive = data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=2))
    server, helper = received(session(modulus), dict(enumerate(rows)))
    total = server.finish(alive, helper.answer(alive))
    assert [int(v) for v in total] == [sum(rows[i][j] for i in alive) % modulus for j in range(3)]


@pytest.mark.parametrize("modulus", MODULI)
def test_the_server_sees_uniform_words(modulus: int) -> None:
    of = session(modulus, 20_000)
    upload, _ = split(of, 0, np.zeros(20_000, of.dtype))
    counts = np.bincount(np.frombuffer(upload[TAG:], np.uint8), minlength=256)
    # False alarm 1e-6. (The field's words miss 2^-32 of the range, which this cannot see.)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, 255)


def test_one_value_shared_twice_has_nothing_in_common() -> None:
    of = session()
    first, second = (split(of, 0, np.zeros(3, np.uint32)) for _ in range(2))
    assert first[0][TAG:] != second[0][TAG:]
    assert first[1][TAG:] != second[1][TAG:]


def test_streams_of_two_contexts_or_seeds_differ() -> None:
    streams = {
        keystream(bytes([seed]) * 32, context).update(bytes(32))
        for seed in (1, 2)
        for context in (b"a", b"b")
    }
    assert len(streams) == 4


def test_words_outside_the_field_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        """Words p - 1, p, 2^64 - 1, then 1, 2, 3, ..."""

        def __init__(self) -> None:
            self.words = [field.P - 1, field.P, 2**64 - 1, *range(1, 9)]

        def update_into(self, blank: memoryview, out: memoryview) -> None:
            taken, self.words = self.words[: len(blank) // 8], self.words[len(blank) // 8 :]
            out[:] = np.array(taken, "<u8").tobytes()

    monkeypatch.setattr(sharing, "keystream", lambda seed, context: Stream())
    assert expand(b"", b"", 4, field.P).tolist() == [field.P - 1, 1, 2, 3]


def test_sums_over_two_sets_are_caught() -> None:
    server, helper = received(session(), {i: [i, i, i] for i in range(4)})
    with pytest.raises(MessageError, match="another set"):
        server.finish([0, 1, 2], helper.answer([0, 1, 3]))


def test_a_node_that_reached_one_side_only_is_named() -> None:
    server, helper = received(session(), {0: [0, 0, 0], 1: [1, 1, 1]})
    upload, _ = split(server.session, 2, np.zeros(3, np.uint32))
    server.receive(2, upload)
    with pytest.raises(MessageError, match=r"\[2\]"):
        helper.answer([0, 1, 2])
    assert server.finish([0, 1], helper.answer([0, 1])).tolist() == [1, 1, 1]


def test_the_helper_answers_once_and_never_for_one_node() -> None:
    # Sums over {0, 1, 2} and {0, 1} would differ by node 2; a set of one would be that node.
    _, helper = received(session(), {i: [i, i, i] for i in range(3)})
    with pytest.raises(MessageError, match="minimum"):
        helper.answer([2, 2])
    helper.answer([0, 1, 2])
    with pytest.raises(MessageError, match="one set"):
        helper.answer([0, 1])


def test_late_and_doubled_messages_are_refused() -> None:
    server, helper = received(session(), {0: [0, 0, 0], 1: [1, 1, 1]})
    upload, seed = split(server.session, 0, np.zeros(3, np.uint32))
    for receiver, message in ((server, upload), (helper, seed)):
        with pytest.raises(MessageError, match="already"):
            receiver.receive(0, message)
    upload, seed = split(server.session, 2, np.zeros(3, np.uint32))
    server.finish([0, 1], helper.answer([0, 1]))
    for receiver, message in ((server, upload), (helper, seed)):
        with pytest.raises(MessageError, match="late"):
            receiver.receive(2, message)


@pytest.mark.parametrize(
    "other",
    [
        {"round": 2},
        {"experiment": bytes(32)},
        {"dimension": 6, "modulus": 2**32},
        {"minimum": 3},
        {"modulus": 2**64},
    ],
)
def test_a_message_of_another_session_is_refused(other: dict) -> None:
    here = session(2**32)
    there = dataclasses.replace(here, **other)
    upload, seed = split(there, 0, np.zeros(there.dimension, there.dtype))
    for receiver, message in ((Server(here), upload), (Helper(here), seed)):
        with pytest.raises(MessageError, match="of this round"):
            receiver.receive(0, message)


def test_a_message_of_another_node_or_for_the_other_side_is_refused() -> None:
    of = session()
    upload, seed = split(of, 0, np.zeros(3, np.uint32))
    for receiver, node, message in (
        (Server(of), 1, upload),
        (Helper(of), 1, seed),
        (Server(of), 0, seed),
        (Helper(of), 0, upload),
    ):
        with pytest.raises(MessageError, match="of this round"):
            receiver.receive(node, message)


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("change", [lambda m: m[:-1], lambda m: m + b"0", lambda m: m[:TAG]])
def test_messages_of_another_length_are_refused(modulus: int, change) -> None:
    of = session(modulus)
    upload, seed = split(of, 0, np.zeros(3, of.dtype))
    for receiver, message in ((Server(of), upload), (Helper(of), seed)):
        with pytest.raises(MessageError, match="bytes"):
            receiver.receive(0, change(message))
    for length in (0, 5, TAG - 1):
        with pytest.raises(MessageError, match="of this round"):
            Server(of).receive(0, upload[:length])


def test_words_outside_the_field_are_refused_in_messages() -> None:
    of = session(field.P, 1)
    for word in (field.P, 2**64 - 1):
        with pytest.raises(MessageError, match="field"):
            Server(of).receive(0, of.bind("server", 0) + word.to_bytes(8, "little"))


def test_a_malformed_answer_is_refused() -> None:
    server, helper = received(session(), {0: [0, 0, 0], 1: [1, 1, 1]})
    answer = helper.answer([0, 1])
    for wrong in (b"", answer[:-1], answer + b"0", bytes(TAG) + answer[TAG:]):
        with pytest.raises(MessageError):
            server.finish([0, 1], wrong)


def test_the_helper_forgets_its_seeds() -> None:
    _, helper = received(session(), {0: [0, 0, 0], 1: [1, 1, 1]})
    assert len(helper.seed(0)) == SEED
    helper.answer([0, 1])
    assert helper.nodes == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"experiment": b""},
        {"round": -1},
        {"dimension": 0},
        {"modulus": 2**16},
        {"minimum": 1},
    ],
)
def test_unusable_sessions_are_named(wrong: dict) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: "):
        dataclasses.replace(session(), **wrong)


def test_unusable_values_are_named() -> None:
    for values in (np.zeros(2, np.uint32), np.zeros(3, np.uint64)):
        with pytest.raises(InputError, match=r"^values: "):
            split(session(), 0, values)
