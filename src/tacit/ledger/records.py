"""The records of a run: what each kind says, and the commitments in them.

genesis       the log's keeper names the experiment and its rules
membership    founders, by the hundred, and who comes or goes later; signed by whoever is added and,
              once the first round is open, by a quorum of the members
round-open    the keeper: the model that the round begins with, and the record's head before it
contribution  a site: its commitment to what it sent
aggregate     the keeper: what was included, what was excluded and why, and the new model
evaluation    who measured the model: a coarse metric, and a commitment to all of them
release       a quorum of the members: the model, its signature and its bill of materials

Numbers are whole, since fractions are written differently everywhere; digests are SHA-256.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from tacit.errors import MessageError
from tacit.ledger.note import Checkpoint
from tacit.ledger.statement import Statement

# Members of one record; with keys and signatures of all it stays below the log's 65,535 bytes.
MOST_FOUNDERS = 100
NONCE = 32


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
    experiment: bytes, policy: bytes, keeper: str, key: bytes, rules: Mapping[str, str]
) -> Statement:
    """The first entry of a record.

    Args:
        experiment: its digest.
        policy: digest of the text that says whose signatures make a head count.
        keeper: name of the member who keeps the log and opens the rounds, and its Ed25519 key.
        rules: algorithm, aggregation, topology and protections in words.
    """
    says = {"keeper": keeper, "members": {keeper: key.hex()}, "rules": dict(rules)}
    return Statement("genesis", {"experiment": experiment, "policy": policy}, says)


def membership(
    experiment: bytes, added: Mapping[str, bytes], removed: Sequence[str] = ()
) -> Statement:
    """Members who come, with their Ed25519 keys, and members who go."""
    says = {"add": {name: key.hex() for name, key in added.items()}, "remove": sorted(removed)}
    return Statement("membership", {"experiment": experiment}, says)


def round_open(round: int, view: int, task: bytes, base: bytes, head: Checkpoint) -> Statement:
    """A round begins.

    Args:
        round: from 0.
        view: how many leaders before this one have failed in the round.
        task: digest of the experiment.
        base: digest of the model.
        head: of the record before this entry.
    """
    says = {"round": round, "view": view, "head": {"size": head.size, "root": head.root.hex()}}
    return Statement("round-open", {"base": base, "task": task}, says)


def contribution(
    round: int, site: str, base: bytes, committed: bytes, rows: int, claim: str
) -> Statement:
    """A site has sent its part of a round.

    Args:
        committed: its ``commitment``.
        claim: what protects it, in words.
    """
    says = {"round": round, "site": site, "rows": bucket(rows), "claim": claim}
    return Statement("contribution", {"base": base, "commitment": committed}, says)


def aggregate(
    round: int, model: bytes, included: Sequence[int], excluded: Mapping[int, str]
) -> Statement:
    """A round ends.

    Args:
        model: digest of the new one.
        included: places of contributions in the record, ascending.
        excluded: those that were left out, and why.
    """
    says = {
        "round": round,
        "included": list(included),
        "excluded": [{"entry": entry, "reason": why} for entry, why in sorted(excluded.items())],
    }
    return Statement("aggregate", {"model": model}, says)


def evaluation(round: int, model: bytes, committed: bytes, metric: str, percent: int) -> Statement:
    """The new model was measured.

    Args:
        committed: ``commitment`` to all metrics.
        metric: the one that is told, to the percent.
    """
    says = {"round": round, "metric": metric, "percent": percent}
    return Statement("evaluation", {"commitment": committed, "model": model}, says)


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
    "release": ({"model", "signature", "bom"}, {"rounds": int}),
}  # fmt: skip


def require_shape(statement: Statement) -> None:
    """Refuse a record that is not as its kind is, before anything of it is read.

    Raises:
        MessageError: another kind, or other parts.
    """
    if statement.kind not in _SHAPES:
        raise MessageError(f"{statement.kind!r:.40} is no kind of record")
    subjects, shape = _SHAPES[statement.kind]
    if statement.subjects.keys() != subjects or not _fits(statement.says, shape):
        raise MessageError(f"it is not what a record of the kind {statement.kind!r} says")
    if any(len(found) != 32 for found in statement.subjects.values()):
        raise MessageError("a digest has 32 bytes")


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
