"""Records of peers: each keeps a log of its own models, which the others witness.

In a peer's log stands what it sent to its neighbours and what it had from them, each signed by its
sender. The base of a contribution is what its sender went on from, so only the peer's own begin
with the round's. A peer signs one contribution a round, which all its neighbours get; the policy of
its log, made for one run and signed by all, tells this run from others of the same experiment.

A peer whom all its neighbours have left behind goes on in a later round: the next one that is
opened is a later one, and begins with the last model, or with the one that the neighbour has signed
for whose contribution stands right before it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tacit.ledger.statement import Statement

# What the rules in a peer's genesis say beside those of the experiment.
RULE = {"log": "one peer's"}

Statements = Mapping[int, Statement]


def of_peer(genesis: Statement) -> bool:
    """Whether a genesis begins a peer's own log."""
    return genesis.says["rules"].items() >= RULE.items() and genesis.says.get("keeper") is not None


@dataclass(frozen=True)
class Own:
    """A record that is a peer's own.

    Attributes:
        keeper: the peer.
        policy: digest of its policy.
        statements: by their places.
    """

    keeper: str
    policy: bytes
    statements: Statements

    @classmethod
    def of(cls, statements: Statements) -> "Own | None":
        """None where it is another kind of record."""
        genesis = statements.get(0)
        if genesis is None or not of_peer(genesis):
            return None
        return cls(genesis.says["keeper"], genesis.subjects["policy"], statements)

    def goes_on_from(self, place: int) -> bool:
        """Whether a round is opened there after another peer's contribution, not a later one's."""
        opened, before = self.statements.get(place), self.statements.get(place - 1)
        return (
            opened is not None
            and opened.kind == "round-open"
            and before is not None
            and before.kind == "contribution"
            and before.says["site"] != self.keeper
            and before.says["round"] <= opened.says["round"]
        )

    def contributions(self) -> dict[tuple[str, int], int]:
        """Their places, by site and round."""
        return {
            (said.says["site"], said.says["round"]): place
            for place, said in self.statements.items()
            if said.kind == "contribution"
        }

    @property
    def past(self) -> int:
        """Rounds below this one are behind the peer."""
        rounds = [
            said.says["round"] + (said.kind == "aggregate")
            for said in self.statements.values()
            if said.kind in ("round-open", "aggregate")
        ]
        return max(rounds, default=0)


def compare(one: Own, other: Own) -> Iterator[tuple[int | None, str] | str]:
    """Whether two peers' records say the same of what each site has sent.

    Args:
        one, other: with statements whose signatures were checked; places are those in ``one``.
    """
    begun, too = one.statements[0], other.statements[0]
    if begun.subjects["experiment"] != too.subjects["experiment"]:
        yield None, f"the record of {other.keeper} is of another experiment"
        return
    if _keys(one) != _keys(other):
        yield 0, f"the record of {other.keeper} names other members, or other keys of theirs"
        return
    here, there = one.contributions(), other.contributions()
    both = sorted(here.keys() & there.keys())
    for site, round in both:
        place, at = here[site, round], there[site, round]
        if one.statements[place].payload() != other.statements[at].payload():
            words = f"{site} signed another model for round {round} here than in entry {at} of"
            yield place, f"{words} the record of {other.keeper}"
    for mine, its in ((one, other), (other, one)):
        found, own = mine.contributions(), its.contributions()
        for (site, round), place in sorted(found.items()):
            if site != its.keeper or round >= its.past or (site, round) in own:
                continue
            words = f"{site} sent {mine.keeper} a model for round {round}, of which {site}'s own"
            yield (place if mine is one else None), f"{words} record has nothing"
    yield f"{len(both)} contributions are in that of {other.keeper}, too"


def _keys(own: Own) -> dict[str, str]:
    found = dict[str, str]()
    for said in own.statements.values():
        if said.kind in ("genesis", "membership"):
            found |= said.says["members" if said.kind == "genesis" else "add"]
    return found
