"""Joining a federation over the network, and staying in it."""

import logging
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
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
from tacit.network.decoding import from_msgpack
from tacit.network.identity import (
    CA,
    FEDERATION,
    MEMBERS,
    POLICY,
    SIGN,
    TLS,
    Federation,
    Identity,
    make_folder,
    public_hex,
    sign_key,
    write,
)
from tacit.network.institution import Chain, Own
from tacit.network.malformed import MALFORMED
from tacit.network.members import Member, Members
from tacit.network.messages import Message, Refusal
from tacit.network.proxy import Proxy, through
from tacit.network.transport import Endpoint, Unreachable

_log = logging.getLogger("tacit.network")
TIMEOUT = 60.0  # seconds for an answer; the coordinator may just be starting
_AGAIN = 0.5
LEFT = 1 / 3  # of a certificate's life, when it is time for another


class Renew(Message, frozen=True):
    """A member asks for a new certificate.

    Attributes:
        csr: signing request, PEM.
        chain: as in ``Application``.
    """

    csr: Annotated[bytes, msgspec.Meta(max_length=4096)]
    chain: Chain = b""


class Renewed(Message, frozen=True):
    """``certificate``: PEM."""

    certificate: Annotated[bytes, msgspec.Meta(max_length=4096)]


def serve(endpoint: Endpoint, authority: Authority) -> None:
    """Lets the invited join and members renew their certificates, at the coordinator."""

    def join(sender: str, payload: bytes) -> bytes:
        answer: Message
        try:
            answer = authority.admit(from_msgpack(payload, Application))
        except MALFORMED:
            answer = Refusal(MessageError.code, "the request to join cannot be read")
        except MessageError as error:
            answer = Refusal(error.code, str(error))
        return msgspec.msgpack.encode(answer)

    endpoint.serve_bytes(JOIN, join)
    endpoint.serve(
        Renew, lambda sender, asked: Renewed(authority.renew(sender, asked.csr, asked.chain))
    )


def join(
    token: Token, folder: Path, own: Own | None = None, proxy: Proxy | None = None
) -> Identity:
    """Makes keys in a folder and joins the federation of a token; may be tried again.

    Args:
        own: a key and certificate of the member's institution, with which it connects then.
        proxy: the way out, if there is no other.

    Raises:
        InputError: the token has expired, another member's keys are in the folder, or the
            federation's policy cannot be used.
        Unreachable: no answer.
        MessageError: the authority refuses, in one sentence.
    """
    knock = x509.load_pem_x509_certificate(token.tls)
    if knock.not_valid_after_utc < datetime.now(UTC):
        raise InputError(
            f"the token expired on {knock.not_valid_after_utc:%Y-%m-%d}; ask for another"
        )
    from tacit.network.policy import Limits, Policy, parse, text

    make_folder(folder)
    tried = (folder / SIGN).exists()
    signs = sign_key(folder)
    key: certificates.TlsKey = certificates.new_key()
    chain = b""
    if own:
        key, chain = own.read()
    csr = certificates.request(key, token.name)
    asked = Application(token.name, csr, public_hex(signs), chain)
    try:
        admission = _ask(token, asked.proven(token.nonce, signs.sign), proxy)
    except MessageError:
        if not tried:  # else an admission may have been lost, which holds for this key alone
            (folder / SIGN).unlink()
            with suppress(OSError):
                folder.rmdir()
        raise
    named = Federation(token.federation, token.name, token.addresses)
    limits = parse(admission.policy, f"the policy of {token.federation!r}", Limits)
    if not (folder / POLICY).exists():
        write(folder / POLICY, text(Policy(**asdict(limits))).encode())
    if own:
        own.keep(folder)
    write(folder / CA, token.authority)
    write(folder / FEDERATION, msgspec.json.encode(named))
    write(folder / MEMBERS, admission.members)
    write(folder / TLS, certificates.key_bytes(key) + admission.certificate, secret=True)
    return Identity.load(folder)


def _ask(token: Token, application: Application, proxy: Proxy | None) -> Admission:
    """Connects with the token's own certificate, which lets one do nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / TLS, token.tls, secret=True)
        write(Path(folder) / CA, token.authority)
        hubs = {name: Member("relay") for name in token.relays}
        hubs[token.coordinator] = Member("coordinator")
        known = Members(token.federation, 0, hubs)
        knock = Identity(
            JOINING, token.federation, Path(folder), token.addresses, known,
            x509.load_pem_x509_certificate(token.authority),
            x509.load_pem_x509_certificate(token.tls), Ed25519PrivateKey.generate(),
        )  # fmt: skip
        with (
            through(proxy, token.addresses) as connect,
            Endpoint(knock, connect=connect, wait=TIMEOUT) as endpoint,
        ):
            payload, until = msgspec.msgpack.encode(application), time.monotonic() + TIMEOUT
            while True:
                try:
                    reply = endpoint.reply(token.coordinator, JOIN, payload, TIMEOUT)
                    break
                except Unreachable:  # the coordinator listens, and does not answer yet
                    if time.monotonic() > until:
                        raise
                    time.sleep(_AGAIN)
    try:
        answer: Message = from_msgpack(reply, Admission, Refusal)
    except MALFORMED:
        raise MessageError("the answer of the coordinator cannot be read") from None
    if isinstance(answer, Refusal):
        raise MessageError(answer.sentence)
    assert isinstance(answer, Admission)
    return answer


def renew(endpoint: Endpoint) -> bool:
    """Gets a new certificate, with a new key, once two thirds of the old one's life are over.

    With an institution's own key and certificate, these must have been replaced before.

    Whether it did. To be called now and then, at least daily.

    Raises:
        InputError: the institution's files cannot be used.
        Unreachable, Refused, MessageError: as ``Endpoint.ask``; the old one stays.
    """
    identity = endpoint.identity
    begin, end = identity.certificate.not_valid_before_utc, identity.certificate.not_valid_after_utc
    if end - datetime.now(UTC) > LEFT * (end - begin):
        return False
    key: certificates.TlsKey = certificates.new_key()
    chain = b""
    if own := Own.of(identity.folder):
        key, chain = own.read()
        if x509.load_pem_x509_certificate(chain).not_valid_after_utc <= end:
            _log.warning("%s ends on %s: renew it", own.certificate, f"{end:%Y-%m-%d}")
            return False
    (coordinator,) = identity.members.those("coordinator")
    asked = Renew(certificates.request(key, identity.name), chain)
    renewed = endpoint.ask(coordinator, asked, Renewed, TIMEOUT)
    if not certificates.issued_by(
        x509.load_pem_x509_certificate(renewed.certificate), identity.authority
    ):
        raise MessageError("the new certificate is not one of this authority")
    write(identity.folder / TLS, certificates.key_bytes(key) + renewed.certificate, secret=True)
    endpoint.refresh()
    return True
