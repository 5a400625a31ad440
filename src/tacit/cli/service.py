"""What the commands that run for days have in common: their log, and how they stop."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.output import print_json
from tacit.errors import TacitError

# Seconds before a log says again that somebody waits for the same.
_AGAIN = 60.0


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
def service(home: Path, form: Form, level: Level, as_json: bool) -> Iterator[None]:
    """Log as asked while it lasts; an error that ends it is a line of the log, too.

    SIGTERM ends it with exit code 0, SIGINT with 130.

    Args:
        home: with the keys of whom this is.
    """
    from tacit.network import logs
    from tacit.network.identity import Identity
    from tacit.network.stopping import Stopped, stoppable

    me = Identity.load(home)
    logs.begin(form.value, level.value, federation=me.federation, member=me.name)
    try:
        with stoppable():
            yield
    except Stopped as stopped:
        logging.getLogger("tacit.network").info("%s", stopped)
        if as_json:
            print_json({"outcome": "stopped", "reason": str(stopped)})
        raise typer.Exit(stopped.code) from None
    except TacitError as error:
        if form is Form.text:  # which the command ends with anyway
            raise
        logging.getLogger("tacit.network").error("%s", error)
        raise typer.Exit(2) from None


def logged_waiting() -> Callable[[str], None]:
    """A log of whom or what one waits for: a line when that changes, and now and then."""
    last, since = "", 0.0

    def on_wait(reason: str) -> None:
        nonlocal last, since
        if reason != last or time.monotonic() - since > _AGAIN:
            last, since = reason, time.monotonic()
            logging.getLogger("tacit.network").info("%s", reason)

    return on_wait
