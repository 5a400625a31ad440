"""UCI Heart Disease: four hospitals, prepared as in FLamby.

Source: Ogier du Terrail et al., "FLamby: datasets and benchmarks for cross-silo federated learning
in realistic healthcare settings", NeurIPS 2022, Fed-Heart-Disease: slope, ca and thal are dropped,
then the rows with gaps; cp and restecg are one-hot, their first code dropped; the label is whether
num, the grade of the disease, is above 0.
"""

import numpy as np
import torch

from tacit.data.files import File
from tacit.data.partition import ByKey
from tacit.data.rows import Rows
from tacit.data.source import Source

_HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
_NUMBERS = {"age": 0, "sex": 1, "trestbps": 3, "chol": 4, "fbs": 5}
_MORE_NUMBERS = {"thalach": 7, "exang": 8, "oldpeak": 9}
_CP, _RESTECG, _NUM = 2, 6, 13


def parse(*hospitals: bytes) -> Rows:
    """Rows from the hospitals' files, in the order cleveland, hungarian, switzerland, va."""
    tables = [_complete_rows(data.decode()) for data in hospitals]
    table = np.concatenate(tables)
    columns = {name: table[:, i] for name, i in _NUMBERS.items()}
    columns |= {f"cp={code}": table[:, _CP] == code for code in (2, 3, 4)}
    columns |= {f"restecg={code}": table[:, _RESTECG] == code for code in (1, 2)}
    columns |= {name: table[:, i] for name, i in _MORE_NUMBERS.items()}
    x = np.column_stack(list(columns.values())).astype(np.float32)
    y = (table[:, _NUM] > 0).astype(np.int64)
    hospital = np.repeat(_HOSPITALS, [len(part) for part in tables])
    return Rows(
        torch.from_numpy(x),
        torch.from_numpy(y),
        "classification",
        2,
        tuple(columns),
        {"hospital": hospital},
    )


def _complete_rows(text: str) -> np.ndarray:
    kept = [*_NUMBERS.values(), _CP, _RESTECG, *_MORE_NUMBERS.values(), _NUM]
    rows = [line.split(",") for line in text.split()]
    complete = [row for row in rows if all(row[i] != "?" for i in kept)]
    return np.array([[float("nan" if cell == "?" else cell) for cell in row] for row in complete])


def _file(hospital: str, size: int, sha256: str) -> File:
    home = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
    name = f"processed.{hospital}.data"
    return File(f"heart_disease/{name}", size, sha256, f"{home}/{name}")


HEART_DISEASE = Source(
    name="heart-disease",
    description="13 measurements at four hospitals, one a node; is the heart ill (1)",
    task="classification",
    rows=740,
    nodes=4,
    licence="CC BY 4.0",
    home="UCI; Janosi, Steinbrunn, Pfisterer, Detrano (1988), doi 10.24432/C52P4X",
    parse=parse,
    files=(
        _file(
            "cleveland", 18461, "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"
        ),
        _file(
            "hungarian", 10263, "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"
        ),
        _file(
            "switzerland", 4109, "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"
        ),
        _file("va", 6737, "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
    ),
    partition=ByKey("hospital"),
    test_fraction=0.34,
)
