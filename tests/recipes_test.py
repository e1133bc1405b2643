"""The papers' recipes: what each file describes, and two steps of each at full size."""

from __future__ import annotations

import contextlib
import functools
import pathlib

import keras
import numpy as np
import pytest

from mtard_tf import config
from mtard_tf.data.batches import training_batches
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.experiment import Experiment
from mtard_tf.gin_errors import ConfigError
from mtard_tf.models.pre_activation import wide_resnet22_6, wide_resnet34_10
from mtard_tf.models.resnet_cifar import resnet18, resnet56
from mtard_tf.schedules import StepDecay

GIN = pathlib.Path(config.config_folder())
FOLDERS = ("cifar10", "cifar100", "tiny_imagenet")
FILES = [str(p.relative_to(GIN)) for f in FOLDERS for p in sorted((GIN / "runs" / f).glob("*.gin"))]
SHAPES = {"cifar10": (32, 10), "cifar100": (32, 100), "tiny_imagenet": (64, 200)}
# The teachers' nets, where they are files. The papers' robust one for CIFAR-100 is a WRN-70-16:
# 267 M parameters, which take 4 GB and a minute to build and fold; a WRN-34-10 stands in.
CLEAN = {"cifar10": resnet56, "cifar100": wide_resnet22_6, "tiny_imagenet": resnet18}
ROBUST = wide_resnet34_10
# Those that have not both teachers.
ROLES = {
    **dict.fromkeys(("ard", "iad", "rslad", "absld", "adaad", "adaiad"), ("robust",)),
    **dict.fromkeys(("natural", "pgd_at", "trades", "mart", "score", "lbgat"), ()),
    "hat": ("clean",),
}
BASELINES = (*ROLES, "iad2")


def _experiment(file: str) -> Experiment:
    macros = ("CLEAN_TEACHER", "ROBUST_TEACHER")
    config.parse([file], [f"{macro} = '{macro.lower()}.keras'" for macro in macros])
    return config.experiment()


@pytest.mark.parametrize("file", FILES)
def test_every_recipe_describes_the_papers_training(file):
    described = _experiment(file)
    folder, name = pathlib.Path(file).parent.name, pathlib.Path(file).stem
    assert described.dataset.__name__ == folder
    assert described.epsilon == pytest.approx(8 / 255)
    if name == "common":
        clean, robust = described.stages
        assert (clean.distiller.__name__, robust.distiller.__name__) == ("Natural", "Trades")
        assert (clean.epochs, robust.epochs) == (100, 76)
        assert clean.learning_rate_schedule == StepDecay(epochs=(75, 90))
        assert robust.learning_rate_schedule == StepDecay(epochs=(75,))
        return
    (student,) = described.stages
    paths = {"clean": "clean_teacher.keras", "robust": "robust_teacher.keras"}
    assert student.teachers == {role: paths[role] for role in ROLES.get(name, paths)}
    if name == "bmtard_imported":
        return
    assert student.model.__name__ == (name.partition("_")[2] if "mtard" in name else "resnet18")
    assert (student.epochs, student.batch_size, student.learning_rate) == (300, 128, 0.1)
    assert student.learning_rate_schedule == StepDecay(epochs=(215, 260, 285), factor=0.1)
    optimizer = student.optimizer(0.1)
    assert (optimizer.momentum, optimizer.l2, optimizer.nesterov) == (0.9, 2e-4, False)


@pytest.mark.parametrize("file", FILES)
def test_what_must_be_set_is_named(file):
    name = pathlib.Path(file).stem
    needed = () if name == "common" else ROLES.get(name, ("clean", "robust"))
    macros = ", ".join(f"{role.upper()}_TEACHER" for role in needed)
    expected = pytest.raises(ConfigError, match=f"^{macros} must be set; add --gin=")
    with expected if needed else contextlib.nullcontext():
        config.parse([file])


# The baselines' files for CIFAR-100 differ from those for CIFAR-10 in the data set alone.
STEPPED = [f for f in FILES if "cifar100" not in f or pathlib.Path(f).stem not in BASELINES]


@functools.cache
def _teacher(folder: str, role: str) -> keras.Model:
    size, classes = SHAPES[folder]
    return (CLEAN[folder] if role == "clean" else ROBUST)((size, size, 3), classes)


@pytest.mark.slow
@pytest.mark.parametrize("file", STEPPED)
def test_two_steps_at_full_size(file):
    described = _experiment(file)
    folder = pathlib.Path(file).parent.name
    data = _data(*SHAPES[folder])
    for stage in described.stages:
        teachers = {role: _teacher(folder, role) for role in stage.teachers}
        distiller = stage.build(data, teachers, described.threat, seed=0)
        batches = training_batches(data, batch_size=2, epochs=1, seed=0)
        history = distiller.fit(batches, epochs=1, steps_per_epoch=2, shuffle=False, verbose=0)
        assert distiller.step == 2
        assert np.isfinite(history.history["loss"]).all() and history.history["non_finite"] == [0.0]


def _data(size: int, classes: int) -> ImageData:
    """Four noisy images to train on, in place of the download."""
    numbers = np.random.RandomState(0)

    def split(count: int) -> Split:
        images = numbers.randint(0, 256, (count, size, size, 3)).astype(np.uint8)
        return Split(images, numbers.randint(0, classes, count).astype(np.int32))

    names = tuple(map(str, range(classes)))
    return ImageData("noise", names, split(4), split(2), split(2), "crop_flip")
