"""The authority of a federation: who may join, under which name, and until when.

It lives in the folder ``authority`` of its coordinator's own folder:

    ca.key            the key that signs certificates and the list of members, mode 0600
    admissions.json   invitations that were made, certificates that were issued
"""

import fcntl
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509

from tacit.errors import InputError, MessageError, require
from tacit.network import certificates, members
from tacit.network.admission import Admission, Application, Token
from tacit.network.certificates import Key
from tacit.network.configuration import JOINING, host, require_address, require_host
from tacit.network.decoding import from_json
from tacit.network.identity import (
    CA,
    FEDERATION,
    MEMBERS,
    POLICY,
    TLS,
    Federation,
    make_folder,
    public_hex,
    sign_key,
    write,
)
from tacit.network.institution import Institution
from tacit.network.members import Member, Members, Role, require_name

# How long each is valid.
AUTHORITY = timedelta(days=20 * 365)
CERTIFICATE = timedelta(days=90)
INVITATION = timedelta(days=7)


class _Invitation(msgspec.Struct, frozen=True):
    """``nonce``: hexadecimal, shared with who holds the token; ``until``: seconds since 1970."""

    nonce: str
    until: float


class Admissions(msgspec.Struct):
    """``certificates``: by name, until when the newest one is valid, seconds since 1970.

    ``institutions``: who must vouch for whom, by the member's name.
    """

    invitations: dict[str, _Invitation] = {}
    certificates: dict[str, float] = {}
    institutions: dict[str, Institution] = {}


@dataclass(frozen=True)
class Authority:
    """Issues certificates and signs the list of members."""

    home: Path
    certificate: x509.Certificate = field(repr=False)
    _key: Key = field(repr=False)

    @classmethod
    def init(
        cls, federation: str, home: Path, addresses: Sequence[str] = (), name: str = "coordinator"
    ) -> "Authority":
        """A new federation, with its coordinator in this folder.

        Args:
            addresses: ``host:port`` each, where members reach the coordinator.
        """
        require_name("federation", federation)
        require_name("name", name)
        require(name != JOINING, "name", name, f"any name but {JOINING!r}")
        for address in addresses:
            require_address("address", address)
        make_folder(home)
        make_folder(home / "authority")
        key = certificates.new_key()
        certificate = certificates.self_signed(key, federation, AUTHORITY)
        write(home / "authority" / "ca.key", certificates.key_bytes(key), secret=True)
        write(home / CA, certificates.pem(certificate))
        named = Federation(federation, name, tuple(addresses))
        write(home / FEDERATION, msgspec.json.encode(named))
        authority = cls(home, certificate, key)
        coordinator = Member("coordinator", public_hex(sign_key(home)), tuple(map(host, addresses)))
        authority._write(Members(federation, 1, {name: coordinator}))
        authority.rotate()
        return authority

    @classmethod
    def load(cls, home: Path) -> "Authority":
        """InputError if this folder holds no authority."""
        key = home / "authority" / "ca.key"
        if not key.is_file():
            raise InputError(f"{home}: no authority lives there; see `tacit federation init`")
        certificate = x509.load_pem_x509_certificate((home / CA).read_bytes())
        return cls(home, certificate, certificates.read_key(key.read_bytes()))

    @property
    def members(self) -> Members:
        return members.read((self.home / MEMBERS).read_bytes(), self.certificate)

    def admissions(self) -> Admissions:
        path = self.home / "authority" / "admissions.json"
        if not path.exists():
            return Admissions()
        return from_json(path.read_bytes(), Admissions)

    def rotate(self) -> None:
        """Gives the coordinator a new TLS key and certificate; takes effect without a restart."""
        with self._change() as (roll, admissions):
            name = self.coordinator.member
            key = certificates.new_key()
            issued = self._issue(roll, admissions, name, certificates.request(key, name))
            write(self.home / TLS, certificates.key_bytes(key) + issued, secret=True)

    def invite(self, name: str, hosts: Sequence[str] = (), role: Role = "site") -> Token:
        """A token that lets whoever has it join once under this name.

        Args:
            hosts: DNS names and IP addresses where it will listen to others; none: it only
                connects.

        Raises:
            InputError: a name that is taken, or was revoked and its certificate is still valid.
        """
        require_name("name", name)
        require(name != JOINING, "name", name, f"any name but {JOINING!r}")
        for each in hosts:
            require_host("host", each)
        nonce = secrets.token_bytes(16)
        with self._change() as (roll, admissions):
            now = datetime.now(UTC)
            known = roll.by_name.get(name)
            if known is not None and known.state == "member":
                raise InputError(f"{name!r} is a member already; revoke it first, or take another")
            if admissions.certificates.get(name, 0) > now.timestamp():
                raise InputError(
                    f"{name!r} was revoked and its certificate is still valid; take another name"
                )
            roll.by_name[name] = Member(role, hosts=tuple(hosts))
            until = (now + INVITATION).timestamp()
            admissions.invitations[name] = _Invitation(nonce.hex(), until)
        key, here = certificates.new_key(), self.coordinator
        knock = certificates.issue(
            self.certificate, self._key, JOINING, key.public_key(), (), INVITATION
        )
        return Token(
            here.federation, here.member, name, here.connect, certificates.pem(self.certificate),
            certificates.key_bytes(key) + certificates.pem(knock), nonce,
            tuple(self.members.those("relay")),
        )  # fmt: skip

    def admit(self, asked: Application) -> Admission:
        """Makes an invited name a member; uses the invitation up.

        Asked again by the holder of the same key, as after a lost reply, it answers again.

        Raises:
            MessageError: no such invitation, one that is used up or too old, a bad request.
        """
        with self._change() as (roll, admissions):
            name = asked.name
            invitation = admissions.invitations.get(name)
            if invitation is None or not asked.proves_token(bytes.fromhex(invitation.nonce)):
                raise MessageError("the token is not one of this federation, or was withdrawn")
            known = roll.by_name[name]
            if known.revoked:
                raise MessageError(f"the token is of no use: {name!r} was revoked")
            if not asked.proves_key():
                raise MessageError("the request to join is not signed by the key that it names")
            if known.key not in ("", asked.key):
                raise MessageError("the token was used already; ask for another")
            if datetime.now(UTC).timestamp() > invitation.until:
                raise MessageError("the token has expired; ask for another")
            if known.key == "":
                roll.by_name[name] = Member(known.role, asked.key, known.hosts)
            certificate = self._issue(roll, admissions, name, asked.csr, asked.chain)
        policy = self.home / POLICY
        limits = policy.read_bytes() if policy.exists() else b""
        return Admission(certificate, (self.home / MEMBERS).read_bytes(), limits)

    def trust(self, name: str, institution: Institution) -> None:
        """From now on this name joins and renews with a certificate of its institution alone."""
        require_name("name", name)
        with self._change() as (_, admissions):
            admissions.institutions[name] = institution

    def renew(self, name: str, csr: bytes, chain: bytes = b"") -> bytes:
        """A new certificate, PEM, for a member that is known to ask; MessageError otherwise."""
        with self._change() as (roll, admissions):
            if name not in roll.by_name or roll.by_name[name].state != "member":
                raise MessageError(f"{name!r} is not a member")
            return self._issue(roll, admissions, name, csr, chain)

    def revoke(self, name: str) -> None:
        """Shuts a member out, or withdraws an invitation; InputError if there is no such name."""
        with self._change() as (roll, _):
            known = roll.by_name.get(name)
            if known is None or known.revoked:
                raise InputError(f"{name!r} is not a member; see `tacit federation list`")
            if known.role == "coordinator":
                raise InputError(f"{name!r} is the coordinator; it cannot be revoked")
            roll.by_name[name] = Member(known.role, known.key, known.hosts, revoked=True)

    @property
    def coordinator(self) -> Federation:
        """The names and addresses of the federation's coordinator."""
        return from_json((self.home / FEDERATION).read_bytes(), Federation)

    def _issue(
        self, roll: Members, admissions: Admissions, name: str, csr: bytes, chain: bytes = b""
    ) -> bytes:
        public, validity = certificates.requested_key(csr, name), CERTIFICATE
        if institution := admissions.institutions.get(name):
            own = institution.vouched(chain)
            if own.public_key() != public:
                raise MessageError("the institution's certificate is for another key")
            validity = min(validity, own.not_valid_after_utc - datetime.now(UTC))
        elif chain:
            raise MessageError(
                f"no institution is trusted to vouch for {name!r}; see `tacit federation trust`"
            )
        hosts = roll.by_name[name].hosts
        if hosts and roll.by_name[name].role != "site":  # where the way through a proxy leads
            hosts = tuple(dict.fromkeys((*hosts, "127.0.0.1")))
        certificate = certificates.issue(self.certificate, self._key, name, public, hosts, validity)
        admissions.certificates[name] = certificate.not_valid_after_utc.timestamp()
        return certificates.pem(certificate)

    @contextmanager
    def _change(self) -> Iterator[tuple[Members, Admissions]]:
        """One change at a time, of all processes; nothing changes if it fails."""
        with open(self.home / "authority" / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            roll, admissions = self.members, self.admissions()
            before = dict(roll.by_name)
            yield roll, admissions
            path = self.home / "authority" / "admissions.json"
            write(path, msgspec.json.encode(admissions), secret=True)
            if roll.by_name != before:
                self._write(Members(roll.federation, roll.version + 1, roll.by_name))

    def _write(self, roll: Members) -> None:
        write(self.home / MEMBERS, members.sign(roll, self._key))
