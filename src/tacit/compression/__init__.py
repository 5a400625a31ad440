"""Fewer bytes for an update: one file a family, each behind ``base.Compressor``."""
