"""Large values, pulled in chunks by those to whom they were offered.

A holder announces ``Offer(digest, size)`` in a message; a taker asks for one chunk after the other,
a few at a time, and checks the digest at the end. A chunk is its own acknowledgement: each taker
has its own pace, and after a restart of either end only what is missing is sent again.

Digests are BLAKE3 (O'Connor et al., 2020): on a processor without SHA instructions SHA-256 takes
fifteen times as long, and more than encrypting and sending do.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedRandom
from pathlib import Path
from typing import Annotated

import msgspec
from blake3 import blake3

from tacit.errors import MessageError
from tacit.network.configuration import CHUNK
from tacit.network.decoding import from_msgpack
from tacit.network.transport import Endpoint, Unreachable

TOPIC = "blob"
WINDOW = 4  # chunks under way
PAUSE = 0.2  # seconds before a chunk that did not come is asked for again
PATIENCE = 3  # times as long a holder that is alive is waited for: its link may be slow
THREADS = 4
_audit = logging.getLogger("tacit.network.audit")
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a holder has; part of a message.

    Attributes:
        digest: BLAKE3 of the whole, 32 bytes.
        size: bytes.
    """

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, lt=2**48)]

    def require(self, whole: bytes, sender: str) -> None:
        """Refuse, in the name of their sender, other bytes than these.

        Raises:
            MessageError: they are something else than was offered.
        """
        if len(whole) != self.size or blake3(whole).digest() != self.digest:
            raise MessageError(f"{sender} sent something else than what it offered")

    @classmethod
    def of(cls, path: Path) -> "Offer":
        """Of a file as it is, which is read in pieces."""
        digest, size, piece = blake3(), 0, memoryview(bytearray(CHUNK))
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(piece):
                digest.update(piece[:got])
                size += got
        return cls(digest.digest(), size)


class _Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    digest: Digest
    chunk: Annotated[int, msgspec.Meta(ge=0, lt=2**30)]


class Blobs:
    """What a member offers to others, and pulls from them.

    Attributes:
        sent, received: bytes of chunks, and of what messages carried, so far.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._held: dict[bytes, tuple[Path | bytes, frozenset[str] | None]] = {}
        self.sent = self.received = 0
        self._sending: Counter[tuple[str, bytes]] = Counter()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        # A pool of its own: those who answer messages may be waiting for chunks themselves.
        self._pool = ThreadPoolExecutor(THREADS, "tacit-chunk")
        endpoint.serve_bytes(TOPIC, self._chunk, self._pool)

    def close(self) -> None:
        """Sends no more, and gives pulls up once they get no more."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def offer(self, source: Path | bytes, to: Collection[str] | None = None) -> Offer:
        """Lets members pull bytes, or a file, which must stay as it is until it is withdrawn.

        Args:
            to: who may; all members where it is None.
        """
        allowed = None if to is None else frozenset(to)
        if isinstance(source, bytes):
            offer = Offer(blake3(source).digest(), len(source))
        else:
            offer = Offer.of(source)
        self._held[offer.digest] = source, allowed
        return offer

    def went(self, member: str, offer: Offer) -> None:
        """A message has carried all of an offer to a member."""
        self._tell(member, offer, offer.size)

    def came(self, size: int) -> None:
        """A message has brought so many bytes of what was offered."""
        with self._lock:
            self.received += size

    def withdraw(self, offer: Offer) -> None:
        """Ends an offer; who has not pulled all of it gets no more."""
        self._held.pop(offer.digest, None)
        with self._lock:
            for pair in [pair for pair in self._sending if pair[1] == offer.digest]:
                del self._sending[pair]

    def pull(
        self,
        member: str,
        offer: Offer,
        into: Path,
        *,
        most: int,
        stall: float = 10.0,
        progress: Callable[[int], None] = lambda received: None,
    ) -> Path:
        """What a member offers, as a file; goes on where an earlier, interrupted pull stopped.

        Args:
            most: bytes that are expected at most; more are refused before anything is received.
            stall: seconds without a new chunk after which the holder is given up; ``PATIENCE``
                times as many while it is alive and does not refuse.
            progress: is told how many bytes are there, after each chunk.

        Raises:
            Unreachable: no new chunk for so long; what has come is kept for the next attempt.
            MessageError: too large, or not what was offered; nothing is kept.
            OSError: the file cannot be written.
        """
        if offer.size > most:
            raise MessageError(f"{member!r} offers {offer.size} bytes; at most {most} are expected")
        partial = into.with_name(f".{into.name}.{offer.digest.hex()[:16]}")
        try:
            with partial.open("a+b") as file:
                self._fill(file, member, offer, stall, progress)
        except MessageError:
            partial.unlink()
            raise
        return partial.replace(into)

    def _fill(
        self,
        file: BufferedRandom,
        member: str,
        offer: Offer,
        stall: float,
        progress: Callable[[int], None],
    ) -> None:
        """Appends what is missing of the offer to a partial file."""
        done = min(os.fstat(file.fileno()).st_size, offer.size) // CHUNK
        file.truncate(done * CHUNK)
        file.seek(0)
        digest = blake3()
        for _ in range(done):
            digest.update(file.read(CHUNK))
        chunks = -(-offer.size // CHUNK)
        asked, last = done, time.monotonic()
        again = stall / PATIENCE  # seconds until a chunk is taken for lost
        window: deque[Future[bytes]] = deque()

        def ask(chunk: int) -> Future[bytes]:
            request = msgspec.msgpack.encode(_Request(offer.digest, chunk))
            return self._endpoint.request(member, TOPIC, request, timeout=WINDOW * stall)

        while done < chunks:
            while len(window) < WINDOW and asked < chunks:
                window.append(ask(asked))
                asked += 1
            bound = stall * (PATIENCE if member in self._endpoint.alive() else 1)
            try:
                left = last + bound - time.monotonic()
                chunk = window[0].result(timeout=min(again, max(left, 0)))
            except (Unreachable, TimeoutError) as error:
                if self._closed.is_set():
                    raise Unreachable(f"the pull from {member!r} is given up") from error
                waited, silent = time.monotonic() - last, isinstance(error, TimeoutError)
                if waited > (bound if silent else stall) - PAUSE:
                    raise Unreachable(f"{member!r} sent no chunk for {waited:.0f} s") from error
                if silent:  # lost with a link that broke; or it is slow, and still comes
                    window[0] = _either(window[0], ask(done))
                    again *= 2
                else:
                    self._closed.wait(PAUSE)
                    window.clear()
                    asked = done
                continue
            if len(chunk) != min(CHUNK, offer.size - done * CHUNK):
                raise MessageError(f"{member!r} sent a chunk of {len(chunk)} bytes")
            file.write(chunk)
            digest.update(chunk)
            with self._lock:
                self.received += len(chunk)
            window.popleft()
            done, before, last = done + 1, last, time.monotonic()
            again = max(stall / PATIENCE, 2 * (last - before))
            progress(min(done * CHUNK, offer.size))
        if digest.digest() != offer.digest:
            raise MessageError(f"{member!r} sent something else than what it offered")

    def _chunk(self, sender: str, payload: bytes) -> bytes:
        """A chunk of what was offered to the sender; there is no reply to any other request."""
        request = from_msgpack(payload, _Request)
        source, allowed = self._held.get(request.digest, (None, None))
        if source is None or (allowed is not None and sender not in allowed):
            raise MessageError("a blob was asked for that is not offered to it")
        at = request.chunk * CHUNK
        if isinstance(source, bytes):
            size, chunk = len(source), source[at : at + CHUNK]
        else:
            with source.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(at)
                chunk = file.read(CHUNK)
        if chunk:  # beyond the end there is nothing, which fills no log
            self._tell(sender, Offer(request.digest, size), len(chunk))
        return chunk

    def _tell(self, member: str, offer: Offer, count: int) -> None:
        """Log that a member begins to pull, and when as many bytes as there are were sent."""
        with self._lock:
            self.sent += count
            before = self._sending[member, offer.digest]
            now = self._sending[member, offer.digest] = before + count
            if now >= offer.size:
                del self._sending[member, offer.digest]
        if before == 0 or now >= offer.size:
            blob = offer.digest.hex()
            _audit.info(
                "%s was sent %d of %d bytes of %s", member, now, offer.size, blob,
                extra={"site": member, "digest": blob, "bytes": now, "of": offer.size},
            )  # fmt: skip


def _either(first: Future[bytes], second: Future[bytes]) -> Future[bytes]:
    """What comes of two; the first's error, should it fail."""
    either: Future[bytes] = Future()
    lock = threading.Lock()

    def done(one: Future[bytes]) -> None:
        with lock:
            if either.done():
                return
            if (error := one.exception()) is None:
                either.set_result(one.result())
            elif one is first:
                either.set_exception(error)

    for one in (first, second):
        one.add_done_callback(done)
    return either
