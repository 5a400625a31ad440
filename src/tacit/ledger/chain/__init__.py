"""Heads and payments on an EVM chain; neither training nor ``tacit verify`` needs it."""

from importlib.util import find_spec

from tacit.errors import InputError

if find_spec("web3") is None:
    raise InputError("the chain needs more packages: pip install 'tacit[chain]'")
