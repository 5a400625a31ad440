"""X.509 certificates on P-256, as a federation uses them (RFC 5280).

The authority's certificate signs those of members. A member's common name is its name; only one
that others connect to has alternative names, the hosts where it listens.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.errors import InputError, MessageError

Key = ec.EllipticCurvePrivateKey
# What institutions bring, too.
TlsKey = Key | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
# What the clocks of two machines may differ by before a new certificate is not valid yet.
SKEW = timedelta(minutes=10)
_CURVES = ("secp256r1", "secp384r1")


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: TlsKey) -> bytes:
    """PEM (PKCS 8), unencrypted: a file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_key(pem: bytes) -> Key:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError("the key is not one of an elliptic curve")
    return key


def read_tls_key(pem: bytes) -> TlsKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, TlsKey):
        raise InputError("the key is neither RSA nor one of an elliptic curve")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def request(key: TlsKey, name: str) -> bytes:
    """A certificate signing request, PEM: proves that who asks holds the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def requested_key(csr: bytes, name: str) -> PublicKey:
    """The key of a signing request for this name; MessageError for any other request."""
    try:
        asked = x509.load_pem_x509_csr(csr)
        valid, public = asked.is_signature_valid, asked.public_key()
        named = common_name(asked.subject)
    except (ValueError, TypeError) as error:
        raise MessageError("the certificate signing request cannot be read") from error
    if not valid:
        raise MessageError("the certificate signing request is not signed by its own key")
    if not (
        (isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES)
        or (isinstance(public, rsa.RSAPublicKey) and 2048 <= public.key_size <= 4096)
    ):
        raise MessageError(
            "the certificate signing request has another key than one on P-256 or P-384, or of RSA"
            " with 2048 to 4096 bits"
        )
    if named != name:
        raise MessageError(f"the certificate signing request is for {named!r}, not for {name!r}")
    return public


def self_signed(key: Key, federation: str, validity: timedelta) -> x509.Certificate:
    """The authority's certificate; it may sign members', and no further authority."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, federation)])
    return (
        _builder(subject, subject, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def issue(
    authority: x509.Certificate,
    key: Key,
    name: str,
    public: PublicKey,
    hosts: Sequence[str],
    validity: timedelta,
) -> x509.Certificate:
    """A member's certificate, signed by the authority's key.

    Args:
        hosts: DNS names and IP addresses where the member listens; none: it only connects.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if hosts:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        _builder(subject, authority.subject, public, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    if hosts:
        alternatives = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(key, hashes.SHA256())


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def common_name(subject: x509.Name) -> str:
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise ValueError("not exactly one common name")
    return str(names[0].value)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: PublicKey,
    validity: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + validity)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
