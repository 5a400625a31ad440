"""Secure sums in a run: what they are bound to, and whom a norm proof leaves out of them."""

import hashlib
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tacit
from tacit import (
    AdaptiveClip,
    Clip,
    HomomorphicEncryption,
    NormProof,
    SecretSharing,
    SecureAggregation,
    ThresholdEncryption,
    VerifiableSum,
)
from tacit.engine import secure_sum
from tacit.engine.protect import Protector
from tacit.explain import explain
from tacit.protection import sharing
from tacit.protection.codec import SumError
from tacit.protection.encryption import bfv, messages
from tacit.protection.encryption import simulate as joint
from tacit.protection.secagg import simulate as masking
from test_protected_run import experiment, mean, protector

PROVED = Clip(1.0), SecretSharing(3), NormProof()
D = 400
# |x| / B from which 128 projections let an update through with 1e-6 (two chi-square tails).
SLACK = 1.82


def long(length: float, nodes: int = 5) -> Tensor:
    """(nodes, D) updates of length 1; that of node 1 in the same direction, and as long as told."""
    updates = torch.randn(nodes, D, generator=torch.Generator().manual_seed(1))
    updates /= updates.norm(dim=-1, keepdim=True)
    updates[1] *= length
    return updates


# Whom the proof leaves out


@pytest.mark.parametrize("length", [1.01 * SLACK, 3.0, 1e6, 1e30])
def test_a_liar_is_left_out_and_the_others_are_summed(length: float) -> None:
    updates = long(length)
    part = protector(*PROVED, k=5, d=D, malicious=[1])
    found = mean(part, updates)
    assert part.counted.tolist() == [0, 2, 3, 4]
    # Steps of 2^-23, each rounded by less than one, and float32.
    expected = updates[[0, 2, 3, 4]].mean(0)
    assert torch.allclose(found, expected, rtol=0, atol=2.0**-22)


@pytest.mark.parametrize("length", [0.0, 1.0])
def test_a_node_within_the_norm_is_counted_also_if_it_is_malicious(length: float) -> None:
    part = protector(*PROVED, k=5, d=D, malicious=[1])
    found = mean(part, long(length))
    assert part.counted.tolist() == [0, 1, 2, 3, 4]
    assert torch.allclose(found, long(length).mean(0), rtol=0, atol=2.0**-22)


def test_more_projections_have_less_slack() -> None:
    part = protector(Clip(1.0), SecretSharing(3), NormProof(1024), k=5, d=D, malicious=[1])
    mean(part, long(1.24))  # 1.23 passes with 1e-6
    assert part.counted.tolist() == [0, 2, 3, 4]


def test_without_the_proof_the_liar_is_counted() -> None:
    part = protector(Clip(1.0), SecretSharing(3), k=5, d=D, malicious=[1])
    found = mean(part, long(15.0))
    assert float(found.norm()) > 2


def test_too_few_that_are_left_end_the_round_without_a_step() -> None:
    part = protector(Clip(1.0), SecretSharing(5), NormProof(), k=5, d=D, malicious=[1])
    assert mean(part, long(9.0)) is None
    assert part.counted.tolist() == [0, 2, 3, 4]


def test_weights_do_not_count_where_lengths_are_proved() -> None:
    part = protector(*PROVED, k=5, d=D)
    found = part.mean(long(1.0), torch.tensor([0.96, 0.01, 0.01, 0.01, 0.01]), np.arange(5))
    assert torch.allclose(found, long(1.0).mean(0), rtol=0, atol=2.0**-22)


@pytest.mark.slow
def test_a_single_server_leaves_a_liar_out_by_its_commitment() -> None:
    # One liar who claims shorter projections than it has; of four nodes, so that three are left.
    part = protector(Clip(1.0), SecureAggregation(3), NormProof(), k=4, d=D, malicious=[1])
    updates = long(1.01 * SLACK, nodes=4)
    found = mean(part, updates)
    assert part.counted.tolist() == [0, 2, 3]
    assert torch.allclose(found, updates[[0, 2, 3]].mean(0), rtol=0, atol=2.0**-22)


def test_commitments_leave_room_for_their_blinding_in_a_proof() -> None:
    # 16 numbers below 2^16 beside the update: 4 2^16 long at most, so that 2^23 becomes 1.0005 of
    # it and the honest still pass; the liar at 2.0 does not.
    part = protector(*PROVED, VerifiableSum(), k=4, d=D, malicious=[1])
    mean(part, long(2.0, nodes=4))
    assert part.counted.tolist() == [0, 2, 3]
    found = mean(part, long(1.0, nodes=4))
    assert torch.allclose(found, long(1.0, nodes=4).mean(0), rtol=0, atol=2.0**-22)
    claimed = part.guard.claim(part.guard.codec(D)).norm
    assert math.hypot(2**23, 4 * (2**16 - 1)) <= claimed <= 1.001 * 2**23


@pytest.mark.parametrize("part", [SecureAggregation(3), SecretSharing(3), HomomorphicEncryption()])
def test_a_sum_that_is_not_that_of_the_commitments_is_refused(
    part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def falsified(*given: Any) -> Any:
        opened = honest(*given)
        changed = opened.total.copy()
        changed[0] += 1  # one step in one number
        return replace(opened, total=changed)

    honest = secure_sum._opened
    monkeypatch.setattr(secure_sum, "_opened", falsified)
    with pytest.raises(SumError, match="have committed to"):
        mean(protector(part, VerifiableSum(), k=5, d=D), long(1.0))


def test_a_proved_sum_beyond_the_integers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tacit.protection.proof import simulate

    beyond = np.full(D, 2**31, np.uint64), (0, 1, 2), 0
    monkeypatch.setattr(simulate, "simulate", lambda *_: beyond)
    with pytest.raises(SumError, match="does not fit 32 bits"):
        mean(protector(*PROVED, k=5, d=D), long(1.0))


@pytest.mark.parametrize("clip", [Clip(0.05), AdaptiveClip(0.05)])
def test_a_run_refuses_who_scales_its_update_and_says_so(clip: Any) -> None:
    attack = tacit.attacks.Scaling(nodes=["b"], factor=50.0)
    proved = experiment(clip, SecretSharing(), NormProof(), attack=attack, rounds=2)
    result = tacit.run(proved, workers=1)
    assert result.verdicts is not None
    assert result.verdicts.tolist() == [[1, 0, 1, 1, 1, 1]] * 2
    for row in result.metrics:
        assert (row["refused"], row["verdict_recall"], row["verdict_precision"]) == (1, 1.0, 1.0)
    honest = tacit.run(proved.replace(attack=None), workers=1)
    assert [row["refused"] for row in honest.metrics] == [0, 0]


# What a sum is bound to


def model(start: Tensor, sums: int) -> bytes:
    return hashlib.sha256(sums.to_bytes(8, "little") + start.numpy().tobytes()).digest()


def watched(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[Any]:
    """The sessions of the sums to come."""
    sessions, simulate = [], module.simulate

    def watching(session: Any, *rest: Any, **heard: Any) -> Any:
        sessions.append(session)
        return simulate(session, *rest, **heard)

    monkeypatch.setattr(module, "simulate", watching)
    return sessions


def test_masks_are_bound_to_the_model_round_and_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = watched(monkeypatch, masking)
    plan = experiment(SecureAggregation(3), topology=tacit.Star(4), rounds=2)
    state: list[Tensor] = []
    mean = Protector.mean

    def listening(self: Any, updates: Any, weight: Any, nodes: Any, start: Any) -> Any:
        state.append(start.clone())
        return mean(self, updates, weight, nodes, start)

    monkeypatch.setattr(Protector, "mean", listening)
    tacit.run(plan, workers=1)
    assert torch.equal(state[0], plan.start())
    for index, session in enumerate(sessions):
        assert session.model == model(state[index], 0)
        assert session.experiment == bytes.fromhex(plan.digest())
        assert session.round == index
        assert session.nodes == tuple(sorted(plan.plan.sample(6, plan.seed, index)))


def test_several_sums_of_a_round_have_masks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = watched(monkeypatch, masking)
    plan = experiment(SecureAggregation(), algorithm=tacit.Scaffold(), rounds=1)
    tacit.run(plan, workers=1)
    controls = torch.zeros_like(plan.start())
    assert [s.model for s in sessions] == [model(plan.start(), 0), model(controls, 1)]


def test_shares_are_bound_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = watched(monkeypatch, sharing)
    plan = experiment(SecretSharing(), rounds=2)
    tacit.run(plan, workers=1)
    digest = bytes.fromhex(plan.digest())
    first = hashlib.sha256(digest + model(plan.start(), 0)).digest()
    assert [s.round for s in sessions] == [0, 1]
    assert sessions[0].experiment == first != sessions[1].experiment


# What is told before


@pytest.mark.parametrize(
    ("parts", "changes"),
    [
        ((SecureAggregation(),), {}),
        ((SecureAggregation(),), {"algorithm": tacit.Gossip(), "topology": tacit.Complete()}),
        ((SecretSharing(),), {"algorithm": tacit.Scaffold(), "topology": tacit.Star(4)}),
        ((SecretSharing(),), {"compression": tacit.RandomK(0.5)}),
        ((HomomorphicEncryption(),), {"compression": tacit.RandomK(0.5)}),
        ((AdaptiveClip(1.0), SecretSharing(), NormProof()), {}),
        ((SecureAggregation(), VerifiableSum()), {"compression": tacit.RandomK(0.5)}),
        ((Clip(1.0), SecretSharing(), VerifiableSum(), NormProof()), {"rounds": 1}),
    ],
)
def test_bytes_are_those_of_the_run(parts: Any, changes: Any) -> None:
    plan = experiment(*parts, **changes)
    assert explain(plan).bytes == sum(r["bytes"] for r in tacit.run(plan, workers=1).metrics)


def test_bytes_of_shares_by_hand() -> None:
    # 58 numbers and the weight, 4 bytes each, and a tag of 32; tag and seed; the helper's answer.
    rows = explain(experiment(SecretSharing(), rounds=1)).rows
    assert [(r.sender, r.receiver, r.message_bytes, r.messages) for r in rows] == [
        ("each node", "the server", 268, 6),
        ("each node", "the helper", 64, 6),
        ("the helper", "the server", 268, 1),
        ("the server", "each node", 232, 6),
    ]
    assert {r.form for r in rows[:3]} == {"shares of integers"}
    assert {r.guarantee for r in rows[:3]} == {"hidden in a sum of 4 or more"}


def test_under_one_key_the_server_sends_the_sum_and_never_the_model() -> None:
    # 59 numbers in one ciphertext: two polynomials of 4,096 residues of 8 bytes.
    disclosed = explain(experiment(HomomorphicEncryption(), rounds=1))
    assert [(r.sender, r.message_bytes, r.messages, r.form) for r in disclosed.rows] == [
        ("each node", 65536, 6, "ciphertexts"),
        ("the server", 65536, 6, "ciphertexts"),
    ]
    assert disclosed.rows[1].what == "the sum of each node's model (58 numbers)"
    said = " ".join(disclosed.sentences)
    assert "but only if no node colludes with it" in said
    assert "gives the key away" in said
    assert "with the server or the wire, one is enough to see every update" in said


def test_a_proof_to_one_server_and_the_check_of_its_sum_are_told_of() -> None:
    disclosed = explain(experiment(Clip(1.0), SecureAggregation(), NormProof(), rounds=1))
    rows = [(r.what, r.message_bytes) for r in disclosed.rows[:2]]
    # 58 numbers and 16 of the blinding, by 4 bytes; a point of 33.
    model = "its model (58 numbers)"
    assert rows == [(model, 4 * (58 + 16)), (f"the commitment to {model}", 33)]
    said = disclosed.sentences
    assert any(s.startswith("The server: leaves out of the sum, and knows of") for s in said)
    assert any("which node, nobody learns" in s for s in said)
    assert not any("Nobody can check it" in s for s in said)


# Encryption


def test_one_key_gives_the_very_integers_that_masks_give() -> None:
    # CKKS is off by about 2^-40 of the largest sum of 31 bits.
    updates = 16 * (2 * torch.rand(5, D, generator=torch.Generator().manual_seed(2)) - 1)
    sums = [mean(protector(part, k=5, d=D), updates) for part in
            (SecureAggregation(3), HomomorphicEncryption())]  # fmt: skip
    assert torch.equal(*sums)


def test_a_joint_key_sums_the_same_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library where it loads; elsewhere what is handed to it, and what comes of it."""
    try:
        bfv.library()
    except tacit.InputError:
        stand_in(monkeypatch)
    updates, sessions = long(1.0), watched(monkeypatch, joint)
    part = protector(Clip(1.0), ThresholdEncryption(3), k=5, d=D)
    assert torch.equal(
        mean(part, updates), mean(protector(Clip(1.0), SecureAggregation(3), k=5, d=D), updates)
    )
    (session,) = sessions
    assert (session.threshold, session.minimum, session.degree) == (3, 3, None)
    assert session.model == hashlib.sha256(bytes(8)).digest()


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """For OpenFHE, where it does not load: N = 4,096 and three primes, as for a few nodes."""
    scheme = type("Scheme", (), {"ciphertext_bytes": lambda self, length: 2 * 8 * 3 * 4096})()
    total = lambda session, identities, vectors: (sum(vectors.values()), session.nodes)  # noqa: E731
    monkeypatch.setattr(bfv, "library", lambda: None)
    monkeypatch.setattr(bfv, "Scheme", lambda nodes: scheme)
    monkeypatch.setattr(messages, "scheme", lambda session: scheme)
    monkeypatch.setattr(joint, "simulate", total)


def test_a_joint_key_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    noise = tacit.GaussianNoise(multiplier=1.0, delta=1e-5)
    plan = experiment(Clip(1.0), noise, ThresholdEncryption(), rounds=1)
    disclosed = explain(plan)
    (run,) = tacit.run(plan, workers=1).metrics
    assert disclosed.bytes == run["bytes"] == 6 * (2 * 8 * 3 * 4096 + 58 * 4)
    assert disclosed.rows[0].form == "ciphertexts"
    said = " ".join(disclosed.sentences)
    # 6 nodes, two thirds of them: 4 open a sum, and 2 x 4 - 6 = 2 help a lying server.
    assert "the sum of 4 nodes or more, which 4 open for it" in said
    assert "4 of them open any update of the largest round, and 2 that help a lying server" in said
    assert "Everybody, the server included: the sum is (epsilon" in said


@pytest.mark.parametrize(
    ("part", "module", "named"),
    [
        (ThresholdEncryption(), "openfhe", r"tacit\[bfv\]"),
        (HomomorphicEncryption(), "tenseal", r"tacit\[ckks\]"),
    ],
)
def test_a_library_that_is_not_there_is_named_before_any_work(
    part: Any, module: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(tacit.InputError, match=named):
        experiment(part).check()


def test_each_party_to_shares_and_proofs_is_told_of() -> None:
    said = explain(experiment(*PROVED)).sentences
    for start, part in [
        ("The server: ", "the sum of 3 nodes or more"),
        ("The helper: ", "says nothing about the update"),
        ("Server and helper together: ", "see every update"),
        ("Colluding nodes: ", "c of them learn the sum of the rest"),
        ("An outsider on the wire: ", "the connections must be encrypted"),
        ("Server and helper: ", f"{SLACK} times as long as the norm"),
        ("Aggregation: ", "a proved norm bounds"),
    ]:
        (sentence,) = [s for s in said if s.startswith(start)]
        assert part in sentence
    assert not any("Nobody can check it" in s for s in said)
    assert any("Nobody can check it" in s for s in explain(experiment(*PROVED[:2])).sentences)
