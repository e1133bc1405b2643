"""Run files that are damaged or import what fails: one line, whatever was raised."""

from __future__ import annotations

import pathlib

import pytest

from mtard_tf.bin import paths
from mtard_tf.config import gin_files
from mtard_tf.config.gin_errors import ConfigError

LOOP = "A value of the run file is nested too deeply, or macros name each other; write it out."
USE = "Experiment.epsilon = %a\nExperiment.stages = ('x',)\nExperiment.dataset = @datasets.mnist\n"
CALLED = "What the run file imports or calls ended with"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Stage.epochs = " + "[" * 3_000, LOOP),
        ("a = %b\nb = %a\n" + USE, LOOP),
        ("import leaves", f"{CALLED} SystemExit (3); --debug shows where."),
        ("import divides", f'{CALLED} ZeroDivisionError (division by zero In file "'),
        ("E = include 'x'\n", "Failed to parse token 'include'"),
        ("Stage.epochs = " + "9" * 10_000, "Exceeds the limit"),
        ("Stage:\n    epochs = 3\n  steps = 3\n", "run file, line 3: unindent does not match"),
        (b"E = '\xff'", "is not text in UTF-8; give a gin file."),
    ],
)
def test_one_line_says_what_is_wrong(text, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "divides.py").write_text("1 / 0\n")
    path = tmp_path / "run.gin"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        gin_files.parse([str(path)])
        gin_files.experiment()
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["a\0b", "a\nb", "\x1b[2Jx", "runs/\udcff"])
def test_a_path_of_control_characters_is_refused(given):
    """A NUL is no path's, and a line break or an escape sequence would spoil the message."""
    with pytest.raises(ValueError, match="it has a control character or is not text in UTF-8"):
        paths.Path().parse(given)
    assert pathlib.Path(paths.Path().parse("läufe/運行 1")).name == "運行 1"
