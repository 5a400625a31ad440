"""The rounds of a peer's own record, and two peers' records beside each other, by hand."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.ledger import records
from tacit.ledger.log import Log
from tacit.ledger.note import NOTE, Key, sign
from tacit.ledger.peers import RULE
from tacit.ledger.policy import Policy
from tacit.ledger.recorder import LOG, POLICY
from tacit.ledger.statement import Statement, signed
from tacit.ledger.verify import verify

KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode() * 32) for name in "abc"}
TASK = bytes(32)


def digest(words: str) -> bytes:
    return hashlib.sha256(words.encode()).digest()


class Book:
    """A peer's record, without witnesses."""

    def __init__(
        self,
        folder: Path,
        keeper: str = "a",
        peer: bool = True,
        task: bytes = TASK,
        keys: dict[str, Ed25519PrivateKey] = KEYS,
        log: str = "",
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.keeper, self.keys = folder, keeper, keys
        self.private = Ed25519PrivateKey.from_private_bytes(digest(log or f"log of {keeper}"))
        self.key = Key.of(f"tacit/{keeper}", self.private, NOTE)
        self.log = Log(folder / LOG, self.key.name)
        policy = str(Policy.of([self.key], []))
        (folder / POLICY).write_text(policy)
        self.policy = digest(policy)
        public = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
        genesis = records.genesis(
            task, self.policy, keeper, public[keeper], RULE if peer else {}, public
        )
        self.add(genesis, *KEYS)

    def add(self, said: Statement, *by: str) -> int:
        return self.log.append([signed(said, {name: self.keys[name] for name in by})])

    def open(self, round: int, base: str, view: int = 0) -> None:
        said = records.round_open(round, view, TASK, digest(base), self.log.head())
        self.add(said, self.keeper)

    def part(
        self, site: str, round: int, base: str, told: str = "", policy: str = "", by: str = ""
    ) -> int:
        """What a site has signed; of another peer than the keeper it names its own log."""
        own = digest(f"policy of {site}") if site != self.keeper else self.policy
        said = records.contribution(
            round, site, digest(base), digest(f"{site} {round} {told}"), 10, "none",
            policy=digest(policy) if policy else own,
        )  # fmt: skip
        return self.add(said, by or site)

    def close(self, round: int, model: str, *counted: int) -> None:
        self.add(records.aggregate(round, digest(model), counted, {}), self.keeper)

    def round(self, round: int, base: str, model: str) -> None:
        """An honest one, with one neighbour."""
        self.open(round, base)
        own = self.part(self.keeper, round, base)
        other = self.part("b", round, f"b's own {round}")
        self.close(round, model, own, other)

    def head(self) -> Path:
        """Its folder, once its head is signed."""
        head = self.log.head()
        self.log.keep(head.size, f"{head.text}\n{sign(head.text, self.key, self.private)}")
        return self.folder

    def wrong(self, against: Path | None = None) -> list[str]:
        return [str(finding) for finding in verify(self.head(), against=against).findings]


def honest(book: Book) -> None:
    book.round(0, "m0", "m1")
    book.round(1, "m1", "m2")


def led(book: Book) -> None:
    """Left behind in round 1, it goes on in round 4 from b's model of round 3."""
    book.round(0, "m0", "m1")
    book.open(1, "m1")
    book.part("a", 1, "m1")
    book.part("b", 3, "b's own")
    book.round(4, "from b", "m5")


def alone(book: Book) -> None:
    """Left behind, it goes on from its own model; and then from that of who has ended."""
    book.round(0, "m0", "m1")
    book.open(1, "m1")
    book.round(3, "m1", "m4")
    book.open(4, "m4")
    book.part("c", 5, "c's own")
    book.open(6, "from c")
    book.open(8, "from c")


@pytest.mark.parametrize("write", [honest, led, alone])
def test_what_an_honest_peer_writes_holds(write: Callable[[Book], None], tmp_path: Path) -> None:
    book = Book(tmp_path)
    write(book)
    assert book.wrong() == []


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    book = Book(tmp_path)
    led(book)
    assert book.wrong() == []
    assert dict(verify(tmp_path).checks)["rounds"] == "2 rounds of a, a peer, 3 left out"


def from_nobody(book: Book) -> None:
    book.round(0, "m0", "m1")
    book.open(1, "m1")
    book.open(4, "another")


def from_its_own_word(book: Book) -> None:
    book.round(0, "m0", "m1")
    book.open(1, "m1")
    book.part("a", 1, "m1")
    book.open(4, "another")


def from_before(book: Book) -> None:
    alone(book)
    book.open(9, "m4")


def from_the_future(book: Book) -> None:
    book.round(0, "m0", "m1")
    book.open(1, "m1")
    book.part("b", 5, "b's own")
    book.open(4, "another")


def backwards(book: Book) -> None:
    book.round(0, "m0", "m1")
    book.round(1, "m1", "m2")
    book.open(0, "m2")


def begun_twice(book: Book) -> None:
    book.open(0, "m0")
    book.open(0, "m0")


def another_base(book: Book) -> None:
    book.open(0, "m0")
    book.close(0, "m1", book.part("a", 0, "another"))


def another_log(book: Book) -> None:
    book.open(0, "m0")
    book.close(0, "m1", book.part("a", 0, "m0", policy="another"))


def another_round(book: Book) -> None:
    book.open(0, "m0")
    own = book.part("a", 0, "m0")
    book.part("b", 1, "b's own")
    book.close(0, "m1", own)


def uncounted(book: Book) -> None:
    book.open(0, "m0")
    own = book.part("a", 0, "m0")
    book.part("b", 0, "b's own")
    book.close(0, "m1", own)


def twice(book: Book) -> None:
    book.open(0, "m0")
    own = book.part("a", 0, "m0")
    one, two = book.part("b", 0, "b's own"), book.part("b", 0, "b's own", "again")
    book.close(0, "m1", own, one, two)


WRONG = "it does not begin with the model of the round before"
CRIMES = {
    from_nobody: [f"entry 6: {WRONG}"],
    from_its_own_word: [f"entry 7: {WRONG}"],
    from_before: [f"entry 14: {WRONG}"],
    from_the_future: [
        "entry 6: b contributes to another round than 1", f"entry 7: {WRONG}",
    ],
    backwards: ["entry 9: it opens another round than 2, or again"],
    begun_twice: ["entry 2: it opens another round than 0, or again"],
    another_base: ["entry 2: a had another model than the round began with"],
    another_log: ["entry 2: a names another log than this"],
    another_round: [
        "entry 3: b contributes to another round than 0",
        "entry 4: it leaves out the contribution of b in entry 3",
    ],
    uncounted: ["entry 4: it leaves out the contribution of b in entry 3"],
    twice: ["entry 4: b contributes twice to round 0"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("crime", "said"), CRIMES.items(), ids=[crime.__name__ for crime in CRIMES]
)
def test_what_no_honest_peer_writes(
    crime: Callable[[Book], None], said: list[str], tmp_path: Path
) -> None:
    book = Book(tmp_path)
    crime(book)
    assert book.wrong() == said


def test_another_record_is_held_to_more(tmp_path: Path) -> None:
    """What a coordinator keeps has no round left out, and no word that peers say."""
    book = Book(tmp_path, peer=False)
    book.round(0, "m0", "m1")
    book.open(1, "m1")
    book.open(3, "m1")
    assert book.wrong() == [
        "entry 2: it is of another kind of run",
        "entry 3: it is of another kind of run",
        "entry 4: it counts entry 2, which is no contribution of this round",
        "entry 4: it counts entry 3, which is no contribution of this round",
        "entry 6: it opens another round than 1, or again",
    ]


# Two peers' records


def both(folder: Path, **other: Any) -> tuple[Book, Book]:
    return Book(folder / "a"), Book(folder / "b", "b", **other)


def test_what_a_peer_sent_and_has_not_recorded(tmp_path: Path) -> None:
    """Once its own record is past the round: before that it may not have come to it."""
    one, other = both(tmp_path)
    one.open(0, "m0")
    one.part("a", 0, "m0")
    one.part("b", 0, "b's own")
    other.open(0, "b's own")
    assert one.wrong(other.head()) == []
    other.open(1, "b's own")
    missing = "b sent a a model for round 0, of which b's own record has nothing"
    assert one.wrong(other.head()) == [f"entry 3: {missing}"]
    assert other.wrong(one.head()) == [missing]


def test_only_records_of_one_run_and_its_members_are_compared(tmp_path: Path) -> None:
    one, other = both(tmp_path, task=digest("another task"))
    assert one.wrong(other.head()) == ["the record of b is of another experiment"]
    strange = Book(tmp_path / "c", "c", keys=KEYS | {"a": KEYS["b"]})
    words = "entry 0: the record of c names other members, or other keys of theirs"
    assert one.wrong(strange.head()) == [words]
    plain = Book(tmp_path / "plain", peer=False, log="plain")
    words = "the other record is no peer's, or does not hold by itself"
    assert one.wrong(plain.head()) == [words]
    forged = Book(tmp_path / "forged", "b", log="forged")
    forged.open(0, "m0")
    forged.part("c", 0, "c's own", by="b")
    assert one.wrong(forged.head()) == [words]
