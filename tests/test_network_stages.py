"""Secure sums beside masks alone, among real machines: checked ones, and threshold encryption."""

import msgspec
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tacit
from tacit.engine.secure_sum import Binding, masking
from tacit.network.stages import COMMITTED, ENCRYPTION, Committing
from tacit.protection.codec import SumError
from tacit.protection.encryption import bfv, messages
from tacit.protection.secagg.session import Aborted
from test_network_rounds import HALF, experiment, in_parts
from test_network_run import model
from test_network_sums import MASKS, NAMES, Masked

VERIFIED = [HALF, *MASKS, tacit.VerifiableSum()]


class Toy:
    """The shape of BFV and none of its security: no noise, and products number by number.

    Of a secret s and the common a, the public key is -a s; (-a S r + m, a r) under the joint key
    of S, the sum of the secrets, opens by adding a r s for each s. Modulo 2^61 - 1.
    """

    moduli = np.array([[2**61 - 1]], np.uint64)
    shape = (1, 16)

    def __init__(self, nodes):
        self.draw = np.random.default_rng(nodes)

    read, blocks, ciphertext_bytes = (
        bfv.Scheme.read, bfv.Scheme.blocks, bfv.Scheme.ciphertext_bytes,
    )  # fmt: skip
    add = bfv.Scheme.add

    def product(self, one, other):
        wide = one.astype(object) * other.astype(object) % int(self.moduli[0, 0])
        return wide.astype(np.uint64)

    def common(self, context):
        return np.full(self.shape, 3 + context[0], np.uint64)

    def generate(self, common):
        secret = self.draw.integers(1, 2**60, self.shape).astype(np.uint64)
        return secret, self.moduli - self.product(common, secret)

    def encrypt(self, joint, common, values):
        result = np.empty((len(values), 2, *self.shape), np.uint64)
        for row, block in zip(result, values, strict=True):
            drawn = self.draw.integers(1, 2**60, self.shape).astype(np.uint64)
            row[:] = self.product(joint, drawn), self.product(common, drawn)
            plain = (block.astype(object) % int(self.moduli[0, 0])).astype(np.uint64)
            self.add(row[0], plain.reshape(self.shape))
        return result

    def partial(self, secret, total):
        return np.stack([self.product(block[1], secret) for block in total])

    def fuse(self, opened):
        signed = opened.reshape(len(opened), -1).astype(object)
        return np.where(signed > 2**60, signed - (2**61 - 1), signed).astype(np.int64)


@pytest.fixture
def toy(monkeypatch):
    made = {}
    monkeypatch.setattr(bfv, "library", lambda: None)
    monkeypatch.setattr(messages, "_scheme", lambda nodes: made.setdefault(nodes, Toy(nodes)))


def encrypted(**changes):
    return experiment(protection=[HALF, tacit.ThresholdEncryption()], **changes)


def same(plan, kept, bench):
    return torch.equal(model(plan, kept, bench.store), plan.layout.vector(tacit.run(plan).model))


def test_a_run_under_threshold_encryption_gives_the_bits_of_one_process(toy, tmp_path):
    plan = encrypted()
    bench = Masked(plan, tmp_path)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    assert same(plan, kept, bench)


@pytest.mark.parametrize("stage", ["advertise", "commit", "upload", "decrypt", "rebuild"])
def test_under_encryption_a_lost_site_is_left_out_from_there_on(stage, toy, tmp_path):
    plan = encrypted()
    bench = Masked(plan, tmp_path, dies=[(NAMES[2], 1, stage)])
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    last = 2 if stage in ("decrypt", "rebuild") else 1  # whose ciphertext has come is in the sum
    assert bench.store.metrics()[1]["left_out"] == ([NAMES[2]] if last == 1 else [])
    clipped = plan.replace(protection=[HALF])
    server, _ = in_parts(clipped, lost=lambda round: (2,) if round >= last else ())
    assert torch.allclose(model(plan, kept, bench.store), server.shared["model"], atol=1e-5)


def test_a_verified_run_gives_the_bits_of_one_process(tmp_path):
    plan = experiment(protection=VERIFIED)
    bench = Masked(plan, tmp_path)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    assert same(plan, kept, bench)
    assert same(plan.replace(protection=[HALF, *MASKS]), kept, bench)


@pytest.mark.parametrize("stage", ["pledge", "mask"])
def test_a_site_that_is_committed_and_lost_is_left_out(stage, tmp_path):
    plan = experiment(protection=VERIFIED, rounds=2)
    bench = Masked(plan, tmp_path, dies=[(NAMES[4], 1, stage)])
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    assert bench.store.metrics()[1]["left_out"] == [NAMES[4]]


def test_a_site_that_hides_another_vector_ends_the_run(tmp_path, monkeypatch):
    honest = Committing.mask_pledged

    def lying(node, message):
        if node.me == 3:
            node._vector[0] += 1
        return honest(node, message)

    monkeypatch.setattr(Committing, "mask_pledged", lying)
    bench = Masked(experiment(protection=VERIFIED), tmp_path)
    kept = bench.all()
    assert kept.outcome == "failed"
    assert "is not that of the vectors" in kept.reason


def drilled(kind, protection):
    """A session of five, its nodes and its receiver."""
    plan = experiment(protection=protection)
    codec = plan.guard.codec(7)
    binding = Binding(bytes(32), 0, b"", 0)
    session = masking(plan.guard, codec, binding, range(5), codec.length + kind.more)
    keys = {node: Ed25519PrivateKey.generate() for node in range(5)}
    directory = {node: key.public_key() for node, key in keys.items()}
    nodes = {me: kind.node(session, me, keys[me], directory) for me in range(5)}
    hidden = {me: np.full(codec.length, me + 1, codec.dtype) for me in range(5)}
    return session, nodes, kind.receiver(session, directory), hidden


def test_an_opened_sum_that_is_another_is_refused():
    _, nodes, receiver, hidden = drilled(COMMITTED, VERIFIED)
    said = dict.fromkeys(nodes, b"")
    for stage, (answer, advance) in COMMITTED.stages.items():
        answers = {me: answer(nodes[me], said[me], lambda me=me: hidden[me]) for me in said}
        if stage == "mask":
            for me, masked in answers.items():
                receiver.add(me, masked)
        if stage == "unmask":
            receiver._total[1] += 1
            with pytest.raises(SumError, match="committed"):
                advance(receiver, answers)
        else:
            said = advance(receiver, answers)


def test_a_node_commits_once_and_masks_nothing_else():
    _, nodes, _, hidden = drilled(COMMITTED, VERIFIED)
    with pytest.raises(Aborted, match="no vector"):
        nodes[0].mask_pledged(b"")
    nodes[0].pledge(hidden[0])
    with pytest.raises(Aborted, match="committed"):
        nodes[0].pledge(hidden[1])


def test_pledges_that_are_none_are_those_of_lost_nodes():
    _, nodes, receiver, hidden = drilled(COMMITTED, VERIFIED)
    pledges = {me: node.pledge(hidden[me]) for me, node in nodes.items()}
    assert receiver.pledged(pledges | {1: b"\xff" * 33}).keys() == {0, 2, 3, 4}
    with pytest.raises(Aborted, match="3 nodes"):  # it takes four
        receiver.pledged(pledges | {1: b"", 2: b"\2" * 32})


def test_ciphertexts_that_are_none_end_the_session_for_a_node(toy):
    _, nodes, _, _ = drilled(ENCRYPTION, [HALF, tacit.ThresholdEncryption()])
    answer, _ = ENCRYPTION.stages["decrypt"]
    for said in (b"", b"\x80\x04N.", msgspec.msgpack.encode({"a": 1})):
        with pytest.raises(Aborted):
            answer(nodes[0], said, None)


@pytest.mark.parametrize(
    ("kind", "protection"),
    [(COMMITTED, VERIFIED), (ENCRYPTION, [tacit.ThresholdEncryption()])],
    ids=["verified", "encrypted"],
)
def test_the_largest_messages_pass(kind, protection, toy):
    """What is larger than ``up`` and ``down`` say is refused, so that they must not be less."""
    session, nodes, receiver, hidden = drilled(kind, protection)
    said = dict.fromkeys(nodes, b"")
    for stage, (answer, advance) in kind.stages.items():
        answers = {me: answer(nodes[me], said[me], lambda me=me: hidden[me]) for me in said}
        assert max(map(len, answers.values())) <= kind.up(session)
        if stage == kind.adds:
            for me, message in answers.items():
                receiver.add(me, message)
        made = advance(receiver, answers)
        if kind.after(stage):
            said = made
            assert max(map(len, said.values())) <= kind.down(session)
    total, of = made
    assert of == (0, 1, 2, 3, 4)
    assert total.tolist() == [15] * len(hidden[0])  # 1 + 2 + 3 + 4 + 5
