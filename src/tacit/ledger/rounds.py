"""Which rounds a record has, and what a contribution to them may have begun with.

By default rounds are counted from 0, and a contribution counts in the round whose model its site
began with, once a site. The rules in a genesis may say otherwise:

max_staleness  rounds are asynchronous: a contribution counts so many rounds later at most. It names
               the round whose model its site began with, and stands among those that are counted in
               the same step; one site may have several of them there
rounds         how many there are, so that it is known when a contribution counts no more
first_round    the number of the first, where a run goes on from the model of another one
"""

from collections.abc import Mapping

from tacit.errors import MessageError
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


class Begun:
    """An auditor's memory of what asynchronous contributions may name.

    Args:
        most: rounds that pass at most between the model that one began with and its step.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._bases = dict[int, bytes]()
        self._places = dict[bytes, int]()
        self._before = dict[str, list[int]]()  # by site, where the round was begun before

    def opened(self, round: int, base: bytes, parts: Mapping[int, str]) -> None:
        """A round has begun with a model, perhaps again.

        Args:
            parts: sites by the places of their contributions, since it was begun before.
        """
        self._bases[round] = base
        for site, places in _by_site(parts).items():
            self._before[site] = max(self._before.get(site, []), places, key=len)

    def missing(self, parts: Mapping[int, str]) -> list[tuple[str, int]]:
        """A round ends: sites, and what they sent when it was begun before and not since then."""
        since, self._before, before = _by_site(parts), {}, self._before
        return [
            (site, place)
            for site, places in before.items()
            for place in places[len(since.get(site, [])) :]
        ]

    def wrong(self, place: int, said: Statement, step: int) -> str:
        """What is wrong with a contribution to a step; empty where nothing is."""
        site, round = said.says["site"], said.says["round"]
        first = self._places.setdefault(said.subjects["commitment"], place)
        if first != place:
            return f"{site} contributes once more what stands in entry {first}"
        if self._bases.get(round) != said.subjects["base"]:
            return f"{site} had another model than round {round} began with"
        if step - round > self.most:
            return f"{site} began {step - round} rounds before; {self.most} is the most"
        return ""


def _by_site(parts: Mapping[int, str]) -> dict[str, list[int]]:
    found = dict[str, list[int]]()
    for place, site in parts.items():
        found.setdefault(site, []).append(place)
    return found
