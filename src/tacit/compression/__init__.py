"""Fewer bytes for an update: one file a family, each behind ``Compressor``."""

from tacit.compression.base import Compressor
from tacit.compression.powersgd import PowerSGD
from tacit.compression.qsgd import QSGD
from tacit.compression.sign import DRIVE, SignCompression
from tacit.compression.sparsify import RandomK, TopK

__all__ = ["DRIVE", "QSGD", "Compressor", "PowerSGD", "RandomK", "SignCompression", "TopK"]
