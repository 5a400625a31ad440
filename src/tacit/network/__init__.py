"""Carries an experiment out among machines that do not trust each other."""
