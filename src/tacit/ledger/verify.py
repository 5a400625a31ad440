"""The audit of a record by somebody who trusts nobody who wrote it.

In this order: whose signatures count, the head's signatures, what the auditor saw before, the tree,
every entry's signatures by the members of its time, the rounds, the openings, the sums of masked
vectors, scores and payouts, incidents, a model that was handed out, and another site's copy. An
entry is judged by what stands before it alone, as it was when it was written.

Entries beyond the newest signed head are those of a run that goes on, or that was cut off. Nobody
vouches for them yet, but they too are signed by those who must: what a stranger adds is found out,
since he can sign nothing, and what is signed already stands in the record before.
"""

import hashlib
import hmac
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.errors import InputError, MessageError, TacitError
from tacit.ledger import erasure, incident, merkle, records, rounds, scores
from tacit.ledger import openings as sums
from tacit.ledger import release as models
from tacit.ledger.log import Log
from tacit.ledger.note import Checkpoint, split, verified
from tacit.ledger.peers import Own, compare
from tacit.ledger.policy import Policy, quorum
from tacit.ledger.recorder import HEAD, LOG, OPENINGS, kept, text
from tacit.ledger.statement import Envelope, Statement
from tacit.ledger.turns import Turns


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        check: which part of the audit.
        entry: its place in the record; None where it is about no single one.
        what: in one sentence.
    """

    check: str
    entry: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.entry is None else f"entry {self.entry}: {self.what}"


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        head: of the record; None where no signed one is there.
        checks: what was looked at, with a word on each.
        findings: empty where the record holds.
        beyond: how many entries stand beyond the head, for which nobody vouches yet.
    """

    head: Checkpoint | None
    checks: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    beyond: int


@dataclass
class _Record:
    """A record as it is read."""

    log: Log
    note: str
    policy: Policy
    entries: list[bytes]
    vouched: int  # entries that stand under its head
    statements: dict[int, Statement] = field(default_factory=dict)
    signers: dict[int, list[str]] = field(default_factory=dict)
    keys: dict[int, dict[str, bytes]] = field(default_factory=dict)


# Whoever wrote the file may have put anything into it.
_OPENINGS = (
    "SELECT CAST(entry AS INTEGER), CAST(site AS TEXT), CAST(nonce AS BLOB), CAST(digest AS BLOB)"
    " FROM openings ORDER BY entry"
)
Check = tuple[str, Callable[[_Record], Iterator[Finding | str]]]


def verify(
    folder: Path,
    *,
    policy: Path | None = None,
    seen: str | None = None,
    against: Path | None = None,
    openings: Path | None = None,
    release: Path | None = None,
    anchored: Sequence[Checkpoint] | None = None,
) -> Audit:
    """Audit a record.

    Args:
        folder: of the record.
        policy: file of the auditor's own; None: the one that lies with the record, which shows
            that it fits together, and not whose it is.
        seen: a signed head of the same log that the auditor kept from before.
        against: folder of another copy, or of the head that a site cosigned last.
        openings: file of masked vectors, whose sums are computed again.
        release: folder that ``tacit release`` wrote.
        anchored: heads that its keeper has put on a chain (``ledger.chain``).

    Raises:
        InputError: a folder without a record; a policy or an earlier head that is none; no folder
            of a release.
    """
    if seen is not None:
        _require_head(seen)
    if release is not None and not release.is_dir():
        raise InputError(f"release: {release} is no folder")
    # Before the entries: of a record that still grows they are there before their openings.
    opened = _opened(folder / OPENINGS)
    record = _read(folder, policy)
    checks: list[Check] = [("signatures of the head", _signed), ("tree", _tree)]
    if seen is not None:
        checks.append(("earlier head", lambda record: _extends(record, seen)))
    checks.append(("entries", _entries))
    checks.append(("rounds", lambda r: _found(rounds.audit(r.entries, r.statements))))
    if opened is not None:
        checks.append(("openings", lambda record: _openings(record, opened)))
    if openings is not None:
        checks.append(("masked sums", lambda r: _found(sums.audit(openings, r.statements, r.keys))))
    checks.append(("scores", lambda r: _found(scores.audit(folder, r.statements))))
    checks.append(("incidents", lambda r: _found(incident.audit(r.statements, r.keys))))
    if release is not None:
        checks.append(("release", lambda r: _found(models.audit(release, _vouched(r)))))
    if against is not None and (against / HEAD).exists() and not (against / LOG).exists():
        checks.append(("other head", lambda record: _witnessed(record, against / HEAD)))
    elif against is not None:
        checks.append(("other copy", lambda record: _other(record, _read(against, None))))
    if against is not None and (reports := sorted(against.glob(incident.REPORT.format("*")))):
        checks.append(("reports", lambda record: _reported(record, reports)))
    if anchored is not None:
        checks.append(("anchored heads", lambda record: _anchored(record, anchored)))
    told, findings = list[tuple[str, str]](), list[Finding]()
    own = "the auditor's own" if policy else "the record's own, whoever wrote it"
    told.append(("policy", own))
    for name, check in checks:
        found = list(check(record))
        wrong = [each for each in found if isinstance(each, Finding)]
        words = [each for each in found if isinstance(each, str)]
        findings += [Finding(name, each.entry, each.what) for each in wrong]
        if found:
            told.append((name, f"{len(wrong)} findings" if wrong else "; ".join(words)))
    record.log.close()
    try:
        head = Checkpoint.from_text(split(record.note)[0])
    except MessageError:
        head = None
    beyond = len(record.entries) - record.vouched
    return Audit(head, tuple(told), tuple(findings), beyond)


def _require_head(seen: str) -> None:
    try:
        Checkpoint.from_text(split(seen)[0])
    except MessageError as error:
        raise InputError(
            f"seen: no signed head was given, as tacit ledger head prints one ({error})"
        ) from None


def _read(folder: Path, policy: Path | None) -> _Record:
    trusted, log = kept(folder, policy)
    entries = list(log)
    return _Record(log, log.note() or "", trusted, entries, len(entries))


def _signed(record: _Record) -> Iterator[Finding | str]:
    """The head's signature, and enough cosignatures."""
    if not record.note:
        yield Finding(
            "", None, "it has no signed head: it was hardly begun, or the head was removed"
        )
        return
    try:
        head = record.policy.check(record.note)
    except MessageError as error:
        yield Finding("", None, str(error))
        return
    if (gap := record.log.gap()) is not None:
        yield Finding("", gap, "it is missing, or out of its place")
    elif head.size > len(record.entries):
        missing = head.size - len(record.entries)
        yield Finding("", None, f"the last {missing} of {head.size} entries are missing")
    yield f"{head.size} entries"
    record.vouched = min(head.size, len(record.entries))
    if beyond := len(record.entries) - record.vouched:
        yield f"nobody vouches yet for {beyond} more (the run goes on, or was cut off)"


def _tree(record: _Record) -> Iterator[Finding | str]:
    """The root of the entries as they are; where it is another one, which entries are not its."""
    try:
        head = Checkpoint.from_text(split(record.note)[0])
    except MessageError:
        return
    leaves = [merkle.leaf_hash(entry) for entry in record.entries[: head.size]]
    if len(leaves) < head.size:
        return
    if hmac.compare_digest(merkle.Growing(leaves).root, head.root):
        for first, last in record.log.changed():
            words = (
                f"its hash of entries {first} to {last} is another, and so would be proofs of them"
            )
            yield Finding("", None, words)
        yield f"root {head.root.hex()[:16]}"
        return
    named = False
    try:
        for place, leaf in enumerate(leaves):
            path = record.log.inclusion(place, head.size)
            if not merkle.included(leaf, place, head.size, path, head.root):
                named = True
                yield Finding("", place, "it is not what the signed head stands for")
    except TacitError:
        named = False
    if not named:
        yield Finding("", None, "the entries are not those that the signed head stands for")


def _extends(record: _Record, seen: str) -> Iterator[Finding | str]:
    """The head that the auditor saw before is a beginning of this record."""
    try:
        before = record.policy.check(seen)
    except MessageError as error:
        yield Finding("", None, f"the earlier head: {error}")
        return
    yield from _begins(record, before)


def _witnessed(record: _Record, path: Path) -> Iterator[Finding | str]:
    """The head that a site cosigned last, with the log's own signature, is a beginning, too."""
    try:
        head, by = verified(text(path, "head"), record.policy.logs)
    except MessageError as error:
        yield Finding("", None, f"the site's head: {error}")
        return
    if not by:
        yield Finding("", None, "the site's head is of another log")
        return
    yield from _begins(record, head)


def _reported(record: _Record, reports: Sequence[Path]) -> Iterator[Finding | str]:
    """What a site misses in this record."""
    for path in reports:
        try:
            yield incident.reported(path.read_bytes(), record.statements, record.keys)
        except (MessageError, OSError) as error:
            yield Finding("", None, f"{path.name} proves nothing: {error}")


def _begins(record: _Record, before: Checkpoint) -> Iterator[Finding | str]:
    """The record begins with a head that somebody saw."""
    leaves = [merkle.leaf_hash(entry) for entry in record.entries[: before.size]]
    if len(leaves) < before.size:
        yield Finding("", None, f"it was rolled back: {before.size} entries were there before")
    elif not hmac.compare_digest(merkle.Growing(leaves).root, before.root):
        yield Finding("", None, f"its first {before.size} entries were rewritten since")
    else:
        yield f"extends the one of {before.size} entries"


def _entries(record: _Record) -> Iterator[Finding | str]:
    """Every entry is signed by who may, of those who were members then."""
    members: dict[str, bytes] = {}
    keeper, opened, said = "", False, set[bytes]()
    turns: Turns | None = None
    for place, entry in enumerate(record.entries):
        try:
            envelope = Envelope.from_bytes(entry)
            statement = envelope.statement
            records.require_shape(statement)
            if not place or statement.kind == "genesis":
                if place or statement.kind != "genesis":
                    raise MessageError("a record begins with its genesis, and has one")
                members = records.keys(statement.says["members"])
                keeper = statement.says.get("keeper", "")
                if not keeper:
                    turns = Turns(statement, members)
                _require_policy(record, statement)
                known = dict(members)
            elif statement.kind == "membership":
                known = members | records.keys(statement.says["add"])
            else:
                known = members
            by = envelope.signers(known)
            if turns:
                keeper = _by_turns(turns, statement) or keeper
            # Founders stand under the first head; who comes later comes by a quorum.
            begun = opened or place >= record.vouched
            _require_signers(statement, by, keeper, members, begun)
            if place < record.vouched:
                said.add(envelope.payload)
            elif statement.kind != "contribution" and envelope.payload in said:
                # A round that begins again has the same ones; outside of a round they do not hold.
                raise MessageError("it stands in the record already, and here under no signed head")
        except MessageError as error:
            yield Finding("", place, str(error))
            continue
        record.keys[place] = dict(known)
        if turns:
            turns.take(statement)
        record.statements[place], record.signers[place] = statement, by
        opened = opened or statement.kind == "round-open"
        gone = statement.says["remove"] if statement.kind == "membership" else ()
        members = {name: key for name, key in known.items() if name not in gone}
    yield f"{len(record.entries)} signed by {len(members)} members"


def _by_turns(turns: Turns, statement: Statement) -> str | None:
    """Who leads the round that is opened; refuses what has no place where members lead by turns."""
    match statement.kind:
        case "round-open":
            return turns.leader(statement.says["round"], statement.says["view"])
        case "membership":
            raise MessageError("the members of a record that they keep by turns do not change")
        case "aggregate" if "sum" in statement.subjects:
            raise MessageError("where members lead by turns, no masked vectors are summed")
        case "contribution":
            turns.reveals(statement.says["site"], statement)
    return None


def _require_policy(record: _Record, genesis: Statement) -> None:
    told = hashlib.sha256(str(record.policy).encode()).digest()
    if not hmac.compare_digest(genesis.subjects["policy"], told):
        raise MessageError("it was begun under another policy than the auditor's")


def _require_signers(
    statement: Statement, by: list[str], keeper: str, members: Mapping[str, bytes], begun: bool
) -> None:
    """Raise MessageError where not those have signed who must."""
    match statement.kind:
        case "genesis":
            needed = {keeper, *members} - {""}
        case "round-open" | "aggregate":
            needed = {keeper}
        case "evaluation" | "incident":
            needed = set()
            _require_members(by, members, 1)
        case "score":
            needed = set()
            _require_members(by, members, 2)
        case "settlement" | "release":
            needed = set()
            _require_members(by, members, quorum(len(members)))
        case "contribution":
            needed = {statement.says["site"]}
        case "membership":
            says = statement.says
            needed = set(says["add"])
            least = quorum(len(members))
            changes = says["remove"] or says["add"].keys() & members.keys()
            if (begun or changes) and len(members.keys() & set(by)) < least:
                raise MessageError(f"it takes {least} of {len(members)} members to change them")
        case _:
            raise AssertionError(f"{statement.kind} has a shape and no signer")
    if missing := needed - set(by):
        raise MessageError(f"{', '.join(sorted(missing))} has not signed it")


def _require_members(by: list[str], members: Mapping[str, bytes], least: int) -> None:
    if len(members.keys() & set(by)) < least:
        raise MessageError(f"it takes {least} of {len(members)} members to sign it")


def _opened(path: Path) -> tuple[list[Any], list[str]] | str | None:
    """Openings, and whose were destroyed; why they cannot be read; None where there are none."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return db.execute(_OPENINGS).fetchall(), erasure.gone(db)
    except (sqlite3.Error, UnicodeError) as error:
        return f"they cannot be read ({error})"


def _openings(record: _Record, found: tuple[list[Any], list[str]] | str) -> Iterator[Finding | str]:
    """What was opened is what was committed to."""
    if isinstance(found, str):
        yield Finding("", None, found)
        return
    rows, destroyed = found
    opened = 0
    for place, site, nonce, digest in rows:
        statement = record.statements.get(place)
        committed = statement.subjects.get("commitment") if statement else None
        if statement is None or committed is None or site not in record.keys[place]:
            yield Finding("", place, "it is opened, and no such commitment stands there")
            continue
        key, round = record.keys[place][site], statement.says["round"]
        if committed != records.commitment(key, round, nonce or b"", digest or b""):
            yield Finding("", place, f"{site} committed to something else than it opened")
        opened += 1
    yield f"{opened} commitments opened"
    if destroyed:
        yield f"the nonces of {', '.join(destroyed)} were destroyed"


def _vouched(record: _Record) -> dict[int, Statement]:
    return {place: s for place, s in record.statements.items() if place < record.vouched}


def _found(audit: Iterator[tuple[int | None, str] | str]) -> Iterator[Finding | str]:
    """What an audit found that knows entries alone."""
    for found in audit:
        yield found if isinstance(found, str) else Finding("", *found)


def _other(record: _Record, other: _Record) -> Iterator[Finding | str]:
    """Another copy or, of a peer's record, another peer's."""
    if (own := Own.of(record.statements)) is None or record.policy == other.policy:
        yield from _same(record, other)
        return
    other.log.close()
    wrong = [found for found in _entries(other) if isinstance(found, Finding)]
    if (its := Own.of(other.statements)) is None or wrong:
        yield Finding("", None, "the other record is no peer's, or does not hold by itself")
        return
    yield from _found(compare(own, its))


def _same(record: _Record, other: _Record) -> Iterator[Finding | str]:
    """Another copy says the same, as far as both go."""
    both = min(len(record.entries), len(other.entries))
    other.log.close()
    if record.log.origin != other.log.origin:
        yield Finding("", None, "the other record is of another log, and so no copy of this one")
        return
    if record.policy != other.policy:
        yield Finding("", None, "the other copy has another policy, or is another record's")
    for place in range(both):
        if record.entries[place] != other.entries[place]:
            yield Finding("", place, "the other copy has another entry here: the record was forked")
            return
    if len(other.entries) > both:
        # What nobody has signed there beyond this record proves nothing.
        with suppress(MessageError):
            yield from _begins(record, record.policy.check(other.note))
    yield f"the same {both} entries"


def _anchored(record: _Record, heads: Sequence[Checkpoint]) -> Iterator[Finding | str]:
    """Every head on the chain is one of this record."""
    last = max((head.size for head in heads), default=0)
    if last > len(record.entries):
        yield Finding("", None, f"it was rolled back: {last} entries were anchored")
    tree, roots = merkle.Growing(), dict[int, bytes]()
    for size, entry in enumerate(record.entries[:last], 1):
        tree.add(merkle.leaf_hash(entry))
        roots[size] = tree.root
    for head in heads:
        if not hmac.compare_digest(roots.get(head.size, head.root), head.root):
            yield Finding("", None, f"its first {head.size} entries were rewritten since")
            return
    yield f"{len(heads)}, the last of {last} entries" if heads else "none"
