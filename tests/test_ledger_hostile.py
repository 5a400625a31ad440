"""Records that somebody wrote who keeps to no rule: what is wrong is named, in a sentence."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.errors import InputError
from tacit.ledger import records
from tacit.ledger.log import Log
from tacit.ledger.note import COSIGNATURE, NOTE, Key, sign
from tacit.ledger.policy import Policy
from tacit.ledger.statement import Statement, signed
from tacit.ledger.verify import verify

KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(name.encode() * 32) for name in ("k", "n", "s", "e")
}
PUBLIC = {name: key.public_key().public_bytes_raw() for name, key in KEYS.items()}
TASK = bytes(range(32))
ORIGIN = Key.of("tacit/test", KEYS["k"], NOTE)
POLICY = Policy.of([ORIGIN], [])


def genesis() -> Statement:
    told = hashlib.sha256(str(POLICY).encode()).digest()
    return records.genesis(TASK, told, "k", PUBLIC["k"], {}, {n: PUBLIC[n] for n in "ns"})


def found(folder: Path, *entries: bytes) -> list[str]:
    """What an audit finds in a record of these, with a head that counts."""
    log = Log(folder / "log.db", ORIGIN.name)
    log.append(entries)
    head = log.head()
    log.keep(head.size, f"{head.text}\n{sign(head.text, ORIGIN, KEYS['k'])}")
    log.close()
    (folder / "policy.txt").write_text(str(POLICY))
    return [str(each) for each in verify(folder).findings]


def by(statement: Statement, *names: str, **others: str) -> bytes:
    """Signed by members, or in a member's name with somebody else's key."""
    return signed(statement, {n: KEYS[n] for n in names} | {n: KEYS[o] for n, o in others.items()})


CHANGES: dict[str, tuple[Mapping[str, bytes], list[str], Mapping[str, str]]] = {
    "a founder's key is another's": ({"n": PUBLIC["e"]}, [], {"n": "e"}),
    "a founder goes": ({}, ["n"], {}),
}


@pytest.mark.parametrize(("added", "gone", "signers"), CHANGES.values(), ids=CHANGES)
def test_who_has_signed_the_genesis_is_changed_by_a_quorum_alone(
    added: Mapping[str, bytes], gone: list[str], signers: Mapping[str, str], tmp_path: Path
) -> None:
    changed = records.membership(TASK, added, gone)
    assert found(tmp_path, by(genesis(), *"kns"), by(changed, **signers)) == [
        "entry 1: it takes 3 of 3 members to change them"
    ]


def test_before_the_rounds_a_founder_comes_by_its_own_word(tmp_path: Path) -> None:
    later = records.membership(TASK, {"e": PUBLIC["e"]})
    assert found(tmp_path, by(genesis(), *"kns"), by(later, "e")) == []


def test_beyond_the_head_nobody_comes_by_its_own_word(tmp_path: Path) -> None:
    assert found(tmp_path, by(genesis(), *"kns")) == []
    log = Log(tmp_path / "log.db", ORIGIN.name)
    log.append([by(records.membership(TASK, {"e": PUBLIC["e"]}), "e")])
    log.close()
    assert [str(each) for each in verify(tmp_path).findings] == [
        "entry 1: it takes 3 of 3 members to change them"
    ]


def test_a_swarm_of_nobody_is_none(tmp_path: Path) -> None:
    told = hashlib.sha256(str(POLICY).encode()).digest()
    begun = by(records.swarm_genesis(TASK, told, 4, {}, {}))
    log = Log(tmp_path / "before.db", ORIGIN.name)
    log.append([begun])
    opened = by(records.round_open(0, 0, TASK, bytes(32), log.head()))
    log.close()
    assert "entry 0: the record names no members" in found(tmp_path, begun, opened)


def test_a_report_in_a_record_that_was_begun_under_another_policy(tmp_path: Path) -> None:
    sent = by(records.contribution(0, "n", bytes(32), bytes(32), 9, "none"), "n")
    report = by(records.incident("k", [sent]), "n")
    found(tmp_path, by(genesis(), *"kns"), report)
    other = Key.of("tacit/test", KEYS["e"], NOTE)
    (tmp_path / "other.txt").write_text(str(Policy.of([other], [])))
    words = [str(each) for each in verify(tmp_path, policy=tmp_path / "other.txt").findings]
    assert "entry 0: it was begun under another policy than the auditor's" in words


WITNESS = Key.of("w", KEYS["e"], COSIGNATURE)
NO_POLICIES = {
    "no base64": f"log {ORIGIN}é\nquorum none\n",
    "many digits": f"log {ORIGIN}\nwitness w {WITNESS}\ngroup g {'1' * 5000} w\nquorum g\n",
    "groups of groups": f"log {ORIGIN}\nwitness w {WITNESS}\ngroup g0 1 w\n"
    + "".join(f"group g{i} 1 g{i - 1}\n" for i in range(1, 5000))
    + "quorum g4999\n",
}


@pytest.mark.parametrize("text", NO_POLICIES.values(), ids=NO_POLICIES)
def test_a_file_that_is_no_policy(text: str) -> None:
    with pytest.raises(InputError):
        Policy.from_text(text)
