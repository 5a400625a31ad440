"""The commands. Whatever is heavy is imported inside them, so that ``--help`` is instant."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tacit.cli import chain, data, federation, ledger, node
from tacit.cli.arena import arena
from tacit.cli.arguments import File, Settings, Tables, experiment_of
from tacit.cli.audit import audit
from tacit.cli.contributions import contributions
from tacit.cli.doctor import doctor
from tacit.cli.network import coordinator, peer, swarm
from tacit.cli.output import Json, print_json, stdout_kept_clean
from tacit.cli.relay import relay
from tacit.cli.release import release
from tacit.cli.retrain import retrain
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
            typer.echo(f"tacit: {error} [{error.code}]", err=True)
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
app.add_typer(chain.app, name="chain", help="Anchor a record on an EVM chain, and pay by it.")
app.add_typer(data.app, name="data", help="List, describe and fetch the data sets known by name.")
app.add_typer(federation.app, name="federation", help="Say who belongs to a federation.")
app.add_typer(node.app, name="node", help="Take part in a federation as a site.")
app.add_typer(ledger.app, name="ledger", help="Look into the signed record of a run.")
app.command()(arena)
app.command()(audit)
app.command()(contributions)
app.command()(coordinator)
app.command()(doctor)
app.command()(peer)
app.command()(relay)
app.command()(release)
app.command()(retrain)
app.command()(swarm)
app.command()(ledger.verify)


class Engine(StrEnum):
    auto = "auto"
    batched = "batched"
    sequential = "sequential"


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
    """Show the whole story on bundled data, in about two minutes.

    Eight places learn alone, with a server, without one, and pooled: a table, a verdict in plain
    words, and a report to look at in a browser. Then a third of them lies, with and without a
    defence; and all of them protect their rows, at two prices. The last run leaves a signed record,
    which is checked, and then changed by one byte.
    """
    import torch

    from tacit.cli.screen import progress, say, show_rows
    from tacit.demo import (
        STORY,
        experiment,
        moral,
        poisoned,
        price,
        private,
        protect,
        tamper,
        withstand,
        witnessed,
    )  # fmt: skip

    if not as_json:
        say(STORY + "\n")
    # Steps this small gain nothing from a second thread, and lose much where cores are shared.
    torch.set_num_threads(1)
    plan = experiment(seed)
    found = _compare(plan, out / "report.html", as_json)
    with (
        stdout_kept_clean(as_json),
        progress(list(poisoned(plan)), plan.rounds, quiet=as_json) as on_round,
    ):
        rows = withstand(plan, on_round)
    plans = private(plan)
    with (
        stdout_kept_clean(as_json),
        progress(list(plans), plans["no privacy"].rounds, quiet=as_json) as on_round,
    ):
        prices = protect(plan, out / "record", on_round)
    audits = tamper(out / "record")
    if as_json:
        findings = [[str(finding) for finding in audit.findings] for audit in audits]
        print_json(found | {"poisoned": rows, "private": prices, "audits": findings})
        return
    for told, sentence in ((rows, moral(rows)), (prices, price(prices))):
        say("")
        show_rows([{"run": row["run"], "accuracy": f"{row['accuracy']:.3f}"} for row in told])
        say(sentence)
    say(f"\n{witnessed(audits)}")
    typer.echo(f"The record: {out / 'record'}; try tacit verify and tacit ledger show.")


@app.command()
def run(
    file: File,
    settings: Settings = [],  # noqa: B006
    tables: Tables = [],  # noqa: B006
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
    ledger: Annotated[
        Path | None, typer.Option(help="Privacy ledger that pays for each round; see budget.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder for a signed record of the run; see verify.")
    ] = None,
    openings: Annotated[
        Path | None,
        typer.Option(help="File for what a server's masked sums are computed again from."),
    ] = None,
    keep_every: Annotated[
        int | None,
        typer.Option(help="Let the checkpoint of every so many rounds stay; see retrain."),
    ] = None,
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

    with stdout_kept_clean(as_json):
        experiment = experiment_of(file, settings, tables)
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
                    on_round=measured, ledger=ledger, record=record, openings=openings,
                    keep_every=keep_every,
                )  # fmt: skip
        except KeyboardInterrupt:
            _say_how_to_go_on(kept.rounds_done(), experiment.rounds)
            raise typer.Exit(130) from None
        found = kept.finish(result)
    if as_json:
        print_json(found)
    else:
        show_run(result)
        typer.echo(f"Report: {kept.path / 'report.html'}; metrics and model beside it.")


@app.command()
def compare(file: File, settings: Settings = [], as_json: Json = False) -> None:  # noqa: B006
    """Is it worth it? Alone, with a server, without one, pooled.

    The same experiment in these four ways, side by side; its own algorithm is one of them. Ends
    with a table, a verdict in plain words, and a report under runs/.
    """
    with stdout_kept_clean(as_json):
        experiment = experiment_of(file, settings)
    found = _compare(experiment, Path("runs") / file.stem / "compare.html", as_json)
    if as_json:
        print_json(found)


@app.command()
def explain(file: File, settings: Settings = [], as_json: Json = False) -> None:  # noqa: B006
    """Who will see what, before anything runs.

    Every kind of message that a run sends: from whom, to whom, in which form, how many bytes.
    """
    from tacit.cli.screen import say
    from tacit.explain import explain as disclose

    with stdout_kept_clean(as_json):
        disclosure = disclose(experiment_of(file, settings))
    if as_json:
        print_json(disclosure.to_dict())
    else:
        say(disclosure.to_text())


@app.command()
def budget(
    ledger: Annotated[Path, typer.Argument(help="File of the ledger, made if there is none.")],
    dataset: Annotated[str, typer.Argument(help="Name of a data set, as in its loader.")],
    epsilon: Annotated[float | None, typer.Option(help="What it may spend in all.")] = None,
    delta: Annotated[float, typer.Option(help="At this delta.")] = 1e-5,
    as_json: Json = False,
) -> None:
    """What a data set has spent of its privacy; with --epsilon, what it may spend in all.

    The ledger outlives runs: give it to tacit run --ledger, which pays before each round and stops
    when nothing is left.
    """
    from tacit.protection.budget import PrivacyBudget

    with stdout_kept_clean(as_json):
        account = PrivacyBudget(ledger)
        if epsilon is not None:
            account.grant(dataset, epsilon, delta)
        spent = account.spent(dataset)
    if as_json:
        print_json({"dataset": dataset, "spent": spent})
    else:
        typer.echo(f"{dataset}: epsilon {spent:.4g} is spent.")


def _compare(experiment: "Experiment", report: Path, as_json: bool) -> dict[str, Any]:
    """Carry the comparison out, write its report, and show it to people; or, for programs, not."""
    from tacit.cli.screen import progress, show_comparison
    from tacit.compare import compare, variants
    from tacit.explain import explain
    from tacit.report import write

    with (
        stdout_kept_clean(as_json),
        progress(list(variants(experiment)), experiment.rounds, quiet=as_json) as on_round,
    ):
        found = compare(experiment, on_round)
        write(report, found, explain(experiment))
    if not as_json:
        show_comparison(found)
        typer.echo(f"\nReport: {report}")
    return {
        "experiment": experiment.description(),
        "metric": found.metric,
        "table": found.table(),
        "nodes": found.nodes(),
        "verdict": found.verdict(),
        "report": str(report),
    }


def _say_how_to_go_on(done: int, rounds: int) -> None:
    if done == 0:
        typer.echo("stopped before the end of round 1: nothing to go on from", err=True)
        return
    words = [word for word in sys.argv[1:] if word != "--resume"]
    command = shlex.join(["tacit", *words, "--resume"])
    typer.echo(f"stopped after round {done} of {rounds}; go on with `{command}`", err=True)
