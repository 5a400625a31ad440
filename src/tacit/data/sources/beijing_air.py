"""Beijing multi-site air quality: twelve stations, hour by hour, 2013 to 2017."""

import numpy as np
import torch

from tacit.data.files import File
from tacit.data.partition import ByKey
from tacit.data.rows import Rows
from tacit.data.source import Source

_TARGET = "PM2.5"
_MEASURED = ("PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM")
_CYCLES = {"hour": 24, "month": 12}


def parse(*stations: bytes) -> Rows:
    """Rows of all stations in time order, without those with a gap.

    x has ten measured columns and hour and month as points on a circle; y (N, 1) is PM2.5 in
    micrograms per cubic metre, never scaled.
    """
    import polars as pl

    wanted = [_TARGET, *_MEASURED, *_CYCLES, "station"]
    table = pl.concat(
        pl.read_csv(
            data,
            columns=wanted,
            null_values="NA",
            schema_overrides=dict.fromkeys((_TARGET, *_MEASURED), pl.Float32),
        )
        for data in stations
    ).drop_nulls()
    columns = {name: table[name].to_numpy() for name in _MEASURED}
    for name, period in _CYCLES.items():
        angle = table[name].to_numpy() * (2 * np.pi / period)
        columns |= {f"sin {name}": np.sin(angle), f"cos {name}": np.cos(angle)}
    return Rows(
        torch.from_numpy(np.column_stack(list(columns.values())).astype(np.float32)),
        torch.from_numpy(table[_TARGET].to_numpy(writable=True)).unsqueeze(1),
        "regression",
        0,
        tuple(columns),
        {"station": table["station"].to_numpy()},
        ordered=True,
    )


def _file(station: str, size: int, sha256: str) -> File:
    name = f"PRSA_Data_{station}_20130301-20170228.csv"
    home = (
        "https://raw.githubusercontent.com/Peiris94-dev/Beijing-Multi-Site-Air-Quality-Analysis/"
        "0aa46c055fcca7da49ebac9329435ffe674b74c3"
    )
    return File(f"beijing_air/{name}", size, sha256, f"{home}/{name}")


_STATIONS = (
    ("Aotizhongxin", 2_835_916, "a94fbcfc71708b6ffdc033360163d91efb7f675e496f6b5860929aa96b96351b"),
    ("Changping", 2_722_295, "a2e21402a6d95fb7043f87959e6e3dcbecb957aac356a6f8028a85b047c772e7"),
    ("Dingling", 2_675_856, "3d8dff81f18a80d9f455876a785642bffe1e9b9924ec1e6b7ce8cca790432eeb"),
    ("Dongsi", 2_636_684, "9c0020214425e5ee2a64d42f97a1f632e1d8f6b53ad50edd85a686cc7999f27e"),
    ("Guanyuan", 2_695_860, "59390fee3b032597b387491f5230e7edb90a8558e30217ebd6d9befbe669fbf9"),
    ("Gucheng", 2_654_625, "10ae48801ea55869fee56a48b885fb1127859c130551888d71673f34216ba951"),
    ("Huairou", 2_641_027, "812dcbe848b3ba2c2d25731064797bff803c46eb0c602156a1fa044df136dc26"),
    ("Nongzhanguan", 2_839_705, "572cf87b65ef543cd55d3a711b28474def224a46b0ec3fc8add8aaf13b67a487"),
    ("Shunyi", 2_620_654, "520b59e4ead3b0cfe7f1ed673e30275de8441e999db6f413d5172d2277b8c15a"),
    ("Tiantan", 2_655_061, "0743e34799cf1ee36195b73321b91baa5625276532e7263c588f68cdef3b4daa"),
    ("Wanliu", 2_659_544, "0b1a6d754a07f0def2f55434ddfa3870dcd0063b7f766a6f66b6c11bb05a377a"),
    (
        "Wanshouxigong",
        2_871_076,
        "ab1d6a356d6997a45f6d657ad47de1e05a4a08d4a7015b38a329a90665ab74d0",
    ),
)

BEIJING_AIR = Source(
    name="beijing-air",
    description="weather and other pollutants, one station a node; PM2.5 in ug/m3 at that hour",
    task="regression",
    rows=383_585,
    nodes=12,
    licence="CC BY 4.0",
    home="UCI; Zhang et al. (2017), doi 10.24432/C5RK5G, as CSV",
    parse=parse,
    files=tuple(_file(*station) for station in _STATIONS),
    partition=ByKey("station"),
)
