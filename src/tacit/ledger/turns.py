"""Who leads, where the members of a record lead by turns: an order that nobody could choose.

Every contribution commits to a nonce, and reveals the one that its site's last contribution
committed to. What was revealed in an epoch draws the order of the next one: whoever chose a key, or
a nonce, did not know those of the others. Who leads the last round of an epoch, or stays away from
it, may still choose between orders, as many as there are contributions that may be left out.
"""

import hmac
from collections.abc import Mapping
from hashlib import sha256

from tacit.errors import MessageError
from tacit.ledger.records import NONCE
from tacit.ledger.statement import Statement


def order(seed: bytes, keys: Mapping[str, bytes]) -> tuple[str, ...]:
    """Names in the order in which they lead, by SHA-256(seed || key)."""
    return tuple(sorted(keys, key=lambda name: sha256(seed + keys[name]).digest()))


class Turns:
    """The order of the present epoch, as the entries of a record draw it.

    Args:
        genesis: the record's.
        keys: of the members, by name.

    Attributes:
        seed: of the epoch; at first the experiment's digest.
    """

    def __init__(self, genesis: Statement, keys: Mapping[str, bytes]) -> None:
        self.epoch, self.keys = max(1, genesis.says["epoch"]), dict(keys)
        self.seed = genesis.subjects["experiment"]
        self.order = order(self.seed, keys)
        self._next = dict[str, bytes]()  # what each site committed to last
        self._revealed = b""

    def leader(self, round: int, view: int) -> str:
        """Who leads a view of a round."""
        return self.order[(round + view) % len(self.order)]

    def reveals(self, site: str, statement: Statement) -> None:
        """Refuse a contribution that does not reveal what the last one committed to.

        Raises:
            MessageError: it does not.
        """
        try:
            nonce = bytes.fromhex(statement.says["revealed"])
        except (ValueError, KeyError):
            nonce = b"?"
        due = self._next.get(site)
        if due is None:
            fits = nonce == b""
        else:
            fits = len(nonce) == NONCE and hmac.compare_digest(sha256(nonce).digest(), due)
        if not fits:
            raise MessageError(f"{site} reveals another nonce than it has committed to")

    def take(self, statement: Statement) -> None:
        """An entry of the record, in their order."""
        says = statement.says
        match statement.kind:
            case "contribution":
                self._revealed += bytes.fromhex(says["revealed"])
                self._next[says["site"]] = statement.subjects["next"]
            case "aggregate" if (says["round"] + 1) % self.epoch == 0:
                self.seed = sha256(self.seed + self._revealed).digest()
                self.order, self._revealed = order(self.seed, self.keys), b""
