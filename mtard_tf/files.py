"""Atomic writes: files and folders are written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import socket
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Members of a `.keras` file that define the net; metadata and others do not count.
_MEMBERS = ("config.json", "model.weights.", "assets/")
FORMAT = 1  # of every JSON file; another one is refused when it is read
_numbers = itertools.count()
# Seconds after which an unmodified temporary file of another machine counts as abandoned.
_ABANDONED = 24 * 3600


@contextlib.contextmanager
def temporary(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A unique temporary name beside `path`; a file or folder of that name is removed at the end.

    The name keeps the suffix, by which savers choose the format. Temporary files of `path` that
    killed processes left are removed.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    name = f"{_prefix(path)}{_machine()}-{os.getpid()}-{next(_numbers)}{path.suffix}"
    partial = path.with_name(name)
    try:
        yield partial
    finally:
        remove(partial)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary name beside `path`, renamed to it if the block succeeds, else removed.

    For a file, or a folder that does not exist yet.
    """
    with temporary(path) as partial:
        yield partial
        to_disk(partial)
        os.replace(partial, path)


@contextlib.contextmanager
def kept_or_scratch(path: str | os.PathLike[str] | None) -> Iterator[pathlib.Path]:
    """The folder that is given, which need not exist; for None one that is removed at the end."""
    if path is not None:
        yield pathlib.Path(path).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="mtard_tf-") as scratch:
        yield pathlib.Path(scratch)


def to_disk(path: pathlib.Path) -> None:
    """Flushes a file, or all files of a folder, to disk; a rename may be stored before them."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def cut_half_line(path: pathlib.Path) -> None:
    """Truncates a file after its last complete line; a kill may have left half a line."""
    if path.exists():
        with path.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Writes a JSON file with its `format`, atomically."""
    write_text(path, json.dumps({"format": FORMAT, **value}, indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def is_pattern(folder: pathlib.Path) -> bool:
    """Whether TensorFlow would read the path as a pattern, such as `run[1]` for `run1`."""
    return bool(set("*?[\\") & set(folder.resolve().as_posix()))


@contextlib.contextmanager
def literal(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder of a SavedModel, or a temporary copy if its path is a pattern to TensorFlow."""
    if not is_pattern(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield shutil.copytree(folder, pathlib.Path(scratch, "model"))


def set_aside(folder: pathlib.Path, why: str) -> pathlib.Path:
    """Renames a folder to `<name>.<why>`, replacing what has that name; returns the new path."""
    aside = folder.with_name(f"{folder.name}.{why}")
    remove(aside)
    folder.rename(aside)
    return aside


def remove(path: pathlib.Path) -> None:
    """Removes a file or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prefix(path: pathlib.Path) -> str:
    return f".{path.stem}.partial-"


def _machine() -> str:
    """A short id of this host, in characters that any file name may have."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove_stale(path: pathlib.Path) -> None:
    """Removes the temporary files of `path` that no process is writing any more."""
    prefix = _prefix(path)
    for name in os.listdir(path.parent):
        if name.startswith(prefix) and name.endswith(path.suffix):
            machine, _, rest = name[len(prefix) :].partition("-")
            left = path.with_name(name)
            with contextlib.suppress(OSError):  # another process may be removing it
                if _gone(rest.split("-")[0]) if machine == _machine() else _old(left):
                    remove(left)


def _gone(process: str) -> bool:
    """Whether no process of this machine has the id."""
    if os.name != "posix" or not process.isdigit():
        return False  # elsewhere os.kill would end the process
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # of another user
    return False


def _old(path: pathlib.Path) -> bool:
    return time.time() - path.stat().st_mtime > _ABANDONED


def digest(*parts: object) -> str:
    """A digest of arrays, bytes and other values by `repr`, 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)  # without a copy
        else:
            sha.update(part if isinstance(part, bytes) else repr(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def keras_digest(path: pathlib.Path) -> str:
    """A digest of the net and weights in a `.keras` file, without reading it by Keras.

    The date in it does not count.
    """
    status = path.stat()
    return _keras_digest(path, (status.st_ino, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=64)  # a teacher of many stages is read once
def _keras_digest(path: pathlib.Path, status: tuple[int, ...]) -> str:
    """The digest of a `.keras` file; `status` differs once it is another."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in sorted(archive.namelist()) if name.startswith(_MEMBERS)]
            return digest(*(archive.read(name) for name in names))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return digest(path.read_bytes())  # damaged, and so not the original
