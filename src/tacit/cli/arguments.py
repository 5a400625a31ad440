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


def experiment_of(file: Path, settings: list[str]) -> "Experiment":
    """The experiment that a file defines, with some fields changed."""
    from tacit.cli.source import load
    from tacit.settings import apply

    return apply(load(file), settings)
