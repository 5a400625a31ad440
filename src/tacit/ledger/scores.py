"""What the scores of an epoch were computed from, and their computation by somebody else.

The file beside the record holds the worth of every coalition that was evaluated, in millionths, and
a nonce, without which its digest in the record would let a reader guess. A second scorer computes
the scores from it before it signs, and so does whoever audits the record. What a coalition's model
was worth is the first scorer's word: the updates, and the rows that they were tried on, are not
there. Scores by gradients and angles have no coalitions, and are that scorer's word as a whole.
"""

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit.errors import MessageError, TacitError
from tacit.ledger.contribution import (
    CGSV,
    MILLION,
    TMC,
    Coalition,
    Contribution,
    FirstOrder,
    Round,
    Shapley,
    millionths,
)
from tacit.ledger.records import payout_digest
from tacit.ledger.settlement import payouts
from tacit.ledger.statement import Json, Statement, canonical, parsed

# Of the utilities of the scores in an entry, beside the record.
FILE = "utilities-{:06d}.json"
METHODS: dict[str, type[Contribution]] = {m.__name__: m for m in (Shapley, TMC, FirstOrder, CGSV)}
# Those that ask for nothing but the worth of coalitions.
GAMES = (Shapley, TMC)
# Of floats that are added up on another machine.
TOLERANCE = 1
_MOST_ORDERS, _MOST_BYTES, _MOST_DIGITS = 10_000, 2**28, 78


@dataclass(frozen=True)
class Game:
    """A round as its scorer saw it.

    Attributes:
        round: from 0.
        players: who took part, as numbers of the epoch's players.
        worth: of coalitions, whose members are counted among these; a multiple of a millionth.
    """

    round: int
    players: Sequence[int]
    worth: Mapping[Coalition, float]


def named(method: Contribution) -> dict[str, str]:
    """A method with its settings, as a record says them."""
    settings = {each.name: repr(getattr(method, each.name)) for each in fields(method)}  # type: ignore[arg-type]
    return {"name": type(method).__name__, **settings}


def method_of(said: Mapping[str, str]) -> Contribution:
    """What ``named`` was given.

    Raises:
        MessageError: none that this version knows.
    """
    settings = dict(said)
    try:
        method = METHODS[settings.pop("name")](
            **{name: parsed(value.encode()) for name, value in settings.items()}
        )
    except (LookupError, ValueError, TypeError, TacitError):
        raise MessageError("no known method of scoring") from None
    if isinstance(method, TMC) and method.orders > _MOST_ORDERS:
        raise MessageError(f"more than {_MOST_ORDERS} orders")
    return method


def seed(experiment: bytes) -> int:
    """Of sampled orders: the experiment's digest, which stands in the record before any round."""
    return int.from_bytes(experiment, "big")


def told(players: Sequence[Sequence[str]], games: Sequence[Game]) -> bytes:
    """The file of an epoch's utilities.

    Args:
        players: each a site, or the sites of a group that is scored as one.
    """
    rounds: list[Json] = [
        {
            "round": game.round,
            "players": list(game.players),
            "worth": {
                str(_bits(members)): round(value * MILLION) for members, value in game.worth.items()
            },
        }
        for game in games
    ]
    nonce = secrets.token_hex(32)
    return canonical({"nonce": nonce, "players": [list(p) for p in players], "rounds": rounds})


def again(file: bytes, method: Contribution, experiment: bytes) -> dict[str, int]:
    """The sites' scores in millionths, from the file of the utilities.

    A group's score is shared evenly among its sites.

    Raises:
        MessageError: a file that is none, or that lacks what the method asks for.
    """
    if len(file) > _MOST_BYTES:
        raise MessageError("the file of utilities is too large")
    try:
        found = parsed(file)
        players = found["players"]
        total = np.zeros(len(players))
        for game in found["rounds"]:
            worth = {_members(int(bits)): value / MILLION for bits, value in game["worth"].items()}
            round = _Told(
                torch.zeros(1), torch.zeros(len(game["players"]), 1),
                np.ones(len(game["players"])), _nothing, _nothing, seed(experiment), game["round"],
            )  # fmt: skip
            round.told = worth
            total[game["players"]] += method.scores(round)
        return shared(players, millionths(total))
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, TacitError):
        raise MessageError("the file of utilities lacks what these scores are made of") from None


def shared(players: Sequence[Sequence[str]], scores: Sequence[int]) -> dict[str, int]:
    """Each site's part of its player's score; a unit that is left goes to the first sites."""
    found = dict[str, int]()
    for sites, score in zip(players, scores, strict=True):
        each, left = divmod(score, len(sites))
        found |= {site: each + (i < left) for i, site in enumerate(sites)}
    return found


class _Told(Round):
    """A round whose coalitions have been evaluated by somebody else."""

    told: Mapping[Coalition, float]

    def worth(self, coalitions: list[Coalition]) -> list[float]:
        return [self.told[each] for each in coalitions]


def _nothing(models: torch.Tensor) -> Any:
    raise MessageError("the file holds no updates")


def _bits(members: Coalition) -> int:
    return sum(1 << member for member in members)


def _members(bits: int) -> Coalition:
    return frozenset(i for i in range(bits.bit_length()) if bits >> i & 1)


def audit(folder: Path, statements: Mapping[int, Statement]) -> Iterator[tuple[int, str] | str]:
    """Whether scores follow from their utilities and agree, and payouts from scores.

    Args:
        folder: with the files of the utilities.
        statements: of the record, by their places.

    Yields:
        Entries and what is wrong with them; at the end, in words, what was looked at.
    """
    scored, paid, seen = dict[int, Statement](), dict[int, Statement](), 0
    done, took = 0, dict[int, set[str]]()
    experiment = statements[0].subjects["experiment"] if 0 in statements else b""
    for place, statement in statements.items():
        says = statement.says
        if statement.subjects.get("experiment", experiment) != experiment:
            yield place, "it is about another experiment"
        match statement.kind:
            case "contribution":
                took.setdefault(says["round"], set()).add(says["site"])
            case "aggregate":
                done += 1
            case "score":
                for other, before in scored.items():
                    if overlap(says, before.says) and says["scores"] != before.says["scores"]:
                        yield place, f"its scorers disagree with those of entry {other}"
                scored[place] = statement
                here = range(says["first"], says["last"] + 1)
                sites = set[str]().union(*(took[round] for round in took if round in here))
                if not 0 <= says["first"] <= says["last"] < done:
                    yield place, "it scores rounds that are not over"
                for site in sorted(name for name, score in says["scores"].items() if score):
                    if site in sites:
                        continue
                    yield place, f"it scores {site}, which contributed nothing in these rounds"
                try:
                    seen += _recomputed(folder, place, statement, experiment)
                except MessageError as error:
                    yield place, str(error)
            case "settlement" if says["score"] not in scored:
                yield place, "it pays by an entry that is no score"
            case "settlement":
                score = scored[says["score"]]
                for other, before in paid.items():
                    if overlap(score.says, before.says):
                        yield place, f"it pays for rounds that entry {other} has paid for"
                paid[place] = score
                yield from ((place, wrong) for wrong in _wrongly_paid(statement, score))
    if scored:
        yield f"{len(scored)} told, {seen} computed again, {len(paid)} settled"


def overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two scores are of a common round."""
    return bool(one["first"] <= other["last"] and other["first"] <= one["last"])


def _recomputed(folder: Path, place: int, statement: Statement, experiment: bytes) -> bool:
    """Whether the scores could be computed again.

    Raises:
        MessageError: they could, and are others.
    """
    says, path = statement.says, folder / FILE.format(place)
    method = method_of(says["method"])
    if says["seed"] != "experiment":
        raise MessageError("its seed is not the experiment's")
    if not path.exists():
        return False
    file = path.read_bytes()
    if hashlib.sha256(file).digest() != statement.subjects["utilities"]:
        raise MessageError("the file of its utilities is another than its scorers had")
    if not isinstance(method, GAMES):
        return False
    require_same(says["scores"], again(file, method, experiment))
    return True


def require_same(said: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Refuse scores that another scorer does not come to.

    Raises:
        MessageError: of a site, by name.
    """
    for site in sorted(said.keys() | found.keys()):
        one, other = said.get(site), found.get(site)
        if one is None or other is None or abs(one - other) > TOLERANCE:
            raise MessageError(f"{site} scores {one} here, and {other} by the utilities")


def _wrongly_paid(statement: Statement, score: Statement) -> Iterator[str]:
    says = statement.says
    if payout_digest(says["payouts"]) != statement.subjects["payouts"]:
        yield "its digest is not that of its payouts"
    if not (says["pot"].isdecimal() and len(says["pot"]) <= _MOST_DIGITS):
        yield "its pot is no number"
        return
    owed = payouts(score.says["scores"], int(says["pot"]))
    for site in sorted(owed.keys() | says["payouts"].keys()):
        amount, paid = str(owed.get(site, 0)), says["payouts"].get(site)
        if paid != amount:
            yield f"it pays {site} {paid}, where {amount} is due"
