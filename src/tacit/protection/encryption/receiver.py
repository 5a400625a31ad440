"""The receiver of a sum under threshold encryption: a server, or whoever leads a round.

That the sum is right depends on it, that inputs stay hidden does not: that is the nodes' business.
It holds all ciphertexts until they are handed out, since each node adds them up itself.
"""

import hmac
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.encryption.bfv import Residues
from tacit.protection.encryption.messages import (
    HASH,
    TAG,
    Kind,
    escrow,
    hashed,
    opened,
    scheme,
    view,
)
from tacit.protection.encryption.packing import unpack
from tacit.protection.secagg import shamir
from tacit.protection.secagg.messages import (
    KEY,
    SEALED,
    SHARE,
    SIGNATURE,
    Reader,
    header,
    write_set,
    write_table,
)
from tacit.protection.secagg.session import Aborted, Session

_T = TypeVar("_T")


class Receiver:
    """One sum: ``keys``, ``deliver``, ``commits``, ``add`` for each upload, ``uploads``,
    ``request``, ``sum``.

    A stage takes what arrived, by the sender that the transport vouches for, and returns what to
    send to whom. A node that sends nothing, or what does not parse or verify, has dropped out.

    Args:
        session: as for the nodes.
        directory: everybody's long-term keys, by number.

    Raises:
        Aborted: by every stage but ``add``: called out of turn, or too few nodes left.
        InputError: OpenFHE cannot be loaded.
    """

    def __init__(self, session: Session, directory: Mapping[int, Ed25519PublicKey]) -> None:
        require(
            session.members <= directory.keys(), "directory", sorted(directory), "every node's key"
        )
        self.session, self._directory = session, directory
        self._scheme = scheme(session)
        self._blocks = self._scheme.blocks(session.length)
        self._polynomial = 8 * self._scheme.shape[0] * self._scheme.shape[1]
        self._next: str | None = "keys"
        self._left = session.members
        self._uploads: dict[int, bytes] = {}

    def keys(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """From ``Node.advertise`` to ``Node.share``: all adverts."""
        self._enter("keys", then="deliver")
        self._public_hashes = self._gather(messages, self._advert)
        self._adverts = {node: messages[node] for node in self._left}
        table = write_table(self._adverts)
        return {node: header(self.session, Kind.KEYS, node) + table for node in self._left}

    def deliver(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """From ``Node.share`` to ``Node.commit``: all parts of the key; the shares for a node."""
        self._enter("deliver", then="commits")
        found = self._gather(messages, self._shares)
        self._joined = self._left
        self._sealed = {node: sealed for node, (_, sealed, _) in found.items()}
        publics = write_table({node: public for node, (public, _, _) in found.items()})
        self._view = view(self.session, self._scheme, {n: self._adverts[n] for n in self._joined})
        return {
            node: header(self.session, Kind.DELIVERY, node)
            + publics
            + write_table({peer: shares[node] for peer, (*_, shares) in found.items()
                           if node in shares})
            for node in self._left
        }  # fmt: skip

    def commits(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """From ``Node.commit`` to ``Node.upload``: what each is committed to."""
        self._enter("commits", then="add")
        rows = self._gather(messages, self._commit)
        self._committed = {node: row[:HASH] for node, row in rows.items()}
        self._total = np.zeros((self._blocks, 2, *self._scheme.shape), np.uint64)
        table = write_table(rows)
        return {node: header(self.session, Kind.COMMITS, node) + table for node in self._left}

    def add(self, node: int, message: bytes) -> None:
        """Take one node's ciphertexts, from ``Node.upload``; second or late ones are discarded."""
        if self._next != "add" or node not in self._left or node in self._uploads:
            return
        try:
            residues = self._ciphertexts(node, message)
        except Aborted:
            return
        self._scheme.add(self._total, residues)
        self._uploads[node] = message

    def uploads(self) -> dict[int, bytes]:
        """From ``Node.upload`` to ``Node.decrypt``: what arrived, for each; it is now fixed."""
        self._enter("add", then="request")
        self._left &= self._uploads.keys()
        self._require_enough()
        self._survivors = self._left
        uploads, self._uploads = self._uploads, {}
        return uploads

    def request(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """From ``Node.decrypt`` to ``Node.rebuild``: who answered."""
        self._enter("request", then="sum")
        self._opened = self._total[:, 0].copy()
        self._gather(messages, self._partial)
        answered = write_set(self.session, self._left)
        return {node: header(self.session, Kind.REQUEST, node) + answered for node in self._left}

    def sum(self, messages: Mapping[int, bytes]) -> tuple[NDArray[Any], tuple[int, ...]]:
        """From ``Node.rebuild``: (length,) the survivors' sum modulo 2^32, and who they are."""
        self._enter("sum", then=None)
        lost = self._joined - self._left
        point = {node: at for at, node in enumerate(self.session.nodes, 1)}
        revealed = self._gather(messages, self._reveal)
        for node in lost:
            shares = {point[peer]: rows[node] for peer, rows in revealed.items() if node in rows}
            secret = self._rebuilt(node, shares)
            self._scheme.add(self._opened, self._scheme.partial(secret, self._total))
        total = unpack(self._scheme.fuse(self._opened), self.session.length)
        return total, tuple(sorted(self._survivors))

    def _enter(self, stage: str, then: str | None) -> None:
        turn, self._next = self._next == stage, then
        if not turn:
            self._next = None
            raise Aborted(f"{stage} is not the receiver's next stage")

    def _gather(
        self, messages: Mapping[int, bytes], read: Callable[[int, bytes], _T]
    ) -> dict[int, _T]:
        """What can be read of those still there, who are the only ones left."""
        found = {}
        for node in sorted(messages.keys() & self._left):
            try:
                found[node] = read(node, messages[node])
            except Aborted:
                continue
        self._left = frozenset(found)
        self._require_enough()
        return found

    def _require_enough(self) -> None:
        if len(self._left) < self.session.fewest:
            self._next = None
            raise Aborted(f"{len(self._left)} nodes are left; it takes {self.session.fewest}")

    def _read(self, kind: Kind, node: int, message: bytes) -> Reader:
        return opened(self.session, kind, node, self._directory[node], message)

    def _advert(self, node: int, message: bytes) -> bytes:
        """The hash of its part of the key."""
        reader = self._read(Kind.ADVERT, node, message)
        key, public = bytes(reader.take(KEY)), bytes(reader.take(HASH))
        reader.end()
        try:
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError:
            raise Aborted(f"node {node}'s key is of low order") from None
        return public

    def _shares(self, node: int, message: bytes) -> tuple[bytes, bytes, dict[int, bytes]]:
        """Its part of the key, its sealed secret, and its shares of the seal."""
        reader = self._read(Kind.SHARES, node, message)
        public = bytes(reader.take(self._polynomial))
        sealed, shares = bytes(reader.take(self._polynomial + TAG)), reader.table(SEALED)
        reader.end()
        found = hashed(self.session, Kind.SHARES, node, public)
        fits = hmac.compare_digest(found, self._public_hashes[node])
        if not fits or self._scheme.read(public) is None:
            raise Aborted(f"node {node} is not committed to this key, or it is none")
        return public, sealed, shares

    def _commit(self, node: int, message: bytes) -> bytes:
        """The hash of its upload, and the signature."""
        reader = self._read(Kind.COMMIT, node, message)
        seen, committed = reader.take(HASH), reader.take(HASH)
        reader.end()
        if seen != self._view:
            raise Aborted(f"node {node} encrypted under another key")
        return bytes(committed) + message[-SIGNATURE:]

    def _ciphertexts(self, node: int, message: bytes) -> Residues:
        reader = Reader(self.session, Kind.UPLOAD, node, message)
        data = reader.take(self._total.nbytes)
        reader.end()
        found = hashed(self.session, Kind.UPLOAD, node, data)
        residues = self._scheme.read(data, self._blocks, 2)
        if not hmac.compare_digest(found, self._committed[node]) or residues is None:
            raise Aborted(f"node {node} is not committed to these ciphertexts, or they are none")
        return residues

    def _partial(self, node: int, message: bytes) -> None:
        reader = self._read(Kind.PARTIAL, node, message)
        same, data = reader.set() == self._survivors, reader.take(self._blocks * self._polynomial)
        reader.end()
        residues = self._scheme.read(data, self._blocks)
        if not same or residues is None:
            raise Aborted(f"node {node} decrypts another sum, or sends no residues")
        self._scheme.add(self._opened, residues)

    def _reveal(self, node: int, message: bytes) -> dict[int, int]:
        """By lost node, a share of its seal."""
        reader = self._read(Kind.REVEAL, node, message)
        shares = reader.table(SHARE)
        reader.end()
        return {peer: int.from_bytes(share, "little") for peer, share in shares.items()}

    def _rebuilt(self, node: int, shares: dict[int, int]) -> Residues:
        """A lost node's secret, of the first ``threshold`` shares of its seal."""
        threshold = self.session.threshold
        if len(shares) < threshold:
            raise Aborted(f"{len(shares)} shares of node {node}'s are left; it takes {threshold}")
        drawn = shamir.combine(dict(islice(shares.items(), threshold)))
        aead, bound = escrow(self.session, node, drawn)
        try:
            secret = self._scheme.read(aead.decrypt(bytes(12), self._sealed[node], bound))
        except InvalidTag:
            raise Aborted(f"a share of node {node}'s key is wrong") from None
        if secret is None:
            raise Aborted(f"node {node} sealed no key")
        return secret
