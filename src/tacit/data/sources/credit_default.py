"""Default of credit-card clients in Taiwan, 2005."""

import numpy as np
import torch

from tacit.data.files import File
from tacit.data.rows import Rows
from tacit.data.source import Source


def parse(data: bytes) -> Rows:
    """Rows with 23 columns; natural keys EDUCATION, SEX, MARRIAGE (codes) and AGE (decades)."""
    import polars as pl

    table = pl.read_csv(data, infer_schema_length=None)
    columns = [name for name in table.columns if name not in ("ID", "default.payment.next.month")]
    keys = {name: table[name].to_numpy() for name in ("EDUCATION", "SEX", "MARRIAGE")}
    keys["AGE"] = table["AGE"].to_numpy() // 10 * 10
    return Rows(
        torch.from_numpy(table.select(columns).to_numpy().astype(np.float32)),
        torch.from_numpy(table["default.payment.next.month"].to_numpy().astype(np.int64)),
        "classification",
        2,
        tuple(columns),
        keys,
    )


CREDIT_DEFAULT = Source(
    name="credit-default",
    description="23 facts about a card holder; is the next payment missed (1)",
    task="classification",
    rows=30_000,
    nodes=10,
    licence="CC BY 4.0",
    home="UCI; Yeh and Lien (2009), doi 10.24432/C55S3H, as CSV",
    parse=parse,
    files=(
        File(
            "credit_default/UCI_Credit_Card.csv",
            2_862_995,
            "a0f0ab49d6326671d6cd83be5c88dcf18007025fe9a53ecd699119c871176ca1",
            "https://raw.githubusercontent.com/vlada270/ML_coursework-/"
            "7b082274e1989fda975b8fb500b50297dc9ecc51/UCI_Credit_Card.csv",
        ),
    ),
)
