"""A small run in one process, over real sockets: a coordinator and two sites, each a thread."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tacit
from network_killing import SITES, plan
from network_parties import free_port, until
from tacit.network import joining
from tacit.network.authority import Authority
from tacit.network.processes import Taken, coordinate, take_part
from tacit.network.site import SiteRun
from tacit.network.store import Kept
from test_network_rounds import alone, empty

_ONE_AT_A_TIME = threading.Lock()


class Small:
    """The run's parties.

    Attributes:
        tokens: that the sites join by.
        settings: of ``take_part``, for each site.
    """

    def __init__(self, folder: Path, whole: tacit.Experiment | None = None) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{free_port()}"
        self.authority = Authority.init("hearts", folder / "coordinator", [self.address])
        self.tokens = {site: self.authority.invite(site) for site in SITES}
        self.settings: dict[str, dict[str, Any]] = {site: {} for site in SITES}
        self.whole = whole or plan()
        self.public = self.whole.replace(data=empty(self.whole.data))

    def coordinate(self, **settings: Any) -> tuple[Kept, list[dict[str, object]]]:
        folder = self.folder / "run"
        folder.mkdir(exist_ok=True)
        return coordinate(
            self.public, self.authority.home, folder, listen=[self.address], patience=120,
            **settings,
        )  # fmt: skip

    def site(self, name: str) -> Taken:
        home = self.folder / name
        joining.join(self.tokens[name], home)
        data = alone(self.whole.data, SITES.index(name))
        folder = self.folder / f"run-{name}"
        return take_part(self.public, data, home, folder, **self.settings[name])

    def listens(self) -> bool:
        host, port = self.address.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True

    def all(self, **settings: Any) -> tuple[Kept, list[Taken]]:
        """The whole run: how it ended for the coordinator, and for the sites."""
        with ThreadPoolExecutor(3) as pool, _taking_turns():
            kept = pool.submit(self.coordinate, **settings)
            until(lambda: self.listens() or kept.done())
            taken = [pool.submit(self.site, name) for name in SITES]
            return kept.result()[0], [each.result() for each in taken]


@contextmanager
def _taking_turns() -> Iterator[None]:
    """Nothing is trained in several threads at once: sites are processes."""
    part = SiteRun._take_part

    def alone(self: SiteRun, *order: Any) -> None:
        with _ONE_AT_A_TIME:
            part(self, *order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteRun, "_take_part", alone)
        yield
