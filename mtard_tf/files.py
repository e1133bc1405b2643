"""Files written whole or not at all: under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary name beside `path`, renamed to it if the block ends well, removed if not.

    The temporary name keeps the suffix, because savers choose the format by it. Works for a file
    and for a folder that does not exist yet.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    remove(temporary)
    try:
        yield temporary
        if temporary.is_file():
            _to_disk(temporary)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def _to_disk(path: pathlib.Path) -> None:
    """Waits until a file's bytes are on disk: a rename may get there before them."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def remove(path: pathlib.Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
