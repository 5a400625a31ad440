"""The data sets that come with scikit-learn."""

import torch

from tacit.data.rows import Rows
from tacit.data.source import Source


def _breast_cancer() -> Rows:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    x, y = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).long()
    return Rows(x, y, "classification", 2, tuple(map(str, bunch.feature_names)))


def _digits() -> Rows:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = torch.from_numpy(bunch.data).float() / 16, torch.from_numpy(bunch.target).long()
    return Rows(x, y, "classification", 10, tuple(map(str, bunch.feature_names)))


def _wine() -> Rows:
    from sklearn.datasets import load_wine

    bunch = load_wine()
    x, y = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).long()
    return Rows(x, y, "classification", 3, tuple(map(str, bunch.feature_names)))


def _diabetes() -> Rows:
    from sklearn.datasets import load_diabetes

    # scikit-learn's default is scaled over the pooled rows already.
    bunch = load_diabetes(scaled=False)
    x, y = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).float()
    return Rows(x, y.unsqueeze(1), "regression", 0, tuple(map(str, bunch.feature_names)))


BREAST_CANCER = Source(
    name="breast-cancer",
    description="30 measurements of cell nuclei; is the tumour benign (1) or malignant (0)",
    task="classification",
    rows=569,
    nodes=8,
    licence="CC BY 4.0",
    home="bundled with scikit-learn; Wolberg et al. (1995), doi 10.24432/C5DW2B",
    parse=_breast_cancer,
)
DIGITS = Source(
    name="digits",
    description="8 x 8 pixels in [0, 1], flattened to 64; which digit is it",
    task="classification",
    rows=1797,
    nodes=10,
    licence="CC BY 4.0",
    home="bundled with scikit-learn; Alpaydin and Kaynak (1998), doi 10.24432/C50P49",
    parse=_digits,
    scaling="none",
)
WINE = Source(
    name="wine",
    description="13 chemical measurements; which of three growers made the wine",
    task="classification",
    rows=178,
    nodes=4,
    licence="CC BY 4.0",
    home="bundled with scikit-learn; Aeberhard and Forina (1992), doi 10.24432/C5PC7J",
    parse=_wine,
)
DIABETES = Source(
    name="diabetes",
    description="10 measurements; a score of the disease's progression after one year (25 to 346)",
    task="regression",
    rows=442,
    nodes=8,
    licence="none stated",
    home='bundled with scikit-learn; Efron et al. (2004), "Least angle regression"',
    parse=_diabetes,
)
