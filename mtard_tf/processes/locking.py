"""One trainer of a run, or of a stage, at a time."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows has none; there nothing guards a run directory
    fcntl = None  # type: ignore[assignment]


class LockedError(ValueError):
    """The directory is in use. The message is one line."""


@contextlib.contextmanager
def locked(folder: pathlib.Path, name: str = "lock", shared: bool = False) -> Iterator[None]:
    """Holds a lock file of the directory inside the block; the system frees it if the process dies.

    Args:
      folder: the run directory.
      name: of the file.
      shared: others may hold it too, if they share it.

    Raises:
      LockedError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    with (folder / name).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LockedError(
                f"{folder} is in use ({name} is held by {holder}); wait for it, or choose "
                "another folder."
            ) from error
        except OSError as error:  # some network file systems have no locks
            print(f"{folder} is not locked ({error.strerror}).", file=sys.stderr, flush=True)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
