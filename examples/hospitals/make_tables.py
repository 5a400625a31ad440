"""Deals the bundled breast-cancer rows out to three tables: north.csv, south.csv, west.csv.

python make_tables.py [FOLDER]
"""

import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

SITES = ("north", "south", "west")
COLUMNS = [name.replace(" ", "_") for name in load_breast_cancer().feature_names]


def main(folder: Path) -> None:
    rows, labels = load_breast_cancer(return_X_y=True)
    for at, site in enumerate(SITES):
        lines = [",".join([*COLUMNS, "diagnosis"])]
        for row, label in zip(rows[at::3], labels[at::3], strict=True):
            lines.append(",".join([*map(repr, row.tolist()), ["malignant", "benign"][label]]))
        (folder / f"{site}.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
