"""Runs of forked processes are watched to their end: none hangs or crashes unseen."""

import faulthandler
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

_DUMPING = 20.0  # seconds in which who is alive says where it is
_TAIL = 6000  # characters of each log


def forked(play: Callable[[], object], log: Path, bound: float) -> int:
    """Carries it out in a process of its own, whose output goes to the log.

    That ends by itself after the bound, should whoever watches it be killed.
    """
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if pid := os.fork():
        os.close(file)
        return pid
    try:
        signal.alarm(int(bound) + 60)
        os.dup2(file, 1), os.dup2(file, 2)
        told_on_signal()
        play()
        os._exit(0)
    except BaseException:
        logging.exception("failed")
        os._exit(1)


def told_on_signal() -> None:
    """This process says where it is, in its log, if it crashes or ``watch`` gives it up."""
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR1, 2, chain=True)  # and ends


def watch(
    running: dict[int, str],
    folder: Path,
    bound: float,
    foreseen: Callable[[str, int], bool],
    step: Callable[[], object] = lambda: time.sleep(0.01),
) -> str:
    """Waits until all processes have ended, or one as it should not.

    Args:
        running: the role of each process; its log is the role's in the folder.
        bound: seconds.
        foreseen: whether a role was to end with this status (negative: the signal it died of). It
            may put a successor among those who run.
        step: what is done meanwhile, again and again.

    Returns:
        What went wrong, with the end of all logs; empty if nothing did.
    """
    fault, end = "", time.monotonic() + bound
    while running and not fault:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            role, code = running.pop(pid), os.waitstatus_to_exitcode(status)
            if not foreseen(role, code):
                how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
                fault = f"{role} {how}"
        elif time.monotonic() > end:
            fault = f"not ended within {bound:g} s: {', '.join(running.values())}"
        else:
            step()
    if not fault:
        return ""
    for pid in running:
        os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + _DUMPING
    for pid in running:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.01)
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
    logs = sorted(folder.glob("*.log"))
    return "\n".join([fault, *(f"--- {log.name}\n{log.read_text()[-_TAIL:]}" for log in logs)])
