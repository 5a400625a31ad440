"""Carries an experiment out among machines that do not trust each other."""

from importlib.util import find_spec

from tacit.errors import InputError

if any(find_spec(name) is None for name in ("blake3", "msgspec", "zenoh")):
    raise InputError("the network needs more packages: pip install 'tacit[network]'")
