"""docs/plugins.md: its files run as they are, in an empty folder, and its commands parse."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
FILES = dict(re.findall(r"^`(\S+)`[^\n`]*:\n\n```\w*\n(.*?)^```", PAGE, re.M | re.S))
COMMANDS = [
    shlex.split(text.replace("\\\n", ""))
    for text in re.findall(r"^    (PYTHONPATH=. mtard-train(?:.*\\\n)*.*\n)", PAGE, re.M)
]
# What the reader is told to have on PYTHONPATH is there: the folder itself.
SCRIPT = """
import sys
from mtard_tf import registry
from mtard_tf.config import gin_files
from mtard_tf.running import experiment_run

for config, *given in eval(sys.argv[1]):
    gin_files.parse([config], given)
    stages = gin_files.experiment().stages
    print(*(registry.selector(part) for s in stages[-1:] for part in (s.model, s.distiller)))
print(*gin_files.suite("my_suite.gin").attacks)
given = [line for _, *lines in eval(sys.argv[1]) for line in lines]
given += ["Stage.epochs = 1", "Stage.validate_every = 1", "datasets.brightness.examples = 120"]
given += [f"{name}/Stage.epochs = 1" for name in ("clean_teacher", "robust_teacher", "student")]
gin_files.parse(["quickstart.gin"], given)
results = experiment_run.run(gin_files.experiment(), "run", gin_files.text())
print(len(results))
"""


def test_every_file_runs_and_every_command_parses(tmp_path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, "utf-8")
    asked = []
    for command in COMMANDS:
        config = [word.split("=", 1)[1] for word in command if word.startswith("--config=")]
        asked.append(config + [w.split("=", 1)[1] for w in command if w.startswith("--gin=")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, repr(asked)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f".{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "models.two_layers distillers.bmtard",
        "models.small_cnn distillers.bmtard",
        "models.small_cnn distillers.bmtard",
        "models.small_cnn distillers.half_soft",
        "noise",
        "3",
    ]
    assert (tmp_path / "run" / "student" / "student.keras").exists()
    assert len(FILES["my_distiller.py"].splitlines()) < 60
