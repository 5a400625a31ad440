"""What each node holds, as rows for machines and as a table for people."""

from tacit.data.federation import Federation


def node_table(federation: Federation) -> list[dict[str, object]]:
    """One flat dict per node: node, train, test (rows), and label 0, label 1, ... (training rows).

    A shared test set counts as None at each node.
    """
    test = [None] * federation.nodes if federation.shared_test else federation.test.sizes.tolist()
    table: list[dict[str, object]] = [
        {"node": name, "train": train, "test": tested}
        for name, train, tested in zip(
            federation.names, federation.train.sizes.tolist(), test, strict=True
        )
    ]
    if federation.task == "classification":
        for row, counts in zip(table, federation.label_counts().tolist(), strict=True):
            row.update({f"label {label}": count for label, count in enumerate(counts)})
    return table


def describe(federation: Federation) -> str:
    """Each node's sizes and label counts as a plain-text table, under a line about the whole."""
    table = node_table(federation)
    lines = [list(table[0]), *([_cell(value) for value in row.values()] for row in table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    ]
    shared = " shared by all" if federation.shared_test else ""
    head = (
        f"{federation.name}: {federation.task}, {federation.nodes} nodes,"
        f" {len(federation.train.y)} training rows, {len(federation.test.y)} test rows{shared}"
    )
    return "\n".join([head, *body])


def _cell(value: object) -> str:
    return "shared" if value is None else str(value)
