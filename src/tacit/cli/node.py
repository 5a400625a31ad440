"""``tacit node``: a site's part in a federation."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tacit.cli.arguments import ProxyUrl
from tacit.cli.federation import FOLDERS
from tacit.cli.network import node as run
from tacit.cli.network import site_home
from tacit.cli.output import Json, print_json
from tacit.errors import InputError


class _RunsByDefault(TyperGroup):
    """``tacit node FILE`` is ``tacit node run FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_RunsByDefault, no_args_is_help=True)
app.command(name="run")(run)


@app.command()
def approve(
    digest: Annotated[str, typer.Argument(metavar="HASH", help="As tacit node FILE shows it.")],
    home: Annotated[Path | None, typer.Option(help="Folder with the site's keys.")] = None,
    as_json: Json = False,
) -> None:
    """Allow an experiment to run at this site."""
    from tacit.network.approval import approve as allow

    allow(home or site_home(None), digest)
    if as_json:
        print_json({"approved": digest})
    else:
        typer.echo(f"Experiment {digest[:12]} may run here.")


@app.command()
def join(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="As the coordinator gave it.")],
    home: Annotated[
        Path | None,
        typer.Option(help="Folder to make; by default ~/.tacit, federation and site."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="This site's certificate of its institution, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM.")] = None,
    chain: Annotated[
        Path | None, typer.Option(help="Certificates between it and its authority, PEM.")
    ] = None,
    connect: Annotated[
        list[str],
        typer.Option(
            metavar="HOST:PORT",
            help="A relay, now and from now on; by default the coordinator. Can be given several"
            " times.",
        ),
    ] = [],  # noqa: B006
    proxy: ProxyUrl = None,
    as_json: Json = False,
) -> None:
    """Join a federation: make keys here, which never leave, and have them certified.

    With --certificate and --key, the site connects with this key of its institution instead of one
    that is made.
    """
    from msgspec.structs import replace

    from tacit.network import joining
    from tacit.network.admission import Token
    from tacit.network.configuration import require_address
    from tacit.network.identity import POLICY
    from tacit.network.institution import Own
    from tacit.network.proxy import chosen

    read = Token.from_text(token)
    if connect:
        for address in connect:
            require_address("--connect", address)
        read = replace(read, addresses=tuple(connect))
    if (certificate is None) != (key is None) or (chain and not key):
        raise InputError("--certificate: give it together with --key")
    own = Own.at(certificate, key, chain) if certificate and key else None
    where = ", ".join(read.addresses)
    typer.echo(f"Asking {where} for at most {joining.TIMEOUT:g} seconds.", err=True)
    identity = joining.join(
        read, home or FOLDERS / read.federation / read.name, own, chosen(proxy, read.addresses)
    )
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
        typer.echo(f"What may run here: {identity.folder / POLICY}; so far, nothing.")


@app.command()
def forget(
    where: Annotated[
        Path,
        typer.Argument(
            metavar="WHERE", help="Folder of a run at this site, or of a record made by tacit run."
        ),
    ],
    site: Annotated[
        str | None, typer.Option(help="Whose nonces, in a record that holds all sites'.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder with the site's keys; by default the only one under ~/.tacit."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Destroy what this site keeps of its part in a run, and tell what stays.

    That is the nonces of its commitments, without which they say nothing for ever; the updates that
    it kept to go on from; and its approval. The record stays as it is, and verifies. The site takes
    no part in this run any more. What others have learned from it is not undone: see tacit retrain.
    """
    from tacit.ledger.erasure import forget as forget_nonces
    from tacit.ledger.recorder import LOG
    from tacit.network.forgetting import forget as forget_part
    from tacit.network.forgetting import takes_part

    of_record = (where / LOG).exists()
    if not of_record and not takes_part(where):
        raise InputError(f"WHERE: {where} is no folder of a site's run, nor of a record")
    if not yes and not typer.confirm(f"Destroy what {where} keeps for ever?", err=True):
        typer.echo("Nothing was destroyed.", err=True)
        raise typer.Exit(1)
    if of_record:
        name, count = forget_nonces(where, site)
        done = [f"{count} nonces of {name}"] if count else []
        stays = ["the record, which verifies", "the openings of the others"]
    else:
        done = forget_part(where, home or site_home(site))
        stays = [
            "the model that the site went home with",
            "the last head of the record that it cosigned, its keys, and what its privacy ledger"
            " says was spent",
            "what the others have received",
        ]
    if as_json:
        print_json({"destroyed": done, "stays": stays})
        return
    typer.echo(f"Destroyed: {'; '.join(done) or 'nothing, it was before'}.")
    typer.echo(f"Stays: {'; '.join(stays)}.")
