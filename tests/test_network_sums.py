"""Secure sums between a coordinator and its sites, with calls in place of sockets."""

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tacit
from test_network_rounds import experiment
from test_network_run import Bench, model

NAMES = experiment().data.names
KEYS = {name: Ed25519PrivateKey.generate() for name in NAMES}
MASKS = [tacit.SecureAggregation()]
CLIPPED = [tacit.Clip(0.5), tacit.SecureAggregation()]


def public(name):
    return KEYS[name].public_key()


class Masked(Bench):
    def __init__(self, plan, folder, **settings):
        super().__init__(plan, folder, patience=120, grace=0.05, key_of=public, **settings)

    def site(self, name, **options):
        return super().site(name, signer=KEYS[name], key_of=public, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {"protection": CLIPPED},
        {"protection": MASKS},
        {"protection": MASKS, "algorithm": tacit.Scaffold()},
        {"protection": CLIPPED, "topology": tacit.Star(cohort=4)},
    ],
    ids=["clip", "masks", "scaffold", "cohort"],
)
def test_a_run_with_secure_sums_gives_the_bits_of_one_process(changes, tmp_path):
    plan = experiment(**changes)
    bench = Masked(plan, tmp_path)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    whole = tacit.run(plan)
    print((model(plan, kept, bench.store) - plan.layout.vector(whole.model)).abs().max())
    assert torch.equal(model(plan, kept, bench.store), plan.layout.vector(whole.model))
