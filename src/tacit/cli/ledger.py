"""``tacit verify`` and ``tacit ledger``: the signed record of a run, checked and read."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.output import Json, print_json
from tacit.errors import InputError, MessageError

if TYPE_CHECKING:
    from tacit.ledger.log import Log
    from tacit.ledger.note import Checkpoint

Record = Annotated[Path, typer.Argument(metavar="RECORD", help="Folder of the record.")]
Entry = Annotated[int, typer.Argument(metavar="ENTRY", help="Place of the entry, from 0.")]

app = typer.Typer(no_args_is_help=True)


def verify(
    record: Record,
    against: Annotated[
        Path | None,
        typer.Option(help="Folder of another copy, of a site's part, or of another peer's record."),
    ] = None,
    release: Annotated[
        Path | None, typer.Option(help="Folder that tacit release wrote, to be held to the record.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="File that says whose signatures count; by default the record's own."),
    ] = None,
    seen: Annotated[
        Path | None, typer.Option(help="File with a signed head that was kept from before.")
    ] = None,
    openings: Annotated[
        Path | None,
        typer.Option(help="File of the run's openings: its masked sums are computed again."),
    ] = None,
    anchors: Annotated[
        Path | None,
        typer.Option(
            help="chain.json of a contract that keeps the record's heads; the address of a node"
            " of its chain is in TACIT_CHAIN_NODE."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the record of a run, without trusting anyone who wrote it.

    A line for each part of the audit, then a line for each thing that is not as it should be, with
    the place of its entry. Exit code 1 if there is one. Entries beyond the signed head, of a run
    that goes on or was cut off, are none, unless they are wrong by themselves.
    """
    from tacit.ledger.recorder import text
    from tacit.ledger.verify import verify as audit

    before = None if seen is None else text(seen, "seen")
    found = audit(
        record, policy=policy, seen=before, against=against, openings=openings, release=release,
        anchored=_anchored(record, anchors) if anchors else None,
    )  # fmt: skip
    if as_json:
        print_json(
            {
                "holds": not found.findings,
                "beyond": found.beyond,
                "size": found.head.size if found.head else None,
                "root": found.head.root.hex() if found.head else None,
                "checks": dict(found.checks),
                "findings": [
                    {"check": f.check, "entry": f.entry, "what": f.what} for f in found.findings
                ],
            }
        )
    else:
        width = max(len(name) for name, _ in found.checks)
        for name, word in found.checks:
            typer.echo(f"{name:{width}}  {word}")
        for finding in found.findings:
            typer.echo(f"FAIL  {finding.check}: {finding}")
        if not found.findings and found.beyond:
            typer.echo(
                f"The record holds, up to its signed head; {found.beyond} entries stand beyond it,"
                " for which nobody vouches yet."
            )
        elif not found.findings:
            typer.echo("The record holds.")
    if found.findings:
        raise typer.Exit(1)


@app.command()
def show(record: Record, as_json: Json = False) -> None:
    """List the entries of a record: what each says, and who has signed it."""
    rows = list(_entries(record))
    if as_json:
        print_json(rows)
        return
    for row in rows:
        says = ", ".join(f"{key} {_brief(value)}" for key, value in row["says"].items())
        typer.echo(f"{row['entry']:5}  {row['kind']:12}  {', '.join(row['signed by'])}: {says}")


@app.command()
def export(
    record: Record,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="To make; a file for each entry.")],
) -> None:
    """Write the entries as DSSE envelopes, the policy and the signed head, for other tools.

    What only the parties know, their keys and openings, is left out.
    """
    from tacit.ledger.recorder import HEAD, LOG, POLICY

    log = _log(record)
    if out.exists():
        raise InputError(f"FOLDER: {out} is there already; give a new one")
    out.mkdir(parents=True)
    for place, entry in enumerate(log):
        (out / f"{place:06d}.dsse.json").write_bytes(entry)
    (out / POLICY).write_text((record / POLICY).read_text())
    (out / HEAD).write_text(log.note() or "")
    typer.echo(f"{len(log)} entries of {record / LOG} are in {out}.")


@app.command()
def proof(record: Record, entry: Entry) -> None:
    """Print the proof that an entry is in the record, in the format tlog-proof."""
    from tacit.ledger.proof import Proof

    typer.echo(str(Proof.of(_log(record), entry)), nl=False)


@app.command()
def head(record: Record) -> None:
    """Print the record's signed head; keep it for tacit verify --seen."""
    note = _log(record).note()
    if note is None:
        raise InputError(f"record: {record} has no signed head yet")
    typer.echo(note, nl=False)


def _brief(value: object) -> str:
    """A value for readers: of a hash or key its first 12 digits, of a list its first six parts."""
    match value:
        case dict():
            parts = [f"{key} {_brief(each)}" for key, each in value.items()]
        case list():
            parts = [_brief(each) for each in value]
        case str() if len(value) >= 32 and set(value) <= set("0123456789abcdef"):
            return f"{value[:12]}..."
        case _:
            return str(value) or "none"
    more = len(parts) - 6
    text = ", ".join(parts[:6]) + (f" and {more} more" if more > 0 else "")
    return f"({text or 'none'})"


def _anchored(record: Path, file: Path) -> "list[Checkpoint]":
    """The heads of a record's log that count on a chain."""
    from tacit.ledger.chain.agreed import Agreed
    from tacit.ledger.chain.anchor import Anchors
    from tacit.ledger.chain.node import Node
    from tacit.ledger.note import Checkpoint

    if "TACIT_CHAIN_NODE" not in os.environ:
        raise InputError("--anchors: TACIT_CHAIN_NODE does not name a node of the chain")
    agreed, origin = Agreed.read(file), _log(record).origin
    node = Node.at(os.environ["TACIT_CHAIN_NODE"], agreed.chain)
    heads = Anchors(node, agreed.anchors, origin).heads(agreed.block)
    return [Checkpoint(origin, head.size, head.root) for head in heads]


def _log(record: Path) -> "Log":
    from tacit.ledger.recorder import kept

    return kept(record)[1]


def _entries(record: Path) -> Iterator[dict[str, Any]]:
    from tacit.ledger.statement import Envelope

    for place, entry in enumerate(_log(record)):
        try:
            envelope = Envelope.from_bytes(entry)
            said = envelope.statement
        except MessageError as error:
            yield {"entry": place, "kind": "unreadable", "signed by": [], "says": {"": str(error)}}
            continue
        yield {
            "entry": place,
            "kind": said.kind,
            "signed by": sorted(envelope.signatures),
            "subjects": {name: found.hex() for name, found in said.subjects.items()},
            "says": dict(said.says),
        }
