"""Keeps the page of a run up to date while it trains, also when a stage ends early."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from mtard_tf import files
from mtard_tf.processes.preemption import Preempted, lost_worker, received
from mtard_tf.reporting import pages
from mtard_tf.reporting.run_view import PROBLEM, STAGES

PAGE = pathlib.Path("report", "index.html")


def refresh(run_dir: pathlib.Path) -> None:
    """Writes the page of a run that has a `stages.json`; one that cannot be stops nothing."""
    if (run_dir / STAGES).exists():
        pages.refresh(run_dir)


def announce(run_dir: pathlib.Path) -> None:
    """Writes the page of a run that begins, and says on stderr where it lies."""
    refresh(run_dir)
    print(f"Page, renewed after each epoch: {run_dir / PAGE}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def noting(folder: pathlib.Path) -> Iterator[None]:
    """Notes in a stage's folder, and on the page, with which line its training ended early."""
    path = folder / PROBLEM
    if path.exists():
        path.unlink()
        refresh(folder.parent)
    try:
        yield
    except Preempted as error:
        _note(path, "stopped", str(error))
        raise
    except Exception as error:
        if line := lost_worker(error):
            _note(path, "stopped", line)
        elif received():  # a library turned it into an error of its own
            _note(path, "stopped", str(Preempted(where="no file is incomplete")))
        else:
            _note(path, "failed", str(error) or type(error).__name__)
        raise
    refresh(folder.parent)


def note_failed(folder: pathlib.Path, line: str) -> None:
    """Notes that the training of a stage failed in a process that could not note it itself."""
    if not (folder / PROBLEM).exists():
        _note(folder / PROBLEM, "failed", line)


def _note(path: pathlib.Path, kind: str, line: str) -> None:
    with contextlib.suppress(OSError):  # the disk may be what failed
        files.write_json(path, {"kind": kind, "line": " ".join(line.split())})
        refresh(path.parent.parent)
