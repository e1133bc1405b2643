"""docs/plugins.md: its files run as they are, in an empty folder, and its commands parse."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
FILES = dict(re.findall(r"^`(\S+)`[^\n`]*:\n\n```\w*\n(.*?)^```", PAGE, re.M | re.S))
COMMANDS = [
    shlex.split(text.replace("\\\n", ""))
    for text in re.findall(r"^    (mtard-train --plugins(?:.*\\\n)*.*\n)", PAGE, re.M)
]
# Parses every command, and the suite; then all plugins of the page in one configuration.
SCRIPT = """
import pathlib, sys
import tensorflow as tf
from mtard_tf import registry
from mtard_tf.config import gin_files, plugin_files
from mtard_tf.data import training_batches
from mtard_tf.running import experiment_run

commands, plugins = eval(sys.argv[1])
plugin_files.load(plugins)
for config, *given in commands:
    gin_files.parse([config], given)
    stages = gin_files.experiment().stages
    print(*(registry.selector(part) for s in stages[-1:] for part in (s.model, s.distiller)))
print(*gin_files.suite("my_suite.gin").attacks)
given = [line for _, *lines in commands for line in lines]
given += ["Stage.validate_every = 1", "datasets.brightness.examples = 120"]
given += [f"{name}/Stage.epochs = 1" for name in ("robust_teacher", "student")]
gin_files.parse(["quickstart.gin"], given)
"""
STEP = """
experiment = gin_files.experiment()
*_, stage = experiment.stages
data = experiment.dataset()
teacher = registry.get("models", "two_layers")(data.image_shape, data.num_classes, width=4)
distiller = stage.build(data, {"robust": teacher}, experiment.threat, 0)
batch = next(iter(training_batches(data, batch_size=8, epochs=1, seed=0)))
logs = tf.function(distiller.train_step, autograph=False)(batch)
loss, hard, soft = (float(logs[name]) for name in ("loss", "hard", "soft"))
assert abs(loss - (hard + soft) / 2) < 1e-6 and hard > 0 and soft > 0, logs
"""
RUN = """
results = experiment_run.run(gin_files.experiment(), pathlib.Path("run"), gin_files.text())
assert len(results) == 2
"""


def _run(folder: pathlib.Path, script: str) -> list[str]:
    for name, content in FILES.items():
        (folder / name).write_text(content, "utf-8")
    asked = []
    plugins = [word[10:] for command in COMMANDS for word in command if word[:10] == "--plugins="]
    for command in COMMANDS:
        config = [word.split("=", 1)[1] for word in command if word.startswith("--config=")]
        asked.append(config + [w.split("=", 1)[1] for w in command if w.startswith("--gin=")])
    done = subprocess.run(
        [sys.executable, "-c", script, repr((asked, plugins))],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f".{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_every_command_parses_and_every_plugin_takes_a_step(tmp_path) -> None:
    assert _run(tmp_path, SCRIPT + STEP) == [
        "models.two_layers distillers.bmtard",
        "models.small_cnn distillers.bmtard",
        "models.small_cnn distillers.bmtard",
        "models.small_cnn distillers.half_soft",
        "noise",
    ]
    assert len(FILES["my_distiller.py"].splitlines()) < 60


@pytest.mark.slow
def test_a_run_of_all_plugins_together(tmp_path) -> None:
    _run(tmp_path, SCRIPT + RUN)
    assert (tmp_path / "run" / "student" / "student.keras").exists()
