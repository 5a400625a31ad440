"""Each role of a run as a process: its keys, its connection, its folder."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tacit.algorithms import ADPSGD, FedBuff
from tacit.data import Federation
from tacit.engine.recording import rules
from tacit.errors import InputError, MessageError, TacitError
from tacit.experiment import Experiment
from tacit.ledger.witness import Forked
from tacit.network import joining
from tacit.network.async_recording import AsyncRecording
from tacit.network.asynchronous import AsyncCoordinator, AsyncSiteRun
from tacit.network.authority import Authority
from tacit.network.blobs import Blobs, Offer
from tacit.network.coordinator import Coordinator
from tacit.network.disclosure import Disclosure
from tacit.network.forgetting import RECORD, require_remembered
from tacit.network.identity import POLICY, Identity
from tacit.network.messages import Refused
from tacit.network.pairwise import PairRun
from tacit.network.peer import PeerRun
from tacit.network.peer_record import PeerRecord
from tacit.network.policy import Limits, read
from tacit.network.protocol import (
    Average,
    Averaged,
    Deliver,
    Done,
    Entries,
    FromCoordinator,
    FromSite,
    Holds,
    Leave,
    Missing,
    Reply,
    Request,
    Seek,
    Talk,
    Train,
)
from tacit.network.proxy import Proxy, through
from tacit.network.recording import Recording, log_key
from tacit.network.releasing import Releasing
from tacit.network.replica import Replica
from tacit.network.site import SiteRun
from tacit.network.status import Status, of_coordinator, of_peer, of_site
from tacit.network.stopping import Stopped
from tacit.network.store import Kept, Store
from tacit.network.swarm import SwarmRun
from tacit.network.transport import Endpoint, Unreachable
from tacit.network.witnessing import Unrecorded, Witnessing
from tacit.protection.budget import PrivacyBudget

_log = logging.getLogger("tacit.network")

_NEWS = "news"
# News that the coordinator stops, and not for ever.
_AWAY = b"away"
# Seconds that sites have to hear of it.
_TELL = 1.0
_REPLY = 10.0
# Bytes a second that an exchange of models has at least.
_SLOWEST = 2**17
_AGAIN = 0.5
# Seconds that sites have to come back to hear of the end.
_FAREWELL = 30.0
# Seconds between looks at what changed in the coordinator's folder, and at a certificate's life.
_REFRESH, _RENEW = 1.0, 3600.0


def coordinate(
    experiment: Experiment,
    home: Path,
    folder: Path,
    *,
    listen: Sequence[str],
    database: str | None = None,
    insecure: bool = False,
    metrics: str | None = None,
    record: Path | None = None,
    openings: Path | None = None,
    release: Path | None = None,
    **settings: Any,
) -> tuple[Kept, list[dict[str, object]]]:
    """The coordinator of a run, to its end; started again, it goes on.

    Args:
        home: with the federation's keys.
        folder: of the run.
        listen: addresses, ``host:port``.
        database: URL as SQLAlchemy has it; by default SQLite in the folder.
        metrics: address, ``host:port``, of figures and of a health check.
        record: folder of the record that the run leaves, which its sites witness.
        openings: file for what the masked sums are computed again from; it opens nobody's update.
        release: folder to make of the model that is handed out, as a quorum of the sites signs.
        settings: of ``Coordinator``.

    Returns:
        The run's end, and a row for each round.

    Raises:
        InputError: the keys are not a coordinator's.
        Stopped: by a signal, under ``stoppable``; the sites were told.
    """
    if release is not None and record is None:
        raise InputError("release: a folder was given without a record; give record as well")
    identity = Identity.load(home)
    if identity.role != "coordinator":
        raise InputError(
            f"home: {home} was given, with the keys of {identity.name!r}, a {identity.role};"
            " a coordinator's are made by `tacit federation init`"
        )
    asynchronous = isinstance(experiment.algorithm, FedBuff)
    _require_record(experiment, folder, record)
    if openings is not None and record is None:
        raise InputError("openings: a file was given without a record; give record as well")
    with (
        closing(Store(folder, experiment.digest(), database)) as store,
        ExitStack() as at_last,
        Endpoint(identity, listen=listen, insecure=insecure) as endpoint,
        closing(Blobs(endpoint)) as blobs,
    ):
        if record is not None:
            kept_as = (AsyncRecording if asynchronous else Recording)(
                record, folder, experiment, identity, endpoint.key_of, openings,
                settings.get("deadline"),
            )  # fmt: skip
            settings["record"] = at_last.enter_context(closing(kept_as))
            settings["release"] = Releasing(release, folder, kept_as) if release else None
        coordinator = (AsyncCoordinator if asynchronous else Coordinator)(
            experiment, store,
            lambda site, offer, path: blobs.pull(site, offer, path, most=offer.size),
            blobs.offer, lambda site: endpoint.request(site, _NEWS, b"", 1.0), endpoint.key_of,
            limits=read(home / POLICY, Limits), **settings,
        )  # fmt: skip
        at_last.callback(coordinator.stop)  # when nobody can ask any more, and be refused for it
        joining.serve(endpoint, Authority.load(home))
        endpoint.watch(coordinator.here)

        def answer(site: str, said: FromSite) -> FromCoordinator:
            if isinstance(said.request, Deliver):
                blobs.came(len(said.request.inside))
            reply = coordinator.answer(site, said.request)
            if isinstance(reply, Train) and reply.inside:
                blobs.went(site, reply.state)
            return FromCoordinator(reply)

        endpoint.serve(FromSite, answer)
        stop = _every(_REFRESH, endpoint.refresh)
        try:
            with _serving(metrics, lambda: of_coordinator(coordinator, blobs), endpoint.identity):
                kept = coordinator.run()
                coordinator.farewell(_FAREWELL)
                return kept, store.metrics()
        except Stopped:
            told = [endpoint.request(site, _NEWS, _AWAY, _TELL) for site in endpoint.alive()]
            wait(told, _TELL)
            raise
        finally:
            stop.set()


@dataclass(frozen=True)
class Taken:
    """How a run ended for a site or a peer.

    Attributes:
        scores: of the model that it goes home with, on its test rows.
        model: file of that model; None after a failure, but for a peer, which has its own.
    """

    outcome: str
    reason: str
    scores: dict[str, float]
    model: Path | None


def take_part(
    experiment: Experiment,
    data: Federation,
    home: Path,
    folder: Path,
    *,
    connect: Sequence[str] = (),
    ledger: PrivacyBudget | None = None,
    insecure: bool = False,
    patience: float = 600.0,
    on_wait: Callable[[str], None] = lambda reason: None,
    disclosure: Disclosure = "redacted",
    proxy: Proxy | None = None,
    metrics: str | None = None,
    record: bool = False,
) -> Taken:
    """A site of a run, to the run's end; started again, it goes on.

    Args:
        experiment: as the file defines it, without rows.
        data: the same federation with this site's rows.
        home: with the site's keys.
        folder: of the run at this site.
        connect: addresses of the coordinator; by default those that the site joined by.
        patience: seconds to wait for a coordinator that is not there, or not any more.
        on_wait: is told whom or what the site waits for.
        disclosure: how much others learn of errors here.
        proxy: the way out to the coordinator, if there is no other.
        metrics: address, ``host:port``, of figures and of a health check.
        record: whether the run must leave a record.

    Raises:
        Refused: the coordinator takes no part of this experiment, or of this site.
        Unreachable: there was no coordinator for so long; started again, the site goes on.
        MessageError: the coordinator does not keep to the experiment.
        Forked, Unrecorded: nor to the run's record, which this site witnesses.
    """
    require_remembered(folder, experiment.digest())
    identity = Identity.load(home)
    news = threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    run: SiteRun | None = None

    def status() -> Status:
        if run is None:  # it looks for the coordinator
            return Status(0, experiment.rounds, 0)
        return of_site(run, coordinator in endpoint.alive(), blobs)

    with (
        _serving(metrics, status, identity),
        through(proxy, connect or identity.connect) as addresses,
        _found(identity, addresses, insecure, disclosure, patience, on_wait) as endpoint,
        ExitStack() as at_last,
    ):

        def heard(_: str, what: bytes) -> bytes:
            if what == _AWAY:
                on_wait("the coordinator stops; waiting for it to be started again")
            news.set()
            return b""

        endpoint.serve_bytes(_NEWS, heard)
        blobs = Blobs(endpoint)
        (coordinator,) = identity.members.those("coordinator")

        def ask(request: Request) -> Reply:
            until = time.monotonic() + patience
            while True:
                try:
                    said = endpoint.ask(coordinator, FromSite(request), FromCoordinator, _REPLY)
                    if isinstance(request, Deliver) and request.inside:
                        blobs.went(coordinator, request.update)
                    if isinstance(said.reply, Train):
                        blobs.came(len(said.reply.inside))
                    return said.reply
                except Unreachable as error:
                    if time.monotonic() > until:
                        raise
                    on_wait(str(error))
                    news.wait(_AGAIN)

        def wake(seconds: float) -> None:
            news.wait(seconds)
            news.clear()

        algorithm = experiment.algorithm
        late = algorithm.max_staleness if isinstance(algorithm, FedBuff) else None
        witnessing = at_last.enter_context(
            closing(
                Witnessing(
                    folder / RECORD, experiment.digest(), experiment.rounds, identity.name,
                    identity, coordinator, endpoint.key_of, ask, record, late,
                    rules=rules(experiment),
                )
            )
        )  # fmt: skip
        run = (SiteRun if late is None else AsyncSiteRun)(
            experiment, data, identity.name, folder, ask,
            lambda offer, path: blobs.pull(coordinator, offer, path, most=offer.size),
            lambda path: blobs.offer(path, to=[coordinator]), wake, ledger,
            identity, endpoint.key_of, disclosure, witnessing,
        )  # fmt: skip
        stop = _every(_RENEW, lambda: joining.renew(endpoint))
        try:
            taken = _ended(run, run.run(), folder)
            with suppress(Unreachable, Refused):  # the coordinator did not wait any longer
                gone = FromSite(Leave(run.digest))
                endpoint.ask(coordinator, gone, FromCoordinator, _REPLY)
            return taken
        finally:
            stop.set()


def _found(
    identity: Identity,
    connect: Sequence[str],
    insecure: bool,
    disclosure: Disclosure,
    patience: float,
    on_wait: Callable[[str], None],
) -> Endpoint:
    """A connection to the coordinator, which may start after its sites."""
    until = time.monotonic() + patience
    while True:
        try:
            return Endpoint(identity, connect=connect, insecure=insecure, disclosure=disclosure)
        except Unreachable as error:
            if time.monotonic() > until:
                raise
            on_wait(str(error))


def gossip(
    experiment: Experiment,
    data: Federation,
    home: Path,
    folder: Path,
    *,
    listen: Sequence[str],
    connect: Sequence[str] = (),
    insecure: bool = False,
    disclosure: Disclosure = "redacted",
    metrics: str | None = None,
    record: Path | None = None,
    **settings: Any,
) -> Taken:
    """A peer of a run without a coordinator, to the run's end; started again, it goes on.

    Peers are sites that joined while the coordinator or a relay was there; none of these is needed
    any more, unless for the newest list of members, which every peer must have.

    Args:
        experiment: as the file defines it, without rows.
        data: the same federation with this peer's rows.
        home: with the peer's keys.
        folder: of the run at this peer.
        listen: addresses, ``host:port``; the certificate must be good for them. None: all peers
            meet at a relay.
        connect: addresses of one peer or more, which tell of all others; or of a relay.
        disclosure: how much others learn of errors here.
        metrics: address, ``host:port``, of figures and of a health check.
        record: folder of the record that this peer leaves; all peers do, or none.
        settings: of ``PeerRun``, or of ``PairRun`` where the algorithm is ADPSGD.

    Raises:
        InputError: a plan that cannot work among peers, or a record of one that leaves none.
    """
    require_remembered(folder, experiment.digest())
    pairs = isinstance(experiment.algorithm, ADPSGD)
    if record is not None and pairs:
        raise InputError(
            f"record: {record} was given; real peers that average in pairs have no rounds to"
            " record; leave it out, or use Gossip()"
        )
    _require_record(experiment, folder, record)
    news = threading.Event()
    patience = settings.get("patience", 600.0)
    with (
        ExitStack() as at_last,
        _among(home, folder, listen, connect, patience, insecure, disclosure) as (endpoint, blobs),
    ):
        identity = endpoint.identity

        def heard(_: str, __: bytes) -> bytes:
            news.set()
            return b""

        def wake(seconds: float) -> None:
            news.wait(seconds)
            news.clear()

        def ask(peer: str, request: Seek) -> Holds:
            return endpoint.ask(peer, request, Holds, _REPLY)

        def pull(peer: str, offer: Offer, path: Path) -> Path:
            return blobs.pull(peer, offer, path, most=offer.size)

        run: PeerRun | PairRun
        kept: PeerRecord | None = None
        if pairs:
            long = _REPLY + 4 * experiment.layout.size / _SLOWEST
            run = PairRun(
                experiment, data, identity.name, folder, ask,
                lambda peer, request: endpoint.ask(peer, request, Averaged, long), pull,
                blobs.offer, blobs.withdraw, **settings,
            )  # fmt: skip
            endpoint.serve(Average, run.average)
        else:
            if record is not None:
                rows = int(data.train.sizes.sum())
                kept = PeerRecord(
                    record, folder, experiment, rows, identity, endpoint.key_of,
                    lambda peer, request: endpoint.ask(
                        peer, FromSite(request), FromCoordinator, _REPLY
                    ).reply,
                    endpoint.alive,
                )  # fmt: skip
                at_last.enter_context(closing(kept))
                endpoint.serve(FromSite, kept.answer)
            run = PeerRun(
                experiment, data, identity.name, folder, ask, pull, blobs.offer, blobs.withdraw,
                lambda peer: endpoint.request(peer, _NEWS, b"", 1.0), wake, record=kept, **settings,
            )  # fmt: skip
        endpoint.serve_bytes(_NEWS, heard)
        endpoint.serve(Seek, run.answer)
        endpoint.watch(run.here)
        with _serving(metrics, lambda: of_peer(run, blobs), identity):
            if kept:
                kept.begin(patience)
            ended = run.run()
            if pairs and ended.outcome == "finished":
                run.stay()  # in which others change its model
            _, scores = run.peer.measure({})
            model = _saved(experiment, run.peer.model({}), folder)
            if not pairs and ended.outcome == "finished":
                run.stay()
            if kept:
                kept.farewell(_FAREWELL, run.lost if ended.outcome == "finished" else None)
            return Taken(ended.outcome, ended.reason, scores, model)


def swarm(
    experiment: Experiment,
    data: Federation,
    home: Path,
    folder: Path,
    *,
    listen: Sequence[str],
    connect: Sequence[str] = (),
    insecure: bool = False,
    disclosure: Disclosure = "redacted",
    metrics: str | None = None,
    record: Path | None = None,
    **settings: Any,
) -> Taken:
    """A member of a swarm, to the run's end; started again, it goes on.

    Args:
        record: folder of this member's copy of the record that the run leaves.
        settings: of ``SwarmRun``; the others are those of ``gossip``.

    Raises:
        InputError: a plan that cannot work in a swarm.
    """
    require_remembered(folder, experiment.digest())
    patience = settings.get("patience", 600.0)
    with (
        ExitStack() as at_last,  # what is closed when nobody can ask any more
        _among(home, folder, listen, connect, patience, insecure, disclosure) as (endpoint, blobs),
    ):
        identity = endpoint.identity
        if record is not None:
            replica = Replica(
                record, folder / RECORD, experiment, identity.name, identity, endpoint.key_of
            )
            settings["replica"] = at_last.enter_context(closing(replica))
            endpoint.serve(Missing, lambda _, asked: replica.page(asked.first))
        run = SwarmRun(
            experiment, data, identity.name, folder, identity, endpoint.key_of,
            lambda member, talk: endpoint.ask(member, talk, Talk, _REPLY),
            lambda member, offer, path: blobs.pull(member, offer, path, most=offer.size),
            blobs.offer,
            missing=lambda member, asked: endpoint.ask(member, asked, Entries, _REPLY), **settings,
        )  # fmt: skip
        endpoint.serve(Talk, run.answer)
        endpoint.watch(run.here)
        with _serving(metrics, lambda: of_peer(run, blobs), identity):
            ended = run.run()
        if ended.outcome != "finished":
            return Taken(ended.outcome, ended.reason, {}, None)
        model, scores = run.home()
        return Taken(ended.outcome, ended.reason, scores, _saved(experiment, model, folder))


def _require_record(experiment: Experiment, folder: Path, record: Path | None) -> None:
    """Refuse to go on without a record where the run began with one."""
    if record is None and (folder / log_key(experiment.digest())).exists():
        raise InputError(
            f"record: the run in {folder} began with one; give the same again, or another folder of"
            " the run"
        )


@contextmanager
def _among(
    home: Path,
    folder: Path,
    listen: Sequence[str],
    connect: Sequence[str],
    patience: float,
    insecure: bool,
    disclosure: Disclosure,
) -> Iterator[tuple[Endpoint, Blobs]]:
    """A peer's connection to the others; its certificate is renewed while it lasts.

    Args:
        patience: seconds for a relay that is not there yet, where the peer does not listen.
    """
    identity = _newest(Identity.load(home), insecure)
    folder.mkdir(parents=True, exist_ok=True)
    with Endpoint(
        identity, listen=listen, connect=connect, wait=10.0 if listen else patience,
        insecure=insecure, disclosure=disclosure,
    ) as endpoint:  # fmt: skip
        stop = _every(_RENEW, lambda: joining.renew(endpoint))
        try:
            yield endpoint, Blobs(endpoint)
        finally:
            stop.set()


def _newest(identity: Identity, insecure: bool) -> Identity:
    """The member with the newest list of members, if the coordinator or a relay is there."""
    if identity.connect:
        with (
            suppress(Unreachable),
            Endpoint(identity, connect=identity.connect, wait=3.0, insecure=insecure) as hub,
        ):
            hub.fetch_members()
            return hub.identity
    return identity


def _serving(
    address: str | None, status: Callable[[], Status], me: Identity
) -> AbstractContextManager[None]:
    """Figures of a run at an address, if there is one."""
    if address is None:
        return nullcontext()
    from tacit.network.metrics import serving

    return serving(address, status, federation=me.federation, member=me.name)


def _every(seconds: float, call: Callable[[], object]) -> threading.Event:
    """Call something now and then, until the event is set; what goes wrong is logged."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(seconds):
            try:
                call()
            except (TacitError, OSError) as error:
                _log.warning("%s", error)

    threading.Thread(target=loop, daemon=True).start()
    return stop


def _ended(run: SiteRun, done: Done, folder: Path) -> Taken:
    try:
        vector, scores = run.outcome(done) or (None, {})
        run.site = None  # whose memory is needed now
    except (Forked, Unrecorded):
        raise
    except (Unreachable, MessageError) as error:
        return Taken(done.outcome, f"{done.reason}; the model did not come ({error})", {}, None)
    if vector is None:
        return Taken(done.outcome, done.reason, {}, None)
    return Taken(done.outcome, done.reason, scores, _saved(run.experiment, vector, folder))


def _saved(experiment: Experiment, vector: Tensor, folder: Path) -> Path:
    """A model as a file."""
    path = folder / "model.safetensors"
    module = experiment.layout.module(experiment.template, vector)
    save_file({name: t.contiguous() for name, t in module.state_dict().items()}, path)
    return path
