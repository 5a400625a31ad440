"""Protections: what is done to an update on its way, and what that guarantees to whom."""

from tacit.protection.clip import AdaptiveClip, Clip
from tacit.protection.encrypted import HomomorphicEncryption, ThresholdEncryption
from tacit.protection.noise import (
    DPSGD,
    CorrelatedNoise,
    GaussianNoise,
    LaplaceNoise,
    Noise,
    SkellamNoise,
)
from tacit.protection.randomised import RandomisedResponse
from tacit.protection.secure import NormProof, SecretSharing, SecureAggregation, VerifiableSum

SecureSum = SecureAggregation | SecretSharing | ThresholdEncryption | HomomorphicEncryption
Protection = (
    Clip | AdaptiveClip | Noise | DPSGD | RandomisedResponse | SecureSum | NormProof | VerifiableSum
)

__all__ = [
    "DPSGD",
    "AdaptiveClip",
    "Clip",
    "CorrelatedNoise",
    "GaussianNoise",
    "HomomorphicEncryption",
    "LaplaceNoise",
    "Noise",
    "NormProof",
    "Protection",
    "RandomisedResponse",
    "SecretSharing",
    "SecureAggregation",
    "SecureSum",
    "SkellamNoise",
    "ThresholdEncryption",
    "VerifiableSum",
]
