"""A node of a sum under threshold encryption.

The joint key is the sum of the nodes' keys (Asharov et al., EUROCRYPT 2012, section 5), in one
round on a common polynomial that comes from a hash. Nobody ever holds the joint secret. Each node
also seals its own secret under a key that it shares out (Shamir): what a lost node still owes to
the decryption is then done by the receiver, with the lost node's secret, which ``threshold`` others
unseal together. Keys are of one session and so are worth nothing afterwards.

The ways of a lying receiver, alone or with nodes of its own, and what stops them:

- to open one update, or a sum of few: a node decrypts nothing but a sum of ciphertexts that it adds
  up itself, each as its sender committed to it, of the fewest nodes that it agreed to at least;
- to open two sums, from two groups: a node decrypts once, and helps to rebuild a lost node's key
  once; each sum needs the key of every node, so that it takes 2 threshold - n lying nodes;
- a key that cancels the others', or a ciphertext that does (both just add up): all commit to theirs
  before any is shown;
- an old ciphertext, scaled up and slipped in by a lying node: old keys are gone.

A node that lies about its vector, its partial decryption or its share spoils the sum unseen.
"""

import hmac
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from tacit.errors import require
from tacit.protection.encryption.bfv import Residues
from tacit.protection.encryption.messages import (
    ADVERT_BODY,
    HASH,
    Kind,
    escrow,
    hashed,
    opened,
    scheme,
    view,
)
from tacit.protection.encryption.packing import pack
from tacit.protection.secagg import shamir
from tacit.protection.secagg.messages import (
    KEY,
    SEALED,
    SHARE,
    SIGNATURE,
    Reader,
    header,
    signed,
    write_set,
    write_table,
)
from tacit.protection.secagg.node import Signer
from tacit.protection.secagg.sealing import seal, unseal
from tacit.protection.secagg.session import Aborted, Session


class Node:
    """One node through one session: each stage once, in order, and after an ``Aborted`` none.

    Every stage takes the receiver's bytes and returns what to send it.

    Args:
        session: as this node computes it from what it was shown; of uint32, the complete graph.
        me: its number.
        identity: its long-term signing key.
        directory: everybody's long-term keys, by number, from a source other than the receiver.

    Raises:
        Aborted: by every stage: called out of turn, a message that is not this session's, or too
            few nodes left. Nothing more is to be sent.
        InputError: OpenFHE cannot be loaded.
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
        self._scheme = scheme(session)
        self._common = self._scheme.common(session.context)
        self._next: str | None = "advertise"
        self._secret = np.zeros(self._scheme.shape, np.uint64)
        self._channels: dict[int, bytearray] = {}
        self._shares: dict[int, bytes] = {}

    def advertise(self) -> bytes:
        """Fresh keys: the sealing key, and a hash of my part of the joint key."""
        with self._stage("advertise", then="share"):
            self._secret[:], public = self._scheme.generate(self._common)
            self._public = public.astype("<u8").tobytes()
            self._channel_key = X25519PrivateKey.generate()
            own = self._channel_key.public_key().public_bytes_raw()
            return self._sign(
                Kind.ADVERT, own + hashed(self.session, Kind.SHARES, self.me, self._public)
            )

    def share(self, message: bytes) -> bytes:
        """My part of the joint key, now that all are committed to theirs; my secret, sealed."""
        with self._stage("share", then="commit"):
            session = self.session
            reader = Reader(session, Kind.KEYS, self.me, message)
            adverts = reader.table(len(header(session, Kind.ADVERT, 0)) + ADVERT_BODY + SIGNATURE)
            reader.end()
            self._adverts, self._hashes = adverts, {}
            for peer, advert in adverts.items():
                inside = opened(session, Kind.ADVERT, peer, self._directory[peer], advert)
                theirs = X25519PublicKey.from_public_bytes(bytes(inside.take(KEY)))
                self._hashes[peer] = bytes(inside.take(HASH))
                try:
                    self._channels[peer] = bytearray(self._channel_key.exchange(theirs))
                except ValueError:
                    raise Aborted(f"node {peer}'s key is of low order") from None
            del self._channel_key
            self._require_enough(adverts.keys())
            drawn = shamir.draw()
            aead, bound = escrow(session, self.me, drawn)
            sealed = aead.encrypt(bytes(12), self._secret.astype("<u8").tobytes(), bound)
            points = {at: node for at, node in enumerate(session.nodes, 1) if node in adverts}
            shares = {
                points[at]: seal(
                    session, self._channels[points[at]], Kind.SHARES, self.me, points[at],
                    share.to_bytes(SHARE, "little"),
                )
                for at, share in shamir.split(drawn, session.threshold, points).items()
            }  # fmt: skip
            return self._sign(Kind.SHARES, self._public + sealed + write_table(shares))

    def commit(self, message: bytes, vector: NDArray[Any]) -> bytes:
        """Encrypt my (length,) vector under the joint key and commit to the ciphertext.

        A share that does not open is lost, its sender is not: others have the rest.
        """
        with self._stage("commit", then="upload"):
            session = self.session
            if vector.shape != (session.length,) or vector.dtype != session.dtype:
                raise Aborted("my vector is not of the session's length and dtype")
            reader = Reader(session, Kind.DELIVERY, self.me, message)
            publics, sealed = reader.table(self._secret.nbytes), reader.table(SEALED)
            reader.end()
            self._require_enough(publics.keys())
            joint = np.zeros_like(self._secret)
            for peer, public in publics.items():
                self._require_hash(peer, hashed(session, Kind.SHARES, peer, public), self._hashes)
                self._scheme.add(joint, self._residues(peer, public))
            self._joined = frozenset(publics)
            for peer in sealed.keys() & self._joined:
                share = unseal(
                    session, self._channels[peer], Kind.SHARES, peer, self.me, sealed[peer]
                )
                if share is not None:
                    self._shares[peer] = share
            self._view = view(session, self._scheme, {p: self._adverts[p] for p in publics})
            slots = pack(vector, self._scheme.shape[1])
            ciphertexts = self._scheme.encrypt(joint, self._common, slots).astype("<u8").tobytes()
            self._upload = header(session, Kind.UPLOAD, self.me) + ciphertexts
            committed = hashed(session, Kind.UPLOAD, self.me, ciphertexts)
            return self._sign(Kind.COMMIT, self._view + committed)

    def upload(self, message: bytes) -> bytes:
        """My ciphertexts, now that all are committed to theirs."""
        with self._stage("upload", then="decrypt"):
            reader = Reader(self.session, Kind.COMMITS, self.me, message)
            rows = reader.table(HASH + SIGNATURE)
            reader.end()
            self._hashes = {}
            for peer in rows.keys() & self._joined:
                committed, signature = rows[peer][:HASH], rows[peer][HASH:]
                said = header(self.session, Kind.COMMIT, peer) + self._view + committed
                if signed(self._directory[peer], said, signature):
                    self._hashes[peer] = committed
            self._require_enough(self._hashes.keys())
            return self._upload

    def decrypt(self, uploads: Iterable[tuple[int, bytes]]) -> bytes:
        """My part of the decryption of the sum of these, by sender; each is looked at once."""
        with self._stage("decrypt", then="rebuild"):
            blocks = self._scheme.blocks(self.session.length)
            total = np.zeros((blocks, 2, *self._scheme.shape), np.uint64)
            summed: set[int] = set()
            for peer, message in uploads:
                reader = Reader(self.session, Kind.UPLOAD, peer, message)
                data = reader.take(total.nbytes)
                reader.end()
                found = hashed(self.session, Kind.UPLOAD, peer, data)
                self._require_hash(peer, found, self._hashes)
                self._scheme.add(total, self._residues(peer, data, blocks, 2))
                del self._hashes[peer]
                summed.add(peer)
            self._require_enough(summed)
            part = self._scheme.partial(self._secret, total).astype("<u8")
            return self._sign(Kind.PARTIAL, write_set(self.session, summed) + part.tobytes())

    def rebuild(self, message: bytes) -> bytes:
        """My shares of the seals of those that joined the key and did not decrypt."""
        with self._stage("rebuild", then=None):
            reader = Reader(self.session, Kind.REQUEST, self.me, message)
            answered = reader.set()
            reader.end()
            self._require_enough(answered)
            if not answered <= self._joined:
                raise Aborted("a node answered that has no part of the key")
            lost = (self._joined - answered) & self._shares.keys()
            return self._sign(Kind.REVEAL, write_table({p: self._shares[p] for p in lost}))

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

    def _require_enough(self, left: Set[int]) -> None:
        if self.me not in left or len(left) < self.session.fewest:
            raise Aborted(
                f"{len(left)} nodes are left, or this one is not among them;"
                f" it takes {self.session.fewest}"
            )

    def _require_hash(self, peer: int, found: bytes, committed: Mapping[int, bytes]) -> None:
        if peer not in committed or not hmac.compare_digest(found, committed[peer]):
            raise Aborted(f"this is not what node {peer} committed to, or it was summed before")

    def _residues(self, peer: int, data: bytes | memoryview, *shape: int) -> Residues:
        residues = self._scheme.read(data, *shape)
        if residues is None:
            raise Aborted(f"what node {peer} sent are no residues")
        return residues

    def _sign(self, kind: Kind, body: bytes) -> bytes:
        message = header(self.session, kind, self.me) + body
        return message + self._identity.sign(message)

    def _forget(self) -> None:
        self._secret[:] = 0
        for channel in self._channels.values():
            channel[:] = bytes(len(channel))
        self._shares.clear()
