"""``tacit node``: a site's part in a federation."""

from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.federation import FOLDERS
from tacit.cli.output import Json, print_json

app = typer.Typer(no_args_is_help=True)


@app.command()
def join(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="As the coordinator gave it.")],
    home: Annotated[
        Path | None,
        typer.Option(help="Folder to make; by default ~/.tacit, federation and site."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Join a federation: make keys here, which never leave, and have them certified."""
    from tacit.network import joining
    from tacit.network.admission import Token

    read = Token.from_text(token)
    identity = joining.join(read, home or FOLDERS / read.federation / read.name)
    if as_json:
        print_json(
            {
                "federation": identity.federation,
                "member": identity.name,
                "home": str(identity.folder),
                "members": sorted(identity.members.listed()),
            }
        )
    else:
        typer.echo(f"Joined {identity.federation!r} as {identity.name!r}; keys: {identity.folder}.")
