"""Preemption: SIGTERM, which schedulers send some seconds before they kill, and Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

# sysexits.h, EX_TEMPFAIL: the same command may work later. Schedulers can requeue on it.
EXIT_CODE = 75
# What shells give a command that ended by SIGINT. Schedulers do not repeat it.
INTERRUPTED = 130
# Set for a process by the one that started it and waits for it.
PARENT = "MTARD_PARENT"
_LOST_WORKER = ("UnavailableError", "AbortedError", "DeadlineExceededError", "CancelledError")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_received: list[int] = []  # by this process, in their order


class Preempted(BaseException):
    """The process was preempted and has left nothing half done; the same command resumes.

    Like KeyboardInterrupt not an Exception: it may come anywhere, and what handles errors must let
    it pass.

    Attributes:
      code: with which the process should exit.
    """

    def __init__(self, step: int | None = None, where: str = "between two stages") -> None:
        by_hand = _received[:1] == [signal.SIGINT]
        self.code = INTERRUPTED if by_hand else EXIT_CODE
        where = where if step is None else f"checkpointed at step {step:,}"
        cause = "Interrupted (Ctrl-C)" if by_hand else "Preempted (SIGTERM)"
        super().__init__(f"{cause}: {where}. The same command resumes.")


class Preemption:
    """Remembers whether SIGTERM or SIGINT has come."""

    def __init__(self) -> None:
        self.received = False
        self._interrupted = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Preemption]:
        """Handles both inside the block; only the main thread can. A second Ctrl-C does not wait.

        Raises:
          Preempted: Ctrl-C came twice.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in _heard()}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and self._interrupted
        self.received = True
        self._interrupted |= number == signal.SIGINT
        if again:
            _leave(number, frame)
        _received.append(number)


def leave_at_once() -> None:
    """From here on either signal raises Preempted, wherever the main thread is, once only."""
    for number in _heard():
        signal.signal(number, _leave)


def _heard() -> list[signal.Signals]:
    """Not those that this process was started to ignore, as a background job is Ctrl-C."""
    return [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def received() -> bool:
    """Whether this process was preempted."""
    return bool(_received)


def _leave(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    for other in _SIGNALS:  # a second one must not cut short what the first one cleans up
        signal.signal(other, signal.SIG_IGN)
    raise Preempted(where="no file is incomplete")


def lost_worker(error: Exception) -> str:
    """What an error says of a lost connection between workers, one line; "" if it is another."""
    # TensorFlow is not imported here; its errors have these names.
    if type(error).__name__ not in _LOST_WORKER or "TF_CONFIG" not in os.environ:
        return ""
    return (
        f"Another worker has ended ({type(error).__name__}; --debug says more). Start all workers "
        "again with the same commands; they resume from the last checkpoint."
    )


def go_with_parent() -> None:
    """Has this process sent SIGTERM when the one that `PARENT` names ends. Linux only."""
    parent = os.environ.pop(PARENT, None)  # not for child processes
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before
        os.kill(os.getpid(), signal.SIGTERM)
