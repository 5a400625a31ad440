"""CKKS with one key, by TenSEAL: nodes encrypt, a server adds up, the one holder of the key opens.

Cheon, Kim, Kim, Song, "Homomorphic encryption for arithmetic of approximate numbers", ASIACRYPT
2017. Only where one key holder decrypts and keeps what it decrypts among those who hold the key:

- The holder can open every single update that it is given: server and holder must not collude. If
  all nodes hold the key, no node may collude with the server.
- A decrypted sum, handed to others, leaks the key (Li and Micciancio, EUROCRYPT 2021).
- Its error, some 2^-43 of the largest sum and 2e-11 at least, hides nothing: it is not the noise of
  differential privacy.

A server that adds up wrongly is not caught.
"""

import math
import struct
from collections.abc import Mapping, Set
from types import ModuleType
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from tacit.errors import InputError, MessageError, require
from tacit.protection.codec import SumError
from tacit.protection.encryption.messages import Kind, opened
from tacit.protection.secagg.messages import SIGNATURE, header
from tacit.protection.secagg.session import Aborted, Session

DEGREE = 4096
SLOTS = DEGREE // 2
# 109 bits at this degree are 128-bit security (homomorphicencryption.org, 2018, table 1): one prime
# for ciphertexts, and one that SEAL wants besides.
_PRIMES = (60, 49)
# A ciphertext is two polynomials of 8 bytes a coefficient, and what is around them.
_MOST = 2 * 8 * DEGREE + 1024


def library() -> ModuleType:
    """TenSEAL.

    Raises:
        InputError: it is not installed.
    """
    try:
        import tenseal
    except ImportError:
        raise InputError(
            "protection: homomorphic encryption needs tenseal: pip install 'tacit[ckks]'"
        ) from None
    return tenseal


def ciphertext_bytes(length: int) -> int:
    """Of the residues that a vector of this length is encrypted to."""
    return -(-length // SLOTS) * 2 * 8 * DEGREE


def _ciphertexts(session: Session) -> int:
    return -(-session.length // SLOTS)


class Holder:
    """The holder of the key, for one sum of so many vectors.

    Args:
        session: what is agreed on; its dtype does not matter.
        limit: largest |number| of a vector.

    Raises:
        InputError: TenSEAL is not installed, or sums are too large to be exact to 2^-20.
    """

    def __init__(self, session: Session, limit: float) -> None:
        tenseal = library()
        self._session, self._bound = session, len(session.nodes) * limit
        # The largest sum stays a quarter of the prime, and encodings within float64.
        bits = min(50, _PRIMES[0] - 2 - math.ceil(math.log2(self._bound)))
        require(bits >= 36, "limit", limit, f"at most {2.0**22 / len(session.nodes):g}")
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=DEGREE, coeff_mod_bit_sizes=list(_PRIMES)
        )
        self._context.global_scale = 2.0**bits
        self._opened = False

    def public(self) -> bytes:
        """What nodes and the server need: parameters and the public key."""
        public: bytes = self._context.serialize(
            save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        return public

    def open(self, message: bytes) -> NDArray[np.float64]:
        """(length,) the decrypted sum, once: more than one sum a round would tell them apart.

        Raises:
            MessageError: no sum of this session, or a second one.
            SumError: beyond what honest nodes can send.
        """
        if self._opened:
            raise MessageError("one sum a session is opened")
        self._opened = True
        start = header(self._session, Kind.DELIVERY, 0)
        if not message.startswith(start):
            raise MessageError("this is no sum of this session")
        rows = _read(self._session, self._context, memoryview(message)[len(start) :])
        total = np.concatenate([row.decrypt() for row in rows])[: self._session.length]
        if not (np.abs(total) <= self._bound * (1 + 2.0**-20)).all():
            raise SumError("the decrypted sum passes its bound: a node sent more than it may")
        return total


class Node:
    """One node in one sum.

    Args:
        session, me, identity: as in ``encryption.node``.
        public: from the holder, by an authentic way.
    """

    def __init__(
        self, session: Session, me: int, identity: Ed25519PrivateKey, public: bytes
    ) -> None:
        self._session, self._me, self._identity = session, me, identity
        self._context = library().context_from(public)

    def encrypt(self, vector: NDArray[Any]) -> bytes:
        """My (length,) numbers, signed.

        Raises:
            InputError: a wrong shape, NaN or infinity.
        """
        good = vector.shape == (self._session.length,) and np.isfinite(vector).all()
        require(bool(good), "vector", vector.shape, f"({self._session.length},) finite numbers")
        ckks_vector = library().ckks_vector
        rows = [
            ckks_vector(self._context, vector[at : at + SLOTS].tolist())
            for at in range(0, len(vector), SLOTS)
        ]
        message = header(self._session, Kind.UPLOAD, self._me) + _write(rows)
        return message + self._identity.sign(message)


class Receiver:
    """The server: ``add`` for each node's message, then ``sum``.

    Args:
        session, directory: as in ``encryption.receiver``.
        public: from the holder.
    """

    def __init__(
        self, session: Session, directory: Mapping[int, Ed25519PublicKey], public: bytes
    ) -> None:
        self._session, self._directory = session, directory
        self._context = library().context_from(public)
        self._rows: list[Any] = []
        self._survivors: set[int] = set()

    def add(self, node: int, message: bytes) -> None:
        """Take one node's message; what is not signed by it, malformed or second is discarded."""
        most = _ciphertexts(self._session) * (4 + _MOST) + SIGNATURE + 64
        if node in self._survivors or len(message) > most:
            return
        try:
            reader = opened(self._session, Kind.UPLOAD, node, self._directory[node], message)
            rows = _read(self._session, self._context, reader.view[reader.at :])
        except (Aborted, MessageError):
            return
        self._survivors.add(node)
        if not self._rows:
            self._rows = rows
        else:
            for total, row in zip(self._rows, rows, strict=True):
                total.add_(row)

    def sum(self) -> tuple[bytes, tuple[int, ...]]:
        """For the holder, and whose vectors are in it.

        Raises:
            Aborted: fewer than the session asks for.
        """
        if len(self._survivors) < self._session.fewest:
            raise Aborted(f"{len(self._survivors)} nodes are left; it takes {self._session.fewest}")
        start = header(self._session, Kind.DELIVERY, 0)
        return start + _write(self._rows), tuple(sorted(self._survivors))


def _write(rows: list[Any]) -> bytes:
    blobs = [row.serialize() for row in rows]
    return b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs)


def _read(session: Session, context: Any, data: memoryview) -> list[Any]:
    """As many ciphertexts as the session's vectors take, each of bounded size."""
    rows, at = [], 0
    for index in range(_ciphertexts(session)):
        (size,) = struct.unpack_from("<I", data, at) if at + 4 <= len(data) else (_MOST + 1,)
        blob, at = bytes(data[at + 4 : at + 4 + size]), at + 4 + size
        if size > _MOST or at > len(data):
            raise MessageError("this is no vector of this session")
        try:
            row = library().ckks_vector_from(context, blob)
            found = [(cipher.size(), cipher.scale) for cipher in row.ciphertext()]
        except (RuntimeError, ValueError, IndexError):
            raise MessageError("a ciphertext is malformed") from None
        alike = found == [(2, context.global_scale)]
        if not alike or row.size() != min(SLOTS, session.length - index * SLOTS):
            raise MessageError("a ciphertext is of another size or scale")
        rows.append(row)
    if at != len(data):
        raise MessageError("this is no vector of this session")
    return rows


def simulate(
    session: Session,
    identities: Mapping[int, Ed25519PrivateKey],
    vectors: Mapping[int, NDArray[Any]],
    dropped: Set[int] = frozenset(),
    *,
    limit: float,
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """One sum from key to opening.

    Args:
        session: what is agreed on; the fewest that it asks for are summed.
        identities: long-term signing keys, by node.
        vectors: (length,) real numbers each, at most ``limit`` in size, by node.
        dropped: nodes that send nothing.
        limit: above 0.

    Returns:
        (length,) the survivors' sum, off by some 2^-43 nodes x limit or 2e-11, and the survivors.

    Raises:
        Aborted: too few were left.
        InputError: TenSEAL is not installed, or a vector that is no such.
        SumError: a node sent more than it may.
    """
    directory = {node: identities[node].public_key() for node in session.nodes}
    holder = Holder(session, limit)
    public = holder.public()
    receiver = Receiver(session, directory, public)
    for me in session.members - dropped:
        receiver.add(me, Node(session, me, identities[me], public).encrypt(vectors[me]))
    message, survivors = receiver.sum()
    return holder.open(message), survivors
