"""Secure aggregation: a receiver learns the sum of the nodes' integer vectors and nothing else."""
