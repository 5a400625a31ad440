"""The arguments that several commands take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tacit.experiment import Experiment

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A Python file that defines `experiment`.")
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field of the experiment: rounds=3, training.lr=0.05, algorithm=Gossip,"
        " 'topology=Star(cohort=4)', 'aggregation=Krum(f=2)'. Can be given several times.",
    ),
]


ProxyUrl = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        metavar="URL",
        help="HTTP proxy on the way out, http://user:password@host:port; by default HTTPS_PROXY,"
        " which other users of this machine do not see.",
    ),
]
Tables = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="SITE=PATH",
        help="The table of a site, where the experiment's data are at_sites. Can be given several"
        " times.",
    ),
]


def experiment_of(file: Path, settings: list[str], tables: list[str] | None = None) -> "Experiment":
    """The experiment that a file defines, with some fields changed and some sites' rows."""
    from tacit.cli.source import load
    from tacit.data import fill
    from tacit.errors import InputError
    from tacit.settings import apply

    experiment = apply(load(file), settings)
    if not tables:
        return experiment
    files = {}
    for text in tables:
        site, equals, path = text.partition("=")
        if not equals:
            raise InputError(f"--data: {text!r} was given; allowed is SITE=PATH")
        files[site] = path
    return experiment.replace(data=fill(experiment.data, files))
