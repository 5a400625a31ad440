"""Members who decide by votes: who leads, what they sign, and what a quorum of signatures proves.

Any two quorums of floor(2n/3) + 1 of n members have more than n/3 in common, so that one member at
least is in both that does not lie, as long as no more than f = floor((n - 1)/3) do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Literal

import msgspec

from tacit.errors import MessageError
from tacit.ledger.turns import order
from tacit.topology.swarm import require_members

Phase = Literal["prevote", "precommit"]
# Whether a member, by name, signed a message.
Verify = Callable[[str, bytes, bytes], bool]

DIGEST = 32  # bytes of a value
Value = Annotated[bytes, msgspec.Meta(min_length=DIGEST, max_length=DIGEST)]
Signature = Annotated[bytes, msgspec.Meta(max_length=64)]
Name = Annotated[str, msgspec.Meta(max_length=63)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
# Views of a round; with a third of the members lying, a decision takes a handful.
MOST_VIEWS = 1024
_DOMAIN = b"tacit/v1/agreement\0"


class Vote(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A member's word in one view of a round.

    Attributes:
        value: 32 bytes; None votes for none.
    """

    member: Name
    round: Number
    view: Number
    phase: Phase
    value: Value | None
    signature: Signature


class Certificate(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A quorum's votes for the same; of precommits for a value, it is a decision.

    Attributes:
        signatures: each voter's, by name.
    """

    round: Number
    view: Number
    phase: Phase
    value: Value
    signatures: Annotated[dict[Name, Signature], msgspec.Meta(max_length=4096)]


class Proposal(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What the leader of a view wants decided.

    Attributes:
        proof: prevotes of an earlier view for the same value, if that may have been decided on.
    """

    member: Name
    round: Number
    view: Number
    value: Value
    proof: Certificate | None
    signature: Signature


Message = Proposal | Vote | Certificate
# Two signed statements of which an honest member makes one.
Evidence = tuple[Proposal, Proposal] | tuple[Vote, Vote]


@dataclass(frozen=True)
class Committee:
    """The members of a run.

    Attributes:
        run: digest of what the votes are about, so that none counts in another run.
        order: all names, in the order in which they lead.
        verify: tells whether a member signed a message.
    """

    run: bytes
    order: tuple[str, ...]
    verify: Verify = field(repr=False, compare=False)

    @classmethod
    def of(cls, run: bytes, seed: bytes, keys: Mapping[str, bytes], verify: Verify) -> "Committee":
        """Members in the order of SHA-256(seed || key).

        Args:
            seed: of the epoch (``turns``).
            keys: public keys by name.

        Raises:
            InputError: fewer than four members.
        """
        require_members(len(keys))
        return cls(run, order(seed, keys), verify)

    @property
    def faults(self) -> int:
        """How many members may crash or lie."""
        return (len(self.order) - 1) // 3

    @property
    def quorum(self) -> int:
        """How many votes decide."""
        return 2 * len(self.order) // 3 + 1

    def leader(self, round: int, view: int) -> str:
        return self.order[(round + view) % len(self.order)]

    def check(self, message: Message) -> None:
        """Refuse what no member can have meant.

        Raises:
            MessageError: a stranger, a wrong signature, a view that is not the sender's to lead, or
                a proof that proves nothing.
        """
        if not 0 <= message.view < MOST_VIEWS:
            raise MessageError(f"view {message.view} was given; allowed is 0 to {MOST_VIEWS - 1}")
        if message.value is not None and len(message.value) != DIGEST:
            raise MessageError(f"a value of {len(message.value)} bytes was given; {DIGEST} it has")
        match message:
            case Vote():
                self._signed(message.member, statement(self.run, message), message.signature)
            case Proposal():
                self._signed(message.member, statement(self.run, message), message.signature)
                if message.member != self.leader(message.round, message.view):
                    raise MessageError(f"{message.member!r} does not lead view {message.view}")
                if (proof := message.proof) is not None:
                    same = (proof.round, proof.value) == (message.round, message.value)
                    if not (same and proof.phase == "prevote" and proof.view < message.view):
                        raise MessageError(f"{message.member!r} gave a proof of something else")
                    self.check(proof)
            case Certificate():
                if len(message.signatures) < self.quorum:
                    raise MessageError(
                        f"{len(message.signatures)} votes were given; {self.quorum} are a quorum"
                    )
                said = statement(self.run, message)
                for member, signature in message.signatures.items():
                    self._signed(member, said, signature)

    def convicts(self, evidence: Evidence) -> bool:
        """Whether this proves that a member lied."""
        one, other = evidence
        try:
            self.check(one)
            self.check(other)
        except MessageError:
            return False
        return conflict(one, other)

    def _signed(self, member: str, message: bytes, signature: bytes) -> None:
        if member not in self.order:
            raise MessageError(f"{member!r} has no vote")
        if not self.verify(member, message, signature):
            raise MessageError(f"the signature is not that of {member!r}")


def statement(run: bytes, message: Message) -> bytes:
    """The bytes that are signed; a certificate's are those of its votes."""
    phase, basis = "propose", 0
    if isinstance(message, Proposal):
        basis = 0 if message.proof is None else 1 + message.proof.view
    else:
        phase = message.phase
    numbers = b"".join(n.to_bytes(4, "big") for n in (message.round, message.view, basis))
    value = b"\0" if message.value is None else b"\1" + message.value
    return _DOMAIN + sha256(run).digest() + phase.encode() + b"\0" + numbers + value


def conflict(one: Message, other: Message) -> bool:
    """Whether an honest member signs one of the two at most."""
    match one, other:
        case Vote(), Vote():
            same = one.phase == other.phase
        case Proposal(), Proposal():
            same = True
        case _:
            return False
    place = (one.member, one.round, one.view) == (other.member, other.round, other.view)
    return place and same and statement(b"", one) != statement(b"", other)
