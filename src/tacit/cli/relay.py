"""``tacit relay``: a way between members who cannot connect to each other."""

import threading
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.network import Insecure, site_home
from tacit.cli.service import Form, Level, LogFormat, LogLevel, service


def relay(
    listen: Annotated[
        list[str],
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; the invitation named its host. Can be given several times.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Who this is; by default the only one under ~/.tacit.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder with the relay's keys.")] = None,
    connect: Annotated[
        list[str],
        typer.Option(metavar="HOST:PORT", help="The coordinator; by default as when it joined."),
    ] = [],  # noqa: B006
    insecure: Insecure = False,
    log_format: LogFormat = Form.text,
    log_level: LogLevel = Level.info,
) -> None:
    """Pass on what members say who reach this machine and not each other; until it is stopped.

    It has joined by tacit node join, with a token of tacit federation invite NAME --role relay.
    """
    from tacit.network.relay import relay as pass_on

    home = home or site_home(name)
    with service(home, log_format, log_level, as_json=False):
        pass_on(home, listen=listen, connect=connect, insecure=insecure, stop=threading.Event())
