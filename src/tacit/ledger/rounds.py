"""The rounds of a record, and what a contribution to them may have begun with.

By default rounds are counted from 0, and a contribution counts in the round whose model its site
began with, once a site. The rules in a genesis may say otherwise:

max_staleness  rounds are asynchronous: a contribution counts so many rounds later at most. It names
               the round whose model its site began with, and stands among those that are counted in
               the same step; one site may have several of them there
rounds         how many there are, so that it is known when a contribution counts no more
first_round    the number of the first, where a run goes on from the model of another one
"""

from collections.abc import Iterator, Mapping, Sequence

from tacit.errors import MessageError
from tacit.ledger import merkle
from tacit.ledger.peers import Own
from tacit.ledger.statement import Statement

STALENESS, ROUNDS, FIRST = "max_staleness", "rounds", "first_round"


def require_numbers(genesis: Statement) -> None:
    """Refuse rules of rounds that are no whole numbers.

    Raises:
        MessageError: one is not.
    """
    for name in (STALENESS, ROUNDS, FIRST):
        text = genesis.says["rules"].get(name, "0")
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise MessageError(f"its rule {name!r} is no whole number from 0")


def rule(genesis: Statement, name: str) -> int | None:
    """A number among the rules of a record; None where it has none of this name."""
    text = genesis.says["rules"].get(name)
    return None if text is None else int(text)


def due(genesis: Statement, round: int) -> int:
    """The last round that may count what began with the model of a round."""
    late = round + (rule(genesis, STALENESS) or 0)
    rounds = rule(genesis, ROUNDS)
    return late if rounds is None else max(round, min(late, rounds - 1))


def audit(
    entries: Sequence[bytes], statements: Mapping[int, Statement]
) -> Iterator[tuple[int, str] | str]:
    """Whether rounds follow each other, begin with the last model, and account for every part.

    Args:
        entries: of a record.
        statements: of those that are signed by whom they must be, by their places.
    """
    rounds, tree = _rounds(statements), merkle.Growing()
    for place, entry in enumerate(entries):
        root = tree.root
        tree.add(merkle.leaf_hash(entry))
        if (said := statements.get(place)) is not None:
            for what in rounds.take(place, said, root):
                yield place, what
    yield rounds.told()


def _rounds(statements: Mapping[int, Statement]) -> "_Rounds":
    """What the rounds of a record have to keep to."""
    genesis, own = statements.get(0), Own.of(statements)
    if genesis is None:
        return _Rounds(0)
    first = rule(genesis, FIRST) or 0
    if own is not None:
        return _PeerRounds(first, own)
    if "keeper" not in genesis.says:
        return _TurnRounds(first)
    most = rule(genesis, STALENESS)
    return _Rounds(first) if most is None else _LateRounds(first, most)


class _Rounds:
    """An auditor's memory of the rounds so far; each entry is taken in its turn.

    Args:
        first: number of the first.
    """

    def __init__(self, first: int) -> None:
        self.first = self.round = first
        self.view, self.model = 0, b""
        self.base: bytes | None = None  # of the open round
        self.parts: dict[int, str] = {}  # sites, by the places of their contributions to it

    def told(self) -> str:
        """How many there are, in words."""
        if not self.first:
            return f"{self.round} rounds"
        return f"rounds {self.first} to {self.round - 1}, counted from 0"

    def take(self, place: int, said: Statement, root: bytes) -> Iterator[str]:
        """What is wrong with an entry; ``root`` is the record's before it."""
        says, subjects = said.says, said.subjects
        match said.kind:
            case "round-open":
                yield from self.opens(place, said)
                if says["head"] != {"size": place, "root": root.hex()}:
                    yield "it does not name the record as it was before it"
                self.base, self.parts, self.view = subjects["base"], {}, self.view + 1
            case "contribution" | "aggregate" if self.base is None:
                yield "no round is open"
            case "contribution":
                yield from self.contributes(place, said)
            case "aggregate":
                yield from self.closes(said)
                self.round, self.view, self.base, self.parts = self.round + 1, 0, None, {}
                self.model = subjects["model"]
            case "evaluation":
                if (subjects["model"], says["round"]) != (self.model, self.round - 1):
                    yield "it measures another model than the last"
            case "release":
                if (subjects["model"], says["rounds"]) != (self.model, self.round) or self.base:
                    yield "it releases another model than the last"

    def opens(self, place: int, said: Statement) -> Iterator[str]:
        """A round begins, or begins again."""
        if said.says["round"] != self.round or not self.follows(said.says["view"]):
            yield f"it opens another round than {self.round}, or again"
        if self.model and said.subjects["base"] != self.model:
            yield "it does not begin with the model of the round before"

    def follows(self, view: int) -> bool:
        """Whether this is the view that a round begins in next."""
        return view == self.view

    def contributes(self, place: int, said: Statement) -> Iterator[str]:
        """A site has sent its part of the open round."""
        site = said.says["site"]
        if "policy" in said.subjects:
            yield "it is of another kind of run"
            return
        if said.says["round"] != self.round:
            yield f"{site} contributes to another round than {self.round}"
        elif said.subjects["base"] != self.base:
            yield f"{site} had another model than the round began with"
        elif site in self.parts.values():
            yield f"{site} contributes twice to round {self.round}"
        self.parts[place] = site

    def closes(self, said: Statement) -> Iterator[str]:
        """Included and excluded are all who contributed, and nobody else."""
        included = said.says["included"]
        excluded = [each["entry"] for each in said.says["excluded"]]
        if said.says["round"] != self.round:
            yield f"it closes another round than {self.round}"
        for other in sorted({*included, *excluded} - self.parts.keys()):
            yield f"it counts entry {other}, which is no contribution of this round"
        for left in sorted(self.parts.keys() - {*included, *excluded}):
            yield f"it leaves out the contribution of {self.parts[left]} in entry {left}"
        if len(included) + len(excluded) > len({*included, *excluded}):
            yield "it counts a contribution twice"


class _TurnRounds(_Rounds):
    """Rounds whose members lead by turns: a view in which nothing was agreed on has no entry."""

    def follows(self, view: int) -> bool:
        return True


class _LateRounds(_Rounds):
    """Asynchronous rounds.

    Args:
        most: rounds that pass at most between the model that a contribution began with and its
            step.
    """

    def __init__(self, first: int, most: int) -> None:
        super().__init__(first)
        self.most = most
        self._bases = dict[int, bytes]()
        self._places = dict[bytes, int]()
        self._before = dict[str, list[int]]()  # by site, where the round was begun before

    def opens(self, place: int, said: Statement) -> Iterator[str]:
        yield from super().opens(place, said)
        self._bases[self.round] = said.subjects["base"]
        for site, places in _by_site(self.parts).items():
            self._before[site] = max(self._before.get(site, []), places, key=len)

    def contributes(self, place: int, said: Statement) -> Iterator[str]:
        site, round = said.says["site"], said.says["round"]
        if "policy" in said.subjects:
            yield "it is of another kind of run"
            return
        first = self._places.setdefault(said.subjects["commitment"], place)
        if first != place:
            yield f"{site} contributes once more what stands in entry {first}"
        elif self._bases.get(round) != said.subjects["base"]:
            yield f"{site} had another model than round {round} began with"
        elif self.round - round > self.most:
            yield f"{site} began {self.round - round} rounds before; {self.most} is the most"
        self.parts[place] = site

    def closes(self, said: Statement) -> Iterator[str]:
        yield from super().closes(said)
        since, self._before, before = _by_site(self.parts), {}, self._before
        for site, places in before.items():
            for place in places[len(since.get(site, [])) :]:
                yield f"it leaves out what {site} sent in entry {place}"


class _PeerRounds(_Rounds):
    """Rounds of one peer, who may have been left behind (``peers``)."""

    def __init__(self, first: int, own: Own) -> None:
        super().__init__(first)
        self.own, self._closed = own, 0

    def told(self) -> str:
        left = self.round - self._closed
        absent = f", {left} left out" if left > 0 else ""
        return f"{self._closed} rounds of {self.own.keeper}, a peer{absent}"

    def opens(self, place: int, said: Statement) -> Iterator[str]:
        if said.says["round"] > self.round:
            self.round, self.view = said.says["round"], 0
            if self.own.goes_on_from(place):
                self.model = said.subjects["base"]
        yield from super().opens(place, said)
        self.model = said.subjects["base"]

    def contributes(self, place: int, said: Statement) -> Iterator[str]:
        site = said.says["site"]
        if "policy" not in said.subjects:
            yield "it is of another kind of run"
            return
        if self.own.goes_on_from(place + 1):  # it belongs to that
            return
        own = site == self.own.keeper  # the others begin with models of their own
        if said.says["round"] != self.round:
            yield f"{site} contributes to another round than {self.round}"
        elif own and said.subjects["base"] != self.base:
            yield f"{site} had another model than the round began with"
        elif own and said.subjects["policy"] != self.own.policy:
            yield f"{site} names another log than this"
        elif site in self.parts.values():
            yield f"{site} contributes twice to round {self.round}"
        self.parts[place] = site

    def closes(self, said: Statement) -> Iterator[str]:
        self._closed += 1
        return super().closes(said)


def _by_site(parts: Mapping[int, str]) -> dict[str, list[int]]:
    found = dict[str, list[int]]()
    for place, site in parts.items():
        found.setdefault(site, []).append(place)
    return found
