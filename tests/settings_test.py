"""Every distiller in every setting by one command line; two steps of the papers' at full size."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
import pytest

from mtard_tf import registry
from mtard_tf.config import gin_files
from mtard_tf.data.batches import training_batches
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.models.pre_activation import wide_resnet34_10
from mtard_tf.schedules import StepDecay

# Setting -> side and channels of an image, classes, epsilon.
SETTINGS = {
    "fashion_mini": ((28, 28, 1), 10, 0.1),
    "fashion_mnist": ((28, 28, 1), 10, 0.1),
    "cifar10": ((32, 32, 3), 10, 8 / 255),
    "cifar100": ((32, 32, 3), 100, 8 / 255),
    "tiny_imagenet": ((64, 64, 3), 200, 8 / 255),
}
PAPERS = ("cifar10", "cifar100", "tiny_imagenet")
# The nets of the papers' settings: of the student and of the clean teacher.
NETS = {
    "cifar10": ("resnet18", "resnet56"),
    "cifar100": ("resnet18", "wide_resnet22_6"),
    "tiny_imagenet": ("mobilenet_v2", "resnet18"),
}
ROLES = {
    **dict.fromkeys(
        ("ard", "iad", "rslad", "absld", "adaad", "adaiad", "saad", "dgad"), {"robust"}
    ),
    **dict.fromkeys(("mtard", "bmtard", "iad2"), {"clean", "robust"}),
    **dict.fromkeys(
        (
            "adr",
            "ikl",
            "fgsm_rs",
            "n_fgsm",
            "natural",
            "pgd_at",
            "trades",
            "mart",
            "score",
            "lbgat",
        ),
        set(),
    ),
    **dict.fromkeys(("defensive", "knowledge_distillation", "teacher_assistant"), {"teacher"}),
    "hat": {"clean"},
    "densely_guided": {"teacher", "assistant"},
    "extended_defensive_experimental": {"teacher"},
}
# What a method needs beside the one binding.
FURTHER = {
    "densely_guided": (
        "student/Stage.teachers = {'assistant': 'assistant', 'teacher': 'clean_teacher'}",
    ),
    "extended_defensive_experimental": (
        "student/Stage.model = @models.defensive_cnn",
        "student/models.defensive_cnn.outlier_class = True",
        "clean_teacher/Stage.model = @models.defensive_cnn",
    ),
}
SMALL = (
    "Stage.model = @models.small_cnn",
    "models.small_cnn.widths = (4,)",
    "models.small_cnn.dense = 4",
    "student/models.small_cnn.widths = (4,)",
    "student/models.small_cnn.dense = 4",
    "guide/models.small_cnn.widths = (4,)",
    "models.defensive_cnn.widths = (2, 2)",
    "models.defensive_cnn.dense = 4",
    *(f"{name}/Stage.model = @models.small_cnn" for name in ("clean_teacher", "robust_teacher")),
)


@pytest.fixture(scope="module")
def small_nets(tmp_path_factory):
    """A file of tiny nets, to be read after a setting."""
    path = tmp_path_factory.mktemp("settings") / "small.gin"
    path.write_text("\n".join(SMALL), encoding="utf-8")
    return str(path)


def described(setting: str, distiller: str, *bindings: str, files=()):
    chosen = f"student/Stage.distiller = @distillers.{distiller}"
    further = FURTHER.get(distiller, ())
    gin_files.parse([f"settings/{setting}.gin", *files], [chosen, *bindings, *further])
    return gin_files.experiment()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("distiller", registry.names("distillers"))
def test_every_distiller_in_every_setting(setting, distiller, small_nets):
    shape, classes, epsilon = SETTINGS[setting]
    experiment = described(setting, distiller, files=[small_nets])
    assert experiment.dataset.__name__ == setting
    assert experiment.threat.epsilon == pytest.approx(epsilon, abs=1e-12)
    *teachers, student = experiment.stages
    assert set(student.teachers) == ROLES[distiller]
    assert set(student.teachers.values()) <= {stage.name for stage in teachers}
    data = _data(shape, classes)
    nets = {
        role: _built(next(s for s in teachers if s.name == name).model, shape, classes)
        for role, name in student.teachers.items()
    }
    built = student.build(data, nets, experiment.threat, seed=0)
    assert built.student.output_shape == (None, classes + built.extra_classes)
    assert built.steps_per_epoch == -(-4 // student.batch_size)


@pytest.mark.parametrize("setting", PAPERS)
def test_the_papers_schedule(setting):
    clean, robust, student = described(setting, "bmtard").stages
    found = (student.epochs, student.batch_size, student.learning_rate)
    assert found == pytest.approx((300, 128, 0.1))
    assert student.learning_rate_schedule == StepDecay(epochs=(215, 260, 285), factor=0.1)
    optimizer = student.optimizer(0.1)
    assert (optimizer.momentum, optimizer.l2) == pytest.approx((0.9, 2e-4))
    assert not optimizer.nesterov
    assert (clean.distiller.__name__, robust.distiller.__name__) == ("Natural", "Trades")
    assert (clean.epochs, robust.epochs) == (100, 76)
    assert clean.learning_rate_schedule == StepDecay(epochs=(75, 90))
    assert robust.learning_rate_schedule == StepDecay(epochs=(75,))
    nets = (student.model.__name__, clean.model.__name__, robust.model.__name__)
    assert nets == (*NETS[setting], "wide_resnet34_10")


def test_teachers_that_are_files_are_no_stages():
    files = {"clean": "clean.keras", "robust": "robust.keras"}
    (student,) = described("cifar10", "bmtard", f"student/Stage.teachers = {files}").stages
    assert student.teachers == files


def test_a_setting_alone_says_what_is_missing():
    gin_files.parse(["settings/cifar10.gin"])
    with pytest.raises(gin_files.ConfigError, match=r"Stage\.distiller"):
        gin_files.experiment()


@functools.cache
def _teacher(setting: str, role: str) -> keras.Model:
    shape, classes, _ = SETTINGS[setting]
    # The paper's robust teacher for CIFAR-100, a WRN-70-16, takes 4 GB and a minute to build.
    factory = wide_resnet34_10
    if role in ("clean", "teacher"):
        factory = registry.target("models", NETS[setting][1])
    return factory(shape, classes)


# The other methods' runs on CIFAR-100 differ from those on CIFAR-10 in the data set alone.
STEPPED = [("cifar10", name) for name in sorted(set(ROLES) - set(FURTHER))]
STEPPED += [(setting, name) for setting in PAPERS[1:] for name in ("mtard", "bmtard")]


@pytest.mark.slow
@pytest.mark.parametrize("setting, distiller", STEPPED)
def test_two_steps_at_full_size(setting, distiller):
    experiment = described(setting, distiller)
    student = experiment.stages[-1]
    data = _data(*SETTINGS[setting][:2])
    teachers = {role: _teacher(setting, role) for role in student.teachers}
    built = student.build(data, teachers, experiment.threat, seed=0)
    batches = training_batches(data, batch_size=2, epochs=1, seed=0)
    history = built.fit(batches, epochs=1, steps_per_epoch=2, shuffle=False, verbose=0)
    assert built.step == 2
    np.testing.assert_array_less(np.abs(history.history["loss"]), np.inf)
    np.testing.assert_array_equal(history.history["non_finite"], [0.0])


@functools.cache
def _built(factory: Callable, shape: tuple[int, ...], classes: int) -> keras.Model:
    """A teacher, one for all tests: how large it is was fixed by `SMALL`."""
    return factory(shape, classes)


@functools.cache
def _data(shape: tuple[int, ...], classes: int) -> ImageData:
    """Four noisy images to train on, in place of the download."""
    numbers = np.random.RandomState(0)

    def split(count: int) -> Split:
        images = numbers.randint(0, 256, (count, *shape)).astype(np.uint8)
        return Split(images, numbers.randint(0, classes, count).astype(np.int32))

    names = tuple(map(str, range(classes)))
    return ImageData("noise", names, split(4), split(2), split(2), "crop_flip")
