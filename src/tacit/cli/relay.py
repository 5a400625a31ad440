"""``tacit relay``: a way between members who cannot connect to each other."""

import logging
import threading
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.network import Insecure, site_home


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
) -> None:
    """Pass on what members say who reach this machine and not each other; until it is stopped.

    It has joined by tacit node join, with a token of tacit federation invite NAME --role relay.
    """
    from tacit.network.relay import relay as pass_on

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, force=True)
    stop = threading.Event()
    pass_on(home or site_home(name), listen=listen, connect=connect, insecure=insecure, stop=stop)
