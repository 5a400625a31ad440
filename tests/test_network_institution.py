"""Members that bring their institution's key and certificate; and institutions that lie."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zenoh
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typer.testing import CliRunner

from network_parties import Ping, Pong, until
from tacit.cli import app
from tacit.errors import InputError, MessageError
from tacit.network import certificates, joining
from tacit.network.admission import Application
from tacit.network.configuration import configuration
from tacit.network.identity import TLS, Identity, public_hex, sign_key, write
from tacit.network.institution import Institution, Own
from tacit.network.transport import Endpoint
from test_network_joining import Hall


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class Hospital:
    """An institution with an authority of its own, as X.509 has it and none of tacit's code."""

    def __init__(self, name: str, above: "Hospital | None" = None) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = above or self
        made = (
            self._builder(self.subject, signer, self.key.public_key(), timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False),
                critical=True,
            )
        )  # fmt: skip
        self.certificate = made.sign(signer.key, hashes.SHA384())
        self.pem = certificates.pem(self.certificate)

    def _builder(self, subject, signer, public, life):  # type: ignore[no-untyped-def]
        now, own = datetime.now(UTC), signer.key.public_key()
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(signer.subject)
            .public_key(public).serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + life)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False
            )
        )  # fmt: skip

    def issue(self, common: str, dns: str, key: certificates.TlsKey, days: float = 30) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        made = (
            self._builder(subject, self, key.public_key(), timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        return certificates.pem(made.sign(self.key, hashes.SHA384()))

    def files(
        self, folder: Path, common: str, dns: str, key: certificates.TlsKey | None = None,
        days: float = 30,
    ) -> Own:  # fmt: skip
        folder.mkdir(exist_ok=True)
        key = key or ec.generate_private_key(ec.SECP256R1())
        (folder / "site.pem").write_bytes(self.issue(common, dns, key, days))
        write(folder / "site.key", certificates.key_bytes(key), secret=True)
        return Own.at(folder / "site.pem", folder / "site.key", None)


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    made = Hall(tmp_path)
    yield made
    made.coordinator.close()


ZURICH = "tacit.hospital-zurich.example"


def test_a_site_connects_with_its_institutions_key(
    hall: Hall, tmp_path: Path, rsa_key: rsa.RSAPrivateKey
) -> None:
    root = Hospital("Zurich Root")
    below = Hospital("Zurich Servers", root)
    own = below.files(tmp_path / "pki", ZURICH, ZURICH, rsa_key)
    (tmp_path / "pki/chain.pem").write_bytes(below.pem)
    (tmp_path / "pki/root.pem").write_bytes(root.pem)
    # A file with both, as many servers want it: the key stays.
    combined = (tmp_path / "pki/site.pem").read_bytes() + (tmp_path / "pki/site.key").read_bytes()
    (tmp_path / "pki/site.pem").write_bytes(combined)
    own = Own.at(tmp_path / "pki/site.pem", tmp_path / "pki/site.key", tmp_path / "pki/chain.pem")
    assert b"PRIVATE" not in own.read()[1]

    def tacit(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
        return done.output

    home = ["--home", str(hall.authority.home)]
    said = tacit(
        "federation", "trust", "zurich", "--ca", str(tmp_path / "pki/root.pem"), "--as", ZURICH,
        *home,
    )  # fmt: skip
    assert ZURICH in said
    token = tacit("federation", "invite", "zurich", *home).strip()
    hall.coordinator.refresh()
    tacit(
        "node", "join", token, "--home", str(tmp_path / "zurich"), "--certificate",
        own.certificate, "--key", own.key, "--chain", str(own.chain),
    )  # fmt: skip
    zurich = Identity.load(tmp_path / "zurich")
    assert zurich.certificate.public_key() == rsa_key.public_key()
    # For no longer than the institution vouches, though the federation's own are for 90 days.
    left = zurich.certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    with Endpoint(zurich, connect=[hall.address]) as endpoint:
        assert endpoint.ask("coordinator", Ping(1), Pong, timeout=60) == Pong(2)


def test_it_renews_with_a_newer_certificate_of_its_institution(
    hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    root = Hospital("Zurich Root")
    own = root.files(tmp_path / "pki", ZURICH, ZURICH)
    hall.authority.trust("zurich", Institution.of(root.pem, ZURICH))
    token = hall.authority.invite("zurich")
    hall.coordinator.refresh()
    zurich = joining.join(token, tmp_path / "zurich", own)
    monkeypatch.setattr(joining, "LEFT", 1.0)  # it is time for another
    with Endpoint(zurich, connect=[hall.address]) as endpoint:
        until(lambda: hall.coordinator.alive() == {"zurich"})
        assert not joining.renew(endpoint)
        assert "renew it" in caplog.text
        root.files(tmp_path / "pki", ZURICH, ZURICH, days=60)
        assert joining.renew(endpoint)
        new = Identity.load(tmp_path / "zurich").certificate
        assert new.not_valid_after_utc > zurich.certificate.not_valid_after_utc
        assert new.public_key() == own.read()[0].public_key()


def test_an_institution_cannot_speak_for_a_member_of_another(hall: Hall, tmp_path: Path) -> None:
    """Bern's authority is trusted for bern, and certifies whatever it likes."""
    zurich, bern = Hospital("Zurich Root"), Hospital("Bern Root")
    hall.authority.trust("zurich", Institution.of(zurich.pem, "zurich"))
    hall.authority.trust("bern", Institution.of(bern.pem, "bern"))
    tokens = {name: hall.authority.invite(name) for name in ("zurich", "bern")}
    hall.coordinator.refresh()
    false = bern.files(tmp_path / "false", "zurich", "zurich")
    # With a stolen token it does not join as zurich,
    with pytest.raises(MessageError, match="not one of the institution's authority"):
        joining.join(tokens["zurich"], tmp_path / "thief", false)
    with pytest.raises(MessageError, match="give --certificate, --key"):
        joining.join(tokens["zurich"], tmp_path / "thief")
    # nor under its own name with zurich's,
    with pytest.raises(MessageError, match="is for zurich, not bern"):
        joining.join(tokens["bern"], tmp_path / "thief", false)
    # nor with zurich's true certificate, which is no secret, and another key.
    true = zurich.files(tmp_path / "true", "zurich", "zurich")
    with pytest.raises(InputError, match="it is not the key of"):
        joining.join(tokens["zurich"], tmp_path / "thief", Own(true.certificate, false.key, None))
    assert not (tmp_path / "thief" / TLS).exists()
    signs = sign_key(tmp_path)
    asked = Application(
        "zurich", certificates.request(certificates.new_key(), "zurich"), public_hex(signs),
        Path(true.certificate).read_bytes(),
    )  # fmt: skip
    with pytest.raises(MessageError, match="the institution's certificate is for another key"):
        hall.authority.admit(asked.proven(tokens["zurich"].nonce, signs.sign))
    # On a connection its authority counts for nothing.
    joined = joining.join(tokens["zurich"], tmp_path / "zurich", true)
    pem = Path(false.key).read_bytes() + Path(false.certificate).read_bytes()
    write(tmp_path / "tls.pem", pem, secret=True)
    settings = json.loads(configuration(joined, [], [hall.address], wait=2))
    del settings["access_control"]
    zenoh.open(zenoh.Config.from_json5(json.dumps(settings))).close()  # with its own
    for name in ("listen", "connect"):
        for part in ("private_key", "certificate"):
            settings["transport"]["link"]["tls"][f"{name}_{part}"] = str(tmp_path / "tls.pem")
    with pytest.raises(zenoh.ZError):
        zenoh.open(zenoh.Config.from_json5(json.dumps(settings)))
    assert hall.coordinator.alive() == frozenset()


def test_whose_certificate_does_not_fit_is_told_so(hall: Hall, tmp_path: Path) -> None:
    root = Hospital("Zurich Root")
    token = hall.authority.invite("zurich")
    hall.coordinator.refresh()
    own = root.files(tmp_path / "pki", "zurich", "zurich")
    with pytest.raises(MessageError, match="no institution is trusted to vouch for 'zurich'"):
        joining.join(token, tmp_path / "zurich", own)
    hall.authority.trust("zurich", Institution.of(root.pem, "zurich"))
    late = root.files(tmp_path / "late", "zurich", "zurich", days=-0.01)
    with pytest.raises(MessageError, match="not one of the institution's authority"):
        joining.join(token, tmp_path / "zurich", late)
    Path(own.key).chmod(0o644)
    with pytest.raises(InputError, match="others may read it"):
        joining.join(token, tmp_path / "zurich", own)
    Path(own.key).chmod(0o600)
    assert joining.join(token, tmp_path / "zurich", own).name == "zurich"
    with pytest.raises(InputError, match="no certificate in PEM"):
        Institution.of(b"rubbish", "zurich")
