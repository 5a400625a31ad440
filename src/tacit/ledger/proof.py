"""A proof that an entry is in a log, in the format of https://c2sp.org/tlog-proof."""

import base64
import binascii
import re
from dataclasses import dataclass

from tacit.errors import InputError, MessageError
from tacit.ledger.log import Log
from tacit.ledger.merkle import included, leaf_hash
from tacit.ledger.note import Checkpoint, split
from tacit.ledger.policy import Policy

_FIRST = "c2sp.org/tlog-proof@v1"
_MOST_PATH = 63


@dataclass(frozen=True)
class Proof:
    """Where an entry stands, the hashes up to the root, and the signed and cosigned head."""

    index: int
    path: tuple[bytes, ...]
    note: str

    @classmethod
    def of(cls, log: Log, index: int) -> "Proof":
        """Of an entry of a log, under its newest signed head.

        Raises:
            InputError: no such entry under a signed head.
        """
        note = log.note()
        if note is None:
            raise InputError(
                f"record: {log.path} has no signed head, under which to prove an entry"
            )
        size = Checkpoint.from_text(split(note)[0]).size
        if not 0 <= index < size:
            raise InputError(
                f"ENTRY: {index} was given; allowed is 0 to {size - 1}, under the signed head"
            )
        return cls(index, tuple(log.inclusion(index, size)), note)

    def __str__(self) -> str:
        path = [base64.b64encode(found).decode() for found in self.path]
        return "\n".join([_FIRST, f"index {self.index}", *path, "", self.note])

    @classmethod
    def from_text(cls, text: str) -> "Proof":
        """A proof as it is stored; opaque extra data is skipped.

        Raises:
            MessageError: it is none.
        """
        above, gap, note = text.partition("\n\n")
        first, *lines = above.split("\n")
        if lines and lines[0].startswith("extra "):
            lines = lines[1:]
        place = re.fullmatch(r"index (0|[1-9][0-9]{0,18})", lines[0]) if lines else None
        if first != _FIRST or not gap or place is None or len(lines) > 1 + _MOST_PATH:
            raise MessageError(f"a proof begins with {_FIRST} and an index")
        try:
            path = tuple(base64.b64decode(line, validate=True) for line in lines[1:])
        except (binascii.Error, ValueError):
            raise MessageError("a proof has a hash that is not base64") from None
        return cls(int(place[1]), path, note)

    def check(self, policy: Policy, entry: bytes) -> Checkpoint:
        """The head under which an entry is proved to stand.

        Raises:
            MessageError: the policy does not take the head, or the entry is not there.
        """
        head = policy.check(self.note)
        if not included(leaf_hash(entry), self.index, head.size, self.path, head.root):
            raise MessageError(f"the entry is not number {self.index} of this log")
        return head
