"""The records of a run: what each kind says, and the commitments in them.

genesis       the experiment, its rules, and who keeps the log, or that its members do by turns;
              signed by all that it lists
membership    founders, by the hundred, and who comes or goes later; signed by whoever is added and,
              once the first round is open, by a quorum of the members
round-open    the keeper, or who leads: the model that the round begins with, and the record's head
              before it
contribution  a site: its commitment to what it sent
aggregate     the same: what was included, what was excluded and why, and the new model
evaluation    members who measured the model: a coarse metric, and a commitment to all of them
score         two or more scorers: what each site was worth in an epoch, and the digest of the
              utilities that this was computed from
settlement    a quorum of the members: what each is paid of a pot, by scores in the record
incident      a member: two signed statements of which an honest member makes one, or a signed
              contribution that a record leaves out
release       a quorum of the members: the model, its signature and its bill of materials

Numbers are whole, since fractions are written differently everywhere; digests are SHA-256.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tacit.errors import MessageError
from tacit.ledger.note import Checkpoint
from tacit.ledger.rounds import require_numbers
from tacit.ledger.statement import Envelope, Statement, canonical

# Members of one record; with keys and signatures of all it stays below the log's 65,535 bytes.
MOST_FOUNDERS = 100
NONCE = 32


@dataclass(frozen=True)
class Turn:
    """What a contribution adds to the draw of the order in which members lead.

    Attributes:
        next: SHA-256 of a nonce that the site reveals in its next contribution.
        revealed: the nonce that its last one committed to; empty in its first.
    """

    next: bytes
    revealed: bytes


def commitment(key: bytes, round: int, nonce: bytes, digest: bytes) -> bytes:
    """SHA-256("tacit-commit/v1" || key || round || nonce || digest), the round as 8 bytes.

    Args:
        key: the site's 32-byte public key.
        round: from 0.
        nonce: 32 secret random bytes; without them a hash of few possible values tells which.
        digest: SHA-256 of what is committed to.
    """
    said = (b"tacit-commit/v1", key, round.to_bytes(8, "big"), nonce, digest)
    return hashlib.sha256(b"".join(said)).digest()


def bucket(rows: int) -> str:
    """How many rows, to the power of ten: exact counts stay at the site."""
    if rows < 10:
        return "0-9"
    power = 10 ** (len(str(rows)) - 1)
    return f"{power}-{10 * power - 1}"


def genesis(
    experiment: bytes,
    policy: bytes,
    keeper: str,
    key: bytes,
    rules: Mapping[str, str],
    founders: Mapping[str, bytes] = MappingProxyType({}),
) -> Statement:
    """The first entry of a record, which all that it names as members sign.

    Args:
        experiment: its digest.
        policy: digest of the text that says whose signatures make a head count.
        keeper: name of the member who keeps the log and opens the rounds, and its Ed25519 key.
        rules: in words: algorithm, aggregation, topology, protections, what privacy all rounds may
            cost, of how many a round is made at least, and how contributions are valued; see
            ``rounds`` for those that tell of the rounds.
        founders: members beside the keeper, with their Ed25519 keys.
    """
    members = {name: found.hex() for name, found in {**founders, keeper: key}.items()}
    says = {"keeper": keeper, "members": members, "rules": dict(rules)}
    return Statement("genesis", {"experiment": experiment, "policy": policy}, says)


def swarm_genesis(
    experiment: bytes, policy: bytes, epoch: int, rules: Mapping[str, str],
    founders: Mapping[str, bytes],
) -> Statement:  # fmt: skip
    """The first entry of a record that its members keep by turns, each a copy; all sign it.

    Args:
        epoch: rounds after which the order in which they lead is drawn anew; see ``turns``.
    """
    members = {name: key.hex() for name, key in founders.items()}
    says = {"epoch": epoch, "members": members, "rules": dict(rules)}
    return Statement("genesis", {"experiment": experiment, "policy": policy}, says)


def membership(
    experiment: bytes, added: Mapping[str, bytes], removed: Sequence[str] = ()
) -> Statement:
    """Members who come, with their Ed25519 keys, and members who go."""
    says = {"add": {name: key.hex() for name, key in added.items()}, "remove": sorted(removed)}
    return Statement("membership", {"experiment": experiment}, says)


def round_open(
    round: int, view: int, task: bytes, base: bytes, head: Checkpoint, deadline: float | None = None
) -> Statement:
    """A round begins.

    Args:
        round: from 0.
        view: how many leaders before this one have failed in the round.
        task: digest of the experiment.
        base: digest of the model.
        head: of the record before this entry.
        deadline: seconds after which the round goes on without the late; None: it waits for them.
    """
    says: dict[str, Any] = {"round": round, "view": view}
    says["head"] = {"size": head.size, "root": head.root.hex()}
    if deadline is not None:
        says["deadline"] = math.ceil(deadline)
    return Statement("round-open", {"base": base, "task": task}, says)


def contribution(
    round: int, site: str, base: bytes, committed: bytes, rows: int, claim: str,
    turn: Turn | None = None, policy: bytes | None = None,
) -> Statement:  # fmt: skip
    """A site has sent its part of a round.

    Args:
        base: digest of the model that it trained from; a peer's is its own.
        committed: its ``commitment``.
        claim: what protects it, in words.
        turn: where members lead by turns.
        policy: digest of the policy of the sender's own log, in a run of peers; see ``peers``.
    """
    says = {"round": round, "site": site, "rows": bucket(rows), "claim": claim}
    subjects = {"base": base, "commitment": committed}
    if turn is not None:
        says["revealed"] = turn.revealed.hex()
        subjects["next"] = turn.next
    if policy is not None:
        subjects["policy"] = policy
    return Statement("contribution", subjects, says)


def aggregate(
    round: int,
    model: bytes,
    included: Sequence[int],
    excluded: Mapping[int, str],
    summed: Mapping[str, bytes] | None = None,
) -> Statement:
    """A round ends.

    Args:
        model: digest of the new one.
        included: places of contributions in the record, ascending.
        excluded: those that were left out, and why.
        summed: of masked vectors whose openings are kept, commitments to their sum ("sum") and to
            the masks that were taken out of it ("masks").
    """
    says = {
        "round": round,
        "included": list(included),
        "excluded": [{"entry": entry, "reason": why} for entry, why in sorted(excluded.items())],
    }
    return Statement("aggregate", {"model": model} | dict(summed or {}), says)


def evaluation(round: int, model: bytes, committed: bytes, metric: str, percent: int) -> Statement:
    """The new model was measured.

    Args:
        committed: ``commitment`` to all metrics.
        metric: the one that is told, to the percent.
    """
    says = {"round": round, "metric": metric, "percent": percent}
    return Statement("evaluation", {"commitment": committed, "model": model}, says)


def score(
    experiment: bytes,
    first: int,
    last: int,
    method: Mapping[str, str],
    scores: Mapping[str, int],
    utilities: bytes,
) -> Statement:
    """What each site was worth in an epoch. Sampled orders are drawn from the experiment's digest.

    Args:
        experiment: its digest.
        first, last: rounds of the epoch.
        method: its name and settings.
        scores: by site, in millionths of the utility.
        utilities: digest of the file of what the coalitions were worth.
    """
    says = {"first": first, "last": last, "method": dict(method), "scores": dict(scores)}
    subjects = {"experiment": experiment, "utilities": utilities}
    return Statement("score", subjects, says | {"seed": "experiment"})


def settlement(experiment: bytes, score: int, pot: int, payouts: Mapping[str, int]) -> Statement:
    """What each site is paid. Amounts are strings: in a chain's smallest units they pass 2**53.

    Args:
        experiment: its digest.
        score: place of the scores in the record.
        pot: that is paid out.
        payouts: by site.
    """
    amounts = {name: str(amount) for name, amount in payouts.items()}
    says = {"score": score, "pot": str(pot), "payouts": amounts}
    subjects = {"experiment": experiment, "payouts": payout_digest(amounts)}
    return Statement("settlement", subjects, says)


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file, which is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def payout_digest(amounts: Mapping[str, str]) -> bytes:
    """SHA-256 of the payouts, names to decimal numbers, as canonical JSON."""
    return hashlib.sha256(canonical(dict(amounts))).digest()


def incident(about: str, statements: Sequence[bytes]) -> Statement:
    """What a member is reported for.

    Args:
        about: who signed, or did not record, the statements.
        statements: envelopes: two that contradict each other, or the one contribution that was
            withheld.
    """
    evidence = hashlib.sha256(b"".join(statements)).digest()
    says = {"about": about, "statements": [text.decode() for text in statements]}
    return Statement("incident", {"evidence": evidence}, says)


def release(rounds: int, model: bytes, signature: bytes, bom: bytes) -> Statement:
    """The model after the last round is handed out.

    Args:
        rounds: it has been through.
        model: its digest, that of the last aggregate.
        signature: digest of the file that ``model-signing`` wrote.
        bom: digest of the bill of materials.
    """
    subjects = {"model": model, "signature": signature, "bom": bom}
    return Statement("release", subjects, {"rounds": rounds})


# What each kind is about, and what its text says.
_HEAD = {"size": int, "root": str}
_SHAPES: dict[str, tuple[set[str], dict[str, Any]]] = {
    "genesis": (
        {"experiment", "policy"}, {"keeper": str, "members": {str: str}, "rules": {str: str}}
    ),
    "membership": ({"experiment"}, {"add": {str: str}, "remove": [str]}),
    "round-open": ({"base", "task"}, {"round": int, "view": int, "head": _HEAD}),
    "contribution": (
        {"base", "commitment"}, {"round": int, "site": str, "rows": str, "claim": str}
    ),
    "aggregate": (
        {"model"},
        {"round": int, "included": [int], "excluded": [{"entry": int, "reason": str}]},
    ),
    "evaluation": ({"commitment", "model"}, {"round": int, "metric": str, "percent": int}),
    "score": (
        {"experiment", "utilities"},
        {
            "first": int, "last": int, "method": {str: str}, "scores": {str: int}, "seed": str,
        },
    ),
    "settlement": (
        {"experiment", "payouts"}, {"score": int, "pot": str, "payouts": {str: str}}
    ),
    "incident": ({"evidence"}, {"about": str, "statements": [str]}),
    "release": ({"model", "signature", "bom"}, {"rounds": int}),
}  # fmt: skip


# The same in a record that its members keep by turns.
_BY_TURNS: dict[str, tuple[set[str], dict[str, Any]]] = {
    "genesis": (
        {"experiment", "policy"}, {"epoch": int, "members": {str: str}, "rules": {str: str}}
    ),
    "contribution": (
        {"base", "commitment", "next"},
        {"round": int, "site": str, "rows": str, "claim": str, "revealed": str},
    ),
}  # fmt: skip


# What a kind may be about as well, all or none; and what it may say.
_ALSO = {"aggregate": {"sum", "masks"}, "contribution": {"policy"}}
_MAY_SAY: dict[str, dict[str, Any]] = {"round-open": {"deadline": int}}


def require_shape(statement: Statement) -> None:
    """Refuse a record that is not as its kind is, before anything of it is read.

    Raises:
        MessageError: another kind, or other parts.
    """
    if statement.kind not in _SHAPES:
        raise MessageError(f"{statement.kind!r:.40} is no kind of record")
    forms = [forms[statement.kind] for forms in (_SHAPES, _BY_TURNS) if statement.kind in forms]
    may = _MAY_SAY.get(statement.kind, {})
    more = {name: may[name] for name in may.keys() & statement.says.keys()}
    if not any(
        _named(statement, subjects) and _fits(statement.says, shape | more)
        for subjects, shape in forms
    ):
        raise MessageError(f"it is not what a record of the kind {statement.kind!r} says")
    if any(len(found) != 32 for found in statement.subjects.values()):
        raise MessageError("a digest has 32 bytes")
    if statement.says.get("round", 0) < 0:
        raise MessageError("rounds are counted from 0")
    if statement.kind == "genesis":
        require_numbers(statement)
        if not statement.says["members"]:
            raise MessageError("the record names no members")


def read(entry: bytes, keys: Mapping[str, bytes]) -> tuple[Statement, list[str]]:
    """What an entry says, and which of these members have signed it.

    Args:
        keys: names to 32-byte Ed25519 public keys.

    Raises:
        MessageError: it is no record, or a stranger has signed it, or a signature is wrong.
    """
    envelope = Envelope.from_bytes(entry)
    statement = envelope.statement
    require_shape(statement)
    return statement, envelope.signers(keys)


def _named(statement: Statement, subjects: set[str]) -> bool:
    also = statement.subjects.keys() - subjects
    return statement.subjects.keys() >= subjects and also in (set(), _ALSO.get(statement.kind))


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, type):
        return type(value) is shape
    if isinstance(shape, list):
        return type(value) is list and all(_fits(each, shape[0]) for each in value)
    if type(value) is not dict:
        return False
    if set(shape) == {str}:
        return all(_fits(each, shape[str]) for each in value.values())
    return value.keys() == shape.keys() and all(_fits(value[name], shape[name]) for name in shape)


def keys(said: Mapping[str, str]) -> dict[str, bytes]:
    """Names to Ed25519 keys, of a record's text.

    Raises:
        MessageError: no such keys.
    """
    try:
        found = {name: bytes.fromhex(key) for name, key in said.items()}
    except ValueError:
        found = {"": b""}
    if any(len(key) != 32 for key in found.values()):
        raise MessageError("the record names members without their 32-byte keys")
    return found
