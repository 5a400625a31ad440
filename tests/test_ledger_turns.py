"""Records whose members lead by turns: the order, by hand, and what an auditor finds."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.ledger import records
from tacit.ledger.log import Log
from tacit.ledger.note import NOTE, Key, sign
from tacit.ledger.policy import Policy
from tacit.ledger.statement import Envelope, Statement, encoded, signed
from tacit.ledger.turns import Turns
from tacit.ledger.verify import verify

NAMES = ("anna", "bert", "carl", "dora")
KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i, name in enumerate(NAMES)}
PUBLIC = {name: key.public_key().public_bytes_raw() for name, key in KEYS.items()}
TASK = hashlib.sha256(b"task").digest()
LOG = Ed25519PrivateKey.from_private_bytes(b"L" * 32)
POLICY = Policy.of([Key.of("tacit/test", LOG, NOTE)], [])


def nonce(name: str, round: int) -> bytes:
    return hashlib.sha256(f"{name} {round}".encode()).digest()


def model(round: int) -> bytes:
    return hashlib.sha256(f"model {round}".encode()).digest()


def order(seed: bytes) -> list[str]:
    return sorted(NAMES, key=lambda name: hashlib.sha256(seed + PUBLIC[name]).digest())


Change = Callable[[Statement], Statement | None]


def written(folder: Path, changed: dict[int, Change], by: dict[int, str]) -> Path:
    """A record of six rounds, of which some entries are others, or signed by others.

    In each round all contribute but the one whose turn it is to be away.
    """
    folder.mkdir()
    log, said, signers = Log(folder / "log.db", "tacit/test"), list[Statement](), list[list[str]]()
    told = hashlib.sha256(str(POLICY).encode()).digest()

    def add(statement: Statement, *names: str) -> None:
        place = len(said)
        found = changed.get(place, lambda same: same)(statement)
        said.append(statement)
        signers.append(list(names))
        if found is not None:
            names = (by[place],) if place in by else names
            log.append([signed(found, {name: KEYS[name] for name in names})])

    add(records.swarm_genesis(TASK, told, 4, {}, PUBLIC), *NAMES)
    seed, revealed, last = TASK, b"", dict[str, bytes]()
    for round in range(6):
        leader = order(seed)[round % 4]
        add(records.round_open(round, 0, TASK, model(round), log.head()), leader)
        here = [name for i, name in enumerate(NAMES) if i != round % 4]
        for name in here:
            turn = records.Turn(hashlib.sha256(nonce(name, round)).digest(), last.get(name, b""))
            revealed += turn.revealed
            last[name] = nonce(name, round)
            add(records.contribution(round, name, model(round), bytes(32), 9, "none", turn), name)
        places = range(len(log) - 3, len(log))
        add(records.aggregate(round, model(round + 1), list(places), {}), leader)
        if round == 3:
            seed, revealed = hashlib.sha256(seed + revealed).digest(), b""
    head = log.head()
    note = sign(head.text, POLICY.logs[0], LOG)
    log.keep(head.size, f"{head.text}\n{note}")
    log.close()
    (folder / "policy.txt").write_text(str(POLICY))
    return folder


def found(folder: Path) -> list[str]:
    return [str(each) for each in verify(folder).findings]


def says(**more: object) -> Change:
    return lambda said: replace(said, says={**said.says, **more})


def test_a_record_that_is_kept_by_turns_holds(tmp_path: Path) -> None:
    assert found(written(tmp_path / "record", {}, {})) == []


def other(name: str) -> str:
    return next(each for each in NAMES if each != name)


FIRST, SECOND = order(TASK)[:2]
# Entries 0, then five a round: 1 opens the first, 2 to 4 are its parts, 5 ends it.
CRIMES: dict[str, tuple[dict[int, Change], dict[int, str], str]] = {
    "opened by another": ({}, {1: SECOND}, f"entry 1: {FIRST} has not signed it"),
    "closed by another": ({}, {5: SECOND}, f"entry 5: {FIRST} has not signed it"),
    "led in a view that is another's": (
        {1: says(view=1)}, {}, f"entry 1: {SECOND} has not signed it",
    ),
    "another nonce": (
        {8: says(revealed="11" * 32)}, {},
        "entry 8: carl reveals another nonce than it has committed to",
    ),
    "no nonce": (
        {8: says(revealed="")}, {}, "entry 8: carl reveals another nonce than it has committed to"
    ),
    "a nonce at first": (
        {2: says(revealed="11" * 32)}, {},
        "entry 2: bert reveals another nonce than it has committed to",
    ),
    "no hexadecimal": (
        {8: says(revealed="zz")}, {}, "entry 8: carl reveals another nonce than it has committed to"
    ),
    "masked vectors": (
        {5: lambda s: replace(s, subjects={**s.subjects, "sum": bytes(32), "masks": bytes(32)})},
        {}, "entry 5: where members lead by turns, no masked vectors are summed",
    ),
    "a member that comes": (
        {5: lambda _: records.membership(TASK, {}, ["anna"])}, {},
        "entry 5: the members of a record that they keep by turns do not change",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "by", "finding"), CRIMES.values(), ids=CRIMES)
def test_crimes_are_named(
    changed: dict[int, Change], by: dict[int, str], finding: str, tmp_path: Path
) -> None:
    assert finding in found(written(tmp_path / "record", changed, by))


def test_what_is_revealed_draws_the_next_order(tmp_path: Path) -> None:
    """Round 4 is led by whom the nonces of the first four rounds draw, and not by the old order."""
    folder = written(tmp_path / "record", {}, {})
    log = Log(folder / "log.db", "tacit/test", read_only=True)
    opened = Envelope.from_bytes(log[1 + 5 * 4])
    seed = hashlib.sha256(
        TASK
        + b"".join(
            bytes.fromhex(Envelope.from_bytes(log[at]).statement.says["revealed"])
            for start in range(0, 20, 5)
            for at in range(start + 2, start + 5)
        )
    ).digest()
    assert order(seed) != order(TASK)
    assert list(opened.signatures) == [order(seed)[0]]
    assert opened.signers(PUBLIC) == [order(seed)[0]]


def test_a_contribution_of_another_kind_of_record_has_no_place(tmp_path: Path) -> None:
    plain = records.contribution(0, "bert", model(0), bytes(32), 9, "none")
    folder = written(tmp_path / "record", {2: lambda _: plain}, {})
    assert "entry 2: bert reveals another nonce than it has committed to" in found(folder)


def test_the_order_without_an_epoch() -> None:
    genesis = records.swarm_genesis(TASK, bytes(32), 0, {}, PUBLIC)
    turns = Turns(genesis, PUBLIC)
    turns.take(records.aggregate(0, bytes(32), [], {}))
    assert turns.order == tuple(order(hashlib.sha256(TASK).digest()))
    assert encoded(genesis.payload())
