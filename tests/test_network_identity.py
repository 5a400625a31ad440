"""Who may be who: the authority of a federation, and the keys of its members."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from network_parties import application, joined
from tacit.errors import InputError, MessageError
from tacit.network import authority as authorities
from tacit.network import certificates, members
from tacit.network.authority import Authority
from tacit.network.identity import CA, FEDERATION, MEMBERS, SIGN, TLS, Identity, sign_key, write


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.init("hearts", tmp_path / "coordinator", ["127.0.0.1:7447"])


def test_a_member_signs_and_the_others_check_it(authority: Authority, tmp_path: Path) -> None:
    site = joined(authority, tmp_path / "site", "zurich")
    coordinator = Identity.load(authority.home)
    assert (site.role, coordinator.role) == ("site", "coordinator")
    signature = site.sign(b"hello")
    coordinator.members.verify("zurich", b"hello", signature)
    for name, message in (("zurich", b"hallo"), ("coordinator", b"hello"), ("bern", b"hello")):
        with pytest.raises(MessageError, match=name):
            coordinator.members.verify(name, message, signature)


def test_private_keys_are_the_owners_alone(authority: Authority, tmp_path: Path) -> None:
    site = joined(authority, tmp_path / "site", "zurich")
    secret = [authority.home / "authority" / "ca.key"]
    secret += [folder / name for folder in (site.folder, authority.home) for name in (TLS, SIGN)]
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    assert site.folder.stat().st_mode & 0o777 == 0o700
    # What the authority keeps of a member holds no private key.
    kept = [path for path in authority.home.rglob("*") if path.is_file() and path not in secret]
    assert all(b"PRIVATE KEY" not in path.read_bytes() for path in kept)
    assert "PRIVATE" not in repr(site)


@pytest.mark.parametrize("name", [TLS, SIGN])
def test_a_key_that_others_may_read_is_refused(authority: Authority, name: str) -> None:
    path = authority.home / name
    path.chmod(0o640)
    with pytest.raises(InputError, match=r"0640\); run `chmod 600"):
        Identity.load(authority.home)


@pytest.mark.parametrize("name", [CA, TLS, SIGN, MEMBERS, FEDERATION])
def test_a_missing_or_damaged_file_is_named(authority: Authority, name: str) -> None:
    path = authority.home / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=str(authority.home)):
        Identity.load(authority.home)
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: there is no such file"):
        Identity.load(authority.home)


def test_an_expired_certificate_says_when(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorities, "CERTIFICATE", timedelta(seconds=-1))
    authority.rotate()
    with pytest.raises(InputError, match="the certificate expired on 2"):
        Identity.load(authority.home)


def test_files_of_another_federation_are_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority.init("hearts", tmp_path / "other")  # same name, other keys
    for name, sentence in ((TLS, "is not of federation"), (MEMBERS, "not signed by this")):
        kept = (authority.home / name).read_bytes()
        write(authority.home / name, (other.home / name).read_bytes(), secret=True)
        with pytest.raises(InputError, match=sentence):
            Identity.load(authority.home)
        write(authority.home / name, kept, secret=True)


def test_an_invitation_admits_once(authority: Authority, tmp_path: Path) -> None:
    token = authority.invite("zurich")
    asked, _ = application(tmp_path / "site", token)
    authority.admit(asked)
    authority.admit(asked)  # the reply was lost: asked again by the same key
    another, _ = application(tmp_path / "thief", token)
    with pytest.raises(MessageError, match="used already"):
        authority.admit(another)
    # The member's public key is known to all; without its private half the token is of no use.
    claimed = msgspec.structs.replace(another, key=asked.key)
    with pytest.raises(MessageError, match="not signed by the key"):
        authority.admit(claimed.proven(token.nonce, sign_key(tmp_path / "thief").sign))


def test_wrong_expired_and_withdrawn_invitations(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, _ = application(tmp_path / "site", token := authority.invite("zurich"))
    guessed = msgspec.structs.replace(token, nonce=os.urandom(16))
    guess, _ = application(tmp_path / "guess", guessed)
    elsewhere, _ = application(tmp_path / "bern", msgspec.structs.replace(token, name="bern"))
    # A relay sees the application and puts its own request for a certificate into it.
    mine = certificates.request(certificates.new_key(), "zurich")
    stolen = msgspec.structs.replace(asked, csr=mine)
    for wrong in (guess, elsewhere, stolen):
        with pytest.raises(MessageError, match="not one of this federation"):
            authority.admit(wrong)
    authority.revoke("zurich")
    with pytest.raises(MessageError, match="revoked"):
        authority.admit(asked)
    monkeypatch.setattr(authorities, "INVITATION", timedelta(seconds=-1))
    late, _ = application(tmp_path / "late", authority.invite("bern"))
    with pytest.raises(MessageError, match="has expired"):
        authority.admit(late)
    assert authority.members.by_name["bern"].state == "invited"


def test_a_certificate_is_for_the_name_that_was_invited(
    authority: Authority, tmp_path: Path
) -> None:
    asked, key = application(tmp_path / "site", authority.invite("zurich", ["10.0.0.7"]))
    certificate = x509.load_pem_x509_certificate(authority.admit(asked).certificate)
    assert certificates.common_name(certificate.subject) == "zurich"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    constraint = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert not constraint.value.ca
    other = certificates.request(certificates.read_key(key), "coordinator")
    with pytest.raises(MessageError, match="is for 'coordinator', not for 'zurich'"):
        authority.renew("zurich", other)
    with pytest.raises(MessageError, match="cannot be read"):
        authority.renew("zurich", b"rubbish")


@pytest.mark.parametrize("name", ["", "a/b", "a*", "ä", "x" * 64, ".hidden", "a b", "joining"])
def test_names_that_could_be_mistaken_are_refused(authority: Authority, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        authority.invite(name)


@pytest.mark.parametrize(
    "address", ["", "a", "a:", ":1", "a:b", "a b:1", "a:1#bind=x", "::1:7", "ä:1"]
)
def test_addresses_that_are_none_are_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match="allowed is host:port"):
        Authority.init("lungs", tmp_path / "new", [address])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("host", ["", "a b", "a:7447", "[::1]", "ä", "*"])
def test_hosts_that_are_none_are_refused(authority: Authority, host: str) -> None:
    with pytest.raises(InputError, match="a DNS name or an IP address"):
        authority.invite("zurich", [host])


def test_a_revoked_member_is_out_and_its_name_is_not_given_again(
    authority: Authority, tmp_path: Path
) -> None:
    site = joined(authority, tmp_path / "site", "zurich")
    authority.revoke("zurich")
    newer = Identity.load(authority.home).members
    with pytest.raises(MessageError, match="'zurich' is revoked"):
        newer.verify("zurich", b"hello", site.sign(b"hello"))
    with pytest.raises(MessageError, match="not a member"):
        authority.renew("zurich", certificates.request(certificates.new_key(), "zurich"))
    # Names in certificates decide, and its certificate is valid for months.
    with pytest.raises(InputError, match="still valid; take another name"):
        authority.invite("zurich")
    with pytest.raises(InputError, match="coordinator"):
        authority.revoke("coordinator")


def test_only_a_newer_roll_of_the_authority_is_taken(authority: Authority, tmp_path: Path) -> None:
    site = joined(authority, tmp_path / "site", "zurich")
    older = (authority.home / MEMBERS).read_bytes()
    authority.invite("bern")
    newer = (authority.home / MEMBERS).read_bytes()
    now = site.accept_members(newer)
    assert "bern" in now.members.by_name
    assert now.accept_members(older) is now  # nobody is brought back by an old list
    assert "bern" in Identity.load(site.folder).members.by_name
    forged = newer.replace(b'"bern":{"role":"site"', b'"bern":{"role":"coordinator"')
    assert forged != newer
    for text in (forged, b"{}", b"\xff", newer[:-2]):
        with pytest.raises(MessageError, match="list of members"):
            site.accept_members(text)
    other = members.sign(authority.members, certificates.new_key())
    with pytest.raises(MessageError, match="not signed by this authority"):
        site.accept_members(other)


def test_rotation_gives_a_new_key_and_certificate(authority: Authority) -> None:
    before = Identity.load(authority.home)
    version = authority.members.version
    authority.rotate()
    after = Identity.load(authority.home)
    assert before.certificate.public_key() != after.certificate.public_key()
    assert authority.members.version == version  # members have nothing to learn from it


def test_none_of_many_invitations_at_once_is_lost(authority: Authority) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: Authority.load(authority.home).invite(f"site-{n}"), range(20)))
    assert len(authority.members.by_name) == 21
    assert authority.members.version == 21


def test_a_federation_is_not_made_over_another(authority: Authority) -> None:
    with pytest.raises(InputError, match="already"):
        Authority.init("hearts", authority.home)
    with pytest.raises(InputError, match="no authority lives there"):
        Authority.load(authority.home / "authority")


def test_certificates_start_before_now_so_that_clocks_may_differ(authority: Authority) -> None:
    certificate = Identity.load(authority.home).certificate
    assert time.time() - certificate.not_valid_before_utc.timestamp() > 300
