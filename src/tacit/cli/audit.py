"""``tacit audit``: what a run gives away, held against what it claims."""

from typing import Annotated, Any

import typer

from tacit.cli.arguments import File, Settings, experiment_of
from tacit.cli.output import Json, print_json, stdout_kept_clean


def audit(
    file: File,
    settings: Settings = [],  # noqa: B006
    canaries: Annotated[
        int | None,
        typer.Option(
            help="Added nodes or rows: the more, the larger the bound that can be shown. By default"
            " 1,000, or 200 behind masks."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Does the noise hide a node, or a row, as well as it claims to? Tried out, in one run.

    Canary nodes take part in the experiment or not, by a coin each; with DPSGD, canary rows in a
    node's training. What is released is used to guess the coins. The guesses bound the run's
    epsilon from below, at 95 % confidence. A bound above the claim is a failure: exit code 1.
    """
    from tacit.auditing.audit import audit as try_out
    from tacit.cli.screen import progress, say

    with stdout_kept_clean(as_json):
        experiment = experiment_of(file, settings)
        with progress([file.stem], experiment.rounds, quiet=as_json) as on_round:

            def measured(row: dict[str, Any]) -> None:
                on_round(file.stem, row)

            found = try_out(experiment, canaries=canaries, on_round=measured)
    if as_json:
        print_json({"experiment": experiment.digest()} | found.to_dict())
    else:
        say(found.to_text())
    if found.failed:
        raise typer.Exit(1)
