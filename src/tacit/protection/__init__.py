"""Protections: what is done to an update on its way, and what that guarantees to whom."""

from tacit.protection.clip import AdaptiveClip, Clip
from tacit.protection.encrypted import HomomorphicEncryption, ThresholdEncryption
from tacit.protection.noise import DPSGD, GaussianNoise, LaplaceNoise, Noise, SkellamNoise
from tacit.protection.secure import NormProof, SecretSharing, SecureAggregation, VerifiableSum

SecureSum = SecureAggregation | SecretSharing | ThresholdEncryption | HomomorphicEncryption
Protection = Clip | AdaptiveClip | Noise | DPSGD | SecureSum | NormProof | VerifiableSum

__all__ = [
    "DPSGD",
    "AdaptiveClip",
    "Clip",
    "GaussianNoise",
    "HomomorphicEncryption",
    "LaplaceNoise",
    "Noise",
    "NormProof",
    "Protection",
    "SecretSharing",
    "SecureAggregation",
    "SecureSum",
    "SkellamNoise",
    "ThresholdEncryption",
    "VerifiableSum",
]
