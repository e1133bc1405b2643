"""A relative `data_dir` of a run is found from every folder."""

from __future__ import annotations

import json
import pathlib

import gin
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.config import gin_files
from mtard_tf.data import writing
from mtard_tf.data.image_data import DataError, Split
from mtard_tf.running import experiment_run

RUN = """
Experiment.dataset = @datasets.tfds
Experiment.stages = ('net',)
Stage.model = @models.small_cnn
net/Stage.distiller = @distillers.natural
datasets.tfds.name = 'toy'
"""


def _write(data_dir: pathlib.Path, value: int) -> None:
    labels = (np.arange(20) % 2).astype(np.int32)
    split = Split(np.full((20, 4, 4, 1), value, np.uint8), labels)
    writing.write_tfds(
        data_dir / "toy" / "1.0.0", "toy", {"train": split, "test": split}, label_names=("a", "b")
    )


@pytest.mark.parametrize(
    "binding",
    ["datasets.tfds.data_dir = 'sets'", "datasets.tfds.data_dir = %where\nwhere = 'sets'"],
)
def test_a_run_finds_its_data_from_another_folder(binding, tmp_path, monkeypatch) -> None:
    begun, other, run_dir = tmp_path / "begun", tmp_path / "other", tmp_path / "run"
    for folder in (begun, other, run_dir):
        folder.mkdir()
    _write(begun / "sets", 7)
    (run_dir / "config.gin").write_text(RUN + binding + "\n")
    (run_dir / "environment.json").write_text(json.dumps({"folder": str(begun)}))
    monkeypatch.chdir(other)
    described = gin_files.of_run(run_dir)
    assert described.dataset.__name__ == "tfds"
    assert described.dataset().test.images.max() == 7
    _write(other / "sets", 9)  # another set of that name where the command is run
    assert gin_files.of_run(run_dir).dataset().test.images.max() == 7
    (begun / "sets").rename(begun / "gone")  # a run that was moved, with its data
    assert gin_files.of_run(run_dir).dataset().test.images.max() == 9
    (run_dir / "environment.json").write_text("{")
    assert gin_files.of_run(run_dir).dataset().test.images.max() == 9
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="toy is not prepared: looked in sets/toy"):
        gin_files.of_run(run_dir).dataset()


@pytest.mark.parametrize("scope", ["", "net/"])
def test_a_run_finds_its_extra_images_from_another_folder(scope, tmp_path, monkeypatch) -> None:
    begun, other, run_dir = tmp_path / "begun", tmp_path / "other", tmp_path / "run"
    for folder in (begun, other, run_dir):
        folder.mkdir()
    np.savez(begun / "more.npz", image=np.full((3, 4, 4, 1), 7, np.uint8), label=np.zeros(3, int))
    extra = f"Stage.extra = @datasets.npz\n{scope}datasets.npz.path = 'more.npz'\n"
    (run_dir / "config.gin").write_text(RUN + extra)
    (run_dir / "environment.json").write_text(json.dumps({"folder": str(begun)}))
    monkeypatch.chdir(other)
    (stage,) = gin_files.of_run(run_dir).stages
    before = gin_files.text()
    with gin.config_scope("net"):
        assert stage.extra().images.max() == 7
    assert gin_files.text() == before and "path = 'more.npz'" in before
    (begun / "more.npz").rename(other / "more.npz")
    (stage,) = gin_files.of_run(run_dir).stages
    with gin.config_scope("net"):
        assert stage.extra().images.max() == 7


def test_the_same_command_goes_on_with_a_relative_data_dir(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "sets", 7)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "environment.json").write_text(json.dumps({"folder": str(tmp_path)}))
    (tmp_path / "my.gin").write_text(RUN + "datasets.tfds.data_dir = 'sets'\n")
    described = gin_files.start_or_resume(run_dir, ["my.gin"], [])
    before = gin_files.text()
    data, strategy = described.dataset(), tf.distribute.get_strategy()
    experiment_run.check(
        described, data, strategy, described.stages, run_dir
    )  # the binding is read
    assert gin_files.text() == before and "data_dir = 'sets'" in before
