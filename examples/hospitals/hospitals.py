"""Three hospitals that train one model; each has a table of its own (``make_tables.py``)."""

from make_tables import COLUMNS
from torch import nn

import tacit

experiment = tacit.Experiment(
    data=tacit.data.at_sites(
        ["north", "south", "west"],
        target="diagnosis",
        columns=COLUMNS,
        labels=["malignant", "benign"],
        name="breast-cancer",
    ),
    model=lambda: nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2)),
    loss=nn.functional.cross_entropy,
    training=tacit.SGD(lr=0.1, batch_size=16, epochs=1),
    rounds=10,
)
