"""``tacit release``: the folder that is handed out, whole or not there, and the record's entry."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tacit.errors import InputError
from tacit.ledger.recorder import KEYS, LOG, Recorder
from tacit.ledger.records import file_digest
from tacit.ledger.release import BOM, MODEL, PUBLIC, SIGNATURE, STATE, sign, vector_digest
from tacit.ledger.verify import verify
from tacit.release.bom import bom
from tacit.release.card import card
from tacit.release.facts import METRICS, Facts

KEY, CARD = "model.key", "README.md"


def release(run: Path, record: Path, to: Path, key: Path | None = None) -> Facts:
    """Hand a finished run's model out, and have the members sign that in the record.

    Args:
        run: its folder.
        record: folder of its record, with the keys of its members.
        to: folder to make.
        key: file of an ECDSA key of the curve P-256, PEM; by default model.key in the run's folder,
            which is made where it is not there.

    Raises:
        InputError: the run is not finished, the record is not its own or does not hold, or the
            folder is not empty.
    """
    if filled(to):
        raise InputError(f"--to: {to} is there and not empty; give a new folder")
    if (record / LOG).is_file() and not (record / KEYS).exists():
        raise InputError(
            f"--record: {record} has no {KEYS}; only a record of a run in one process holds the"
            " keys of all members, of whom a quorum signs a release. Of a run among real machines"
            " the coordinator hands the model out, with --release FOLDER"
        )
    if not (run / METRICS).is_file():
        raise InputError(f"RUN: {run} holds no finished run: there is no {METRICS}")
    if findings := verify(record).findings:
        raise InputError(f"--record: {record} does not hold ({findings[0]}); see tacit verify")
    recorder = Recorder.again(record)
    try:
        facts = Facts.of(run, recorder.keeper.log)
        if facts.digest != recorder.experiment.hex():
            raise InputError(f"--record: {record} is of another experiment than {run}")
        if [vector_digest(run / MODEL)] != list(recorder.models[-1:]):
            raise InputError(f"--record: {record} does not end with the model of {run}")
        part = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
        try:
            fill(part, facts, lambda path: shutil.copyfile(run / MODEL, path), key or made(run))
            recorder.release(file_digest(part / SIGNATURE), file_digest(part / BOM))
            part.replace(to)  # an empty folder gives way
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        recorder.finish()
    return facts


def filled(folder: Path) -> bool:
    """Whether there is something where a new folder is to be."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def fill(
    folder: Path,
    facts: Facts,
    write: Callable[[Path], object],
    key: Path,
    state: Path | None = None,
) -> None:
    """Make the folder that is handed out, signed; all of it is on the disk when this returns.

    Args:
        write: the model to a path.
        key: file of an ECDSA key of the curve P-256, PEM.
        state: file that the record is of, where that is not the model alone.

    Raises:
        InputError: no such key.
    """
    public = _public(key)
    folder.mkdir(parents=True)
    write(folder / MODEL)
    if state is not None:
        shutil.copyfile(state, folder / STATE)
    weights = file_digest(folder / MODEL).hex()
    (folder / BOM).write_text(json.dumps(bom(facts, weights), indent=2) + "\n")
    (folder / CARD).write_text(card(facts))
    (folder / PUBLIC).write_bytes(public)
    sign(folder, key)
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def made(run: Path) -> Path:
    """The key in a run's folder, which only its owner may read; made where it is not there."""
    path, new = run / KEY, run / f".{KEY}"
    if path.exists():
        return path
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_bytes(pem)
    return new.replace(path)


def _public(path: Path) -> bytes:
    """PEM of a private key's other half."""
    try:
        mode, pem = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise InputError(f"--key: {path} cannot be read ({error.strerror})") from None
    if mode & 0o077:
        raise InputError(f"--key: others may read {path}; run `chmod 600 {path}`")
    try:
        private = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise InputError(f"--key: {path} holds no ECDSA key of the curve P-256 without a password")
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
