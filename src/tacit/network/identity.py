"""Who a process is in a federation: a folder with its keys, which never leave it.

ca.pem           certificate of the federation's authority
tls.pem          the member's TLS key and certificate, mode 0600; one file, so that a renewal
                 replaces both at once
sign.key         its Ed25519 key, which signs its messages, mode 0600
members.json     who else belongs, signed by the authority
federation.json  names, and the addresses to connect to
policy.toml      what may run, written by people
"""

import os
import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.errors import InputError, MessageError
from tacit.network import certificates, members
from tacit.network.decoding import from_json
from tacit.network.malformed import MALFORMED
from tacit.network.members import Members, Role

CA, TLS, SIGN, MEMBERS, FEDERATION, POLICY = (
    "ca.pem",
    "tls.pem",
    "sign.key",
    "members.json",
    "federation.json",
    "policy.toml",
)


class Federation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What federation.json holds.

    Attributes:
        federation: its name.
        member: the name of whom the folder belongs to.
        connect: addresses of the coordinator or relays, ``host:port``.
    """

    federation: str
    member: str
    connect: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """A member: its name, its federation, and what it needs to speak there."""

    name: str
    federation: str
    folder: Path
    connect: tuple[str, ...]
    members: Members = field(repr=False)
    authority: x509.Certificate = field(repr=False)
    certificate: x509.Certificate = field(repr=False)
    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> "Identity":
        """The member whose folder this is.

        Raises:
            InputError: a file that is missing, readable by others, or of another federation; a
                certificate that has expired; all with what to do about it.
        """
        if not folder.is_dir():
            raise InputError(
                f"{folder}: there is no such folder; join with `tacit node join TOKEN`"
            )
        try:
            named = from_json(_read(folder / FEDERATION), Federation)
            authority = x509.load_pem_x509_certificate(_read(folder / CA))
            tls = _read(folder / TLS, secret=True)
            certificate, tls_key = (
                x509.load_pem_x509_certificate(tls),
                certificates.read_tls_key(tls),
            )
            key = _read_sign_key(folder / SIGN)
        except (*MALFORMED, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{folder}: a file there is damaged ({error})") from None
        roll = _roll(folder, authority)
        identity = cls(
            named.member, named.federation, folder, named.connect, roll, authority, certificate, key
        )  # fmt: skip
        identity._check(tls_key)
        return identity

    @property
    def role(self) -> Role:
        return self.members.by_name[self.name].role

    def sign(self, message: bytes) -> bytes:
        """64 bytes, Ed25519 (RFC 8032)."""
        return self._key.sign(message)

    def accept_members(self, text: bytes) -> "Identity":
        """This member with a newer roll, which is kept; itself if the roll is not newer.

        Raises:
            MessageError: the roll is not signed by the authority, or is another federation's.
        """
        roll = members.read(text, self.authority)
        if roll.federation != self.federation:
            raise MessageError(f"the list of members is that of federation {roll.federation!r}")
        if roll.version <= self.members.version:
            return self
        write(self.folder / MEMBERS, text)
        return replace(self, members=roll)

    def _check(self, tls_key: certificates.TlsKey) -> None:
        where, now = self.folder, datetime.now(UTC)
        if not (
            certificates.issued_by(self.certificate, self.authority)
            and self.members.federation == self.federation
        ):
            raise InputError(
                f"{where}: its certificate or list of members is not of federation"
                f" {self.federation!r}; join again with a new token"
            )
        if certificates.common_name(self.certificate.subject) != self.name:
            raise InputError(f"{where / TLS}: the certificate is not {self.name!r}'s")
        if self.certificate.public_key() != tls_key.public_key():
            raise InputError(f"{where / TLS}: the key is not that of the certificate")
        if now >= self.certificate.not_valid_after_utc:
            raise InputError(
                f"{where / TLS}: the certificate expired on"
                f" {self.certificate.not_valid_after_utc:%Y-%m-%d}; join again with a new token"
            )
        if now < self.certificate.not_valid_before_utc:
            raise InputError(
                f"{where / TLS}: the certificate is valid from"
                f" {self.certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; check the clock"
            )
        mine = self.members.by_name.get(self.name)
        if mine is None or mine.key != public_hex(self._key):
            raise InputError(f"{where / MEMBERS}: it does not list {self.name!r} with this key")


def make_folder(folder: Path) -> None:
    """A folder that only its owner can enter; InputError if a member already lives there."""
    if (folder / TLS).exists():
        raise InputError(f"{folder}: a member's keys are there already; choose another folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def sign_key(folder: Path, name: str = SIGN) -> Ed25519PrivateKey:
    """An Ed25519 key, the member's own by default, made in a folder when it is first asked for."""
    path = folder / name
    if path.exists():
        return _read_sign_key(path)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write(path, pem, secret=True)
    return key


def public_hex(key: Ed25519PrivateKey) -> str:
    """64 digits."""
    return key.public_key().public_bytes_raw().hex()


def write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Replaces a file at once: after a crash there is the old one or the new one."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mode = 0o600 if secret else 0o644
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read(path: Path, *, secret: bool = False) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; join again with a new token")
    mode = path.stat().st_mode & 0o777
    if secret and mode & 0o077:
        raise InputError(f"{path}: others may read it (mode {mode:04o}); run `chmod 600 {path}`")
    return path.read_bytes()


def _read_sign_key(path: Path) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(_read(path, secret=True), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: it does not hold an Ed25519 key")
    return key


def _roll(folder: Path, authority: x509.Certificate) -> Members:
    try:
        return members.read(_read(folder / MEMBERS), authority)
    except MessageError as error:
        raise InputError(f"{folder / MEMBERS}: {error}") from None
