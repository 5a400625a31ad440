"""Transforms of an update that give a guarantee."""
