"""Who keeps a record: it appends entries, and asks the witnesses to cosign its head."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Protocol

from tacit.errors import MessageError
from tacit.ledger.log import Log
from tacit.ledger.note import Key, Signature, Signer, sign
from tacit.ledger.policy import Policy
from tacit.ledger.witness import Conflict


class Cosigner(Protocol):
    """A witness, here or elsewhere."""

    def cosign(self, old: int, proof: Sequence[bytes], note: str) -> Signature: ...


class Keeper:
    """The keeper of a log.

    Args:
        log: that it keeps.
        key: of the log; its name is the log's origin.
        private: the same key's private part.
        policy: whose cosignatures a head needs.
        witnesses: by their names in the policy.
        lost: is told of a witness that did not cosign, and why.
    """

    def __init__(
        self,
        log: Log,
        key: Key,
        private: Signer,
        policy: Policy,
        witnesses: Mapping[str, Cosigner],
        lost: Callable[[str, MessageError], object] = lambda name, error: None,
    ) -> None:
        self.log, self.key, self.private, self.policy = log, key, private, policy
        self.witnesses, self.lost = witnesses, lost
        self._sizes = dict.fromkeys(witnesses, 0)

    def append(self, entries: Sequence[bytes]) -> int:
        """Add entries, and have the new head cosigned; the place of the first.

        Raises:
            MessageError: fewer witnesses cosign than the policy asks for.
        """
        first = self.log.append(entries)
        head = self.log.head()
        note = f"{head.text}\n{sign(head.text, self.key, self.private)}"
        lines = ""
        proof = cache(lambda old: self.log.consistency(old, head.size))  # most saw the same head
        for name, witness in self.witnesses.items():
            try:
                lines += str(self._cosigned(name, witness, head.size, note, proof))
            except MessageError as error:
                self.lost(name, error)
        self.policy.check(note + lines)
        self.log.keep(head.size, note + lines)
        return first

    def _cosigned(
        self,
        name: str,
        witness: Cosigner,
        size: int,
        note: str,
        proof: Callable[[int], Sequence[bytes]],
    ) -> Signature:
        for _ in range(2):
            old = self._sizes[name]
            try:
                line = witness.cosign(old, proof(old), note)
            except Conflict as seen:  # it knows more than is remembered of it here
                if not 0 <= seen.size <= size:
                    raise
                self._sizes[name] = seen.size
            else:
                self._sizes[name] = size
                return line
        raise MessageError(f"{name!r} cosigned other checkpoints meanwhile")
