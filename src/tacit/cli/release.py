"""``tacit release``: hand a finished run's model out, signed and told about."""

from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.output import Json, print_json


def release(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    to: Annotated[Path, typer.Option(help="Folder to make: what is handed out.")],
    record: Annotated[
        Path | None, typer.Option(help="Folder of the run's record; by default record/ in RUN.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="ECDSA key of the curve P-256, PEM, to sign with; by default model.key in RUN,"
            " made where it is not there."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Hand out the model of a finished run: signed, with its bill of materials and model card.

    The card tells what data went in, which privacy was spent, which attacks were tried and what
    each site contributed. The last two come from RUN/audit.json and RUN/contributions.json, what
    tacit audit and tacit contributions print with --json; without them it says that nothing was
    tried or measured. The record gets an entry, signed by a quorum, by which tacit verify --release
    knows the folder.
    """
    from tacit.release.folder import release as hand_out

    facts = hand_out(run, record or run / "record", to, key)
    if as_json:
        print_json({"folder": str(to), "experiment": facts.digest, "privacy": facts.privacy})
        return
    typer.echo(f"Privacy spent: {facts.spent()}")
    typer.echo(f"Attacks tried: {facts.attacked()}")
    typer.echo(f"{to}: model, card, bill of materials, signature and public key.")
