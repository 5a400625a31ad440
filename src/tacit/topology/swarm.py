"""A topology without a server, whose part each node takes in its turn."""

from dataclasses import dataclass

from tacit.errors import InputError
from tacit.topology.star import Star

LEAST = 4


@dataclass(frozen=True)
class Swarm(Star):
    """A star whose centre is a node, another one in every round.

    All nodes agree on what a round's leader made of the updates before the next one leads. In one
    process, where nobody fails, a run is that of ``Star``, number for number.

    Raises:
        InputError: what ``Star`` refuses.
    """

    def check(self, nodes: int) -> None:
        """Refuse what ``Star.check`` refuses, and fewer than four nodes.

        Raises:
            InputError: with the reason.
        """
        require_members(nodes)
        super().check(nodes)


def require_members(count: int) -> None:
    """InputError for so few members that one liar among them could split the others."""
    if count < LEAST:
        raise InputError(
            f"topology: Swarm() was given for {count} node{'s' * (count != 1)}; fewer than {LEAST}"
            " tolerate no traitor: use Star(), with a coordinator"
        )
