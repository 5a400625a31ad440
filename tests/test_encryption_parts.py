"""Homomorphic encryption where OpenFHE need not load: the parts, the packing, CKKS with one key."""

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tacit
from tacit.errors import InputError, MessageError
from tacit.protection.codec import SumError
from tacit.protection.encrypted import HomomorphicEncryption, ThresholdEncryption
from tacit.protection.encryption import bfv, ckks
from tacit.protection.encryption.messages import Kind
from tacit.protection.encryption.packing import pack, unpack
from tacit.protection.secagg.messages import header
from tacit.protection.secagg.session import Aborted, Session

IDENTITIES = {node: Ed25519PrivateKey.generate() for node in range(1, 6)}
DIRECTORY = {node: key.public_key() for node, key in IDENTITIES.items()}
SUM = 2**32 - 1  # of the slots, modulo which it is 0


@pytest.mark.parametrize("threshold", [2, 0, 3.0, True])
def test_thresholds_that_are_none(threshold) -> None:
    with pytest.raises(InputError, match=r"protection\.threshold"):
        ThresholdEncryption(threshold)


@pytest.mark.parametrize("limit", [0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("part", [ThresholdEncryption, HomomorphicEncryption])
def test_limits_that_are_none(part, limit) -> None:
    with pytest.raises(InputError, match=r"protection\.limit"):
        part(limit=limit)


@pytest.mark.parametrize(
    ("name", "load", "says"), [("openfhe", bfv.library, "3.12"), ("tenseal", ckks.library, "ckks")]
)
def test_a_library_that_does_not_load_is_told_in_a_sentence(monkeypatch, name, load, says) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"{name}.*{says}"):
        load()


def test_sums_under_encryption_need_no_torch() -> None:
    """So that they can be tested where OpenFHE loads and torch does not."""
    code = (
        "import sys; sys.modules['torch'] = None;"
        "import tacit.protection.encryption.simulate, tacit.protection.codec"
    )
    source = str(Path(tacit.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": source})


def test_slots_are_signed_and_sum_to_zero() -> None:
    """5 - 1 + 2^31 - 1 is 2^31 + 3; what is missing to 2^32 - 1 is 2^31 - 4."""
    slots = pack(np.array([5, 2**32 - 1, 2**31 - 1], np.uint32), 2)
    assert slots.tolist() == [[5, -1], [2**31 - 1, 2**31 - 4]]
    assert unpack(slots, 3).tolist() == [5, 2**32 - 1, 2**31 - 1]


def test_a_checksum_stays_within_the_plaintext() -> None:
    """The sum is 2 - 2^31 + 1 = 3 - 2^31, so the checksum would be 2^31 - 3; of its negative, the
    negative."""
    assert pack(np.array([2, 2**31 + 1], np.uint32), 4)[0, 2] == 2**31 - 3
    assert pack(np.array([2**32 - 2, 2**31 - 1], np.uint32), 4)[0, 2] == 3 - 2**31
    assert pack(np.zeros(2, np.uint32), 4).tolist() == [[0, 0, 0, 0]]


def test_a_sum_of_packed_vectors_is_packed() -> None:
    given = np.random.default_rng(1).integers(-(2**28), 2**28, (5, 9)).astype(np.int32)
    total = sum(pack(row.view(np.uint32), 4) for row in given)
    reduced = (total + SUM // 2) % SUM - SUM // 2  # as a plaintext holds it
    assert unpack(reduced, 9).view(np.int32).tolist() == given.sum(axis=0).tolist()


@pytest.mark.parametrize("at", [(0, 0), (1, 1), (1, 3)])
def test_one_wrong_slot_is_noticed(at) -> None:
    slots = pack(np.arange(6, dtype=np.uint32), 4)
    slots[at] += 1
    with pytest.raises(Aborted, match="checksum"):
        unpack(slots, 6)


def test_a_number_that_no_slot_holds_is_refused() -> None:
    with pytest.raises(Aborted, match="no codec"):
        pack(np.array([2**31], np.uint32), 4)


def session(length: int = 3000, threshold: int = 3) -> Session:
    nodes, kind = tuple(range(1, 6)), np.dtype(np.uint32)
    return Session(bytes(32), bytes(32), 1, nodes, threshold, length, kind, 2)


def vectors(limit: float, length: int = 3000) -> dict[int, np.ndarray]:
    draw = np.random.default_rng(5)
    return {node: draw.uniform(-limit, limit, length) for node in IDENTITIES}


@pytest.fixture
def tenseal():
    return pytest.importorskip("tenseal")


@pytest.mark.parametrize("limit", [0.01, 16.0, 1e5])
@pytest.mark.parametrize("length", [1, 2048, 3000])
def test_ckks_sums_up_to_a_small_error(tenseal, limit: float, length: int) -> None:
    """The error of a slot is a few hundred over the scale, which is 2^50 or 2^58 over the largest
    sum rounded up to a power of two: 2^-40 of that sum, or 1e-9, is a hundred times as much."""
    given = vectors(limit, length)
    found, left = ckks.simulate(session(length), IDENTITIES, given, {2}, limit=limit)
    assert left == (1, 3, 4, 5)
    error = np.abs(found - sum(given[node] for node in left)).max()
    assert error < max(1e-9, 2.0**-40 * 5 * limit)
    assert length == 1 or error > 0  # one number may be right to its last bit


def test_ckks_sums_no_fewer_than_agreed(tenseal) -> None:
    with pytest.raises(Aborted, match="2 nodes are left; it takes 3"):
        ckks.simulate(session(), IDENTITIES, vectors(1.0), {1, 2, 3}, limit=1.0)


def test_ckks_refuses_sums_beyond_what_nodes_may_send(tenseal) -> None:
    given = vectors(1.0) | {3: np.full(3000, 7.0)}
    with pytest.raises(SumError, match="passes its bound"):
        ckks.simulate(session(), IDENTITIES, given, limit=1.0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_ckks_encrypts_finite_numbers_alone(tenseal, wrong: float) -> None:
    with pytest.raises(InputError, match="finite"):
        ckks.simulate(session(1), IDENTITIES, dict.fromkeys(DIRECTORY, np.array([wrong])), limit=1)


def test_ckks_limits_that_leave_no_precision_are_refused(tenseal) -> None:
    with pytest.raises(InputError, match="limit"):
        ckks.Holder(session(), 1e6)


@pytest.fixture
def parties(tenseal):
    made = session()
    holder = ckks.Holder(made, 1.0)
    receiver = ckks.Receiver(made, DIRECTORY, holder.public())
    given = vectors(1.0)
    sent = {
        me: ckks.Node(made, me, IDENTITIES[me], holder.public()).encrypt(given[me])
        for me in made.nodes
    }
    return made, holder, receiver, given, sent


def test_nothing_but_the_holder_of_the_key_decrypts(tenseal, parties) -> None:
    holder = parties[1]
    public = tenseal.context_from(holder.public())
    assert not public.has_secret_key()
    vector = tenseal.ckks_vector(public, [1.0])
    with pytest.raises(ValueError, match="secret"):
        vector.decrypt()


def signed(made: Session, node: int, body: bytes) -> bytes:
    message = header(made, Kind.UPLOAD, node) + body
    return message + IDENTITIES[node].sign(message)


def test_ckks_messages_that_are_wrong_are_not_summed(tenseal, parties) -> None:
    """A flipped byte, another's message, an old one, twice the same; and of what is signed: noise,
    a size beyond all bounds, one ciphertext too few, one of another scale."""
    made, holder, receiver, given, sent = parties
    (size,) = struct.unpack_from("<I", sent[2], 38)
    first, second = sent[2][38 : 42 + size], sent[2][42 + size : -64]
    other = tenseal.context_from(holder.public())
    other.global_scale = 2.0**30
    scaled = tenseal.ckks_vector(other, [1.0] * 2048).serialize()
    stale = replace(made, round=0)
    old = ckks.Node(stale, 2, IDENTITIES[2], holder.public()).encrypt(given[2])
    wrong = [
        sent[2][:500] + bytes([sent[2][500] ^ 1]) + sent[2][501:],
        sent[3],
        old,
        signed(made, 2, b"\xff" * 200),
        signed(made, 2, struct.pack("<I", 2**31) + first[4:] + second),
        signed(made, 2, first),
        signed(made, 2, first + second + b"\0"),
        signed(made, 2, struct.pack("<I", len(scaled)) + scaled + second),
        signed(made, 2, struct.pack("<I", 8) + bytes(8) + second),
    ]
    for message in wrong:
        receiver.add(2, message)
    for node in (1, 3, 4, 5, 5):
        receiver.add(node, sent[node])
    message, left = receiver.sum()
    assert left == (1, 3, 4, 5)
    expected = sum(given[node] for node in left)
    assert np.abs(holder.open(message) - expected).max() < 1e-9
    with pytest.raises(MessageError, match="one sum"):
        holder.open(message)
