"""Being told to go: SIGTERM, which schedulers send some seconds before they kill."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator

# sysexits.h, EX_TEMPFAIL: the same command may work later. Schedulers can requeue on it.
EXIT_CODE = 75
# Set for a process by the one that started it and waits for it.
PARENT = "MTARD_PARENT"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Preempted(Exception):
    """Training stopped because the process was told to go; the same command goes on."""

    def __init__(self, step: int | None = None, where: str = "between two stages") -> None:
        where = where if step is None else f"checkpointed at step {step:,}"
        super().__init__(f"Told to go (SIGTERM): {where}. The same command goes on.")


class Preemption:
    """Remembers whether SIGTERM has come."""

    def __init__(self) -> None:
        self.told = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Preemption]:
        """Handles SIGTERM inside the block; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "told", True))
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)


def go_with_parent() -> None:
    """Gets SIGTERM when the process that `PARENT` names ends, however it ends. Linux only."""
    parent = os.environ.pop(PARENT, None)  # not for what this process may start
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it was quicker
        os.kill(os.getpid(), signal.SIGTERM)
