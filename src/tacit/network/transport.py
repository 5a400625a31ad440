"""A member's connection to the others: it asks them, answers them, and sees who is alive.

The only file that knows zenoh (https://zenoh.io).
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar, cast

import zenoh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.errors import MessageError, TacitError
from tacit.network.configuration import configuration, key
from tacit.network.disclosure import Disclosure, disclosed
from tacit.network.identity import MEMBERS, Identity
from tacit.network.messages import Message, Refusal, Refused, kind, seal, unseal

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

Answer = Callable[[str, bytes], bytes]

THREADS = 16
WAITING = 32  # requests of one member that may wait here; more are dropped
FETCHING = 5.0  # seconds for the list of members
CLOSING = 3.0  # seconds; zenoh may hang in closing a session whose link is bad
QUIET = 10.0  # seconds in which the log complains of a member at most once
_log = logging.getLogger("tacit.network")


class Unreachable(TacitError):
    """No answer: nobody is there, it hangs, or it may not be asked."""

    code = "TACIT-110"


class Endpoint:
    """One member's session; safe to use from many threads.

    With addresses to listen on, a coordinator or relay is a router and a site is a peer; without,
    all are clients, which need outgoing connections only. Those reconnect by themselves.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        listen: Sequence[str] = (),
        connect: Sequence[str] = (),
        wait: float = 10.0,
        insecure: bool = False,
        disclosure: Disclosure = "full",
    ) -> None:
        """Connects.

        Args:
            listen, connect: addresses, ``host:port``.
            wait: seconds to reach one of the addresses in, if there is nothing to listen on.
            insecure: plain TCP, for loopback addresses.
            disclosure: how much others learn of why they are refused.

        Raises:
            Unreachable: none of the addresses answered, or an address to listen on is taken.
            InputError: insecure, and an address is not loopback.
        """
        self.identity = identity
        self._listen, self._connect = listen, connect
        self._wait, self._insecure, self._disclosure = wait, insecure, disclosure
        self._answers: dict[str, tuple[Answer, ThreadPoolExecutor]] = {}
        self._waiting: Counter[str] = Counter()
        self._complaints: dict[str, tuple[float, int]] = {}
        self._alive: set[str] = set()
        self._watchers: list[Callable[[str, bool], None]] = []
        self._lock = threading.RLock()  # a watcher may ask who is alive
        self._pool = ThreadPoolExecutor(THREADS, "tacit-answer")
        self.serve_bytes(MEMBERS, lambda _, __: (self.identity.folder / MEMBERS).read_bytes())
        self._session = self._open()

    def serve(self, request: type[Q], answer: Callable[[str, Q], Message]) -> None:
        """Answers every request of this type: ``answer(sender, request) -> reply``, in a thread.

        Raising ``Refused`` or a ``MessageError`` refuses; how much the sender learns of it is a
        matter of ``disclosure``. Of any other exception it learns nothing.
        """

        def reply(sender: str, sealed: bytes) -> bytes:
            try:
                said = answer(sender, self._unseal(sender, sealed, request))
            except (Refused, MessageError) as error:
                self._complain(sender, f"refused a {kind(request)} of {sender!r}: {error}")
                said = Refusal(*disclosed(self._disclosure, error, f"a {kind(request)}"))
            except Exception:
                _log.exception("failed to answer a %s of %r", kind(request), sender)
                failed = f"{self.identity.name!r} failed; its log says why"
                said = Refusal(TacitError.code, failed)
            return seal(self.identity, sender, said, answers=sealed)

        self.serve_bytes(kind(request), reply)

    def serve_bytes(
        self, topic: str, answer: Answer, pool: ThreadPoolExecutor | None = None
    ) -> None:
        """Answers requests on a topic, unsigned: ``answer(sender, payload) -> reply``.

        The sender's name is that of its certificate. An exception leaves it without a reply.
        """
        self._answers[topic] = answer, pool or self._pool

    def ask(self, member: str, request: Message, reply: type[R], timeout: float) -> R:
        """A member's reply to a request; both are signed.

        Args:
            timeout: seconds.

        Raises:
            Unreachable: no reply in time.
            Refused: the member refuses.
            MessageError: the reply is not a valid one.
        """
        sealed = seal(self.identity, member, request)
        answered = self.reply(member, kind(type(request)), sealed, timeout)
        said = self._unseal(member, answered, reply, Refusal, answers=sealed)
        if isinstance(said, Refusal):
            why = said.sentence or f"its site tells no more than {said.code}"
            raise Refused(said.code, f"{member!r} refuses: {why}")
        return cast(R, said)

    def _unseal(
        self, sender: str, sealed: bytes, *kinds: type[Message], answers: bytes = b""
    ) -> Any:
        if not self.identity.members.has(sender):
            self.fetch_members()
        return unseal(self.identity, sender, sealed, *kinds, answers=answers)

    def request(self, member: str, topic: str, payload: bytes, timeout: float) -> "Future[bytes]":
        """A request on a topic, unsigned; the future raises Unreachable if no reply comes."""
        future: Future[bytes] = Future()

        def replied(reply: zenoh.Reply) -> None:
            if reply.ok is not None and not future.done():
                future.set_result(reply.ok.payload.to_bytes())

        def finished() -> None:
            if not future.done():
                future.set_exception(Unreachable(f"no reply of {member!r} to a {topic}"))

        name = key(self.identity.federation, member, topic, self.identity.name)
        handler = zenoh.handlers.Callback(replied, finished, indirect=False)
        try:
            self._session.get(
                name, handler, payload=payload, timeout=timeout,
                congestion_control=zenoh.CongestionControl.BLOCK,
            )  # fmt: skip
        except zenoh.ZError as error:
            finished()
            _log.info("cannot ask %r for a %s: %s", member, topic, error)
        return future

    def reply(self, member: str, topic: str, payload: bytes, timeout: float) -> bytes:
        """The reply to a request on a topic, unsigned; as ``request``.

        Zenoh may forget to end one when a link breaks.
        """
        try:
            return self.request(member, topic, payload, timeout).result(timeout + CLOSING)
        except TimeoutError:
            raise Unreachable(f"no reply of {member!r} to a {topic}") from None

    def alive(self) -> frozenset[str]:
        """Names of the other members that are connected."""
        with self._lock:
            return frozenset(self._alive)

    def watch(self, changed: Callable[[str, bool], None]) -> None:
        """Calls ``changed(name, alive)`` for each who is there now, and at every change.

        It is called in the session's own thread, where it must not wait.
        """
        with self._lock:
            self._watchers.append(changed)
            for name in self._alive:
                changed(name, True)

    def fetch_members(self) -> None:
        """Takes over the newest list of members: of the folder, the coordinator, or a relay."""
        self.identity = self.identity.accept_members((self.identity.folder / MEMBERS).read_bytes())
        for hub in self.identity.members.those("coordinator", "relay"):
            with suppress(Unreachable):
                if hub != self.identity.name:
                    text = self.reply(hub, MEMBERS, b"", FETCHING)
                    self.identity = self.identity.accept_members(text)
                    return

    def refresh(self) -> bool:
        """Takes over what is new in the member's folder: its certificate, the list of members.

        A new certificate, or other names, take a new session: requests under way fail, clients are
        back by themselves. Whether that happened.
        """
        old, new = self._opened, Identity.load(self.identity.folder)
        self.identity = new
        if new.certificate == old.certificate and new.members.names() == old.members.names():
            return False
        before = self._session
        if self._listen:  # the port is taken until it is closed
            _close(before)
            self._session = self._open()
        else:
            self._session = self._open()
            _close(before)
        return True

    def key_of(self, member: str) -> Ed25519PublicKey:
        """A member's long-term key.

        Raises:
            MessageError: it has not joined, or is revoked.
        """
        if not self.identity.members.has(member):
            self.fetch_members()
        return self.identity.members.key(member)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        _close(self._session)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> zenoh.Session:
        me, federation = self.identity.name, self.identity.federation
        text = configuration(
            self.identity, self._listen, self._connect, wait=self._wait, insecure=self._insecure
        )
        try:
            session = zenoh.open(zenoh.Config.from_json5(text))
        except zenoh.ZError as error:
            where = ", ".join(self._listen or self._connect)
            if self._listen:
                reason = str(error).split(" at ")[0]
                raise Unreachable(f"{me!r} cannot listen on {where}: {reason}") from None
            raise Unreachable(
                f"{me!r} found nobody at {where} within {self._wait:g} s: nobody listens there, or"
                " its certificate or ours is not accepted"
            ) from None
        for name in self.alive():
            self._change(name, False)

        def seen(sample: zenoh.Sample) -> None:
            if session is not self._session:
                return
            name = str(sample.key_expr).split("/")[2]
            self._change(name, sample.kind == zenoh.SampleKind.PUT)

        self._session, self._opened = session, self.identity
        session.declare_queryable(
            key(federation, me, "*", "*"), zenoh.handlers.Callback(self._asked, indirect=False)
        )
        self._token = session.liveliness().declare_token(key(federation, me, "alive"))
        session.liveliness().declare_subscriber(
            key(federation, "*", "alive"),
            zenoh.handlers.Callback(seen, indirect=False),
            history=True,
        )
        return session

    def _change(self, name: str, alive: bool) -> None:
        with self._lock:
            if name == self.identity.name or alive == (name in self._alive):
                return
            (self._alive.add if alive else self._alive.discard)(name)
            for changed in self._watchers:
                changed(name, alive)

    def _asked(self, query: zenoh.Query) -> None:
        """In zenoh's thread: hands a request to the pool, or drops it, which ends it unanswered."""
        parts = str(query.key_expr).split("/")
        if len(parts) != 5 or parts[3] not in self._answers:
            return
        sender = parts[4]
        with self._lock:
            full = self._waiting[sender] >= WAITING
            self._waiting[sender] += not full
        if full:
            self._complain(sender, f"dropped a request of {sender!r}: {WAITING} wait already")
            return
        with suppress(RuntimeError):  # the pool is closed
            answer, pool = self._answers[parts[3]]
            pool.submit(self._answer, query, sender, answer)

    def _answer(self, query: zenoh.Query, sender: str, answer: Answer) -> None:
        try:
            with query:
                payload = b"" if query.payload is None else query.payload.to_bytes()
                query.reply(query.key_expr, answer(sender, payload))
        except Exception as error:
            self._complain(sender, f"a request of {sender!r} is not answered: {error}")
        finally:
            with self._lock:
                self._waiting[sender] -= 1

    def _complain(self, member: str, said: str) -> None:
        """A line in the log, which no member can fill."""
        now = time.monotonic()
        with self._lock:
            last, more = self._complaints.get(member, (-QUIET, 0))
            if quiet := now - last < QUIET:
                self._complaints[member] = last, more + 1
            else:
                self._complaints[member] = now, 0
        if not quiet:
            _log.warning("%s%s", said, f" (and {more} more before)" if more else "")


def _close(session: zenoh.Session) -> None:
    closing = threading.Thread(target=session.close, daemon=True)
    closing.start()
    closing.join(CLOSING)
