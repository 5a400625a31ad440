"""``tacit release``: the folder that is handed out, whole or not there, and the record's entry."""

import json
import os
import secrets
import shutil
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tacit.errors import InputError
from tacit.ledger.recorder import Recorder
from tacit.ledger.records import file_digest
from tacit.ledger.release import BOM, MODEL, PUBLIC, SIGNATURE, sign, vector_digest
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
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to: {to} is there and not empty; give a new folder")
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
        private = key or run / KEY
        if key is None and not private.exists():
            _make(private)
        public = _public(private)
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
        part.mkdir()
        try:
            _fill(part, run / MODEL, facts, public)
            sign(part, private)
            _settle(part)
            recorder.release(file_digest(part / SIGNATURE), file_digest(part / BOM))
            part.replace(to)  # an empty folder gives way
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        recorder.finish()
    return facts


def _fill(folder: Path, model: Path, facts: Facts, public: bytes) -> None:
    shutil.copyfile(model, folder / MODEL)
    weights = file_digest(folder / MODEL).hex()
    (folder / BOM).write_text(json.dumps(bom(facts, weights), indent=2) + "\n")
    (folder / CARD).write_text(card(facts))
    (folder / PUBLIC).write_bytes(public)


def _settle(folder: Path) -> None:
    """Have all of it on the disk before the record speaks of it."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _make(path: Path) -> None:
    """A key that only its owner may read."""
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.touch(0o600, exist_ok=False)
    path.write_bytes(pem)


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
