import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tacit
from tacit.errors import InputError
from tacit.protection.clip import clipped

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=FLOATS)


# clip
@settings(max_examples=200, deadline=None)
@given(ROWS, st.floats(1e-6, 1e30), st.sampled_from([1, 2]))
def test_no_row_is_longer_than_the_norm_and_short_ones_are_unchanged(rows, norm, order):
    result, fits = clipped(torch.from_numpy(rows), norm, order)
    for before, after, fit in zip(rows.astype(float), result.double().numpy(), fits, strict=True):
        # float64 holds the squares of all float32; math.fsum rounds once
        power = math.fsum(np.abs(before) ** order) ** (1 / order)
        assert math.fsum(np.abs(after) ** order) ** (1 / order) <= norm
        if power <= norm * (1 - 1e-12):
            assert fit
            assert (before == after).all()


def test_a_long_row_keeps_its_direction_and_reaches_the_norm():
    result, fits = clipped(torch.tensor([[3.0, -4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
    assert torch.allclose(result, torch.tensor([[0.6, -0.8], [0.3, 0.4], [0.0, 0.0]]), rtol=2e-6)
    assert fits.tolist() == [False, True, True]
    result, _ = clipped(torch.tensor([[3.0, -5.0]]), 2.0, order=1)
    assert torch.allclose(result, torch.tensor([[0.75, -1.25]]), rtol=2e-6)


def test_a_row_of_the_largest_floats_is_clipped_and_not_lost():
    largest = torch.finfo(torch.float32).max
    result, _ = clipped(torch.full((1, 4), largest), 1e-6)
    assert torch.allclose(result, torch.full((1, 4), 0.5e-6), rtol=2e-6)


def test_a_row_of_exactly_the_norm_is_unchanged():
    rows = torch.tensor([[3.0, 4.0]])
    result, fits = clipped(rows, 5.0)
    assert fits.all()
    assert torch.equal(result, rows)


# settings
GAUSS = {"epsilon": 1.0, "delta": 1e-5}


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: tacit.Clip(0.0), "protection.norm: 0.0"),
        (lambda: tacit.Clip(-1.0), "protection.norm: -1.0"),
        (lambda: tacit.Clip(math.nan), "protection.norm: nan"),
        (lambda: tacit.Clip(math.inf), "protection.norm: inf"),
        (lambda: tacit.Clip(1.0, order=3), "protection.order: 3"),
        (lambda: tacit.AdaptiveClip(0.0), "protection.norm: 0.0"),
        (lambda: tacit.AdaptiveClip(math.inf), "protection.norm: inf"),
        (lambda: tacit.AdaptiveClip(quantile=0.0), "protection.quantile: 0.0"),
        (lambda: tacit.AdaptiveClip(quantile=1.0), "protection.quantile: 1.0"),
        (lambda: tacit.AdaptiveClip(lr=0.0), "protection.lr: 0.0"),
        (lambda: tacit.AdaptiveClip(lr=math.inf), "protection.lr: inf"),
        (lambda: tacit.GaussianNoise(delta=1e-5), "protection.epsilon: GaussianNoise was given"),
        (lambda: tacit.GaussianNoise(epsilon=0.0, delta=1e-5), "protection.epsilon: 0.0"),
        (lambda: tacit.GaussianNoise(multiplier=-1.0, delta=1e-5), "protection.multiplier: -1.0"),
        (lambda: tacit.GaussianNoise(epsilon=1.0, delta=0.0), "protection.delta: 0.0"),
        (lambda: tacit.GaussianNoise(epsilon=1.0, delta=1.0), "protection.delta: 1.0"),
        (lambda: tacit.GaussianNoise(where="server", **GAUSS), "protection.where: 'server'"),
        (lambda: tacit.SkellamNoise(where="local", **GAUSS), "protection.where: 'local'"),
        (lambda: tacit.LaplaceNoise(where="distributed", **GAUSS), "protection.where: 'dist"),
        (lambda: tacit.DPSGD(norm=0.0, **GAUSS), "protection.norm: 0.0"),
        (lambda: tacit.DPSGD(norm=math.inf, **GAUSS), "protection.norm: inf"),
        (lambda: tacit.DPSGD(norm=1.0, delta=1e-5), "protection.epsilon: DPSGD was given"),
        (lambda: tacit.Clip("1.0"), "protection.norm: '1.0'"),
        (lambda: tacit.Clip(True), "protection.norm: True"),
        (lambda: tacit.AdaptiveClip(quantile="half"), "protection.quantile: 'half'"),
        (lambda: tacit.GaussianNoise(epsilon="3", delta=1e-5), "protection.epsilon: '3'"),
        (lambda: tacit.GaussianNoise(epsilon=math.inf, delta=1e-5), "protection.epsilon: inf"),
        (lambda: tacit.GaussianNoise(multiplier=[1], delta=1e-5), "protection.multiplier: [1]"),
        (lambda: tacit.GaussianNoise(multiplier=math.inf, delta=0.1), "protection.multiplier: inf"),
        (lambda: tacit.GaussianNoise(epsilon=1.0, delta=None), "protection.delta: None"),
        (lambda: tacit.DPSGD(norm="1", **GAUSS), "protection.norm: '1'"),
        (lambda: tacit.SecureAggregation("5"), "protection.threshold: '5'"),
        (lambda: tacit.SecureAggregation(limit="16"), "protection.limit: '16'"),
        (lambda: tacit.TopK("0.1"), "compression.share: '0.1'"),
        (lambda: tacit.QSGD(levels=2.5), "compression.levels: 2.5"),
        (lambda: tacit.PowerSGD(math.inf), "compression.rank: inf"),
        (lambda: tacit.SecureAggregation(2), "protection.threshold: 2"),
        (lambda: tacit.SecretSharing(2), "protection.minimum: 2"),
        (lambda: tacit.SecretSharing(limit=0.0), "protection.limit: 0.0"),
        (lambda: tacit.NormProof(127), "protection.projections: 127"),
        (lambda: tacit.NormProof(1032), "protection.projections: 1032"),
        (lambda: tacit.SecureAggregation(3.5), "protection.threshold: 3.5"),
        (lambda: tacit.SecureAggregation(limit=0.0), "protection.limit: 0.0"),
        (lambda: tacit.SecureAggregation(limit=math.inf), "protection.limit: inf"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_in_one_sentence(make, field):
    with pytest.raises(InputError) as refusal:
        make()
    message = str(refusal.value)
    assert message.startswith(field)
    assert "allowed is" in message
    assert "\n" not in message
