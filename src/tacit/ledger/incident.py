"""Reports of members: of two signed statements of which an honest one makes one at most, or of a
contribution that was signed and is in no record.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from tacit.errors import MessageError
from tacit.ledger import records
from tacit.ledger.rounds import due
from tacit.ledger.statement import Statement

# Beside the head that a site cosigned last: what it reports of a round.
REPORT = "incident-{}.json"


def audit(
    statements: Mapping[int, Statement], keys: Mapping[int, Mapping[str, bytes]]
) -> Iterator[tuple[int, str] | str]:
    """Whether each report in a record is true.

    A true one says in words what was done; one that proves nothing is itself what is wrong.

    Args:
        statements: by their places.
        keys: of the members at each place, by name.
    """
    for place, statement in statements.items():
        if statement.kind != "incident":
            continue
        told = [text.encode() for text in statement.says["statements"]]
        about = statement.says["about"]
        try:
            if hashlib.sha256(b"".join(told)).digest() != statement.subjects["evidence"]:
                raise MessageError("its digest is not that of its evidence")
            found = [records.read(text, keys[place]) for text in told]
            if len(found) == 2:
                _require_conflict(found, about)
                yield f"{about} signed what contradicts itself: entry {place} proves it"
            elif len(found) == 1:
                _require_withheld(found[0][0], about, statements, place)
                yield f"{about} left a contribution out: entry {place} has it"
            else:
                raise MessageError("it takes two statements, or one contribution")
        except MessageError as error:
            yield place, f"it reports {about}, and proves nothing: {error}"


def reported(
    text: bytes, statements: Mapping[int, Statement], keys: Mapping[int, Mapping[str, bytes]]
) -> str:
    """What a site reports that is missing in a record, in words; the report is not in it either.

    Args:
        text: the site's signed statement.
        statements, keys: as for ``audit``.

    Raises:
        MessageError: it proves nothing.
    """
    if not keys:
        raise MessageError("no member of the record is known")
    place = max(keys)
    report, by = records.read(text, keys[place])
    if report.kind != "incident":
        raise MessageError("it is no report")
    about, told = report.says["about"], [each.encode() for each in report.says["statements"]]
    if len(told) != 1:
        raise MessageError("it takes one contribution")
    sent, sender = records.read(told[0], keys[place])
    site, round = sent.says.get("site"), sent.says.get("round")
    _require_withheld(sent, about, statements, place + 1)
    if site not in by or site not in sender:
        raise MessageError(f"{site} has not signed both")
    return (
        f"what {site} signed for round {round} is not in the record: it came too late to be"
        f" counted, or {about} withheld it"
    )


def conflict(one: Statement, other: Statement) -> bool:
    """Whether an honest member signs one of the two at most.

    Only a round's opening in one view, an epoch's scores, and what a peer sends to its neighbours
    in a round are such. Any other site whose round begins again sends again, with another nonce;
    and what closes a round does not name its experiment.
    """
    slot = _slot(one)
    return slot is not None and slot == _slot(other) and one.payload() != other.payload()


def _slot(statement: Statement) -> tuple[object, ...] | None:
    says = statement.says
    match statement.kind:
        case "round-open":
            return statement.kind, statement.subjects["task"], says["round"], says["view"]
        case "score":
            return statement.kind, statement.subjects["experiment"], says["first"], says["last"]
        case "contribution" if "policy" in statement.subjects:
            return statement.kind, statement.subjects["policy"], says["site"], says["round"]
    return None


def _require_conflict(found: Sequence[tuple[Statement, list[str]]], about: str) -> None:
    (one, by), (other, too) = found
    if about not in by or about not in too:
        raise MessageError(f"{about} has not signed both")
    if not conflict(one, other):
        raise MessageError("the two do not contradict each other")


def _require_withheld(
    sent: Statement, about: str, statements: Mapping[int, Statement], place: int
) -> None:
    if 0 not in statements:
        raise MessageError("the record's genesis does not hold")
    if sent.kind != "contribution" or about != statements[0].says.get("keeper"):
        raise MessageError("a keeper withholds contributions, and nobody anything else")
    if "policy" in sent.subjects:
        raise MessageError("a peer may go on without a neighbour's")
    before = [other for at, other in statements.items() if at < place]
    if any(other.payload() == sent.payload() for other in before):
        raise MessageError("the contribution is in the record")
    closed = [other for other in before if other.kind == "aggregate"]
    if due(statements[0], sent.says["round"]) not in [other.says["round"] for other in closed]:
        raise MessageError("the round of the contribution is not closed")
