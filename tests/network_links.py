"""Slow, lossy and cut links between processes: a network namespace each, and packets by hand.

    python network_links.py    says what is not permitted here; nothing where all is

Every process has a TUN device; whoever calls ``Links`` passes the packets on. No ``tc`` is needed,
whose netem many kernels lack.
"""

import ctypes
import fcntl
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from heapq import heappop, heappush

_NEWNET, _NEWUSER = 0x40000000, 0x10000000
_TUNSETIFF, _TUN, _BARE = 0x400454CA, 0x0001, 0x1000
_SETADDRESS, _SETMASK, _SETFLAGS, _UP = 0x8916, 0x891C, 0x8914, 0x1
_QUEUE = 256 * 1024  # bytes that wait at a link of limited rate; more are lost


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError(ctypes.get_errno(), "no network namespace")


def enter(address: str) -> int:
    """Moves this process to a network of its own; its packets are in the file."""
    try:
        _unshare(_NEWNET)
    except PermissionError:
        _unshare(_NEWUSER | _NEWNET)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"tacit0", _TUN | _BARE))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as config:
        for what, given in ((_SETADDRESS, address), (_SETMASK, "255.255.255.0")):
            packed = struct.pack("16sHH4s8x", b"tacit0", socket.AF_INET, 0, socket.inet_aton(given))
            fcntl.ioctl(config, what, packed)
        for name in (b"lo", b"tacit0"):
            fcntl.ioctl(config, _SETFLAGS, struct.pack("16sH22x", name, _UP))
    return tun


class Links:
    """The network between them: everyone has one link, which all of its packets pass.

    Args:
        delay: seconds from one to another.
        loss: share of packets that are lost.
        rate: bytes a second of each link, in each direction.
        cuts: (address, after how many bytes over its link, for how many seconds) each.
    """

    def __init__(
        self,
        delay: float = 0.0,
        loss: float = 0.0,
        rate: float = float("inf"),
        cuts: Sequence[tuple[str, int, float]] = (),
    ) -> None:
        self.delay, self.loss, self.rate = delay, loss, rate
        self.cuts, self.cut = list(cuts), dict[str, float]()
        self.files: dict[str, int] = {}
        self.passed: dict[str, int] = {}
        self._free: dict[tuple[str, bool], float] = {}
        self._due: list[tuple[float, int, str, bytes]] = []
        self._draw, self._count = random.Random(7), 0

    def add(self, address: str, tun: int) -> None:
        """A process that is there, or is there again."""
        if address in self.files:
            os.close(self.files[address])
        self.files[address] = tun
        self.passed.setdefault(address, 0)

    def close(self) -> None:
        for tun in self.files.values():
            os.close(tun)

    def step(self) -> None:
        """Passes on what has come and is due; returns after at most a few milliseconds."""
        wait = min(0.005, max(0.0, self._due[0][0] - time.monotonic())) if self._due else 0.005
        for tun in select.select(list(self.files.values()), [], [], wait)[0]:
            for _ in range(64):
                try:
                    self._take(os.read(tun, 65536))
                except OSError:  # nothing more, or the process has gone
                    break
        while self._due and self._due[0][0] <= time.monotonic():
            _, _, to, packet = heappop(self._due)
            try:
                os.write(self.files[to], packet)
            except OSError:
                continue

    def _take(self, packet: bytes) -> None:
        if packet[0] >> 4 != 4:
            return
        sender, to = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        now = due = time.monotonic()
        if to not in self.files or self._draw.random() < self.loss:
            return
        for end, outgoing in ((sender, True), (to, False)):
            self.passed[end] += len(packet)
            for cut in [c for c in self.cuts if c[0] == end and self.passed[end] >= c[1]]:
                self.cuts.remove(cut)
                self.cut[end] = now + cut[2]
            if now < self.cut.get(end, 0.0):
                return
            free = max(self._free.get((end, outgoing), 0.0), due)
            if (free - now) * self.rate > _QUEUE:
                return
            due = self._free[end, outgoing] = free + len(packet) / self.rate
        self._count += 1
        heappush(self._due, (due + self.delay, self._count, to, packet))


if __name__ == "__main__":
    try:
        enter("10.9.0.1")
    except OSError as error:
        sys.exit(print(f"no networks of one's own: {error}"))
