"""The commands. Whatever is heavy is imported inside them, so that ``--help`` is instant."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tacit.errors import TacitError

if TYPE_CHECKING:
    from tacit.compare import Comparison
    from tacit.experiment import Experiment


class _Guarded(TyperGroup):
    """Turns errors into one sentence and an exit code; takes ``--debug`` at any place."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:
            args = ["--debug", *(word for word in args if word != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None
        except TacitError as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"tacit: {error}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Guarded,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data", help="List, describe and fetch the data sets known by name.")

Engine = StrEnum("Engine", ["auto", "batched", "sequential"])

File = Annotated[Path, typer.Argument(help="A Python file that defines `experiment`.")]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field of the experiment: rounds=3, training.lr=0.05, algorithm=Gossip,"
        " 'topology=Star(cohort=4)'. Can be given several times.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def main() -> None:
    """The entry point of the command ``tacit``."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tacit {version('tacit')}")
        raise typer.Exit


@app.callback()
def tacit(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Learn from data that cannot move: with a server, without one, and compared with both ends.

    Start with `tacit demo`. An error is one sentence and exit code 2.
    """


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Show the whole story on bundled data, in about a minute.

    Eight places learn alone, with a server, without one, and pooled. Ends with a table, a verdict
    in plain words, and a report to look at in a browser.
    """
    from tacit.demo import STORY, experiment

    if not as_json:
        typer.echo(STORY + "\n")
    _compare(experiment(seed), out / "report.html", as_json)


@app.command()
def run(
    file: File,
    settings: Settings = [],  # noqa: B006
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run was stopped, if one was.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where the run is kept; by default runs/ and the file's name."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="How nodes are trained in this process.")
    ] = Engine.auto,
    as_json: Json = False,
) -> None:
    """Carry out the experiment that FILE defines.

    The folder keeps a checkpoint after every round, and at the end metrics.json, model.safetensors
    and report.html. A finished run that is there is replaced. An unfinished one is not: go on with
    --resume, to the same final model, or take another --folder.
    """
    from tacit.cli.folder import Folder, to_json
    from tacit.cli.screen import progress, show_run

    experiment = _experiment(file, settings)
    kept = Folder(folder or Path("runs") / file.stem)
    kept.begin(resume)
    ...
