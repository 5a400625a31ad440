"""How members agree on one value a round, although some crash or lie.

Tendermint: Buchman, Kwon, Milosevic, "The latest gossip on BFT consensus", arXiv:1807.04938v3,
algorithm 1, whose lines are cited below; its height is our round, its round our view. Beyond it:

- proposals carry the prevotes that they rest on, whoever locks a value sends the prevotes that made
  it do so, and whoever decides sends the precommits: the paper's gossip would bring these to all.
- a leader takes its time to find a value, and a member to judge one: both are asked for, and told
  when they are known.
- a member that was killed goes on from what it had said, and contradicts none of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec.structs import replace

from tacit.errors import MessageError
from tacit.ledger.votes import (
    MOST_VIEWS,
    Certificate,
    Committee,
    Evidence,
    Message,
    Phase,
    Proposal,
    Vote,
    conflict,
    statement,
)

Step = Literal["propose", "prevote", "precommit"]


@dataclass(frozen=True)
class Wait:
    """Call ``timeout(step, view)`` after a time that grows with the view."""

    step: Step
    view: int


@dataclass(frozen=True)
class Collect:
    """This member leads the view: call ``offer`` with a value once there is one."""

    view: int


@dataclass(frozen=True)
class Judge:
    """Call ``judged`` with whether the value may be decided on; the leader has it."""

    value: bytes
    leader: str


@dataclass(frozen=True)
class Decided:
    """The round's value, and the proof of it."""

    certificate: Certificate


Action = Wait | Collect | Judge | Decided


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a member must not forget, and must have written down before others hear of it.

    Attributes:
        step: of the view.
        locked: prevotes for the value that it precommitted to last.
        valid: prevotes for the value that it knows last that may have been decided on.
        said: all its messages, which all others are to receive, as often as need be.
    """

    view: int = 0
    step: Step = "propose"
    locked: Certificate | None = None
    valid: Certificate | None = None
    said: tuple[Message, ...] = ()


class Agreement:
    """One member's part in one round. Every method is an event and gives what is to be done.

    No clock, no socket, no file: ``kept`` is to be written after each event, and then what is new
    in ``kept.said`` sent to all.

    Args:
        me: name of the member.
        sign: signs a message as the member.
        kept: of a member that was killed; None at first.

    Attributes:
        evidence: of each member that was seen to lie.
        decided: the decision, once there is one.
    """

    def __init__(
        self,
        committee: Committee,
        me: str,
        round: int,
        sign: Callable[[bytes], bytes],
        kept: Kept | None = None,
    ) -> None:
        self.committee, self.me, self.round, self._sign = committee, me, round, sign
        self.kept = kept or Kept()
        self.evidence: dict[str, Evidence] = {}
        self.decided: Certificate | None = None
        self._votes: dict[tuple[int, Phase], dict[str, Vote]] = {}
        self._proposals: dict[int, Proposal] = {}
        self._prevoted: dict[int, Certificate] = {}  # by view
        self._latest: dict[str, int] = {}  # view of each other member
        self._valid: dict[bytes, bool] = {}
        self._asked: set[Action] = set()
        self._out: list[Action] = []

    # Events

    def start(self) -> list[Action]:
        """The round begins, or goes on after this member was killed."""
        for message in self.kept.said:
            self._take(message)
            if isinstance(message, Proposal):
                self._valid[message.value] = True
        if not self.decided:
            self._enter(self.kept.view, self.kept.step)
        return self._follow()

    def receive(self, message: Message) -> list[Action]:
        """Another member's message, from whomever it came.

        Raises:
            MessageError: nothing that a member of this committee says in this round.
        """
        if message.round != self.round:
            raise MessageError(f"round {message.round} was given; this is round {self.round}")
        self.committee.check(message)
        if not self.decided:
            self._take(message)
        return self._follow()

    def offer(self, value: bytes) -> list[Action]:
        """The value that this member, as the leader of the view, would have decided."""
        self._valid[value] = True
        if self._may_propose:
            self._propose(value, None)
        return self._follow()

    def judged(self, value: bytes, valid: bool) -> list[Action]:
        """Whether a value may be decided on, which no member takes back."""
        self._valid.setdefault(value, valid)
        return self._follow()

    def timeout(self, step: Step, view: int) -> list[Action]:
        """A time to wait is over."""
        if not self.decided and view == self.kept.view:
            if step == "propose" == self.kept.step:  # lines 57 to 60
                self._vote("prevote", None)
            elif step == "prevote" == self.kept.step:  # lines 61 to 64
                self._vote("precommit", None)
            elif step == "precommit" and view + 1 < MOST_VIEWS:  # lines 65 to 67
                self._enter(view + 1)
        return self._follow()

    @property
    def proposed(self) -> set[bytes]:
        """Values that leaders have proposed, one a view."""
        return {proposal.value for proposal in self._proposals.values()}

    # Rules

    def _follow(self) -> list[Action]:
        """Apply all rules until none fits any more."""
        while not self.decided and self._rule():
            pass
        out, self._out = self._out, []
        return out

    def _rule(self) -> bool:
        """Apply a rule that fits, if there is one."""
        view, step = self.kept.view, self.kept.step
        ahead = sorted(self._latest.values(), reverse=True)[: self.committee.faults + 1]
        if len(ahead) > self.committee.faults and ahead[-1] > view:  # lines 55 and 56
            self._enter(ahead[-1])
            return True
        proposal, prevotes = self._proposals.get(view), self._prevoted.get(view)
        valid = None if proposal is None else self._valid.get(proposal.value)
        if proposal and valid is None:
            self._ask(Judge(proposal.value, proposal.member))
        if proposal and step == "propose":  # lines 22 to 33
            if not self._unlocked(proposal):
                return self._vote("prevote", None)
            if valid is not None:
                return self._vote("prevote", proposal.value if valid else None)
        backed = proposal and prevotes and proposal.value == prevotes.value
        if prevotes and backed and valid and step != "propose" and self.kept.valid != prevotes:
            self.kept = replace(self.kept, valid=prevotes)  # lines 36 to 43
            if step == "prevote":
                self.kept = replace(self.kept, locked=prevotes)
                self._say(prevotes)
                self._vote("precommit", prevotes.value)
            return True
        if step == "prevote":
            if self._count(view, "prevote", None) >= self.committee.quorum:  # lines 44 to 46
                return self._vote("precommit", None)
            if len(self._votes.get((view, "prevote"), ())) >= self.committee.quorum:
                self._ask(Wait("prevote", view))  # lines 34 and 35
        if len(self._votes.get((view, "precommit"), ())) >= self.committee.quorum:
            self._ask(Wait("precommit", view))  # lines 47 and 48
        return False

    def _enter(self, view: int, step: Step = "propose") -> None:
        """Lines 11 to 21."""
        self.kept = replace(self.kept, view=view, step=step)
        if step != "propose":
            return
        self._ask(Wait("propose", view))
        if self._may_propose:
            if (valid := self.kept.valid) is not None:
                self._propose(valid.value, valid)
            else:
                self._ask(Collect(view))

    @property
    def _may_propose(self) -> bool:
        view = self.kept.view
        leads = self.committee.leader(self.round, view) == self.me
        free = self.kept.step == "propose" and view not in self._proposals
        return leads and free and not self.decided

    def _unlocked(self, proposal: Proposal) -> bool:
        """The second halves of lines 23 and 29."""
        locked, proof = self.kept.locked, proposal.proof
        if locked is None or locked.value == proposal.value:
            return True
        return proof is not None and proof.view >= locked.view

    # Messages

    def _propose(self, value: bytes, proof: Certificate | None) -> None:
        blank = Proposal(self.me, self.round, self.kept.view, value, proof, b"")
        self._say(replace(blank, signature=self._sign(statement(self.committee.run, blank))))

    def _vote(self, phase: Phase, value: bytes | None) -> bool:
        blank = Vote(self.me, self.round, self.kept.view, phase, value, b"")
        self.kept = replace(self.kept, step=phase)
        self._say(replace(blank, signature=self._sign(statement(self.committee.run, blank))))
        return True

    def _say(self, message: Message) -> None:
        self.kept = replace(self.kept, said=(*self.kept.said, message))
        self._take(message)

    def _take(self, message: Message) -> None:
        """Count a message that has been checked."""
        if isinstance(message, Certificate):
            for member in message.signatures:
                self._saw(member, message.view)
            self._prove(message)
            return
        self._saw(message.member, message.view)
        if isinstance(message, Proposal):
            known: Message = self._proposals.setdefault(message.view, message)
            if message.proof:
                self._prove(message.proof)
        else:
            votes = self._votes.setdefault((message.view, message.phase), {})
            known = votes.setdefault(message.member, message)
            self._tally(message)
        if conflict(known, message):
            self.evidence.setdefault(message.member, (known, message))  # type: ignore[arg-type]

    def _saw(self, member: str, view: int) -> None:
        if member != self.me:
            self._latest[member] = max(view, self._latest.get(member, 0))

    def _tally(self, vote: Vote) -> None:
        if vote.value is None or self._count(vote.view, vote.phase, vote.value) < (
            self.committee.quorum
        ):
            return
        signatures = {
            v.member: v.signature
            for v in self._votes[vote.view, vote.phase].values()
            if v.value == vote.value
        }
        self._prove(Certificate(self.round, vote.view, vote.phase, vote.value, signatures))

    def _prove(self, certificate: Certificate) -> None:
        """A quorum has voted for the same."""
        if certificate.phase == "prevote":
            self._prevoted.setdefault(certificate.view, certificate)
        elif not self.decided:  # lines 49 to 54, whose proposal can be had later
            self.decided = certificate
            if certificate not in self.kept.said:
                self.kept = replace(self.kept, said=(*self.kept.said, certificate))
            self._out.append(Decided(certificate))

    def _count(self, view: int, phase: Phase, value: bytes | None) -> int:
        votes = self._votes.get((view, phase), {})
        return sum(vote.value == value for vote in votes.values())

    def _ask(self, action: Action) -> None:
        """Have something done, once."""
        if action not in self._asked:
            self._asked.add(action)
            self._out.append(action)
