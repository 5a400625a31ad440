"""Being asked to stop: by SIGTERM, as service managers do, or by SIGINT, as people do.

A run survives SIGKILL at any moment; thus whoever is asked to stop may drop what it is doing. What
it does beside is to say farewell and to close what others see.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

BOUND = 8.0  # seconds after which a process that was asked to stop ends, whatever hangs
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """This process was asked to stop.

    Attributes:
        code: to exit with: 0 after SIGTERM, which asked for no more than that; 130 after SIGINT.
    """

    def __init__(self, number: int) -> None:
        super().__init__("stopped; started again with the same command, it goes on")
        self.code = _code(number)


@contextmanager
def stoppable(bound: float = BOUND) -> Iterator[None]:
    """While it lasts, SIGTERM and SIGINT raise ``Stopped`` in the main thread, which enters it.

    After that, another signal ends the process at once, and so do ``bound`` seconds.
    """
    seen, written = socket.socketpair()
    written.setblocking(False)
    # Python's handler waits until the main thread is back from a library; this is told at once.
    threading.Thread(target=_end, args=(seen, bound), daemon=True).start()
    asked: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        asked.append(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    fd = signal.set_wakeup_fd(written.fileno())
    for each in _SIGNALS:
        if before[each] != signal.SIG_IGN:  # as of a shell for what it starts with "&"
            signal.signal(each, stop)
    try:
        yield
    except Exception:
        if not asked:  # else it comes from what was dropped
            raise
        raise Stopped(asked[0]) from None
    finally:
        if not asked:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.set_wakeup_fd(fd)
            written.close()


def _end(seen: socket.socket, bound: float) -> None:
    with seen:
        while number := seen.recv(1):
            if number[0] in _SIGNALS:
                time.sleep(bound)
                os._exit(_code(number[0]))


def _code(number: int) -> int:
    return 0 if number == signal.SIGTERM else 128 + number
