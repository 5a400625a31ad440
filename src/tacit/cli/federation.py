"""``tacit federation``: who belongs, decided where the coordinator runs."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tacit.cli.output import Json, print_json
from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.network.authority import Authority

FOLDERS = Path.home() / ".tacit"

app = typer.Typer(no_args_is_help=True)
Home = Annotated[
    Path | None,
    typer.Option(help="Folder of the coordinator; by default the only one under ~/.tacit."),
]
Member = Annotated[str, typer.Argument(metavar="SITE", help="Name of the member.")]


class _Invited(StrEnum):
    site = "site"
    relay = "relay"


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the federation.")],
    address: Annotated[
        list[str],
        typer.Option(
            metavar="HOST:PORT",
            help="Where members reach the coordinator. Can be given several times.",
        ),
    ],
    home: Annotated[
        Path | None,
        typer.Option(help="Folder to make; by default ~/.tacit/NAME/coordinator."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a federation: its authority, its coordinator's keys, and a policy file.

    The authority's key decides who belongs: keep a copy of the folder in a safe place.
    """
    from tacit.network.authority import Authority
    from tacit.network.configuration import require_address
    from tacit.network.identity import POLICY, write
    from tacit.network.policy import NO_LIMITS, text

    for each in address:
        require_address("--address", each)
        reached, _, port = each.rpartition(":")
        if reached in ("0.0.0.0", "[::]") or int(port) == 0:
            raise InputError(f"--address: {each!r} was given; nobody can connect to it")
    folder = home or FOLDERS / name / "coordinator"
    Authority.init(name, folder, address)
    write(folder / POLICY, text(NO_LIMITS).encode())
    if as_json:
        print_json({"federation": name, "home": str(folder), "addresses": address})
    else:
        typer.echo(f"Federation {name!r} is in {folder}.")
        typer.echo(f"What it demands of every experiment: {folder / POLICY}.")
        typer.echo("Next: `tacit federation invite SITE` prints a token for each site.")


@app.command()
def invite(
    site: Member,
    host: Annotated[
        list[str],
        typer.Option(
            help="Where it will listen, if peers are to connect to it: a DNS name or an IP"
            " address. Can be given several times."
        ),
    ] = [],  # noqa: B006
    role: Annotated[
        _Invited, typer.Option(help="A site with data, or a relay that passes messages on.")
    ] = _Invited.site,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print a token with which a site joins; good for one use, within seven days.

    Whoever has the token can join under this name: send it by a way you trust.
    """
    if role is _Invited.relay and not host:
        raise InputError("--host: say where the relay will listen")
    token = _authority(home).invite(site, host, role.value).to_text()
    if as_json:
        print_json({"site": site, "token": token})
    else:
        typer.echo(token)


@app.command(name="list")
def list_members(home: Home = None, as_json: Json = False) -> None:
    """Show who belongs, who is invited, and until when certificates are valid."""
    authority = _authority(home)
    until = authority.admissions().certificates
    rows = [
        {"member": name, "role": member.role, "state": member.state, "until": _day(until.get(name))}
        for name, member in sorted(authority.members.by_name.items())
    ]
    if as_json:
        print_json(rows)
        return
    width = max(map(len, authority.members.by_name))
    for row in rows:
        name, role, state, day = row.values()
        typer.echo(f"{name:{width}}  {role:11}  {state:8}  {day or ''}".rstrip())


@app.command()
def revoke(site: Member, home: Home = None, as_json: Json = False) -> None:
    """Shut a member out, or withdraw its invitation; a running coordinator heeds it at once."""
    _authority(home).revoke(site)
    if as_json:
        print_json({"site": site, "state": "revoked"})
    else:
        typer.echo(f"{site!r} is shut out.")


@app.command()
def rotate(home: Home = None, as_json: Json = False) -> None:
    """Give the coordinator a new key and certificate; a running one takes them over.

    Sites renew theirs by themselves.
    """
    authority = _authority(home)
    authority.rotate()
    name = authority.coordinator.member
    until = _day(authority.admissions().certificates[name])
    if as_json:
        print_json({"member": name, "until": until})
    else:
        typer.echo(f"{name!r} has a new certificate, valid until {until}.")


@app.command()
def trust(
    site: Member,
    ca: Annotated[
        Path, typer.Option(help="Certificate of its institution's authority, PEM.", exists=True)
    ],
    known_as: Annotated[
        str | None,
        typer.Option("--as", help="Its name in its institution's certificates; by default SITE."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Have a member's own institution vouch for it, when it joins and at each renewal.

    For this name alone: the institution's authority can certify no other member.
    """
    from tacit.network.institution import Institution

    _authority(home).trust(site, Institution.of(ca.read_bytes(), known_as or site))
    if as_json:
        print_json({"site": site, "institution": known_as or site})
    else:
        typer.echo(f"{site!r} joins with a certificate of its institution for {known_as or site}.")


def _day(seconds: float | None) -> str | None:
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def federation_home() -> Path:
    """The only coordinator's folder under ~/.tacit."""
    found = sorted(path.parent.parent for path in FOLDERS.glob("*/*/authority/ca.key"))
    if len(found) != 1:
        folders = ", ".join(map(str, found)) or "none"
        raise InputError(f"--home: which federation? Under {FOLDERS} there are: {folders}")
    return found[0]


def _authority(home: Path | None) -> "Authority":
    from tacit.network.authority import Authority

    return Authority.load(home or federation_home())
