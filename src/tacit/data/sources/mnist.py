"""MNIST: 28 x 28 grey digits, with their official test set."""

import numpy as np
import torch
from torch import Tensor

from tacit.data.files import File
from tacit.data.rows import Rows
from tacit.data.source import Source

_IMAGE_HEADER, _LABEL_HEADER = 16, 8  # bytes of the idx format


def parse(train_x: bytes, train_y: bytes, test_x: bytes, test_y: bytes) -> Rows:
    """Rows with x (N, 1, 28, 28) in [0, 1] from the four idx files."""
    return Rows(
        _images(train_x),
        _labels(train_y),
        "classification",
        10,
        test=(_images(test_x), _labels(test_y)),
    )


def _images(data: bytes) -> Tensor:
    pixels = np.frombuffer(data, np.uint8, offset=_IMAGE_HEADER).reshape(-1, 1, 28, 28)
    return torch.from_numpy(pixels.astype(np.float32)).div_(255)


def _labels(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=_LABEL_HEADER).astype(np.int64))


def _file(name: str, size: int, sha256: str) -> File:
    home = "https://ossci-datasets.s3.amazonaws.com/mnist"
    return File(f"mnist/{name}", size, sha256, f"{home}/{name}.gz")


MNIST = Source(
    name="mnist",
    description="28 x 28 pixels in [0, 1]; which digit is it",
    task="classification",
    rows=70_000,
    nodes=100,
    licence="CC BY-SA 3.0",
    home="ossci-datasets mirror; LeCun, Cortes, Burges (1998)",
    parse=parse,
    files=(
        _file(
            "train-images-idx3-ubyte",
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        _file(
            "train-labels-idx1-ubyte",
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        _file(
            "t10k-images-idx3-ubyte",
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        _file(
            "t10k-labels-idx1-ubyte",
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    scaling="none",
)
