"""Secure sums in the record of a run: each site signs the very vector that leaves it.

A site signs a contribution when it sends its vector behind masks, and the coordinator counts no
vector that is another than its sender has signed. The masks are of one session, and so is what is
signed. If a sum ends without one, and another session of the round is tried, the site signs once
more; the entries of a sum that was opened are those in the record, and of no other sum anything is
told. A coordinator that records what a site signed for the sum before is named by the site: there
is no receipt for what it signed last.

The nonce of the commitment travels with the vector. It hides nothing from the coordinator, which
has the vector. To others it says whose part which vector was, once they have both; a vector behind
masks is uniformly random, so that nobody guesses one, with the nonce or without it.
"""

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.engine.secure_sum import Opened
from tacit.errors import CheckpointError, InputError, MessageError
from tacit.experiment import Experiment
from tacit.ledger import records
from tacit.ledger.openings import PART, Openings
from tacit.protection import SecureAggregation
from tacit.protection.secagg.messages import Kind, Reader
from tacit.protection.secagg.session import Aborted, Session

if TYPE_CHECKING:
    from tacit.network.recording import Recording


def signs_masked(experiment: Experiment) -> bool:
    """Whether sites sign what they send behind their masks.

    Under encryption, and where a round has several sums, they sign the update that they keep.
    """
    guard = experiment.guard
    masks = guard is not None and isinstance(guard.secure, SecureAggregation)
    return masks and len(experiment.algorithm.sends(experiment.layout)) == 1


def openings(experiment: Experiment, path: Path) -> Openings:
    """The file of a networked run's openings.

    Raises:
        InputError: of a run that has none, or a file that cannot be written.
    """
    guard = experiment.guard
    if not signs_masked(experiment) or (guard and guard.verify):
        raise InputError(
            f"openings: {path} was given; among real machines they are kept of one sum a round"
            " behind masks, as with SecureAggregation() under FedAvg(), without VerifiableSum()"
        )
    return Openings(path)


def vector_in(session: Session, node: int, message: bytes) -> bytes:
    """What a node's message has behind its masks.

    Raises:
        Aborted: another message.
    """
    size = session.length * session.dtype.itemsize
    return bytes(Reader(session, Kind.MASKED, node, message).take(size))


class Masked:
    """The vectors of one secure sum, and what their senders have signed.

    Args:
        recording: where the entries go if the sum is opened.
        names: of the sites, by their numbers.
    """

    def __init__(self, recording: "Recording", session: Session, names: Sequence[str]) -> None:
        self._recording, self._session, self._names = recording, session, names
        self._signed: dict[int, tuple[bytes, bytes, bytes]] = {}
        with self._written() as kept:
            if kept:
                kept.begin(session.round)

    def check(self, node: int, message: bytes, entry: bytes, nonce: bytes, rows: int) -> None:
        """Refuse a vector that is not the one that its sender has signed.

        Raises:
            MessageError: it is not; with what is wrong.
        """
        site, round = self._names[node], self._session.round
        try:
            digest = hashlib.sha256(vector_in(self._session, node, message)).digest()
        except Aborted as error:
            raise MessageError(f"the vector of {site!r}: {error}") from None
        said = self._recording.check(site, round, entry, rows)
        committed = records.commitment(self._recording.public(site), round, nonce, digest)
        if said.subjects["commitment"] != committed:
            raise MessageError(f"{site!r} has signed another vector than it sends")
        signed = entry, nonce, digest
        if self._signed.setdefault(node, signed) != signed:
            raise MessageError(f"{site!r} sends two vectors for one sum")

    def heard(self, node: int, message: bytes) -> None:
        """A checked vector is added to the sum."""
        with self._written() as kept:
            if kept:
                kept.sent(self._names[node], vector_in(self._session, node, message))

    def opened(self, opened: Opened) -> None:
        """The sum is there: whose parts it is made of goes into the record.

        Raises:
            CheckpointError: the record or the openings cannot be written.
        """
        signed = {self._names[node]: self._signed[node] for node in opened.nodes}
        with self._written() as kept:
            if kept:
                assert opened.behind is not None
                kept.summed(opened.behind, opened.masks, self._names)
                keeper = self._recording.keeper.name
                for site, (_, nonce, digest) in signed.items():
                    kept.committed(site, PART, nonce, digest)
                for subject, digest in kept.digests().items():
                    kept.committed(keeper, subject, secrets.token_bytes(records.NONCE), digest)
        self._recording.summed({site: entry for site, (entry, _, _) in signed.items()})

    @contextmanager
    def _written(self) -> Iterator[Openings | None]:
        try:
            yield self._recording.openings
        except sqlite3.Error as error:
            raise CheckpointError(f"openings: they cannot be written ({error})") from None
