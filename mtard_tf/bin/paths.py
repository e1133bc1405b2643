"""Flags that are paths: `~` is the home, and an empty one is a variable that was not set."""

from __future__ import annotations

import os
import unicodedata
from typing import Any

from absl import flags


class Path(flags.ArgumentParser[str]):
    """Reads one."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        if not argument.strip():
            raise ValueError("it is empty; give a path, or check that the shell variable is set")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in argument):
            raise ValueError("it has a control character or is not text in UTF-8; give another")
        return os.path.expanduser(argument)


def define(name: str, help: str, *, required: bool = False) -> flags.FlagHolder[Any]:
    """A flag for a path, with no default."""
    serializer = flags.ArgumentSerializer[str]()
    return flags.DEFINE(Path(), name, None, help, serializer=serializer, required=required)
