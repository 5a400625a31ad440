"""A statement that a quorum of a record's members signs, while they ask what there is to do."""

from collections.abc import Mapping

from tacit.ledger.policy import quorum
from tacit.ledger.statement import Envelope, Statement, encoded
from tacit.network.members import is_signed
from tacit.network.protocol import Release


class Joint:
    """Signatures on one statement, as they come.

    Args:
        experiment: digest of what is run.
        statement: that all sign.
        members: with their Ed25519 keys.
        own: the signatures that are there.
    """

    def __init__(
        self,
        experiment: str,
        statement: Statement,
        members: Mapping[str, bytes],
        own: Mapping[str, bytes],
    ) -> None:
        self.members, self.payload = members, statement.payload()
        self.least, self.signatures = quorum(len(members)), dict(own)
        self._order = Release(experiment, self.payload)

    def order(self, site: str) -> Release | None:
        """What a site is to sign; None where it has."""
        return None if site in self.signatures else self._order

    def take(self, site: str, signature: bytes) -> bool:
        """Keep a site's signature, if it is one of the statement."""
        known = is_signed(self.members[site].hex(), encoded(self.payload), signature)
        if known:
            self.signatures[site] = signature
        return known

    @property
    def entry(self) -> bytes | None:
        """The statement with its signatures, once a quorum has signed."""
        if len(self.signatures) < self.least:
            return None
        return bytes(Envelope(self.payload, self.signatures))
