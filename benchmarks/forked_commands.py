"""Runs a command in a fork of a process that has imported TensorFlow, and judges what was seen."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import re
import resource
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable

import small_run

SECONDS = 240
MARKER = "MARKER"
_PROGRESS = re.compile(r"\[[=.]{20}\]|\d+%\||^\s*$|it/s|images/s|finished before|Model: |warning: ")
# Which process holds a folder is no result.
_NOTES = re.compile(r"lock$")


@dataclasses.dataclass(frozen=True)
class BadInput:
    """One input.

    Attributes:
      name: for people; the first word is its kind.
      command: of the package, such as "train", and its flags; "{}" is the folder's path.
      make: damages the folder, a copy of the finished run's.
      code: the exit code that the documentation promises.
      says: a part of the line.
    """

    name: str
    command: str
    flags: tuple[str, ...]
    make: Callable[[pathlib.Path], None] = lambda folder: None
    code: int = 1
    says: str = ""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a user sees: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


def forked(work: Callable[[], object]) -> int:
    """Does something in a fork of this process; its exit code."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(folder: pathlib.Path, command: str, flags: tuple[str, ...], log: pathlib.Path) -> Seen:
    """One command in a folder, in a fork of this process."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _command(folder, command, flags, log)
    deadline = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.02)
    texts = [log.with_suffix(end).read_text(errors="replace") for end in (".out", ".err")]
    return Seen(os.waitstatus_to_exitcode(ended[1]), *texts)


def _command(folder: pathlib.Path, command: str, flags: tuple[str, ...], log: pathlib.Path) -> None:
    """Never returns: what `python -m mtard_tf.bin.COMMAND` does."""
    for number, end in ((1, ".out"), (2, ".err")):
        opened = os.open(log.with_suffix(end), os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(opened, number)
    os.chdir(folder)
    # A size that a file lies about must not take the machine's memory.
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
    sys.path.insert(0, str(folder))
    module = f"mtard_tf.bin.{command}"
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    sys.argv = [spec.origin, *(flag.replace("{}", str(folder)) for flag in flags)]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def lines(seen: Seen) -> list[str]:
    """What was said on stderr besides progress."""
    return [line for line in seen.err.splitlines() if not _PROGRESS.search(line)]


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Path -> digest of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and not _NOTES.search(path.name)
        if "__pycache__" not in path.parts
    }


def faults(
    bad: BadInput, seen: Seen, line: list[str], before: dict[str, str], case: pathlib.Path
) -> list[str]:
    """What is wrong with what was seen, in words."""
    found = []
    if seen.code != bad.code:
        found.append(f"exit code {seen.code}, not {bad.code}")
    if "Traceback" in seen.err or "Fatal Python" in seen.err:
        found.append("a stack trace")
    if bad.code and len(line) != 1:
        found.append(f"{len(line)} lines")
    if bad.says and bad.says not in "".join(line):
        found.append(f"no word of {bad.says!r}")
    if any(path.name == MARKER for path in case.rglob("*")):
        found.append("CODE OF THE FILE WAS RUN")
    if outside := [
        path.name for path in case.iterdir() if path.name not in ("work", "log.out", "log.err")
    ]:
        found.append(f"files outside the folder: {outside}")
    after = contents(case / "work")
    # What goes on in spite of the damage replaces what was damaged.
    if bad.code and (lost := [name for name in before if after.get(name) != before[name]]):
        found.append(f"changed or lost: {', '.join(lost)}")
    return found


def finished_run(folder: pathlib.Path) -> None:
    """A run of one stage, trained, audited, compared and exported, and the files beside it."""
    folder.mkdir()
    (folder / "kill_test_data.py").write_text(small_run.DATA)
    (folder / "run.gin").write_text(RUN)
    (folder / "suite.gin").write_text(small_run.SUITE)
    for command, flags in (
        ("train", ("--config=run.gin", "--run_dir=run")),
        ("eval", ("--run_dir=run", "--suite=suite.gin")),
        ("compare", ("--run_dir=run", "--jobs=0")),
        ("export", ("--run_dir=run",)),
    ):
        seen = run(folder, command, flags, folder.parent / command)
        assert seen.code == 0, f"{command}: {seen.err}"
    shutil.copy(folder / "run" / "net" / "student.keras", folder / "net.keras")
    shutil.copytree(folder / "run" / "export" / "net" / "1", folder / "saved")


RUN = """
import kill_test_data
Experiment.dataset = @datasets.squares
Experiment.stages = ('net',)
Experiment.epsilon = 0.1
Stage.model = @models.small_cnn
Stage.distiller = @distillers.natural
Stage.batch_size = 30
Stage.epochs = 1
Stage.checkpoint_every = 2
models.small_cnn.widths = (4, 4)
models.small_cnn.dense = 8
"""
