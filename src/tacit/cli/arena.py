"""``tacit arena``: attacks against defences."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tacit.cli.arguments import File, Settings, experiment_of
from tacit.cli.output import Json, print_json, stdout_kept_clean, to_json


def arena(
    file: File,
    settings: Settings = [],  # noqa: B006
    folder: Annotated[
        Path | None,
        typer.Option(help="Where it is kept; by default runs/, the file's name and -arena."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Which defence should I use here? Ten attacks against ten defences.

    On the experiment's data, with a server and without one. Ends with a table of the worst honest
    node's accuracy, an answer in plain words, and arena.csv, arena.json and arena.html in the
    folder. Finished cells are kept there, too: the same command goes on where it was stopped.
    """
    from tacit.cli.screen import cell_progress, show_arena
    from tacit.report.arena import write
    from tacit.robustness.arena import arena as fight

    kept = folder or Path("runs") / f"{file.stem}-arena"
    with stdout_kept_clean(as_json):
        experiment = experiment_of(file, settings)
        try:
            with cell_progress(quiet=as_json) as on_cell:
                found = fight(experiment, folder=kept, on_cell=on_cell)
        except KeyboardInterrupt:
            typer.echo(f"stopped; {kept} keeps what is done: the same command goes on", err=True)
            raise typer.Exit(130) from None
        written: dict[str, Any] = found.to_dict() | {"folder": str(kept)}
        (kept / "arena.csv").write_text(found.to_csv())
        (kept / "arena.json").write_text(to_json(written) + "\n")
        write(kept / "arena.html", found)
    if as_json:
        print_json(written)
    else:
        show_arena(found)
        typer.echo(f"\nReport: {kept / 'arena.html'}; arena.csv and arena.json beside it.")
