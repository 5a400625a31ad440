"""Attacks run against an experiment, and what they measure."""
