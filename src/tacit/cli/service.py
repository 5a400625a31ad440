"""What the commands that run for days have in common: their log."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tacit.errors import TacitError


class Form(StrEnum):
    text = "text"
    json = "json"


class Level(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Where /metrics, for Prometheus, and /healthz answer over plain HTTP; a PORT alone is"
        " one of 127.0.0.1. By default nowhere.",
    ),
]
LogFormat = Annotated[
    Form, typer.Option(envvar="TACIT_LOG_FORMAT", help="Of the log, on standard error.")
]
LogLevel = Annotated[
    Level, typer.Option(envvar="TACIT_LOG_LEVEL", help="The least that is worth a line.")
]


@contextmanager
def service(home: Path, form: Form, level: Level) -> Iterator[None]:
    """Log as asked while it lasts; an error that ends it is a line of the log, too.

    Args:
        home: with the keys of whom this is.
    """
    import logging

    from tacit.network import logs
    from tacit.network.identity import Identity

    me = Identity.load(home)
    logs.begin(form.value, level.value, federation=me.federation, member=me.name)
    try:
        yield
    except TacitError as error:
        if form is Form.text:  # which the command ends with anyway
            raise
        logging.getLogger("tacit.network").error("%s", error)
        raise typer.Exit(2) from None
