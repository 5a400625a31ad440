"""Proof to two aggregators that a shared vector's Euclidean norm is bounded."""
