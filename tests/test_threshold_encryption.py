"""Sums under threshold BFV: exact, whoever is lost; lies, wrong bytes and old keys are refused.

Runs without torch, so that it also runs where OpenFHE loads and torch does not.
"""

from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.errors import InputError
from tacit.protection.encryption import bfv
from tacit.protection.encryption.messages import Kind, scheme
from tacit.protection.encryption.node import Node
from tacit.protection.encryption.packing import pack, unpack
from tacit.protection.encryption.receiver import Receiver
from tacit.protection.encryption.simulate import STAGES, simulate
from tacit.protection.secagg.messages import header, write_set, write_table
from tacit.protection.secagg.session import Aborted, Session

try:
    bfv.library()
except InputError as reason:
    pytest.skip(str(reason), allow_module_level=True)

IDENTITIES = {node: Ed25519PrivateKey.generate() for node in range(1, 6)}
DIRECTORY = {node: key.public_key() for node, key in IDENTITIES.items()}
RECEIVED = STAGES[1:]  # the stages at which a node is sent something


def session(threshold: int = 3, **changed) -> Session:
    made = {
        "experiment": bytes(32),
        "model": bytes(32),
        "round": 1,
        "nodes": tuple(range(1, 6)),
        "threshold": threshold,
        "length": 7,
        "dtype": np.dtype(np.uint32),
        "minimum": 2,
    }
    return Session(**(made | changed))


AT = len(header(session(), Kind.SHARES, 1))  # where a message's content begins


def vectors(session: Session) -> dict[int, np.ndarray]:
    """Five of these stay within what a 32-bit codec lets a sum be: 2^31 - 1."""
    draw, most = np.random.default_rng(7), (2**31 - 1) // 5
    given = {n: draw.integers(-most, most, session.length, endpoint=True) for n in session.nodes}
    return {node: row.astype(np.int32).view(np.uint32) for node, row in given.items()}


def total(session: Session, nodes) -> np.ndarray:
    """What the sum has to be, in Python's unbounded integers."""
    given = vectors(session)
    columns = zip(*(given[node].tolist() for node in nodes), strict=True)
    return np.array([sum(column) % 2**32 for column in columns], np.uint32)


@dataclass
class Drill:
    """Nodes and a receiver; ``inbox`` is what nodes are sent next, ``outbox`` their answers."""

    session: Session
    nodes: dict[int, Node] = field(init=False)
    inbox: dict[int, bytes] = field(init=False, default_factory=dict)
    outbox: dict[int, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.receiver = Receiver(self.session, DIRECTORY)
        self.nodes = {me: Node(self.session, me, IDENTITIES[me], DIRECTORY) for me in DIRECTORY}
        self.given = vectors(self.session)

    def call(self, stage: str, me: int, message) -> bytes:
        node = self.nodes[me]
        if stage == "advertise":
            return node.advertise()
        if stage == "commit":
            return node.commit(message, self.given[me])
        return getattr(node, stage)(message)

    def answer(self, stage: str) -> None:
        self.outbox = {}
        for me in self.nodes:
            try:
                if stage == "advertise":
                    self.outbox[me] = self.call(stage, me, None)
                elif stage == "decrypt":
                    self.outbox[me] = self.call(stage, me, self.inbox.items())
                elif me in self.inbox:
                    self.outbox[me] = self.call(stage, me, self.inbox[me])
            except Aborted:
                continue

    def receive(self, stage: str):
        if stage == "upload":
            for me, message in self.outbox.items():
                self.receiver.add(me, message)
            self.inbox = self.receiver.uploads()
            return self.inbox
        call = dict(zip(STAGES, ("keys", "deliver", "commits", "", "request", "sum"), strict=True))
        self.inbox = getattr(self.receiver, call[stage])(self.outbox)
        return self.inbox

    def before(self, stage: str) -> "Drill":
        for earlier in STAGES[: STAGES.index(stage)]:
            self.answer(earlier)
            self.receive(earlier)
        return self

    def after(self, stage: str) -> "Drill":
        self.before(stage).answer(stage)
        return self

    def finish(self, stage: str):
        """From where nodes have answered a stage to the sum and the survivors."""
        found = self.receive(stage)
        for later in STAGES[STAGES.index(stage) + 1 :]:
            self.answer(later)
            found = self.receive(later)
        return found


def flipped(message: bytes, at: int) -> bytes:
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


def signed(made: Session, kind: Kind, node: int, body: bytes) -> bytes:
    message = header(made, kind, node) + body
    return message + IDENTITIES[node].sign(message)


# Who is lost from which stage on, and who is then summed: whose ciphertexts arrived.
SCHEDULES = [
    ({}, (1, 2, 3, 4, 5)),
    ({"advertise": {1}, "share": {2}}, (3, 4, 5)),
    ({"share": {1}, "decrypt": {2}}, (2, 3, 4, 5)),
    ({"commit": {5}, "upload": {3}}, (1, 2, 4)),
    ({"upload": {4}, "decrypt": {1}}, (1, 2, 3, 5)),
    ({"decrypt": {1, 2}}, (1, 2, 3, 4, 5)),
    ({"decrypt": {5}, "rebuild": {1}}, (1, 2, 3, 4, 5)),
]


@pytest.mark.parametrize(("dropped", "survivors"), SCHEDULES, ids=str)
def test_the_sum_of_the_survivors_is_exact(dropped, survivors) -> None:
    made = session()
    found, left = simulate(made, IDENTITIES, vectors(made), dropped)
    assert left == survivors
    assert found.dtype == np.uint32
    assert found.tolist() == total(made, survivors).tolist()


@pytest.mark.parametrize("stage", STAGES)
def test_below_the_threshold_there_is_no_sum(stage: str) -> None:
    made = session()
    with pytest.raises(Aborted, match=r"nodes are left|shares of node"):
        simulate(made, IDENTITIES, vectors(made), {stage: {1, 2, 3}})


@pytest.mark.parametrize("length", [1, 16383, 16384])
def test_all_of_all_and_vectors_that_just_fill_a_ciphertext(length: int) -> None:
    made = session(5, length=length)
    found, _ = simulate(made, IDENTITIES, vectors(made))
    assert (found == total(made, made.nodes)).all()


def test_if_all_must_help_one_lost_node_ends_it() -> None:
    made = session(5)
    with pytest.raises(Aborted, match="4 nodes are left; it takes 5"):
        simulate(made, IDENTITIES, vectors(made), {"decrypt": {2}})


def test_the_largest_sums_a_codec_has() -> None:
    """+-(2^31 - 1): the ends of the plaintext's range."""
    made = session(length=2)
    given = {node: np.zeros(2, np.int32) for node in made.nodes}
    given[1] += np.array([2**31 - 11, -(2**31) + 11], np.int32)
    given[2] += np.array([10, -10], np.int32)
    found, _ = simulate(made, IDENTITIES, {n: row.view(np.uint32) for n, row in given.items()})
    assert found.view(np.int32).tolist() == [2**31 - 1, -(2**31 - 1)]


class Parts:
    """A joint key of five parts and a ciphertext of 0, 1, 2, ... under it."""

    def __init__(self) -> None:
        self.scheme = scheme(session())
        common = self.scheme.common(bytes(32))
        joint = np.zeros_like(common)
        self.secrets = []
        for _ in range(5):
            secret, public = self.scheme.generate(common)
            self.scheme.add(joint, public)
            self.secrets.append(secret)
        self.values = pack(np.arange(1000, dtype=np.uint32), self.scheme.shape[1])
        self.cipher = self.scheme.encrypt(joint, common, self.values)

    def opened(self, parts) -> np.ndarray:
        result = self.cipher[:, 0].copy()
        for part in parts:
            self.scheme.add(result, part)
        return self.scheme.fuse(result)


def test_fewer_than_all_parts_of_the_key_open_nothing() -> None:
    """Wrong slots are uniform below 2^32: that one of 16384 is right has probability 4e-6, and
    that three are, 1e-17."""
    parts = Parts()
    partials = [parts.scheme.partial(secret, parts.cipher) for secret in parts.secrets]
    assert (parts.opened(partials) == parts.values).all()
    for some in ([], partials[:1], partials[:4], partials[1:]):
        found = parts.opened(some)
        assert (found == parts.values).sum() < 3
        with pytest.raises(Aborted, match="checksum"):  # a miss has probability 2^-32
            unpack(found, 1000)


def test_a_partial_decryption_is_drowned_in_noise() -> None:
    """Two of one ciphertext differ by noise of up to 180 bits. 2^30 times as much reaches 4 steps
    of the plaintext, 208 bits each, so that at least three of four slots are not 0. The noise of
    the ciphertext, and what OpenFHE adds in its other mode, have some 25 bits and would leave 0."""
    parts = Parts()
    difference, second = (parts.scheme.partial(parts.secrets[0], parts.cipher) for _ in range(2))
    parts.scheme.add(difference, parts.scheme.moduli - second)
    for _ in range(30):
        parts.scheme.add(difference, difference.copy())
    assert (parts.scheme.fuse(difference) != 0).mean() > 0.6


def test_a_partial_decryption_under_an_old_key_is_noticed() -> None:
    parts, old = Parts(), Parts()
    secrets = [old.secrets[0], *parts.secrets[1:]]
    found = parts.opened([parts.scheme.partial(secret, parts.cipher) for secret in secrets])
    with pytest.raises(Aborted, match="checksum"):
        unpack(found, 1000)


def test_what_openfhe_wrote_is_read_and_written_alike() -> None:
    made = scheme(session())
    draw = np.random.default_rng(3)
    for form, polynomials in ((made._secret, 1), (made._public, 2), (made._cipher, 2)):
        given = draw.integers(0, 2**59, (polynomials, *made.shape), np.uint64)
        assert (form.residues(form.build(given)) == given).all()


def test_the_common_polynomial_is_of_its_session_alone() -> None:
    """The same for all; uniform, its mean is within 1e-2 of half the prime (6 sigma at 16384)."""
    made = scheme(session())
    one, other = made.common(bytes(32)), made.common(bytes([1]) + bytes(31))
    assert (made.common(bytes(32)) == one).all()
    assert (one != other).all()
    assert (one < made.moduli).all()
    assert np.abs((one / made.moduli).mean(axis=1) - 0.5).max() < 0.0135


def test_a_receiver_cannot_have_one_update_decrypted() -> None:
    """Nor a sum of two, an update again and again or twice in a sum, or a sum without one's own."""
    drill = Drill(session()).before("decrypt")
    for me, chosen in ((1, [1]), (2, [1, 2]), (3, [3, 3, 3]), (4, [1, 2, 3]), (5, [1, 2, 5, 2])):
        with pytest.raises(Aborted):
            drill.nodes[me].decrypt([(node, drill.inbox[node]) for node in chosen])


def test_a_receiver_cannot_change_what_is_summed() -> None:
    """Node 3's ciphertext is replaced by twice node 2's, well-formed."""
    drill = Drill(session()).before("decrypt")
    start = len(header(drill.session, Kind.UPLOAD, 2))
    made = scheme(drill.session)
    twice = np.frombuffer(drill.inbox[2][start:], np.uint64).reshape(1, 2, *made.shape).copy()
    made.add(twice, twice.copy())
    forged = header(drill.session, Kind.UPLOAD, 3) + twice.tobytes()
    with pytest.raises(Aborted, match="not what node 3 committed to"):
        drill.nodes[1].decrypt((drill.inbox | {3: forged}).items())


def test_a_node_cannot_cancel_the_others_once_it_sees_them() -> None:
    """The attack on sums that only add up: -c1 - c2 - c3 leaves c4 alone. It is not committed to,
    and no honest party takes it."""
    drill = Drill(session()).after("upload")
    made, start = scheme(drill.session), len(header(drill.session, Kind.UPLOAD, 5))
    negative = np.zeros((1, 2, *made.shape), np.uint64)
    for node in (1, 2, 3):
        seen = np.frombuffer(drill.outbox[node][start:], np.uint64).reshape(negative.shape)
        made.add(negative, made.moduli - seen)
    forged = header(drill.session, Kind.UPLOAD, 5) + negative.tobytes()
    with pytest.raises(Aborted, match="not what node 5 committed to"):
        drill.nodes[1].decrypt((drill.outbox | {5: forged}).items())
    drill.outbox[5] = forged
    assert drill.receive("upload").keys() == {1, 2, 3, 4}


def test_a_node_cannot_commit_to_what_another_committed_to() -> None:
    """Opened by a copy of the ciphertext, a copied commitment would make an update count twice.
    The hash is of the sender, too, so that neither of the two ways to open it is taken."""
    drill = Drill(session()).after("commit")
    seen, theirs = drill.outbox[2][AT:][:32], drill.outbox[2][AT + 32 :][:32]
    drill.outbox[5] = signed(drill.session, Kind.COMMIT, 5, seen + theirs)
    drill.receive("commit")
    drill.answer("upload")
    copies = drill.outbox[2], header(drill.session, Kind.UPLOAD, 5) + drill.outbox[2][AT:]
    with pytest.raises(Aborted, match="node 5"):
        drill.nodes[1].decrypt((drill.outbox | {5: copies[1]}).items())
    with pytest.raises(Aborted, match="malformed"):
        drill.nodes[3].decrypt((drill.outbox | {5: copies[0]}).items())
    for copy in copies:
        drill.receiver.add(5, copy)
    del drill.outbox[5]
    assert drill.receive("upload").keys() == {1, 2, 3, 4}


def test_a_key_that_cancels_the_others_is_refused() -> None:
    """The attack on keys that only add up: b' - b1 - ... - b4, shown last, would make the joint key
    one whose secret node 5 has alone."""
    drill = Drill(session()).after("share")
    made, size = scheme(drill.session), 8 * 4 * 16384
    joint = np.zeros(made.shape, np.uint64)
    for node in (1, 2, 3, 4):
        public = np.frombuffer(drill.outbox[node][AT : AT + size], np.uint64).reshape(made.shape)
        made.add(joint, made.moduli - public)
    made.add(joint, made.generate(made.common(drill.session.context))[1])
    rest = drill.outbox[5][AT + size : -64]
    drill.outbox[5] = signed(drill.session, Kind.SHARES, 5, joint.tobytes() + rest)
    publics = {n: drill.outbox[n][AT : AT + size] for n in drill.nodes}
    told = header(drill.session, Kind.DELIVERY, 1) + write_table(publics) + write_table({})
    with pytest.raises(Aborted, match="not what node 5 committed to"):
        drill.nodes[1].commit(told, drill.given[1])
    assert drill.receive("share").keys() == {1, 2, 3, 4}


def test_nodes_that_were_shown_other_keys_do_not_go_together() -> None:
    """Commitments count among those alone who saw the same keys."""
    drill = Drill(session()).before("commit")
    size, made = 8 * 4 * 16384, drill.session
    message = drill.inbox[1]
    rows = {n: message[AT + 4 + (n - 1) * (4 + size) + 4 :][:size] for n in made.nodes}
    fewer = write_table({n: rows[n] for n in (1, 2, 3)}) + write_table({})
    drill.inbox |= {n: header(made, Kind.DELIVERY, n) + fewer for n in (1, 2)}
    drill.answer("commit")
    found = {n: drill.outbox[n][AT + 32 :][:32] + drill.outbox[n][-64:] for n in made.nodes}
    for me in made.nodes[:2]:
        with pytest.raises(Aborted, match="2 nodes are left"):
            drill.nodes[me].upload(header(made, Kind.COMMITS, me) + write_table(found))
    assert drill.receive("commit").keys() == {3, 4, 5}


def test_a_node_decrypts_once_and_rebuilds_once() -> None:
    """On which it rests that two sums take 2 threshold - n lying nodes."""
    drill = Drill(session()).after("decrypt")
    with pytest.raises(Aborted, match="not this node's next stage"):
        drill.nodes[1].decrypt(drill.inbox.items())
    drill.receive("decrypt")
    drill.nodes[2].rebuild(drill.inbox[2])
    with pytest.raises(Aborted, match="not this node's next stage"):
        drill.nodes[2].rebuild(drill.inbox[2])


@pytest.mark.parametrize("answered", [{1, 2}, {2, 3, 4, 5}])
def test_no_key_is_rebuilt_for_too_few_or_of_oneself(answered: set[int]) -> None:
    drill = Drill(session()).before("rebuild")
    asked = header(drill.session, Kind.REQUEST, 1) + write_set(drill.session, answered)
    with pytest.raises(Aborted, match=r"\d nodes are left"):
        drill.nodes[1].rebuild(asked)


def test_too_few_shares_rebuild_no_key() -> None:
    """Three are the threshold; node 3 reveals none."""
    drill = Drill(session()).before("decrypt")
    del drill.nodes[1], drill.nodes[2]
    drill.answer("decrypt")
    drill.receive("decrypt")
    drill.answer("rebuild")
    drill.outbox[3] = signed(drill.session, Kind.REVEAL, 3, write_table({}))
    with pytest.raises(Aborted, match="2 shares of node 1's are left; it takes 3"):
        drill.receive("rebuild")


@pytest.mark.parametrize("at", [40, -70, -1])
@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_flipped_byte_is_a_lost_node(stage: str, at: int) -> None:
    """In the body at both ends, and in the signature (of UPLOAD: in the ciphertext)."""
    drill = Drill(session()).after(stage)
    drill.outbox[2] = flipped(drill.outbox[2], at)
    found, left = drill.finish(stage)
    assert left == ((1, 2, 3, 4, 5) if stage == "decrypt" else (1, 3, 4, 5))
    assert (found == total(drill.session, left)).all()


@cache
def old() -> tuple[dict, dict]:
    """By stage, what nodes were sent and what they answered in an earlier round."""
    drill, inboxes, outboxes = Drill(session(round=0)), {}, {}
    for stage in STAGES:
        inboxes[stage] = drill.inbox
        drill.answer(stage)
        outboxes[stage] = drill.outbox
        drill.receive(stage)
    return inboxes, outboxes


@pytest.mark.parametrize("stage", RECEIVED)
def test_a_node_refuses_what_is_not_of_its_session(stage: str) -> None:
    """Of another round, of another stage, one byte more, one fewer."""
    drill, before = Drill(session()).before(stage), old()[0][stage]
    right = drill.inbox
    wrong = {
        1: before,
        2: {node: flipped(message, 1) for node, message in right.items()},
        3: {node: message + b"\0" for node, message in right.items()},
        4: {node: message[:-1] for node, message in right.items()},
    }
    for me, inbox in wrong.items():
        with pytest.raises(Aborted):
            drill.call(stage, me, inbox.items() if stage == "decrypt" else inbox[me])
        with pytest.raises(Aborted, match="next stage"):
            drill.call(stage, me, right.items() if stage == "decrypt" else right[me])


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_the_receiver_refuses_what_is_of_an_old_session(stage: str) -> None:
    """A stale joint key, a replayed blob: its sender is lost."""
    drill = Drill(session()).after(stage)
    drill.outbox[2] = old()[1][stage][2]
    found, left = drill.finish(stage)
    assert left == ((1, 2, 3, 4, 5) if stage == "decrypt" else (1, 3, 4, 5))
    assert (found == total(drill.session, left)).all()


def test_numbers_that_are_no_residues_are_refused() -> None:
    """Signed by their sender, each beyond its prime: they reach no arithmetic."""
    drill = Drill(session()).after("decrypt")
    wrong = b"\xff" * (8 * 4 * 16384)
    named = write_set(drill.session, drill.session.nodes)
    drill.outbox[2] = signed(drill.session, Kind.PARTIAL, 2, named + wrong)
    found, left = drill.finish("decrypt")
    assert left == (1, 2, 3, 4, 5)
    assert (found == total(drill.session, left)).all()
    assert 2 not in drill.receiver._left


def test_secrets_are_wiped_at_the_end_and_after_an_abort() -> None:
    drill = Drill(session()).after("decrypt")
    for me, message in ((1, header(drill.session, Kind.REQUEST, 1) + b"\x1f"), (2, b"")):
        node = drill.nodes[me]
        assert node._secret.any()
        if message:
            node.rebuild(message)
        else:
            with pytest.raises(Aborted):
                node.rebuild(message)
        assert not node._secret.any()
        assert not any(map(any, node._channels.values()))


@pytest.mark.parametrize(
    ("changed", "field"), [({"dtype": np.dtype("u8")}, "dtype"), ({"degree": 4}, "degree")]
)
def test_sessions_that_it_cannot_carry(changed, field: str) -> None:
    with pytest.raises(InputError, match=f"session.{field}"):
        Receiver(replace(session(), **changed), DIRECTORY)
