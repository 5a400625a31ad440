"""``tacit retrain``: remove a site's influence from a model, and say first what it costs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tacit.cli.arguments import File, Settings, Tables, experiment_of
from tacit.cli.output import Json, print_json, stdout_kept_clean


def retrain(
    file: File,
    without: Annotated[str, typer.Option(metavar="SITE", help="Who has left.")],
    settings: Settings = [],  # noqa: B006
    tables: Tables = [],  # noqa: B006
    folder: Annotated[
        Path | None,
        typer.Option(help="Where the run with the site is; by default runs/ and the file's name."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Record of that run, which says when the site first contributed; by default the"
            " experiment does."
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Where the new run is kept; by default FOLDER-without-SITE."),
    ] = None,
    to_record: Annotated[
        Path | None,
        typer.Option(
            help="Where the new run leaves a signed record, which says of what it is a retraining;"
            " see verify."
        ),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Privacy ledger that pays for each round; see budget.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what it costs, and train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove a site's influence: train again without it, from before its first part.

    Goes on from the last checkpoint before the site first took part, or from the initial model if
    none is kept, and says first how many rounds that takes. The rows of the others are trained on
    once more, which spends of their privacy. Stopped and started again, it goes on.

    With --to-record the new run leaves a record, from the round on that it goes on from.
    """
    from tacit.cli.folder import Folder
    from tacit.cli.screen import progress, say, show_run
    from tacit.engine.retraining import retraining
    from tacit.engine.run import run as carry_out
    from tacit.ledger.erasure import first_contribution

    run = folder or Path("runs") / file.stem
    with stdout_kept_clean(as_json):
        experiment = experiment_of(file, settings, tables)
        told = first_contribution(record, experiment, without) if record else None
        found = retraining(experiment, without, run, told)
    never = found.contributed == experiment.rounds
    cost: dict[str, Any] = {
        "site": without,
        "contributed": None if never else found.contributed + 1,
        "from": found.start.round if found.start else 0,
        "rounds": found.rounds,
        "seconds": found.seconds,
    }
    if not as_json:
        say(_sentence(cost))
    if estimate or never:
        if as_json:
            print_json(cost)
        return
    kept = Folder(to or run.with_name(f"{run.name}-without-{without}"))
    going_on = kept.rounds_done() > 0 and not kept.finished
    if not going_on and found.start:
        kept.reopen()
        found.start.write(kept.path)
    done = kept.rounds_done() if going_on or found.start else 0
    if to_record:
        found.begin_record(to_record)
    with (
        stdout_kept_clean(as_json),
        progress([file.stem], found.experiment.rounds, done, quiet=as_json) as on_round,
    ):

        def measured(row: dict[str, Any]) -> None:
            kept.reopen()
            on_round(file.stem, row)

        result = carry_out(
            found.experiment, folder=kept.path, resume=done > 0, on_round=measured, ledger=ledger,
            record=to_record,
        )  # fmt: skip
        written = kept.finish(result)
    if as_json:
        print_json(cost | written)
    else:
        show_run(result)
        typer.echo(f"Report: {kept.path / 'report.html'}; metrics and model beside it.")


def _sentence(cost: dict[str, Any]) -> str:
    site, first, start = cost["site"], cost["contributed"], cost["from"]
    if first is None:
        return f"{site} took part in no round: nothing of it is in the model."
    begin = (
        f"the last checkpoint before that is of round {start}"
        if start
        else "no checkpoint from before that can be used, and training begins anew"
    )
    return (
        f"{site} first took part in round {first}; {begin}: {cost['rounds']} rounds are to be done"
        f" again, about {cost['seconds']:.2g} seconds by the pace of the run."
    )
