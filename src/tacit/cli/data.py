"""``tacit data``: the data sets that are known by name."""

from typing import Annotated

import typer

from tacit.cli.output import Json, print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="One of those that `tacit data list` shows.")
]


@app.command("list")
def list_data(as_json: Json = False) -> None:
    """The data sets that are known by name."""
    from tacit.cli.screen import show_rows
    from tacit.data import sources

    keys = ("name", "task", "rows", "nodes", "description")
    rows = [{key: getattr(source, key) for key in keys} for source in sources()]
    if as_json:
        print_json(rows)
    else:
        show_rows(rows)


@app.command()
def describe(
    name: Name,
    nodes: Annotated[int | None, typer.Option(help="How many to deal the rows out to.")] = None,
    partition: Annotated[
        str | None, typer.Option(help="Who gets which rows: IID, 'Dirichlet(0.5)', Shards, ...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Each node's rows and label counts."""
    from tacit import settings
    from tacit.cli.screen import say
    from tacit.data import describe as as_text
    from tacit.data import load, node_table, sources

    dealt = settings.partition(partition) if partition else None
    federation = load(name, nodes, dealt)
    if as_json:
        print_json(node_table(federation))
        return
    source = next(source for source in sources() if source.name == name)
    say(f"{source.description}\n{source.home}; licence: {source.licence}\n")
    say(as_text(federation))


@app.command()
def fetch(name: Name, as_json: Json = False) -> None:
    """Bring a data set's files onto this machine, and say where they are."""
    from tacit.data import fetch as bring

    paths = [str(path) for path in bring(name)]
    if as_json:
        print_json(paths)
    else:
        typer.echo("\n".join(paths) or f"{name} is bundled: there is nothing to fetch")
