"""``tacit doctor``: what stands in the way of taking part."""

from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.arguments import ProxyUrl, Settings, experiment_of
from tacit.cli.network import site_home
from tacit.cli.output import Json, print_json, stdout_kept_clean
from tacit.errors import InputError


def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The experiment whose data contract is checked."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="This site's table: .csv, .csv.gz or .parquet.")
    ] = None,
    settings: Settings = [],  # noqa: B006
    site: Annotated[
        str | None, typer.Option(help="Who this is; by default the only one under ~/.tacit.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder with the keys.")] = None,
    connect: Annotated[
        list[str],
        typer.Option(metavar="HOST:PORT", help="The coordinator; by default as when it joined."),
    ] = [],  # noqa: B006
    proxy: ProxyUrl = None,
    as_json: Json = False,
) -> None:
    """Check what a member needs: keys, clock, names, port, TLS, versions, disk, data.

    A line for each, with what to do about it; exit code 1 if one fails.
    """
    from tacit.network.configuration import require_address
    from tacit.network.doctor import examine, examine_data

    if (file is None) != (data is None):
        raise InputError("--data: give it together with FILE, the experiment that it is for")
    for address in connect:
        require_address("--connect", address)
    home = home or site_home(site)
    checks = list(examine(home, connect, proxy))
    if file is not None and data is not None:
        with stdout_kept_clean(as_json):
            experiment = experiment_of(file, settings)
            checks.append(examine_data(home, experiment.data, data))
    if as_json:
        keys = ("name", "passed", "found", "advice")
        print_json([{key: getattr(check, key) for key in keys} for check in checks])
    else:
        for check in checks:
            advice = f": {check.advice}" if check.advice else ""
            typer.echo(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.found}{advice}")
    if not all(check.passed for check in checks):
        raise typer.Exit(1)
