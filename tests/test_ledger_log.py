"""The log, its witnesses, its policy and its proofs, against each other and against crimes."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.errors import CheckpointError, InputError, MessageError
from tacit.ledger.log import MOST_ENTRY, Log
from tacit.ledger.note import COSIGNATURE, COSIGNATURE_ML_DSA, NOTE, Key, private_key, sign
from tacit.ledger.policy import Policy, quorum
from tacit.ledger.proof import Proof
from tacit.ledger.witness import Conflict, Forked, Witness
from test_ledger_merkle import LEAVES, ROOTS, mth

PRIVATE = Ed25519PrivateKey.generate()
KEY = Key.of("hearts", PRIVATE, NOTE)


def signed(log: Log, size: int | None = None) -> str:
    head = log.head(size)
    return f"{head.text}\n{sign(head.text, KEY, PRIVATE)}"


def witness(path: Path, name: str = "bern", kind: int = COSIGNATURE) -> Witness:
    private = private_key(kind)
    return Witness(path / name, Key.of(name, private, kind), private, [KEY], lambda: 1.7e9)


def test_appended_one_by_one_or_together_the_roots_are_those_published(tmp_path: Path) -> None:
    one, all_ = Log(tmp_path / "one", "hearts"), Log(tmp_path / "all", "hearts")
    for i, leaf in enumerate(LEAVES):
        assert one.append([leaf]) == i
        assert one.head().root.hex() == ROOTS[i]
    assert all_.append(LEAVES) == 0
    assert [all_.head(size).root.hex() for size in range(1, 9)] == ROOTS
    assert list(one) == list(all_) == LEAVES
    assert (len(one), one[3], one.head(0).root) == (8, LEAVES[3], mth([]))
    one.close()
    again = Log(tmp_path / "one", "hearts")
    assert again.append([b"ninth"]) == 8
    assert again.head().root == mth([*LEAVES, b"ninth"])


def test_what_a_log_refuses(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", "hearts")
    with pytest.raises(InputError, match=f"entry: {MOST_ENTRY + 1} bytes"):
        log.append([b"short", bytes(MOST_ENTRY + 1)])
    assert len(log) == 0
    log.append([bytes(MOST_ENTRY)])
    for ask in (lambda: log[1], lambda: log.inclusion(1, 1), lambda: log.consistency(0, 2)):
        with pytest.raises(InputError):
            ask()
    (tmp_path / "not").write_bytes(b"no database, but longer than a header of one" * 40)
    with pytest.raises(CheckpointError, match="cannot be used"):
        Log(tmp_path / "not", "hearts")


def test_many_threads_append_to_one_log(tmp_path: Path) -> None:
    log, places = Log(tmp_path / "log", "hearts"), list[int]()

    def add(thread: int) -> None:
        places.extend(log.append([b"%d %d" % (thread, i)]) for i in range(20))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(places) == list(range(80))
    assert log.head().root == mth(list(log))


@pytest.mark.parametrize("kind", [COSIGNATURE, COSIGNATURE_ML_DSA])
def test_a_witness_cosigns_what_extends_what_it_saw(kind: int, tmp_path: Path) -> None:
    log, bern = Log(tmp_path / "log", "hearts"), witness(tmp_path, kind=kind)
    log.append(LEAVES[:3])
    line = bern.cosign(0, [], signed(log))
    policy = Policy.of([KEY], [bern.key])
    assert policy.check(signed(log) + str(line)) == log.head()
    log.append(LEAVES[3:])
    bern.cosign(3, log.consistency(3, 8), signed(log))
    bern.cosign(8, [], signed(log))
    with pytest.raises(Conflict) as told:
        bern.cosign(3, log.consistency(3, 8), signed(log))
    assert told.value.size == 8
    with pytest.raises(Forked, match="7 entries are left of 8"):
        bern.cosign(8, [], signed(log, 7))
    assert bern.last("hearts") == log.head()


def test_a_fork_is_not_cosigned_and_its_note_is_proof(tmp_path: Path) -> None:
    log, fork = Log(tmp_path / "log", "hearts"), Log(tmp_path / "fork", "hearts")
    log.append(LEAVES)
    fork.append([*LEAVES[:4], b"another", *LEAVES[5:], b"more"])
    bern = witness(tmp_path)
    bern.cosign(0, [], signed(log))
    for note, proof in ((signed(fork), fork.consistency(8, 9)), (signed(fork, 8), [])):
        with pytest.raises(Forked, match="are not those that were cosigned") as told:
            bern.cosign(8, proof, note)
        assert told.value.note == note
    assert bern.last("hearts") == log.head()


def test_a_witness_forgets_nothing_when_it_is_started_again(tmp_path: Path) -> None:
    log, bern = Log(tmp_path / "log", "hearts"), witness(tmp_path)
    log.append(LEAVES)
    bern.cosign(0, [], signed(log))
    bern.close()
    again = Witness(tmp_path / "bern", bern.key, bern.private, [KEY])
    with pytest.raises(Conflict):
        again.cosign(0, [], signed(log, 2))


def test_a_witness_cosigns_no_strangers_log(tmp_path: Path) -> None:
    log, bern = Log(tmp_path / "log", "hearts"), witness(tmp_path)
    other = Ed25519PrivateKey.generate()
    head = log.head()
    for name, private in (("hearts", other), ("lungs", PRIVATE)):
        key = Key.of(name, private, NOTE)
        with pytest.raises(MessageError, match="no known log has signed"):
            bern.cosign(0, [], f"{head.text}\n{sign(head.text, key, private)}")
    with pytest.raises(MessageError, match="64 hashes"):
        bern.cosign(0, [bytes(32)] * 64, signed(log))


def test_two_quorums_share_an_honest_witness() -> None:
    for n in range(1, 50):
        traitors = (n - 1) // 3
        assert 2 * quorum(n) - n > traitors
        assert n - traitors >= quorum(n)


def test_a_policy_counts_cosignatures(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", "hearts")
    log.append(LEAVES)
    sites = [witness(tmp_path, name) for name in ("bern", "basel", "zurich", "geneva")]
    lines = [str(site.cosign(0, [], signed(log))) for site in sites]
    policy = Policy.of([KEY], [site.key for site in sites])
    assert Policy.from_text(str(policy)) == policy
    assert policy.check(signed(log) + "".join(lines[:3])) == log.head()
    for few in (lines[:2], lines[:1] * 3):  # one witness counts once
        with pytest.raises(MessageError, match="of 4 witnesses"):
            policy.check(signed(log) + "".join(few))
    with pytest.raises(MessageError, match="no log of the policy"):
        policy.check(f"{log.head().text}\n{''.join(lines)}")


def test_the_published_example_of_a_policy(tmp_path: Path) -> None:
    sites = [witness(tmp_path, f"{g}{i}") for g in "XY" for i in (1, 2, 3)]
    keys = {site.key.name: str(site.key) for site in sites}
    text = f"# c2sp.org/tlog-policy\nlog {KEY} https://hearts.example\n\n"
    text += "".join(f"witness {name} {key}\n" for name, key in keys.items())
    text += "group X-witnesses 2 X1 X2 X3\n\tgroup Y-witnesses any Y1 Y2 Y3\n"
    text += "group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
    policy = Policy.from_text(text)
    log = Log(tmp_path / "log", "hearts")
    lines = {site.key.name: str(site.cosign(0, [], signed(log))) for site in sites}
    for names, enough in (
        (("X1", "X3", "Y2"), True), (("X1", "Y1", "Y2"), False), (("X1", "X2", "X3"), False)
    ):  # fmt: skip
        note = signed(log) + "".join(lines[name] for name in names)
        if enough:
            assert policy.check(note).size == 0
        else:
            with pytest.raises(MessageError):
                policy.check(note)
    for wrong in (
        text.replace("quorum", "no"), text + "quorum X1\n", text.replace("group X-w", "group X1 "),
        text.replace(" 2 X1", " 4 X1"), text.replace("any Y1", "any Y4"),
        text.replace("any Y1", "any X1"), text + f"witness again {keys['X1']}\n", "",
        text.replace(str(KEY), keys["X1"]),
    ):  # fmt: skip
        with pytest.raises(InputError):
            Policy.from_text(wrong)


def test_a_proof_is_checked_away_from_the_log(tmp_path: Path) -> None:
    log, bern = Log(tmp_path / "log", "hearts"), witness(tmp_path)
    log.append(LEAVES)
    with pytest.raises(InputError):
        Proof.of(log, 0)
    log.keep(8, signed(log) + str(bern.cosign(0, [], signed(log))))
    log.append([b"not yet under a signed head"])
    policy = Policy.of([KEY], [bern.key])
    for i, leaf in enumerate(LEAVES):
        text = str(Proof.of(log, i))
        assert text.startswith(f"c2sp.org/tlog-proof@v1\nindex {i}\n")
        assert Proof.from_text(text).check(policy, leaf) == log.head(8)
        with_extra = text.replace("\nindex", "\nextra QUJD\nindex")
        assert Proof.from_text(with_extra) == Proof.from_text(text)
        with pytest.raises(MessageError, match=f"not number {i}"):
            Proof.from_text(text).check(policy, b"another")
    with pytest.raises(InputError):
        Proof.of(log, 8)
    for wrong in ("", text.replace("v1", "v2"), text.replace("index 7", "index 07"),
                  text.replace("\nindex 7\n", "\nindex 7\n" + "AAAA\n" * 64)):  # fmt: skip
        with pytest.raises(MessageError):
            Proof.from_text(wrong)


def test_the_newest_head_is_kept_and_no_other(tmp_path: Path) -> None:
    with closing(Log(tmp_path / "log", "hearts")) as log:
        assert log.note() is None
        for size, note in ((3, "three"), (5, "five"), (5, "five, by more"), (4, "four")):
            log.keep(size, note)
        assert log.note() == "five, by more"
        log.keep(6, "six")
        assert log.note() == "six"
    with closing(sqlite3.connect(tmp_path / "log")) as file:
        assert file.execute("SELECT * FROM heads").fetchall() == [(6, "six")]


def test_an_edited_entry_shows(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", "hearts")
    log.append(LEAVES)
    head = log.head()
    log.close()
    with sqlite3.connect(tmp_path / "log") as file:
        file.execute("UPDATE entries SET entry = ? WHERE place = 3", (b"rewritten",))
    assert mth(list(Log(tmp_path / "log", "hearts"))) != head.root
