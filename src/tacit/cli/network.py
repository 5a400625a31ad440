"""``tacit coordinator``, ``node``, ``peer`` and ``swarm``: experiments among real machines."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tacit.cli.arguments import File, ProxyUrl, Settings, experiment_of
from tacit.cli.federation import FOLDERS, federation_home
from tacit.cli.output import Json, print_json, stdout_kept_clean
from tacit.cli.service import Form, Level, LogFormat, LogLevel, Metrics, logged_waiting, service
from tacit.errors import InputError, require_number, require_whole

if TYPE_CHECKING:
    from tacit.data import Federation
    from tacit.experiment import Experiment
    from tacit.network.policy import Policy
    from tacit.network.processes import Taken

Folder = Annotated[
    Path | None, typer.Option(help="Where the run is kept; by default runs/ and the file's name.")
]
Table = Annotated[Path, typer.Option(help="This site's table: .csv, .csv.gz or .parquet.")]
Who = Annotated[
    str | None,
    typer.Option(help="Who this is; by default the only one under ~/.tacit."),
]
Home = Annotated[Path | None, typer.Option(help="Folder with the site's keys.")]
Meeting = Annotated[
    list[str],
    typer.Option(
        metavar="HOST:PORT",
        help="Where to listen; the invitation named its host. Nowhere, if all meet at the relay"
        " that --connect names. Can be given several times.",
    ),
]
Peers = Annotated[
    list[str],
    typer.Option(
        metavar="HOST:PORT",
        help="A peer, who tells of all others; none for the first. Can be given several times.",
    ),
]
Ledger = Annotated[
    Path | None, typer.Option(help="Privacy ledger that pays for each round; see budget.")
]
PolicyFile = Annotated[
    Path | None,
    typer.Option(help="What may run here; by default policy.toml in the folder with the keys."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without encryption; for loopback addresses alone.")
]


def coordinator(
    file: File,
    listen: Annotated[
        list[str],
        typer.Option(metavar="HOST:PORT", help="Where to listen. Can be given several times."),
    ],
    settings: Settings = [],  # noqa: B006
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of the coordinator; by default the only one under ~/.tacit."),
    ] = None,
    folder: Folder = None,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="TACIT_DATABASE", help="URL of the store; by default SQLite in the run's folder."
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Folder of the run's signed record, which the sites witness."),
    ] = None,
    openings: Annotated[
        Path | None,
        typer.Option(help="File for what the masked sums are computed again from."),
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option(help="Folder to make at the end: the model, signed, as tacit release does."),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(help="Fewest updates that close a round; by default half of the cohort."),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(help="Seconds after which a round with a quorum closes without the late."),
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for a quorum while nothing is heard.")
    ] = 600.0,
    insecure: Insecure = False,
    metrics: Metrics = None,
    log_format: LogFormat = Form.text,
    log_level: LogLevel = Level.info,
    as_json: Json = False,
) -> None:
    """Coordinate the experiment that FILE defines, among sites that hold its data.

    Killed and started again, it goes on where it was.
    """
    from tacit.cli.screen import progress, say, show_rows
    from tacit.network.processes import coordinate

    require_whole(1, "--quorum", quorum, none=True)
    _require_seconds(deadline=deadline, patience=patience)
    home = home or federation_home()
    with stdout_kept_clean(as_json):
        experiment = experiment_of(file, settings)
    if not as_json:
        say(f"Experiment {experiment.digest()}\nSites: {', '.join(experiment.data.names)}")
    with (
        service(home, log_format, log_level, as_json),
        progress([file.stem], experiment.rounds, quiet=as_json) as on_round,
    ):
        kept, rows = coordinate(
            experiment, home, folder or Path("runs") / file.stem,
            listen=listen, database=database, insecure=insecure, metrics=metrics, quorum=quorum,
            deadline=deadline, patience=patience, record=record, openings=openings,
            release=release,
            on_round=lambda row: on_round(file.stem, row),
        )  # fmt: skip
    if as_json:
        print_json({"outcome": kept.outcome, "reason": kept.reason, "rounds": rows})
    else:
        if rows:
            shown = ("round", "cohort", "train_loss", "accuracy", "auc", "r2", "loss", "epsilon")
            show_rows([{k: _short(row[k]) for k in shown if k in row} for row in rows[-5:]])
        say(f"{kept.outcome}: {kept.reason}")
    if kept.outcome != "finished":
        raise typer.Exit(1)


def node(
    file: File,
    data: Table,
    settings: Settings = [],  # noqa: B006
    site: Who = None,
    home: Home = None,
    connect: Annotated[
        list[str],
        typer.Option(metavar="HOST:PORT", help="The coordinator; by default as when it joined."),
    ] = [],  # noqa: B006
    folder: Folder = None,
    ledger: Ledger = None,
    policy: PolicyFile = None,
    proxy: ProxyUrl = None,
    insecure: Insecure = False,
    metrics: Metrics = None,
    log_format: LogFormat = Form.text,
    log_level: LogLevel = Level.info,
    as_json: Json = False,
) -> None:
    """Take part in the experiment that FILE defines, with the rows of one table.

    Shows first what would leave this site, and runs only what was approved: here, or before with
    tacit node approve.
    """
    from tacit.network.identity import Identity
    from tacit.network.processes import take_part
    from tacit.network.proxy import chosen
    from tacit.protection.budget import PrivacyBudget

    home, name, experiment, filled, rules = _approved(
        file, data, settings, site, home, policy, as_json
    )
    with service(home, log_format, log_level, as_json):
        taken = take_part(
            experiment, filled, home, folder or Path("runs") / f"{file.stem}-{name}",
            connect=connect, insecure=insecure, metrics=metrics,
            ledger=PrivacyBudget(ledger) if ledger else None, on_wait=logged_waiting(),
            disclosure=rules.disclosure, record=rules.record,
            proxy=chosen(proxy, connect or Identity.load(home).connect),
        )  # fmt: skip
    _report(taken, as_json)


def peer(
    file: File,
    data: Table,
    listen: Meeting = [],  # noqa: B006
    settings: Settings = [],  # noqa: B006
    site: Who = None,
    home: Home = None,
    connect: Peers = [],  # noqa: B006
    folder: Folder = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for a neighbour of whom nothing is heard.")
    ] = 600.0,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Folder of this peer's signed record of the run, which the others witness; all"
            " peers leave one, or none."
        ),
    ] = None,
    ledger: Ledger = None,
    policy: PolicyFile = None,
    insecure: Insecure = False,
    metrics: Metrics = None,
    log_format: LogFormat = Form.text,
    log_level: LogLevel = Level.info,
    as_json: Json = False,
) -> None:
    """Carry out the experiment that FILE defines among peers, without a coordinator.

    Its algorithm is Gossip or ADPSGD, its topology a graph. Shows first what would leave this site,
    as tacit node does. A peer has joined by tacit node join, while a coordinator or relay was
    there. Every peer needs the newest list of members: it asks the coordinator for it, if that is
    still there; else copy members.json, which the authority has signed, from the folder of whoever
    joined last.
    """
    from tacit.cli.screen import progress
    from tacit.network.processes import gossip
    from tacit.protection.budget import PrivacyBudget

    if not (listen or connect):
        raise InputError("--listen: say where to listen, or by --connect which relay to meet at")
    _require_seconds(patience=patience)
    home, name, experiment, filled, rules = _approved(
        file, data, settings, site, home, policy, as_json
    )
    _require_record(rules, record)
    with (
        service(home, log_format, log_level, as_json),
        progress([file.stem], experiment.rounds, quiet=as_json) as on_round,
    ):
        taken = gossip(
            experiment, filled, home, folder or Path("runs") / f"{file.stem}-{name}",
            listen=listen, connect=connect, patience=patience, insecure=insecure,
            metrics=metrics, record=record,
            ledger=PrivacyBudget(ledger) if ledger else None,
            on_round=lambda row: on_round(file.stem, row), disclosure=rules.disclosure,
        )  # fmt: skip
    _report(taken, as_json)


def swarm(
    file: File,
    data: Table,
    listen: Meeting = [],  # noqa: B006
    settings: Settings = [],  # noqa: B006
    site: Who = None,
    home: Home = None,
    connect: Peers = [],  # noqa: B006
    folder: Folder = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for the others while nothing is heard.")
    ] = 600.0,
    deadline: Annotated[
        float | None,
        typer.Option(help="Seconds after which a leader closes its round without the late."),
    ] = None,
    stall: Annotated[
        float,
        typer.Option(help="Seconds without progress after which a leader is given up."),
    ] = 60.0,
    ledger: Ledger = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Folder of this member's copy of the run's signed record; see verify."),
    ] = None,
    policy: PolicyFile = None,
    insecure: Insecure = False,
    metrics: Metrics = None,
    log_format: LogFormat = Form.text,
    log_level: LogLevel = Level.info,
    as_json: Json = False,
) -> None:
    """Carry out the experiment that FILE defines among sites that lead in turn.

    Its topology is Swarm. There is no coordinator: each round has a leader, and where one fails
    the next takes over. Shows first what would leave this site, as tacit node does. Sites join and
    find each other as those of tacit peer do.
    """
    from tacit.cli.screen import progress
    from tacit.network.processes import swarm as take_part
    from tacit.protection.budget import PrivacyBudget

    if not (listen or connect):
        raise InputError("--listen: say where to listen, or by --connect which relay to meet at")
    _require_seconds(patience=patience, deadline=deadline, stall=stall)
    home, name, experiment, filled, rules = _approved(
        file, data, settings, site, home, policy, as_json
    )
    _require_record(rules, record)
    with (
        service(home, log_format, log_level, as_json),
        progress([file.stem], experiment.rounds, quiet=as_json) as on_round,
    ):
        taken = take_part(
            experiment, filled, home, folder or Path("runs") / f"{file.stem}-{name}",
            listen=listen, connect=connect, patience=patience, deadline=deadline,
            stall=stall, insecure=insecure, metrics=metrics, record=record,
            ledger=PrivacyBudget(ledger) if ledger else None,
            on_round=lambda row: on_round(file.stem, row), disclosure=rules.disclosure,
        )  # fmt: skip
    _report(taken, as_json)


def _require_record(rules: "Policy", record: Path | None) -> None:
    if rules.record and record is None:
        raise InputError("--record: this site's policy asks for a record of the run; give a folder")


def _require_seconds(**given: float | None) -> None:
    for name, seconds in given.items():
        require_number(f"--{name}", seconds, above=0, none=True)


def _approved(
    file: Path,
    data: Path,
    settings: list[str],
    site: str | None,
    home: Path | None,
    policy: Path | None,
    as_json: bool,
) -> tuple[Path, str, "Experiment", "Federation", "Policy"]:
    """A site's folder and name, what may run there, without and with its rows, and its policy."""
    from tacit.data import fill
    from tacit.network.approval import approved
    from tacit.network.identity import POLICY, Identity
    from tacit.network.policy import Policy, at_site, read, refusals

    home = home or site_home(site)
    name = Identity.load(home).name
    if site not in (None, name):
        raise InputError(f"--site: {site!r} was given, but the keys in {home} are {name!r}'s")
    with stdout_kept_clean(as_json):
        experiment = experiment_of(file, settings)
        filled = fill(experiment.data, {name: data})
    if policy is not None and not policy.exists():
        raise InputError(f"--policy: {policy}: there is no such file")
    rules = read(policy or home / POLICY, Policy)
    rows, digest = int(filled.train.sizes.sum()), experiment.digest()
    if found := refusals(rules, at_site(experiment, rows)):
        raise InputError(f"this site's policy refuses experiment {digest[:12]}: {'; '.join(found)}")
    if not (approved(home, digest) or rules.allows(experiment)):
        _ask_for_approval(experiment, rows, home)
    return home, name, experiment, filled, rules


def _report(taken: "Taken", as_json: bool) -> None:
    """Say how a run ended for a site."""
    from tacit.cli.screen import say

    if as_json:
        print_json(
            {"outcome": taken.outcome, "reason": taken.reason, "scores": taken.scores,
             "model": str(taken.model) if taken.model else None}
        )  # fmt: skip
    else:
        say(f"{taken.outcome}: {taken.reason}")
        if taken.model:
            scores = ", ".join(f"{k} {_short(v)}" for k, v in taken.scores.items())
            say(f"On this site's test rows: {scores}. Model: {taken.model}")
    if taken.outcome != "finished":
        raise typer.Exit(1)


def site_home(site: str | None) -> Path:
    """The folder of a site's keys under ~/.tacit; of the only site there, if none is named."""
    found = sorted(FOLDERS.glob(f"*/{site or '*'}/federation.json"))
    found = [path.parent for path in found if not (path.parent / "authority").exists()]
    if len(found) != 1:
        folders = ", ".join(map(str, found)) or "none"
        raise InputError(f"--home: whose keys? Under {FOLDERS} there are: {folders}")
    return found[0]


def _ask_for_approval(experiment: "Experiment", rows: int, home: Path) -> None:
    from tacit.explain import explain
    from tacit.network.approval import approve
    from tacit.network.policy import shown

    digest = experiment.digest()
    typer.echo(f"{explain(experiment).to_text()}\n{shown(experiment, rows)}", err=True)
    if sys.stdin.isatty() and typer.confirm("May this leave the site?", err=True):
        approve(home, digest)
        return
    raise InputError(
        f"experiment {digest[:12]} is not approved at this site; read what it sends, then run"
        f" `tacit node approve {digest}`"
    )


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
