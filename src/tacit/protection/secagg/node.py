"""A node of a secure sum: Bonawitz et al. (CCS 2017), Figure 4 with the active-adversary additions.

Where this differs from the paper:

- On a sparse graph (Bell et al., CCS 2020) a node's shares lie with the neighbours that it drew.
- The share of a node's own seed travels with its masked vector, sealed for those share holders that
  it has masked with, rather than beforehand for all. So whoever helps to open the seed is a node
  whose mask is on the vector, although t of k shares may be as few as half of them: a receiver
  cannot let a node mask with one half of its neighbours and open its seed with the other.
- Everybody signs the set of survivors, and a node answers to a quorum of all nodes rather than of
  its neighbours. All that are not in the set count as lost, so that the two cannot overlap.

Masked vectors are not signed: a receiver can always spoil the sum.
"""

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.secagg import masks, neighbours, shamir
from tacit.protection.secagg.messages import (
    KEY,
    SEALED,
    SHARE,
    SIGNATURE,
    Kind,
    Reader,
    advert_size,
    header,
    read_advert,
    signed,
    write_set,
    write_table,
)
from tacit.protection.secagg.sealing import seal, unseal
from tacit.protection.secagg.session import Aborted, Session


class Signer(Protocol):
    """A long-term Ed25519 key, wherever it is kept."""

    def sign(self, data: bytes, /) -> bytes:
        """(64,) bytes."""
        ...


class Node:
    """One node through one session: each stage once, in order, and after an ``Aborted`` none.

    Every stage takes the receiver's bytes and returns what to send it. Secrets are overwritten
    after the last stage or an abort, except the copies that Python and OpenSSL made of them.

    Args:
        session: as this node computes it from what it was shown.
        me: its number.
        identity: its long-term signing key.
        directory: everybody's long-term keys, by number, from a source other than the receiver.

    Raises:
        Aborted: by every stage: called out of turn, a message that is not this session's, or too
            few nodes left. Nothing more is to be sent.
    """

    def __init__(
        self,
        session: Session,
        me: int,
        identity: Signer,
        directory: Mapping[int, Ed25519PublicKey],
    ) -> None:
        require(me in session.members, "me", me, "a node of the session")
        require(
            session.members <= directory.keys(), "directory", sorted(directory), "every node's key"
        )
        self.session, self.me = session, me
        self._identity, self._directory = identity, directory
        self._next: str | None = "advertise"
        self._mask_key = bytearray(KEY)
        self._channels: dict[int, bytearray] = {}
        self._pairwise: dict[int, bytearray] = {}
        self._key_shares: dict[int, bytearray] = {}

    def advertise(self) -> bytes:
        """Fresh public keys and the nodes that will hold my shares, signed."""
        with self._stage("advertise", then="share"):
            self._holders = neighbours.draw(self.session.nodes, self.me, self.session.degree)
            self._mask_key[:] = shamir.draw().to_bytes(KEY, "little")
            mask = X25519PrivateKey.from_private_bytes(self._mask_key)
            self._channel_key = X25519PrivateKey.generate()
            keys = (key.public_key().public_bytes_raw() for key in (self._channel_key, mask))
            return self._sign(Kind.ADVERT, b"".join(keys) + write_set(self.session, self._holders))

    def share(self, message: bytes) -> bytes:
        """Agree on keys with my neighbours and seal a share of my mask key for each holder.

        A neighbour without a valid signature, or with a key of low order, counts as lost.
        """
        with self._stage("share", then="mask"):
            reader = Reader(self.session, Kind.KEYS, self.me, message)
            adverts = reader.table(advert_size(self.session))
            reader.end()
            context = self.session.context
            mask_key = X25519PrivateKey.from_private_bytes(self._mask_key)
            for peer, signed_keys in adverts.items():
                try:
                    advert = read_advert(self.session, peer, self._directory[peer], signed_keys)
                    theirs = X25519PublicKey.from_public_bytes(advert.channel)
                    channel = self._channel_key.exchange(theirs)
                    pairwise = masks.pairwise(context, mask_key, advert.mask, self.me, peer)
                except (Aborted, ValueError):
                    continue
                if peer in self._holders or self.me in advert.holders:
                    self._channels[peer] = bytearray(channel)
                    self._pairwise[peer] = bytearray(pairwise)
            del self._channel_key
            self._require_holders(self._channels.keys())
            sealed = self._split(Kind.SHARES, int.from_bytes(self._mask_key, "little"))
            return header(self.session, Kind.SHARES, self.me) + write_table(sealed)

    def mask(self, message: bytes, vector: NDArray[Any]) -> bytes:
        """My vector (length,) behind my own mask and one with each neighbour that is still there.

        A share that does not open is lost, its sender is not: others have the rest.
        """
        with self._stage("mask", then="consent"):
            session = self.session
            if vector.shape != (session.length,) or vector.dtype != session.dtype:
                raise Aborted("my vector is not of the session's length and dtype")
            reader = Reader(self.session, Kind.DELIVERY, self.me, message)
            self._alive, sealed = reader.set(), reader.table(SEALED)
            reader.end()
            self._require_enough(self._alive)
            self._require_holders(self._alive)
            for peer, share in self._opened(Kind.SHARES, sealed, self._alive).items():
                self._key_shares[peer] = bytearray(share)
            secret = shamir.draw()
            own = bytearray(masks.key(secret.to_bytes(KEY, "little"), session.context, b"self"))
            masked = vector.astype(session.dtype.newbyteorder("<"))
            signs = [
                (key, 1 if self.me < peer else -1)
                for peer, key in self._pairwise.items()
                if peer != self.me and peer in self._alive
            ]
            masks.add(masked, [(own, 1), *signs])
            _wipe([own, *self._pairwise.values(), self._mask_key])
            boxes = write_table(self._split(Kind.MASKED, secret))
            return b"".join([header(session, Kind.MASKED, self.me), masked.data, boxes])

    def consent(self, message: bytes) -> bytes:
        """Sign the one survivor set that I will help to open."""
        with self._stage("consent", then="unmask"):
            reader = Reader(self.session, Kind.SURVIVORS, self.me, message)
            self._survivors = reader.set()
            reader.end()
            if not self._survivors <= self._alive:
                raise Aborted("a node survives that was lost before")
            self._require_enough(self._survivors)
            self._require_holders(self._survivors)
            return self._sign(Kind.CONSENT, write_set(self.session, self._survivors))

    def unmask(self, message: bytes) -> bytes:
        """My shares of the survivors' seeds and of the lost nodes' mask keys: one of each peer.

        Only for the set that I signed and that a quorum of its members signed.
        """
        with self._stage("unmask", then=None):
            reader = Reader(self.session, Kind.REQUEST, self.me, message)
            survivors, signatures = reader.set(), reader.table(SIGNATURE)
            sealed = reader.table(SEALED)
            reader.end()
            if survivors != self._survivors:
                raise Aborted("this is not the survivor set that I signed")
            self._require_quorum(signatures)
            seeds = self._opened(Kind.MASKED, sealed, survivors)
            keys = {peer: key for peer, key in self._key_shares.items() if peer not in survivors}
            shares = write_table(seeds) + write_table(keys)
            return header(self.session, Kind.REVEAL, self.me) + shares

    @contextmanager
    def _stage(self, stage: str, then: str | None) -> Iterator[None]:
        """One stage in its turn; what goes wrong in it ends the session."""
        turn, self._next = self._next == stage, None
        try:
            if not turn:
                raise Aborted(f"{stage} is not this node's next stage")
            yield
            self._next = then
        finally:
            if self._next is None:
                self._forget()

    def _require_enough(self, left: frozenset[int]) -> None:
        if self.me not in left or len(left) < self.session.fewest:
            raise Aborted(
                f"{len(left)} nodes are left, or this one is not among them;"
                f" it takes {self.session.fewest}"
            )

    def _require_holders(self, left: Set[int]) -> None:
        # In the complete graph whoever masks with me holds my shares: fewer than the sum is to have
        # are a part that a lying receiver splits off.
        complete = self.session.degree is None
        least = self.session.fewest if complete else self.session.threshold
        self._holders &= left
        if len(self._holders) < least:
            raise Aborted(
                f"{len(self._holders)} holders of this node's shares are left; it takes {least}"
            )

    def _require_quorum(self, signatures: Mapping[int, bytes]) -> None:
        agreed = write_set(self.session, self._survivors)
        valid = sum(
            signed(
                self._directory[peer], header(self.session, Kind.CONSENT, peer) + agreed, signature
            )
            for peer, signature in signatures.items()
            if peer in self._survivors
        )
        if valid < self.session.quorum:
            raise Aborted(f"{valid} survivors signed this set; it takes {self.session.quorum}")

    def _split(self, kind: Kind, secret: int) -> dict[int, bytes]:
        """A share of a secret for each holder, sealed."""
        point = {node: at for at, node in enumerate(self.session.nodes, 1) if node in self._holders}
        shares = shamir.split(secret, self.session.threshold, point.values())
        return {
            to: seal(self.session, self._channels[to], kind, self.me, to, share)
            for to, share in (
                (node, shares[at].to_bytes(SHARE, "little")) for node, at in point.items()
            )
        }

    def _opened(self, kind: Kind, sealed: Mapping[int, bytes], among: Set[int]) -> dict[int, bytes]:
        """By sender, the shares that these sealed for me."""
        senders = sealed.keys() & self._channels.keys() & among
        shares = {
            peer: unseal(self.session, self._channels[peer], kind, peer, self.me, sealed[peer])
            for peer in senders
        }
        return {peer: share for peer, share in shares.items() if share is not None}

    def _sign(self, kind: Kind, body: bytes) -> bytes:
        message = header(self.session, kind, self.me) + body
        return message + self._identity.sign(message)

    def _forget(self) -> None:
        groups = (self._channels, self._pairwise, self._key_shares)
        _wipe([self._mask_key, *(secret for group in groups for secret in group.values())])


def _wipe(secrets: list[bytearray]) -> None:
    for secret in secrets:
        secret[:] = bytes(len(secret))
