"""``tacit contributions``: what each site's data were worth to the others, and to itself."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.arguments import File, Settings, Tables, experiment_of
from tacit.cli.output import Json, print_json, stdout_kept_clean


class Method(StrEnum):
    auto = "auto"
    shapley = "shapley"
    tmc = "tmc"
    first_order = "first-order"
    cgsv = "cgsv"


def contributions(
    file: File,
    settings: Settings = [],  # noqa: B006
    tables: Tables = [],  # noqa: B006
    method: Annotated[
        Method,
        typer.Option(
            help="How sites are scored: exact Shapley values up to 10, a sample of them (TMC) up to"
            " 20, one gradient for more; or cgsv, to find free riders and liars."
        ),
    ] = Method.auto,
    record: Annotated[
        Path | None, typer.Option(help="Folder of the run's signed record, to add the scores to.")
    ] = None,
    pot: Annotated[
        int | None, typer.Option(help="Whole units that the record pays out by the scores.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What did each site contribute, and what does it gain over training alone?

    Runs the experiment, scores what each site sent in every round, and trains each site alone.
    Behind masks, groups are scored. Ends with what the method does not see, and with a report
    under runs/.
    """
    from tacit.cli.screen import progress, say, show_rows
    from tacit.engine.scoring import contributions as score
    from tacit.explain import explain
    from tacit.ledger.contribution import CGSV, TMC, FirstOrder, Shapley
    from tacit.report import write

    chosen = {
        Method.shapley: Shapley, Method.tmc: TMC, Method.first_order: FirstOrder, Method.cgsv: CGSV
    }.get(method)  # fmt: skip
    with stdout_kept_clean(as_json):
        experiment = experiment_of(file, settings, tables)
        with progress(["together", "alone"], experiment.rounds, quiet=as_json) as on_round:
            found = score(
                experiment, chosen() if chosen else None, record=record, pot=pot, on_round=on_round
            )
        report = Path("runs") / file.stem / "contributions.html"
        write(report, found, explain(experiment))
    rows, name = found.rows(), type(found.method).__name__
    if as_json:
        print_json(
            {
                "experiment": experiment.digest(),
                "method": name,
                "weakness": found.method.weakness,
                "nodes": rows,
                "report": str(report),
            }
        )
        return
    signs = {"score": "+.4f", "alone": ".3f", "together": ".3f", "gain": "+.3f"}
    shown = [
        {
            key: format(value, signs[key]) if key in signs else str(value)
            for key, value in row.items()
        }
        for row in rows
    ]
    show_rows(shown)
    say(f"Scores by {name}; alone, together and gain: {found.metric} on each site's test rows.")
    say(found.method.weakness)
    typer.echo(f"Report: {report}")
