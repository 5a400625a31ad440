"""What an adversary sees in a round: as much as its threat model grants, and no more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from tacit.aggregation import Aggregated
from tacit.errors import InputError
from tacit.topology.neighbours import Ints, Neighbours

Knowledge = Literal["own", "colluders", "all", "defence"]
LEVELS: tuple[Knowledge, ...] = get_args(Knowledge)


@dataclass(frozen=True, eq=False)
class Secrets:
    """What honest nodes have, and an adversary learns only if its knowledge goes so far.

    Attributes:
        nodes: (h,) ids of the honest nodes that send in this round.
        vectors: (h, d) what they send.
        starts: (h, d) their models before their training.
        victims: (m,) ids of the receivers that a malicious node sends to, ascending; -1 the server.
        targets: (m, d) what each victim holds itself: its trained model; a server's last model.
        graph: who sends to whom, over all nodes; None under a server.
        weight: (e,) the mixing weight of each link of the graph; None under a server.
    """

    nodes: Ints
    vectors: Tensor
    starts: Tensor
    victims: Ints
    targets: Tensor
    graph: Neighbours | None
    weight: Tensor | None


@dataclass(frozen=True, eq=False)
class View:
    """What the malicious nodes see when they are about to send.

    With knowledge "own" each of them has a view of its own, in which it is the only one (b = 1).

    Attributes:
        knowledge: the threat model. "own": its own data and models. "colluders": those of all
            malicious nodes. "all": also what the honest nodes send in this round, and the graph.
            "defence": also the rule by which receivers aggregate, to be asked at will.
        round: from 0.
        rounds: in the run.
        seed: for addressed randomness.
        nodes: (b,) ids of the malicious nodes.
        own: (b, d) what they would send if they were honest.
        starts: (b, d) their models before their training.
        senders: (l,) the row of ``own`` that each malicious link starts from.
        receivers: (l,) the node that it leads to, ascending; -1 is the server.
        everyone: how many nodes send in this round, the honest ones included.
    """

    knowledge: Knowledge
    round: int
    rounds: int
    seed: int
    nodes: Ints
    own: Tensor
    starts: Tensor
    senders: Ints
    receivers: Ints
    everyone: int
    _secrets: Secrets | None
    _ask: Callable[[Tensor], Aggregated] | None = None

    @property
    def secrets(self) -> Secrets:
        """What honest nodes have.

        Raises:
            InputError: the threat model does not grant it.
        """
        if self._secrets is None:
            raise InputError(
                f"attack.knowledge: {self.knowledge!r} was given, which does not see what honest"
                " nodes send; 'all' does"
            )
        return self._secrets

    @property
    def sample(self) -> Tensor:
        """(s, d) vectors like those that honest nodes send: theirs, or the colluders' own where
        these are not known, or no honest node sends in this round."""
        return self._secrets.vectors if self._secrets and len(self._secrets.nodes) else self.own

    @property
    def sample_starts(self) -> Tensor:
        """(s, d) where the training of each of ``sample`` began."""
        return self._secrets.starts if self._secrets and len(self._secrets.nodes) else self.starts

    def ask(self, lies: Tensor) -> Aggregated:
        """What the victims' own rule makes of lies.

        Args:
            lies: (l, d) one for each malicious link.

        Returns:
            The (m, d) victims' results, and the (l,) acceptance of each lie.

        Raises:
            InputError: the threat model does not grant it.
        """
        if self._ask is None:
            raise InputError(
                f"attack.knowledge: {self.knowledge!r} was given, which may not ask the receivers'"
                " rule; 'defence' may"
            )
        return self._ask(lies)
