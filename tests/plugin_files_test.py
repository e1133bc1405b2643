"""Plugins in a file: imported by path, kept with the run, refused where they changed."""

from __future__ import annotations

import json
import pathlib

import pytest

from mtard_tf import registry
from mtard_tf.commands import requests, train
from mtard_tf.config import gin_files, plugin_files
from mtard_tf.config.gin_errors import ConfigError
from mtard_tf.running import run_directory

_NET = """
import keras
import mtard_tf

@mtard_tf.register("models", "{name}")
def {name}(image_shape, num_classes, units=4):
    images = keras.Input(tuple(image_shape))
    hidden = keras.layers.Dense(units)(keras.layers.Flatten()(images))
    return keras.Model(images, keras.layers.Dense(num_classes)(hidden))
"""


def _file(folder: pathlib.Path, name: str, text: str | None = None) -> pathlib.Path:
    path = folder / f"{name}.py"
    path.write_text(_NET.format(name=name) if text is None else text, encoding="utf-8")
    return path


def test_a_file_named_in_a_run_file_is_loaded_before_gin_reads_it(tmp_path) -> None:
    _file(tmp_path, "bound_net")
    config = tmp_path / "mine.gin"
    config.write_text(
        "Experiment.plugins = (\n    'bound_net.py',\n)\n"
        "Experiment.dataset = @datasets.fashion_mini\n"
        "student/Stage.model = @models.bound_net\nmodels.bound_net.units = 7\n"
        "student/Stage.distiller = @distillers.natural\nExperiment.stages = ('student',)\n"
    )
    gin_files.parse([str(config)])
    described = gin_files.experiment()
    assert described.stages[0].model((2, 2, 1), 3).count_params() == 4 * 7 + 7 + 7 * 3 + 3


def test_a_run_keeps_its_plugins_and_refuses_changed_ones(tmp_path) -> None:
    path, run_dir = _file(tmp_path, "kept_net"), tmp_path / "run"
    plugin_files.load([path])
    run_directory.claim(run_dir, "# one\n")
    kept = run_dir / "plugins" / "kept_net.py"
    assert "kept_net" in json.loads((run_dir / "plugins" / "order.json").read_text())["order"]
    assert kept.read_text() == path.read_text()
    plugin_files.load_kept(run_dir)  # the same text is loaded already
    kept.write_text("# what the run began with\n")
    with pytest.raises(ConfigError, match=r"kept_net.py has changed since the run began; put"):
        run_directory.claim(run_dir, "# one\n")
    path.unlink()
    plugin_files.load([path])  # known by its name: a run's own configuration names it so


def test_a_run_goes_on_with_its_plugin_after_the_file_was_edited(tmp_path) -> None:
    path, run_dir = _file(tmp_path, "edited_net"), tmp_path / "run"
    plugin_files.load([path])
    run_directory.claim(run_dir, "# one\n")
    plugin_files.load_kept(run_dir)
    path.write_text("# edited\n")
    plugin_files.load_bound(f"Experiment.plugins = \\\n    '{path}'\n", tmp_path)


def test_a_run_is_not_gone_on_with_after_its_plugin_changed(tmp_path) -> None:
    """Also by the run alone, without --config, and with --restart."""
    path, run_dir = _file(tmp_path, "later_net"), tmp_path / "run"
    plugin_files.load([path])
    run_directory.claim(run_dir, "# one\n")
    (run_dir / "plugins" / "later_net.py").write_text("# what the run began with\n")
    request = requests.Train(run_dir=str(run_dir), restart=["student"])
    with pytest.raises(ConfigError) as refused:
        train.run(request)
    assert str(refused.value) == (
        f"{path} has changed since the run began; put it back (a copy is "
        f"{run_dir / 'plugins' / 'later_net.py'}), or choose another --run_dir: a run has one "
        "version of its plugins."
    )


def test_a_plugin_that_can_be_imported_from_where_it_lies_is_loaded(tmp_path, monkeypatch) -> None:
    """As in a job: `python -m` has the working directory on its path."""
    monkeypatch.syspath_prepend(tmp_path)
    plugin_files.load([_file(tmp_path, "beside_net")])
    assert "beside_net" in registry.names("models")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("net_wrong", "def f(:\n", "SyntaxError: invalid syntax (line 1)"),
        ("net_import", "x = 1\nimport gone_module\n", "named 'gone_module' (line 2)"),
        ("net_none", "x = 1\n", "net_none.py registers nothing; decorate a class or function"),
        ("net_twice", _NET.format(name="small_cnn"), "models.small_cnn is registered twice"),
        ("json", None, "has the name of another module, or none; rename it"),
        ("net-dash", None, "has the name of another module, or none; rename it"),
    ],
)
def test_a_file_that_is_no_plugin_is_one_line(tmp_path, name, text, line) -> None:
    with pytest.raises(ConfigError) as refused:
        plugin_files.load([_file(tmp_path, name, text)])
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_missing_files_and_two_of_one_name_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"There is no plugin .*gone.py; give the path of a .py"):
        plugin_files.load([tmp_path / "gone.py"])
    plugin_files.load([_file(tmp_path, "one_name")])
    (tmp_path / "other").mkdir()
    other = _file(tmp_path / "other", "one_name", _NET.format(name="another_name"))
    with pytest.raises(ConfigError, match="have the same name and other contents; rename one"):
        plugin_files.load([other])
    assert "another_name" not in registry.names("models")
