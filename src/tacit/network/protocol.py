"""What a site and a coordinator, or two peers, say to each other about a run.

A site asks and the coordinator answers, so that either may die at any moment: whatever was asked
before may be asked again, and is answered the same. So it is among peers, each of whom does both.
"""

from hashlib import sha256
from typing import Annotated, Literal

import msgspec

from tacit.ledger.votes import Certificate, Proposal, Vote
from tacit.network.blobs import Digest as Blake3
from tacit.network.blobs import Offer
from tacit.network.messages import Message

# More than any site has; sums of them stay far from what 64 bits hold.
MOST_ROWS = 2**40
Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Round = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Sentence = Annotated[str, msgspec.Meta(max_length=2000)]
Name = Annotated[str, msgspec.Meta(max_length=63)]
Stage = Literal[
    "advertise", "share", "mask", "consent", "unmask",
    "commit", "upload", "decrypt", "rebuild", "pledge",
]  # fmt: skip
# What is larger travels in chunks.
SMALL = 48 * 1024
# What an offer is of, where a message has room for it beside the rows of many sites.
INSIDE = 16 * 1024
Inside = Annotated[bytes, msgspec.Meta(max_length=INSIDE)]
Body = Annotated[bytes, msgspec.Meta(max_length=SMALL)] | Offer
# Of the record: keys and signatures as C2SP writes them, hashes of its tree, an entry.
Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Hashes = Annotated[tuple[Hash, ...], msgspec.Meta(max_length=63)]
Line = Annotated[str, msgspec.Meta(max_length=4000)]
Entry = Annotated[bytes, msgspec.Meta(max_length=SMALL)]
# Of one message.
MOST_RECEIPTS = 16
Scores = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=32)], float], msgspec.Meta(max_length=16)
]


class Part(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all; a message of another experiment is refused."""

    experiment: Digest


class Join(Part, frozen=True):
    """A site is there, with what everyone will know of its data.

    Attributes:
        software: version of tacit at the site; the coordinator's must be the same.
        rows: that it trains on.
    """

    software: Annotated[str, msgspec.Meta(max_length=40)]
    rows: Count


class Ask(Part, frozen=True):
    """What is there to do?"""


class Leave(Part, frozen=True):
    """A site has all that it wants of a run that is over."""


class Deliver(Part, frozen=True):
    """A site's update is ready.

    Attributes:
        round: in asynchronous runs, of the model that the site trained from.
        update: safetensors with the steps of each exchange, "0", "1", ...
        loss: mean training loss.
        again: in asynchronous runs, how often the site had delivered from this model before.
        inside: the update itself, if it is small; else it is pulled.
        entry: the site's contribution to the run's record, signed; empty where there is none.
    """

    round: Round
    update: Offer
    loss: float
    again: Count = 0
    inside: Inside = b""
    entry: Entry = b""


class Ready(Part, frozen=True):
    """A site has trained, and keeps its update for a secure sum.

    Attributes:
        loss: mean training loss.
        session: the least number of a session that the site would enter.
        entry: as in ``Deliver``; empty where the site signs what it sends behind masks.
    """

    round: Round
    loss: float
    session: Count
    entry: Entry = b""


class Answer(Part, frozen=True):
    """A site's message of a secure sum's stage; see ``tacit.network.stages``.

    Attributes:
        session: its number in the round.
        body: the message, or where it can be pulled.
        entry: with a vector behind masks, as in ``Deliver``.
        nonce: of the entry's commitment to the vector.
    """

    round: Round
    session: Count
    stage: Stage
    body: Body
    entry: Entry = b""
    nonce: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class Measured(Part, frozen=True):
    """A site's scores of the model that a round began with."""

    round: Round
    rows: Count
    scores: Scores


class Decline(Part, frozen=True):
    """A site will not take part in a round.

    Attributes:
        code: of the error, as in the documentation.
        reason: as much as the site tells.
    """

    round: Round
    code: Annotated[str, msgspec.Meta(max_length=40)]
    reason: Sentence


class Introduced(Part, frozen=True):
    """A site's witness key, which is made for the record of this run."""

    witness: Line


class Founded(Part, frozen=True):
    """A site has signed the beginning of the record."""

    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Released(Part, frozen=True):
    """A site has signed the model's release."""

    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Extend(Part, frozen=True):
    """A site asks for the record's head, and for what shows that nothing was rewritten.

    Attributes:
        size: of the last head that it cosigned; 0 before the first.
        sent: leaf hashes of its contributions that it has not seen in the record.
    """

    size: Count
    sent: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=MOST_RECEIPTS)]


class Cosigned(Part, frozen=True):
    """A site has cosigned the record's head of so many entries."""

    size: Count
    line: Line


class Wait(Part, frozen=True):
    """Nothing to do for now.

    Attributes:
        reason: for whom or what.
    """

    reason: Sentence


class Train(Part, frozen=True):
    """Take part in a round.

    Attributes:
        rows: of all sites, in the experiment's order.
        state: safetensors with the server's entries of the algorithm's state.
        measure: whether to measure the model first.
        train: whether to train and deliver; else this is for the scores alone.
        again: as in ``Deliver``.
        inside: the state itself, if it is small; else it is pulled.
    """

    round: Round
    rows: Annotated[tuple[Count, ...], msgspec.Meta(max_length=100_000)]
    state: Offer
    measure: bool
    train: bool
    again: Count = 0
    inside: Inside = b""


class Enter(Part, frozen=True):
    """Take part in a secure sum of the updates that sites keep.

    Attributes:
        session: its number in the round.
        exchange: of the algorithm's, from 0.
        nodes: whose sum it is to be: places in the experiment's order, ascending.
    """

    round: Round
    session: Count
    exchange: Annotated[int, msgspec.Meta(ge=0, lt=16)]
    nodes: Annotated[tuple[Count, ...], msgspec.Meta(max_length=100_000)]


class Go(Part, frozen=True):
    """The next stage of the secure sum that the site has entered.

    Attributes:
        session: its number in the round.
        body: of the stage's message to the site.
    """

    round: Round
    session: Count
    stage: Stage
    body: Body


class Taken(Part, frozen=True):
    """What was delivered, measured or declined is kept; or was of no use any more.

    Attributes:
        used: whether the round still takes it.
        reason: why not, where there is more to say.
    """

    used: bool
    reason: Sentence = ""


class Introduce(Part, frozen=True):
    """This run leaves a record: tell your witness key."""


class Found(Part, frozen=True):
    """Sign the beginning of the record.

    Attributes:
        policy: whose signatures make its heads count.
        statement: its genesis, or the membership of who comes after the first hundred.
    """

    policy: Annotated[str, msgspec.Meta(max_length=SMALL)]
    statement: Annotated[bytes, msgspec.Meta(max_length=SMALL // 2)]


class Release(Part, frozen=True):
    """Sign that the model of the last round is handed out."""

    statement: Annotated[bytes, msgspec.Meta(max_length=SMALL // 2)]


class Cosign(Part, frozen=True):
    """The record has a new head: ask for it by ``Extend``."""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an entry stands in the record, and the proof."""

    place: Count
    path: Hashes


class Extension(Part, frozen=True):
    """The record's head, signed, and what is in it.

    Attributes:
        proof: that it extends the head that the site named.
        entry: the last round-open or, after the last round, the last aggregate.
        stands: where it does.
        receipts: of the site's contributions that it asked for; None where there is none.
    """

    note: Line
    proof: Hashes
    entry: Entry
    stands: Receipt
    receipts: Annotated[tuple[Receipt | None, ...], msgspec.Meta(max_length=MOST_RECEIPTS)]


class Done(Part, frozen=True):
    """The run is over.

    Attributes:
        outcome: "finished" or "failed".
        reason: in one sentence.
        state: as in ``Train``, after the last round; None after a failure.
        rows: as in ``Train``.
    """

    outcome: Annotated[str, msgspec.Meta(pattern=r"\A(finished|failed)\Z")]
    reason: Sentence
    state: Offer | None
    rows: Annotated[tuple[Count, ...], msgspec.Meta(max_length=100_000)]


ToRecord = Introduced | Founded | Extend | Cosigned | Released
OfRecord = Introduce | Found | Cosign | Release
Request = Join | Ask | Leave | Deliver | Ready | Answer | Measured | Decline | ToRecord
Reply = Wait | Train | Enter | Go | Taken | Done | OfRecord | Extension


class FromSite(Message, frozen=True):
    """A site's request."""

    request: Request


class FromCoordinator(Message, frozen=True):
    """The coordinator's reply."""

    reply: Reply


class Founding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a member of a swarm adds to the beginning of the run's record.

    Attributes:
        log, witness: its public keys, of its copy's log and as a witness.
        signature: on the genesis; empty until the member knows the keys of all.
    """

    log: Line
    witness: Line
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]


class Witnessed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member's cosignature of the head of its copy.

    Attributes:
        size: entries of the copy.
        counts: whether the member has those of a quorum.
    """

    size: Count
    line: Line
    counts: bool


class Added(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a round adds to the record.

    Attributes:
        entries: an ``Entries``.
        size, root: of the record with them.
    """

    entries: Offer
    size: Count
    root: Hash


class Missing(Message, frozen=True):
    """A member of a swarm asks for entries of the record, from a place on."""

    experiment: Digest
    first: Count


class Entries(Message, frozen=True):
    """Entries of the record, in their order."""

    entries: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=4096)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a swarm decides on in a round.

    Attributes:
        base: digest of the state that the round began with.
        state: safetensors with the entries of the algorithm's state that are no node's own.
        included: whose updates it is made of: places in the experiment's order.
        loss: their mean training loss.
        added: to the run's record; None where it leaves none.
    """

    experiment: Digest
    round: Round
    base: Blake3
    state: Offer
    included: Annotated[tuple[Count, ...], msgspec.Meta(max_length=4096)]
    loss: float | None
    added: Added | None = None

    @property
    def value(self) -> bytes:
        """32 bytes, which members vote on."""
        return sha256(b"tacit/v1/record\0" + msgspec.msgpack.encode(self)).digest()


class Settled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record, and the votes that decided on it."""

    record: Record
    certificate: Certificate


class Trained(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member's part of a round.

    Attributes:
        update: as in ``Deliver``; None where the member leaves the round out.
        entry: as in ``Deliver``.
    """

    update: Offer | None
    loss: float | None
    entry: Entry = b""


class Talk(Message, frozen=True):
    """What a member of a swarm tells another one, who answers with the same.

    Attributes:
        software: version of tacit at the member; the other's must be the same.
        life: of the process: a new one has forgotten what it was told.
        rows: that it trains on.
        round: that it carries out; the number of rounds once it is done.
        trained: told to the leader of the round alone.
        collected: how many updates it has, as the leader.
        records: those that the proposals are about.
        said: its words in this round that the other may not have heard.
        settled: the newest decision, for a member that is behind.
        founding, witnessed: of the run's record; None where it leaves none.
    """

    experiment: Digest
    software: Annotated[str, msgspec.Meta(max_length=40)]
    life: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    rows: Count
    round: Round
    trained: Trained | None = None
    collected: Count = 0
    records: Annotated[tuple[Record, ...], msgspec.Meta(max_length=8)] = ()
    said: Annotated[tuple[Proposal | Vote | Certificate, ...], msgspec.Meta(max_length=8)] = ()
    settled: Settled | None = None
    founding: Founding | None = None
    witnessed: Witnessed | None = None


class Seek(Message, frozen=True):
    """A peer asks another one what it has.

    Attributes:
        software: version of tacit at the asker; the other's must be the same.
        round: that the asker carries out; the number of rounds once it is done.
    """

    experiment: Digest
    software: Annotated[str, msgspec.Meta(max_length=40)]
    round: Round


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a peer sends to its neighbours in a round: safetensors with one tensor, "model".

    Attributes:
        entry: the peer's contribution to records of the run, signed; empty where there are none.
        nonce: of the entry's commitment to the file.
    """

    round: Round
    offer: Offer
    entry: Annotated[bytes, msgspec.Meta(max_length=2048)] = b""
    nonce: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class Holds(Message, frozen=True):
    """Where a peer is.

    Attributes:
        round: that it carries out; the number of rounds once it is done.
        models: of its last rounds, ascending; those alone in which it sends to the asker.
    """

    round: Round
    models: Annotated[tuple[Model, ...], msgspec.Meta(max_length=64)]


class Average(Message, frozen=True):
    """A peer asks a neighbour for the mean of their two models, or what became of that.

    Attributes:
        software: version of tacit at the asker; the other's must be the same.
        number: of the exchange, from 1; higher than that of all others that the asker began.
        model: safetensors with one tensor, "model"; None: if it was not done, it never will be.
    """

    experiment: Digest
    software: Annotated[str, msgspec.Meta(max_length=40)]
    number: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    model: Offer | None


class Averaged(Message, frozen=True):
    """What became of an exchange, and the same whenever it is asked again.

    Attributes:
        model: that the neighbour had before it took the mean; None: it was busy, and did not.
    """

    model: Offer | None
