"""The commands. Whatever is heavy is imported inside them, so that ``--help`` is instant."""

import shlex
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tacit.errors import TacitError

if TYPE_CHECKING:
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
        except OSError as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"tacit: {error.filename or 'output'}: {error.strerror}", err=True)
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


class Engine(StrEnum):
    auto = "auto"
    batched = "batched"
    sequential = "sequential"


File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A Python file that defines `experiment`.")
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field of the experiment: rounds=3, training.lr=0.05, algorithm=Gossip,"
        " 'topology=Star(cohort=4)'. Can be given several times.",
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="One of those that `tacit data list` shows.")
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
    """Show the whole story on bundled data, within a minute.

    Eight places learn alone, with a server, without one, and pooled. Ends with a table, a verdict
    in plain words, and a report to look at in a browser.
    """
    import torch

    from tacit.cli.screen import say
    from tacit.demo import STORY, experiment

    if not as_json:
        say(STORY + "\n")
    # Steps this small gain nothing from a second thread, and lose much where cores are shared.
    torch.set_num_threads(1)
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
    from tacit.cli.folder import Folder
    from tacit.cli.screen import progress, show_run
    from tacit.engine.run import run as carry_out

    with _stdout_kept_clean(as_json):
        experiment = _experiment(file, settings)
        kept = Folder(folder or Path("runs") / file.stem)
        kept.begin(resume)
        done = kept.rounds_done() if resume else 0
        try:
            with progress([file.stem], experiment.rounds, done, quiet=as_json) as on_round:

                def measured(row: dict[str, Any]) -> None:
                    kept.reopen()
                    on_round(file.stem, row)

                result = carry_out(
                    experiment, engine=engine.value, folder=kept.path, resume=resume,
                    on_round=measured,
                )  # fmt: skip
        except KeyboardInterrupt:
            _say_how_to_go_on(kept.rounds_done(), experiment.rounds)
            raise typer.Exit(130) from None
        found = kept.finish(result)
    if as_json:
        _print_json(found)
    else:
        show_run(result)
        typer.echo(f"Report: {kept.path / 'report.html'}; metrics and model beside it.")


@app.command()
def compare(file: File, settings: Settings = [], as_json: Json = False) -> None:  # noqa: B006
    """Is it worth it? Alone, with a server, without one, pooled.

    The same experiment in these four ways, side by side; its own algorithm is one of them. Ends
    with a table, a verdict in plain words, and a report under runs/.
    """
    with _stdout_kept_clean(as_json):
        experiment = _experiment(file, settings)
    _compare(experiment, Path("runs") / file.stem / "compare.html", as_json)


@app.command()
def explain(file: File, settings: Settings = [], as_json: Json = False) -> None:  # noqa: B006
    """Who will see what, before anything runs.

    Every kind of message that a run sends: from whom, to whom, in which form, how many bytes.
    """
    from tacit.cli.screen import say
    from tacit.explain import explain as disclose

    with _stdout_kept_clean(as_json):
        disclosure = disclose(_experiment(file, settings))
    if as_json:
        _print_json(disclosure.to_dict())
    else:
        say(disclosure.to_text())


@data.command("list")
def list_data(as_json: Json = False) -> None:
    """The data sets that are known by name."""
    from tacit.cli.screen import show_rows
    from tacit.data import sources

    keys = ("name", "task", "rows", "nodes", "description")
    rows = [{key: getattr(source, key) for key in keys} for source in sources()]
    if as_json:
        _print_json(rows)
    else:
        show_rows(rows)


@data.command()
def describe(
    name: Name,
    nodes: Annotated[int | None, typer.Option(help="How many to deal the rows out to.")] = None,
    partition: Annotated[
        str | None, typer.Option(help="Who gets which rows: IID, 'Dirichlet(0.5)', Shards, ...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Each node's rows and label counts."""
    from tacit import settings
    from tacit.cli.screen import say
    from tacit.data import describe as as_text
    from tacit.data import load, node_table, sources

    dealt = settings.partition(partition) if partition else None
    federation = load(name, nodes, dealt)
    if as_json:
        _print_json(node_table(federation))
        return
    source = next(source for source in sources() if source.name == name)
    say(f"{source.description}\n{source.home}; licence: {source.licence}\n")
    say(as_text(federation))


@data.command()
def fetch(name: Name, as_json: Json = False) -> None:
    """Bring a data set's files onto this machine, and say where they are."""
    from tacit.data import fetch as bring

    paths = [str(path) for path in bring(name)]
    if as_json:
        _print_json(paths)
    else:
        typer.echo("\n".join(paths) or f"{name} is bundled: there is nothing to fetch")


def _experiment(file: Path, settings: list[str]) -> "Experiment":
    from tacit.cli.source import load
    from tacit.settings import apply

    return apply(load(file), settings)


def _compare(experiment: "Experiment", report: Path, as_json: bool) -> None:
    from tacit.cli.screen import progress, show_comparison
    from tacit.compare import compare, variants
    from tacit.explain import explain
    from tacit.report import write

    with (
        _stdout_kept_clean(as_json),
        progress(list(variants(experiment)), experiment.rounds, quiet=as_json) as on_round,
    ):
        found = compare(experiment, on_round)
        write(report, found, explain(experiment))
    if as_json:
        _print_json(
            {
                "experiment": experiment.description(),
                "metric": found.metric,
                "table": found.table(),
                "nodes": found.nodes(),
                "verdict": found.verdict(),
                "report": str(report),
            }
        )
    else:
        show_comparison(found)
        typer.echo(f"\nReport: {report}")


def _stdout_kept_clean(as_json: bool) -> AbstractContextManager[Any]:
    """While it lasts, what an experiment's file prints goes to standard error."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def _print_json(value: Any) -> None:
    from tacit.cli.folder import to_json

    typer.echo(to_json(value))


def _say_how_to_go_on(done: int, rounds: int) -> None:
    if done == 0:
        typer.echo("stopped before the end of round 1: nothing to go on from", err=True)
        return
    words = [word for word in sys.argv[1:] if word != "--resume"]
    command = shlex.join(["tacit", *words, "--resume"])
    typer.echo(f"stopped after round {done} of {rounds}; go on with `{command}`", err=True)
