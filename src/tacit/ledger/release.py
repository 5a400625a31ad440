"""A model that was handed out: signed by ``model-signing``, and named in the record.

https://github.com/sigstore/model-transparency. The signature covers every file of the folder but
itself; the record holds its digest, and the bill of materials' and the model's own. The record of a
networked run has the digest of a file of which the model is a part, beside what an algorithm gives
the sites to go on from; then this file is in the folder, too.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tacit.errors import InputError
from tacit.ledger.records import file_digest
from tacit.ledger.statement import Statement, parsed

MODEL, SIGNATURE, PUBLIC, BOM = "model.safetensors", "model.sig", "model.pub", "bom.cdx.json"
STATE = "state.safetensors"
# What algorithms call the model in it; of several, the first row is the newest.
_CALLED = ("model", "past")
# In a model's file: names of the tensors that are, one after the other, the vector of the record.
ORDER = "tacit.vector"


def order(names: Sequence[str]) -> dict[str, str]:
    """Metadata of a model's file.

    Args:
        names: of the tensors of its vector, in order.
    """
    return {ORDER: json.dumps(list(names))}


def vector_digest(model: Path) -> bytes:
    """SHA-256 of a model's vector, as records have it.

    Args:
        model: file with its tensors and their ``ORDER``.

    Raises:
        InputError: no such file.
    """
    from safetensors import SafetensorError, safe_open

    found = hashlib.sha256()
    try:
        with safe_open(model, "np") as file:
            for name in parsed(file.metadata()[ORDER].encode()):
                found.update(file.get_tensor(name).tobytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        raise InputError(
            f"model: {model} is no model that this version's tacit run has kept"
        ) from None
    return found.digest()


def is_part(vector: bytes, state: Path) -> bool:
    """Whether an algorithm's state has a model whose bytes have this digest."""
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(state, "np") as file:
            return any(
                hashlib.sha256(np.atleast_2d(file.get_tensor(name))[0].tobytes()).digest() == vector
                for name in _CALLED
                if name in file.keys()  # noqa: SIM118 (it is no mapping)
            )
    except (OSError, SafetensorError, ValueError, TypeError):
        return False


def sign(folder: Path, key: Path) -> None:
    """Sign a folder's files with an ECDSA key of the curve P-256, PEM."""
    library = _library()
    signing = library.signing.Config().use_elliptic_key_signer(private_key=key)
    signing.set_hashing_config(_all_but_itself(library)).sign(folder, folder / SIGNATURE)


def audit(
    folder: Path, statements: Mapping[int, Statement]
) -> Iterator[tuple[int | None, str] | str]:
    """Whether the model in a folder is one that the members have released.

    Args:
        statements: of the record, by their places.

    Raises:
        InputError: ``model-signing`` is not installed.
    """
    places = [place for place, said in statements.items() if said.kind == "release"]
    if not places:
        yield None, "the record holds no release"
        return
    found = {place: list(_differences(statements[place], folder)) for place in places}
    nearest = min(places, key=lambda place: (len(found[place]), -place))
    for what in found[nearest]:
        yield nearest, what
    yield f"as in entry {nearest}"


def _differences(said: Statement, folder: Path) -> Iterator[str]:
    """What in a folder is not as a release says, in a sentence each."""
    library = _library()
    for name, path in (("signature", folder / SIGNATURE), ("bom", folder / BOM)):
        if not path.is_file():
            yield f"{path} is missing"
        elif not hmac.compare_digest(file_digest(path), said.subjects[name]):
            yield f"{path} is not the one that was recorded"
    recorded, state = said.subjects["model"], folder / STATE
    try:
        vector = vector_digest(folder / MODEL)
        if state.is_file():
            same = is_part(vector, state)
            if not hmac.compare_digest(file_digest(state), recorded):
                yield f"{state} is not the one that was recorded"
        else:
            same = hmac.compare_digest(vector, recorded)
        if not same:
            yield f"{folder / MODEL} is not the model that was recorded"
    except InputError as error:
        yield str(error)
    try:
        verifying = library.verifying.Config().use_elliptic_key_verifier(public_key=folder / PUBLIC)
        verifying.set_hashing_config(_all_but_itself(library))
        verifying.verify(folder, folder / SIGNATURE)
    except Exception as error:  # whatever is in files of somebody's making
        why = " ".join(str(error).split()) or "it is not this key's"
        yield f"the model's signature does not hold: {why:.300}"


def _all_but_itself(library: Any) -> Any:
    return library.hashing.Config().set_ignored_paths(paths=[SIGNATURE])


def require_library() -> None:
    """Say what to install, before anything is done that would be in vain.

    Raises:
        InputError: ``model-signing`` is not there.
    """
    if find_spec("model_signing") is None:
        raise InputError("signing a model needs more packages: pip install 'tacit[release]'")


def _library() -> Any:
    require_library()
    import model_signing

    return model_signing
