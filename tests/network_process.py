"""Members in processes of their own, to be killed and stopped by tests.

python network_process.py hold FOLDER ADDRESS FILE             offers FILE until it is killed
python network_process.py take FOLDER ADDRESS HOLDER DIGEST SIZE INTO
                                                               pulls it; a line for each chunk
python network_process.py flood FOLDER ADDRESS MEMBER COUNT    sends it so many requests, and "sent"
"""

import subprocess
import sys
import threading
from pathlib import Path

from network_parties import Ping
from tacit.network.blobs import Blobs, Offer
from tacit.network.identity import Identity
from tacit.network.messages import seal
from tacit.network.transport import Endpoint


def start(*arguments: object) -> subprocess.Popen[str]:
    """One of the above; it has said that it is ready when this returns."""
    words = [sys.executable, __file__, *map(str, arguments)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _say(*words: object) -> None:
    print(*words, flush=True)


def peak() -> int:
    """Bytes of memory that this process had at most; ``ru_maxrss`` begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _hold(blobs: Blobs, file: str) -> None:
    blobs.offer(Path(file))
    _say("ready")
    threading.Event().wait()


def _take(blobs: Blobs, holder: str, digest: str, size: str, into: str) -> None:
    _say("ready")
    before, offer = peak(), Offer(bytes.fromhex(digest), int(size))
    blobs.pull(holder, offer, Path(into), most=offer.size, stall=30, progress=_say)
    _say("memory", peak() - before)


def _flood(blobs: Blobs, member: str, count: str) -> None:
    endpoint = blobs._endpoint
    sealed = seal(endpoint.identity, member, Ping(1))
    _say("ready")
    for i in range(int(count)):  # every fourth is a good one
        endpoint.request(member, "Ping", b"" if i % 4 else sealed, timeout=10)
    _say("sent")
    threading.Event().wait()


if __name__ == "__main__":
    what, folder, address, *rest = sys.argv[1:]
    with Endpoint(Identity.load(Path(folder)), connect=[address], wait=60) as endpoint:
        {"hold": _hold, "take": _take, "flood": _flood}[what](Blobs(endpoint), *rest)
