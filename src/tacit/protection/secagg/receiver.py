"""The receiver of a secure sum: a server, a round's leader, or a neighbour in gossip.

That the sum is right depends on it, that inputs stay hidden does not: that is the nodes' business.
A node that lies about its vector, or about its share of a survivor's seed, spoils the sum unseen:
what is decoded has to be checked against its range.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.secagg import masks, shamir
from tacit.protection.secagg.messages import (
    KEY,
    SEALED,
    SHARE,
    SIGNATURE,
    Advert,
    Kind,
    Reader,
    header,
    read_advert,
    signed,
    write_set,
    write_table,
)
from tacit.protection.secagg.session import Aborted, Session

_T = TypeVar("_T")
_THREADS = 2


class Receiver:
    """One secure sum: ``keys``, ``deliver``, ``add`` for each masked vector, ``survivors``,
    ``request``, ``sum``.

    A stage takes what arrived, by the sender that the transport vouches for, and returns what to
    send to whom. A node that sends nothing, or what does not parse or verify, has dropped out.
    Memory is that of one vector and of the shares.

    Args:
        session: as for the nodes.
        directory: everybody's long-term keys, by number.

    Attributes:
        recovered: after ``sum``, the masks that were taken out of it.

    Raises:
        Aborted: by every stage but ``add``: called out of turn, or too few nodes left.
    """

    def __init__(self, session: Session, directory: Mapping[int, Ed25519PublicKey]) -> None:
        require(
            session.members <= directory.keys(), "directory", sorted(directory), "every node's key"
        )
        self.session, self._directory = session, directory
        self._next: str | None = "keys"
        self._left = session.members
        self._probe = X25519PrivateKey.generate()
        self._total = np.zeros(session.length, session.dtype)
        self._seeds: dict[int, dict[int, bytes]] = {}
        self.recovered: tuple[masks.Mask, ...] = ()

    def keys(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """From ``Node.advertise`` to ``Node.share``: to each node its neighbours' adverts."""
        self._enter("keys", then="deliver")
        self._adverts = self._gather(messages, self._advert)
        self._neighbours: dict[int, set[int]] = defaultdict(set)
        for node, advert in self._adverts.items():
            for holder in advert.holders & self._left:
                self._neighbours[node].add(holder)
                self._neighbours[holder].add(node)
        return {
            node: header(self.session, Kind.KEYS, node)
            + write_table({peer: messages[peer] for peer in self._neighbours[node]})
            for node in self._left
        }

    def deliver(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """From ``Node.share`` to ``Node.mask``: who is still there, shares of their mask keys."""
        self._enter("deliver", then="add")
        boxes = _by_addressee(self._gather(messages, self._shares))
        self._shared = self._left
        alive = write_set(self.session, self._shared)
        return {
            node: header(self.session, Kind.DELIVERY, node) + alive + write_table(boxes[node])
            for node in self._shared
        }

    def add(self, node: int, message: bytes) -> None:
        """Add one masked vector, from ``Node.mask``; a second one or a late one is discarded."""
        if self._next != "add" or node not in self._shared or node in self._seeds:
            return
        try:
            reader = Reader(self.session, Kind.MASKED, node, message)
            vector = reader.take(self._total.nbytes)
            sealed = reader.table(SEALED)
            reader.end()
        except Aborted:
            return
        self._total += np.frombuffer(vector, self.session.dtype.newbyteorder("<"))
        self._seeds[node] = sealed

    def survivors(self) -> dict[int, bytes]:
        """From ``Node.mask`` to ``Node.consent``: whose vectors arrived; this is now fixed."""
        self._enter("add", then="request")
        self._left = self._shared & self._seeds.keys()
        self._require_enough()
        self._survivors = self._left
        self._agreed = write_set(self.session, self._survivors)
        return {
            node: header(self.session, Kind.SURVIVORS, node) + self._agreed
            for node in self._survivors
        }

    def request(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """From ``Node.consent`` to ``Node.unmask``: who signed, and shares of survivors' seeds."""
        self._enter("request", then="sum")
        signatures = self._gather(messages, self._consent)
        quorum = dict(islice(signatures.items(), self.session.quorum))
        boxes = _by_addressee(self._seeds)
        agreed = self._agreed + write_table(quorum)
        return {
            node: header(self.session, Kind.REQUEST, node) + agreed + write_table(boxes[node])
            for node in self._left
        }

    def sum(self, messages: Mapping[int, bytes]) -> tuple[NDArray[Any], tuple[int, ...]]:
        """From ``Node.unmask``: (length,) the survivors' sum modulo 2^b, and who they are."""
        self._enter("sum", then=None)
        seeds: dict[int, dict[int, int]] = defaultdict(dict)
        keys: dict[int, dict[int, int]] = defaultdict(dict)
        point = {node: at for at, node in enumerate(self.session.nodes, 1)}
        for node, revealed in sorted(self._gather(messages, self._reveal).items()):
            for shares, rows in zip((seeds, keys), revealed, strict=True):
                for peer, share in rows.items():
                    if node in self._adverts[peer].holders:
                        shares[peer][point[node]] = share
        context, found = self.session.context, list[masks.Mask]()
        for node in self._survivors:
            seed = masks.key(self._open(node, seeds[node]), context, b"self")
            found.append(masks.Mask(node, None, seed, -1))
        for lost in self._shared - self._survivors:
            own = X25519PrivateKey.from_private_bytes(self._open(lost, keys[lost]))
            if own.public_key().public_bytes_raw() != self._adverts[lost].mask:
                raise Aborted(f"a share of node {lost}'s mask key is wrong")
            for peer in self._neighbours[lost] & self._survivors:
                seed = masks.pairwise(context, own, self._adverts[peer].mask, lost, peer)
                found.append(masks.Mask(lost, peer, seed, 1 if lost < peer else -1))
        masks.add(self._total, [(mask.key, mask.sign) for mask in found], _THREADS)
        self.recovered = tuple(found)
        return self._total, tuple(sorted(self._survivors))

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
        for node in messages.keys() & self._left:
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

    def _advert(self, node: int, message: bytes) -> Advert:
        advert = read_advert(self.session, node, self._directory[node], message)
        for key in (advert.channel, advert.mask):
            try:
                self._probe.exchange(X25519PublicKey.from_public_bytes(key))
            except ValueError:
                raise Aborted(f"node {node}'s key is of low order") from None
        return advert

    def _shares(self, node: int, message: bytes) -> dict[int, bytes]:
        reader = Reader(self.session, Kind.SHARES, node, message)
        sealed = reader.table(SEALED)
        reader.end()
        return sealed

    def _consent(self, node: int, message: bytes) -> bytes:
        named = header(self.session, Kind.CONSENT, node) + self._agreed
        reader = Reader(self.session, Kind.CONSENT, node, message)
        agreed = reader.take(len(self._agreed)) == self._agreed
        signature = bytes(reader.take(SIGNATURE))
        reader.end()
        if not (agreed and signed(self._directory[node], named, signature)):
            raise Aborted(f"node {node} did not sign the survivor set")
        return signature

    def _reveal(self, node: int, message: bytes) -> tuple[dict[int, int], dict[int, int]]:
        """Shares of survivors' seeds, and of lost nodes' mask keys."""
        reader = Reader(self.session, Kind.REVEAL, node, message)
        seeds, keys = reader.table(SHARE), reader.table(SHARE)
        reader.end()
        if not (seeds.keys() <= self._survivors and keys.keys() <= self._shared - self._survivors):
            raise Aborted(f"node {node} reveals the wrong shares")
        return _numbers(seeds), _numbers(keys)

    def _open(self, node: int, shares: dict[int, int]) -> bytes:
        """A secret of a node, from the first ``threshold`` shares that its holders revealed."""
        threshold = self.session.threshold
        if len(shares) < threshold:
            raise Aborted(f"{len(shares)} shares of node {node}'s are left; it takes {threshold}")
        return shamir.combine(dict(islice(shares.items(), threshold))).to_bytes(KEY, "little")


def _numbers(rows: Mapping[int, bytes]) -> dict[int, int]:
    return {peer: int.from_bytes(share, "little") for peer, share in rows.items()}


def _by_addressee(sent: Mapping[int, Mapping[int, bytes]]) -> dict[int, dict[int, bytes]]:
    """Sender to addressee to box, turned round."""
    boxes: dict[int, dict[int, bytes]] = defaultdict(dict)
    for sender, rows in sent.items():
        for addressee, box in rows.items():
            boxes[addressee][sender] = box
    return boxes
