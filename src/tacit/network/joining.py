"""Joining a federation over the network, and staying in it."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.errors import InputError, MessageError
from tacit.network import certificates
from tacit.network.admission import Admission, Application, Token
from tacit.network.authority import Authority
from tacit.network.configuration import JOIN, JOINING
from tacit.network.identity import (
    CA,
    FEDERATION,
    MEMBERS,
    TLS,
    Federation,
    Identity,
    make_folder,
    public_hex,
    sign_key,
    write,
)
from tacit.network.malformed import MALFORMED
from tacit.network.members import Member, Members
from tacit.network.messages import Message, Refusal
from tacit.network.transport import Endpoint

TIMEOUT = 60.0  # seconds for an answer; the coordinator may just be starting
LEFT = 1 / 3  # of a certificate's life, when it is time for another


class Renew(Message, frozen=True):
    """A member asks for a new certificate; ``csr``: signing request, PEM."""

    csr: Annotated[bytes, msgspec.Meta(max_length=4096)]


class Renewed(Message, frozen=True):
    """``certificate``: PEM."""

    certificate: Annotated[bytes, msgspec.Meta(max_length=4096)]


def serve(endpoint: Endpoint, authority: Authority) -> None:
    """Lets the invited join and members renew their certificates, at the coordinator."""

    def join(sender: str, payload: bytes) -> bytes:
        answer: Message
        try:
            answer = authority.admit(msgspec.msgpack.decode(payload, type=Application))
        except MALFORMED:
            answer = Refusal("message", "the request to join cannot be read")
        except MessageError as error:
            answer = Refusal("join", str(error))
        return msgspec.msgpack.encode(answer)

    endpoint.serve_bytes(JOIN, join)
    endpoint.serve(Renew, lambda sender, asked: Renewed(authority.renew(sender, asked.csr)))


def join(token: Token, folder: Path) -> Identity:
    """Makes keys in a folder and joins the federation of a token; may be tried again.

    Raises:
        InputError: the token has expired, or another member's keys are in the folder.
        Unreachable: no answer.
        MessageError: the authority refuses, in one sentence.
    """
    knock = x509.load_pem_x509_certificate(token.tls)
    if knock.not_valid_after_utc < datetime.now(UTC):
        raise InputError(
            f"the token expired on {knock.not_valid_after_utc:%Y-%m-%d}; ask for another"
        )
    make_folder(folder)
    own = sign_key(folder)
    key = certificates.new_key()
    asked = Application(token.name, certificates.request(key, token.name), public_hex(own))
    admission = _ask(token, asked.proven(token.nonce, own.sign))
    named = Federation(token.federation, token.name, token.addresses)
    write(folder / CA, token.authority)
    write(folder / FEDERATION, msgspec.json.encode(named))
    write(folder / MEMBERS, admission.members)
    write(folder / TLS, certificates.key_bytes(key) + admission.certificate, secret=True)
    return Identity.load(folder)


def _ask(token: Token, application: Application) -> Admission:
    """Connects with the token's own certificate, which lets one do nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / TLS, token.tls, secret=True)
        write(Path(folder) / CA, token.authority)
        known = Members(token.federation, 0, {token.coordinator: Member("coordinator")})
        knock = Identity(
            JOINING, token.federation, Path(folder), token.addresses, known,
            x509.load_pem_x509_certificate(token.authority),
            x509.load_pem_x509_certificate(token.tls), Ed25519PrivateKey.generate(),
        )  # fmt: skip
        with Endpoint(knock, connect=token.addresses, wait=TIMEOUT) as endpoint:
            payload = msgspec.msgpack.encode(application)
            reply = endpoint.request(token.coordinator, JOIN, payload, TIMEOUT).result()
    try:
        answer = msgspec.msgpack.decode(reply, type=Admission | Refusal)
    except MALFORMED:
        raise MessageError("the answer of the coordinator cannot be read") from None
    if isinstance(answer, Refusal):
        raise MessageError(answer.sentence)
    return answer


def renew(endpoint: Endpoint) -> bool:
    """Gets a new certificate, with a new key, once two thirds of the old one's life are over.

    Whether it did. To be called now and then, at least daily.

    Raises:
        Unreachable, Refused, MessageError: as ``Endpoint.ask``; the old one stays.
    """
    identity = endpoint.identity
    begin, end = identity.certificate.not_valid_before_utc, identity.certificate.not_valid_after_utc
    if end - datetime.now(UTC) > LEFT * (end - begin):
        return False
    key = certificates.new_key()
    (coordinator,) = identity.members.those("coordinator")
    asked = Renew(certificates.request(key, identity.name))
    renewed = endpoint.ask(coordinator, asked, Renewed, TIMEOUT)
    if not certificates.issued_by(
        x509.load_pem_x509_certificate(renewed.certificate), identity.authority
    ):
        raise MessageError("the new certificate is not one of this authority")
    write(identity.folder / TLS, certificates.key_bytes(key) + renewed.certificate, secret=True)
    endpoint.refresh()
    return True
