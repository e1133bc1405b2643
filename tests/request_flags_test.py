"""The flags of the commands: one for each field of a request, of its kind and with its limits."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence

import pytest
from absl import flags

from mtard_tf.bin import request_flags
from mtard_tf.commands import requests

COMMANDS = [value for value in vars(requests).values() if dataclasses.is_dataclass(value)]


def _field(help, default=None, **how):
    return dataclasses.field(default=default, metadata={"help": help, **how})


@dataclasses.dataclass(frozen=True)
class _Request:
    flags_test_folder: str | None = _field("Where.", path=True)
    flags_test_count: int = _field("How many.", 2, minimum=1)
    flags_test_rate: float | None = _field("How fast.", minimum=0.5)
    flags_test_quick: bool = _field("Whether.", False)
    names: Sequence[str] = _field("Which; repeatable.", (), name="flags_test_name")
    flags_test_hosts: Sequence[str] = _field("Where.", (), commas=True)


def test_flags_become_a_request():
    made = request_flags.define(_Request)
    flags.FLAGS(["test"])
    assert made() == _Request(names=[], flags_test_hosts=[])
    given = ["folder=~", "count=3", "rate=0.5", "quick", "name=a", "name=b", "hosts=c,d"]
    flags.FLAGS(["test", *(f"--flags_test_{one}" for one in given)])
    request = made()
    assert (request.flags_test_count, request.flags_test_rate, request.flags_test_quick) == (
        *(3, 0.5, True),
    )
    assert request.names == ["a", "b"] and request.flags_test_hosts == ["c", "d"]
    assert request.flags_test_folder and "~" not in request.flags_test_folder
    for wrong in ("count=0", "rate=0.4", "count=x", "folder="):
        with pytest.raises(flags.IllegalFlagValueError, match=wrong.split("=")[0]):
            flags.FLAGS(["test", f"--flags_test_{wrong}"])


@pytest.mark.parametrize("request_class", COMMANDS, ids=lambda command: command.__name__)
def test_every_field_has_help(request_class):
    for field in dataclasses.fields(request_class):
        assert field.metadata["help"].endswith("."), field.name
        assert field.metadata.keys() <= {
            *("help", "name", "minimum", "maximum", "path", "commas", "required")
        }


def test_help_and_a_missing_flag():
    command = [sys.executable, "-m", "mtard_tf.bin.import_"]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert told.returncode == 0
    for line in (
        "  --classes=...: Number of logits. (default 10)",
        "  --[no]verify: Fail without a --probe.",
        "  --source=...: The file of weights; or a .keras file to adapt.",
    ):
        assert line in told.stdout
    missing = subprocess.run([*command, "--source=w.pt"], capture_output=True, text=True)
    assert missing.returncode == 1 and "\n" not in missing.stderr.strip()
    assert "--out" in missing.stderr and "--help lists the flags" in missing.stderr
