"""Members that bring a key and certificate of their institution's own authority.

That authority is never trusted on a connection: zenoh tells members apart by common name alone, and
any trusted authority could certify any name. Instead it vouches for one member, which the operator
of the federation said, when that member joins and at each renewal; the federation's authority then
certifies the same key under the member's name, for no longer than the institution did.
"""

import os
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tacit.errors import InputError, MessageError
from tacit.network import certificates
from tacit.network.certificates import TlsKey
from tacit.network.decoding import from_json
from tacit.network.malformed import MALFORMED

_FILE = "institution.json"
Chain = Annotated[bytes, msgspec.Meta(max_length=16384)]


class Institution(msgspec.Struct, frozen=True):
    """Who vouches for a member, as the federation's authority keeps it.

    Attributes:
        authorities: certificates of the institution's authority, PEM.
        name: of the member in its institution's certificates.
    """

    authorities: bytes
    name: str

    @classmethod
    def of(cls, authorities: bytes, name: str) -> "Institution":
        """InputError unless these are certificates."""
        try:
            x509.load_pem_x509_certificates(authorities)
        except ValueError:
            raise InputError("--ca: the file holds no certificate in PEM") from None
        return cls(authorities, name)

    def vouched(self, chain: bytes) -> x509.Certificate:
        """The member's certificate, which is the first of a chain in PEM.

        Raises:
            MessageError: none, one that this authority did not issue, that has expired, or that
                is another's.
        """
        if not chain:
            raise MessageError(
                "this name joins with a certificate of its institution: give --certificate, --key"
            )
        try:
            leaf, *between = x509.load_pem_x509_certificates(chain)
            trusted = x509.load_pem_x509_certificates(self.authorities)
            PolicyBuilder().store(Store(trusted)).build_client_verifier().verify(leaf, between)
            found = _names(leaf)
        except VerificationError as error:
            raise MessageError(
                f"the certificate is not one of the institution's authority ({error})"
            ) from None
        except ValueError:
            raise MessageError("the institution's certificate cannot be read") from None
        if self.name not in found:
            listed = ", ".join(sorted(found)) or "nobody"
            raise MessageError(f"the institution's certificate is for {listed}, not {self.name}")
        return leaf


def _names(leaf: x509.Certificate) -> set[str]:
    """The common name, and the DNS names beside it."""
    common = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    found = {str(attribute.value) for attribute in common}
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            found |= set(extension.value.get_values_for_type(x509.DNSName))
    return found


class Own(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a member's own files are; read anew for each renewal, so that they may be replaced."""

    certificate: str
    key: str
    chain: str | None = None

    @classmethod
    def at(cls, certificate: Path, key: Path, chain: Path | None) -> "Own":
        between = str(chain.absolute()) if chain else None
        return cls(str(certificate.absolute()), str(key.absolute()), between)

    @classmethod
    def of(cls, home: Path) -> "Own | None":
        """What a member joined with; None: with nothing."""
        try:
            return from_json((home / _FILE).read_bytes(), cls)
        except FileNotFoundError:
            return None
        except MALFORMED:
            raise InputError(f"{home / _FILE}: the file is damaged") from None

    def keep(self, home: Path) -> None:
        (home / _FILE).write_bytes(msgspec.json.encode(self))

    def read(self) -> tuple[TlsKey, bytes]:
        """The key, and the certificate with those that lead to its authority, PEM.

        Raises:
            InputError: a file that is missing, readable by others, or does not belong.
        """
        try:
            pem = Path(self.certificate).read_bytes()
            pem += b"\n" + Path(self.chain).read_bytes() if self.chain else b""
            if os.stat(self.key).st_mode & 0o077:
                raise InputError(f"{self.key}: others may read it; run `chmod 600 {self.key}`")
            key = certificates.read_tls_key(Path(self.key).read_bytes())
            chain = x509.load_pem_x509_certificates(pem)
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.certificate}, {self.key}: no certificate and unencrypted key in PEM"
            ) from None
        if chain[0].public_key() != key.public_key():
            raise InputError(f"{self.key}: it is not the key of {self.certificate}")
        # Certificates alone: the file may hold the key as well.
        return key, b"".join(map(certificates.pem, chain))
