"""Extra images that fill a share of every batch: the stream, `.npz` files, labels, and stages."""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
from preempted import PreemptedAt

from mtard_tf import registry
from mtard_tf.config import gin_files
from mtard_tf.data.batches import training_batches, training_tensors
from mtard_tf.data.extra import Extra, check_extra, part, rest
from mtard_tf.data.image_data import DataError, ImageData, Split
from mtard_tf.data.npz_sets import npz
from mtard_tf.experiment import from_python
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.plugins.adversarial_distillation.rslad import RSLAD
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.defensive.defensive import Defensive
from mtard_tf.processes.preemption import Preempted, Preemption
from mtard_tf.running import experiment_run, extra_images
from mtard_tf.running.context import RunContext
from mtard_tf.running.stage_run import train
from mtard_tf.running.stage_sources import Changed
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)


def _net(shape=(8, 8, 3), classes=3):
    return small_cnn(shape, classes, widths=(4,), dense=4)


STAGE = Stage(
    "student", Natural, _net, epochs=2, batch_size=16, validation_attack=None, checkpoint_every=1
)


def _numbered(real: int, extra: int, share: float, shape=(4, 4, 1)) -> tuple[ImageData, Extra]:
    """Images whose label is their number: the extra ones follow the real ones."""

    def split(start: int, count: int) -> Split:
        labels = np.arange(start, start + count, dtype=np.int32)
        images = np.zeros((count, *shape), np.uint8)
        images[:, 0, 0, 0] = labels % 256
        return Split(images, labels)

    names = tuple(map(str, range(real + extra)))
    data = ImageData("numbered", names, split(0, real), split(0, 4), split(0, 4))
    return data, Extra(split(real, extra), share)


def _stream(data: ImageData, extra: Extra | None, **settings) -> list[tuple[np.ndarray, ...]]:
    batches = training_batches(data, extra=extra, **{"seed": 5, **settings})
    return [tuple(part.numpy() for part in batch) for batch in batches]


# The stream, by the properties of the official sampler (DM-Improves-AT core/data/semisup.py).


@pytest.mark.parametrize(
    ("batch_size", "share", "count"),
    [
        (512, 0.7, 358),
        (1024, 0.7, 716),
        (128, 0.5, 64),
        (100, 0.29, 28),
        (10, 0.7, 7),
        (256, 0.3, 76),
    ],
)
def test_extra_images_in_a_batch(batch_size: int, share: float, count: int) -> None:
    """The official code's figures: it truncates, and 0.29 of 100 is 28."""
    assert _numbered(4, 4, share)[1].count(batch_size) == count


def test_an_epoch_is_counted_by_the_real_images() -> None:
    """103 real ones in batches of 16: 7 batches of 11 extra and 5 real images, each once."""
    data, extra = _numbered(103, 500, 0.7)
    stream = _stream(data, extra, batch_size=16, epochs=2)
    labels = np.stack([labels for _, labels, _ in stream])
    assert labels.shape == (14, 16)
    np.testing.assert_array_equal((labels >= 103).sum(axis=1), 11)
    epochs = [set(part[part < 103].tolist()) for part in np.split(labels, 2)]
    assert [len(epoch) for epoch in epochs] == [35, 35] and epochs[0] != epochs[1]
    ids = np.concatenate([ids for _, _, ids in stream])
    np.testing.assert_array_equal(ids, np.arange(14 * 16))
    # Real and extra images are mixed within a batch.
    assert len({tuple(row) for row in (labels >= 103).tolist()}) > 10
    for images, labels, _ in stream:
        np.testing.assert_array_equal(np.rint(images[:, 0, 0, 0] * 255), labels % 256)


def test_batches_are_full_where_the_real_images_run_out() -> None:
    data, extra = _numbered(33, 20, 0.1)
    labels = [labels for _, labels, _ in _stream(data, extra, batch_size=16, epochs=1)]
    assert [len(batch) for batch in labels] == [16, 16, 16]
    labels = np.array(labels)
    np.testing.assert_array_equal((labels >= 33).sum(axis=1), [1, 1, 13])
    np.testing.assert_array_equal(np.sort(labels[labels < 33]), np.arange(33))


def test_extra_images_are_drawn_uniformly() -> None:
    data, extra = _numbered(64, 50, 0.5)
    labels = np.concatenate([b[1] for b in _stream(data, extra, batch_size=64, epochs=300)])
    counts = np.bincount(labels[labels >= 64] - 64, minlength=50)
    # 9,600 draws of 50: 192 each, deviation 13.7; 5 deviations either way.
    assert counts.sum() == 9_600
    np.testing.assert_allclose(counts, 192, atol=69)


@pytest.mark.parametrize("start_step", [1, 7, 9, 14])
def test_a_resumed_stream_is_the_rest(start_step: int) -> None:
    data, extra = _numbered(103, 500, 0.7, (8, 8, 1))
    data = dataclasses.replace(data, augmentation="crop_shift")
    whole = _stream(data, extra, batch_size=16, epochs=2)
    rest = _stream(data, extra, batch_size=16, epochs=2, start_step=start_step)
    assert len(rest) == 14 - start_step
    for ours, theirs in zip(rest, whole[start_step:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_replicas_share_the_rows_of_a_batch() -> None:
    """Two replicas, of one process or of two: the rows of one batch, both with extra images."""
    data, extra = _numbered(40, 30, 0.5)
    whole = _stream(data, extra, batch_size=15, epochs=2)
    both = _stream(data, extra, batch_size=15, epochs=2, replicas=2, parts=(0, 1))
    apart = [
        _stream(data, extra, batch_size=15, epochs=2, replicas=2, parts=(part,)) for part in (0, 1)
    ]
    for number, batch in enumerate(whole):
        for halves in (both[2 * number : 2 * number + 2], [of[number] for of in apart]):
            for place, rows in enumerate(zip(*halves, strict=True)):
                np.testing.assert_array_equal(np.concatenate(rows), batch[place])
    mixed = [(labels >= 40).any() and (labels < 40).any() for _, labels, _ in both]
    assert np.mean(mixed) > 0.9


def test_further_tensors_give_their_rows() -> None:
    data, extra = _numbered(40, 30, 0.5)
    tensors = training_tensors(data, extra)
    squares = np.arange(70) ** 2
    for _, labels, _, rows in _stream(
        data, extra, batch_size=16, epochs=1, tensors=[*tensors, squares]
    ):
        np.testing.assert_array_equal(rows, labels.astype(np.int64) ** 2)


# `.npz` files, and what does not suit.


def _write(path: pathlib.Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_an_npz_file(tmp_path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    labels = np.array([2, 0, 1, 1, 0])
    found = npz(_write(tmp_path / "a.npz", image=images, label=labels))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.labels.dtype == np.int32
    floats = npz(_write(tmp_path / "c.npz", image=images / 255, label=labels))
    np.testing.assert_array_equal(floats.images, images)
    unlabelled = npz(_write(tmp_path / "b.npz", x=images), image_key="x")
    np.testing.assert_array_equal(unlabelled.labels, [-1] * 5)


def test_npz_files_that_are_refused(tmp_path) -> None:
    images, labels = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5)
    path = tmp_path / "a.npz"

    def refused(message: str, **settings) -> None:
        with pytest.raises(DataError) as caught:
            npz(str(path), **settings)
        assert str(caught.value) == f"{path}{message}"

    refused(
        f" cannot be read ([Errno 2] No such file or directory: '{path}'); give a whole .npz file."
    )
    path.write_bytes(b"no archive")
    refused(" cannot be read (File is not a zip file); give a whole .npz file.")
    _write(path, image=images)
    archive = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        archive[archive.index(signature) + flags] |= 1  # as of an encrypted member
    path.write_bytes(archive)
    refused(
        " cannot be read (File 'image.npy' is encrypted, password required for extraction); give "
        "a whole .npz file."
    )
    _write(path, pictures=images)
    refused(
        " has the arrays (pictures) and none called 'image'; name the images' with "
        "datasets.npz.image_key."
    )
    _write(path, image=images, label=labels)
    refused(
        " takes 0.00 GiB in memory, over the limit of 0.00 GiB; raise datasets.npz.max_bytes if "
        "there is room.",
        max_bytes=100,
    )
    _write(path, image=images.astype(np.int64), label=labels)
    refused(": 'image' is int64; give uint8 in 0..255, or float in [0, 1].")
    _write(path, image=images, label=np.eye(5))
    refused(": 'label' is float64 (5, 5) for 5 images; give integers [5].")
    _write(path, image=images, label=labels - 2)
    refused(": 'label' runs from -2 to 2; give class ids, -1 for an image without a label.")
    _write(path, image=np.array([{}], dtype=object))
    refused(
        " cannot be read (Object arrays cannot be loaded when allow_pickle=False); give a whole "
        ".npz file."
    )


def test_extra_images_that_do_not_suit_the_data_are_refused() -> None:
    data = tiny_data()
    fine = Split(np.full((6, 8, 8, 3), 7, np.uint8), np.arange(6, dtype=np.int32) % 3)
    check_extra("student", Extra(fine, 0.5), data, 16)

    def refused(split: Split, message: str, share: float = 0.5) -> None:
        with pytest.raises(DataError) as caught:
            check_extra("student", Extra(split, share), data, 16)
        assert str(caught.value) == f"student/Stage.{message}"

    refused(fine.take(np.arange(0)), "extra has no images; give some, or None.")
    refused(
        Split(fine.images[:, :4], fine.labels),
        "extra has images of shape (4, 8, 3) and tiny of (8, 8, 3); bring them to one shape.",
    )
    refused(
        Split(fine.images, fine.labels + 1),
        "extra has labels from 1 to 3; tiny has 3 classes: give 0 to 2, or -1 for an image without "
        "a label.",
    )
    refused(
        fine,
        "extra_share is 0.05, which is no image in a batch of 16; give at least 0.0625, or no "
        "Stage.extra.",
        share=0.05,
    )
    stolen = np.concatenate([fine.images, data.test.images[:2]])
    refused(
        Split(stolen, np.zeros(8, np.int32)),
        "extra has 2 of the test images of tiny, which nothing may be trained on; take them out.",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extra": "1m.npz"},
            "Stage.extra is '1m.npz'; give a factory of datasets: @datasets.NAME, without ().",
        ),
        (
            {"extra_share": 1},
            "Stage.extra_share is 1; give a share of the batch, above 0 and below 1.",
        ),
        (
            {"extra_labels": "clean"},
            "Stage.extra_labels is 'clean'; there is no Stage.extra to label: give it, or leave "
            "both out.",
        ),
        (
            {"extra": lambda: None, "extra_labels": "clean"},
            "Stage.extra_labels is 'clean'; give the role of a teacher (none), or None.",
        ),
    ],
)
def test_refused_settings(changes, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(STAGE, **changes)
    assert str(caught.value) == f"student/{message}"


def test_settings_from_python() -> None:
    settings = {"augmentation": "idbh_weak", "extra": _generated, "extra_share": 0.5}
    stage = from_python.stage("a", "natural", _net(), {}, 2, settings)
    assert (stage.augmentation, stage.extra, stage.extra_share) == ("idbh_weak", _generated, 0.5)


def test_an_npz_file_is_no_data_set_of_an_experiment(tiny_run_file) -> None:
    gin_files.parse([str(tiny_run_file)], ["Experiment.dataset = @datasets.npz"])
    with pytest.raises(ValueError, match="Experiment.dataset is @datasets.npz, images without a"):
        gin_files.experiment()


def test_a_part_of_a_set_and_the_rest_without_labels() -> None:
    data = tiny_data(30)
    some, others = part(data, 12), rest(data, 12)
    np.testing.assert_array_equal(np.bincount(some.train.labels), [4, 4, 4])
    np.testing.assert_array_equal(others.labels, np.full(18, -1))
    both = np.concatenate([some.train.images, others.images])
    rows = [np.unique(images.reshape(30, -1), axis=0) for images in (both, data.train.images)]
    np.testing.assert_array_equal(*rows)
    assert some.validation is data.validation and some.test is data.test
    assert (part(data, 12, seed=1).train.images != some.train.images).any()
    with pytest.raises(DataError, match="^A part of 30 of the 30 training images of tiny leaves"):
        part(data, 30)
    with pytest.raises(DataError, match=r"give one, such as @datasets.fashion_mnist\(\)\.$"):
        rest(tiny_data, 3)


# Stages.


def _generated(labels: bool = True, count: int = 60) -> Split:
    made = tiny_data(train=count + 40).train
    images = 255 - made.images[40:]
    return Split(images, made.labels[40:] if labels else np.full(count, -1, np.int32))


def _train(stage, folder, teachers=None, preemption=None):
    data = tiny_data()
    extras = extra_images.load([stage], data)
    setting = RunContext(data, THREAT, preemption=preemption or Preemption(), extras=extras)
    train(stage, teachers or {}, folder, setting, seed=7)
    return keras.models.load_model(folder / "student.keras", compile=False).get_weights()


def _same(ours, theirs) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_stage_with_extra_images_resumes_to_the_same_bits(tmp_path) -> None:
    stage = dataclasses.replace(STAGE, extra=_generated, augmentation="crop_shift")
    whole = _train(stage, tmp_path / "whole")
    with pytest.raises(Preempted):
        _train(stage, tmp_path / "cut", preemption=PreemptedAt(4))
    assert _same(_train(stage, tmp_path / "cut"), whole)
    without = dataclasses.replace(stage, extra=None)
    assert not _same(_train(without, tmp_path / "without"), whole)


def test_a_teachers_labels(tmp_path) -> None:
    """A teacher that always says class 1 labels all extra images, whatever their own labels are."""
    teacher = _net()
    teacher.layers[-1].kernel.assign(keras.ops.zeros_like(teacher.layers[-1].kernel))
    teacher.layers[-1].bias.assign([0.0, 1.0, 0.0])
    extra = Extra(_generated(labels=False), 0.5, "print")
    stage = dataclasses.replace(
        STAGE, extra=_generated, teachers={"judge": "judge.keras"}, extra_labels="judge"
    )
    setting = RunContext(tiny_data(), THREAT)
    given = [stage, extra, {"judge": teacher}, {"judge": "digest"}, tmp_path, setting]
    found = extra_images.labelled(*given)
    np.testing.assert_array_equal(found.split.labels, [1] * 60)
    assert found.split.images is extra.split.images and found.unlabelled == 0
    assert (tmp_path / "extra_labels.npz").exists()  # read by a run that goes on
    teacher.layers[-1].bias.assign([0.0, 0.0, 1.0])
    np.testing.assert_array_equal(extra_images.labelled(*given).split.labels, [1] * 60)
    given[3] = {"judge": "another"}
    np.testing.assert_array_equal(extra_images.labelled(*given).split.labels, [2] * 60)


def test_a_teacher_for_the_labels_alone(tmp_path) -> None:
    """A method without teachers trains on its labels as on those of a file, to the bit."""
    teacher = _net()
    stage = dataclasses.replace(STAGE, extra=lambda: _generated(labels=False))
    judged = dataclasses.replace(stage, teachers={"judge": "j.keras"}, extra_labels="judge")
    found = _train(judged, tmp_path / "judged", {"judge": teacher})
    images = _generated().images
    labels = teacher(images / np.float32(255)).numpy().argmax(axis=1).astype(np.int32)
    own = dataclasses.replace(stage, extra=lambda: Split(images, labels))
    for ours, theirs in zip(found, _train(own, tmp_path / "own", {}), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_missing_labels_are_refused_where_they_are_needed() -> None:
    student = _net()
    extra = Extra(_generated(labels=False), 0.5)
    extra_images.check_labels(STAGE, Natural(student), None)
    extra_images.check_labels(STAGE, Natural(student), Extra(_generated(), 0.5))
    with pytest.raises(ValueError) as caught:
        extra_images.check_labels(STAGE, Natural(student), extra)
    assert str(caught.value) == (
        "student/Stage.extra has 60 images without a label, and Natural needs labels; take images "
        "that have some."
    )
    taught = dataclasses.replace(STAGE, teachers={"clean": "a.keras", "robust": "b.keras"})
    with pytest.raises(ValueError) as caught:
        extra_images.check_labels(taught, Natural(student), extra)
    assert str(caught.value) == (
        "student/Stage.extra has 60 images without a label, and Natural needs labels; set "
        "Stage.extra_labels to the teacher that gives them ('clean' or 'robust'), or take images "
        "that have some."
    )
    extra_images.check_labels(taught, RSLAD(student, {"robust": _net()}), extra)
    labelling = dataclasses.replace(taught, extra=_generated, extra_labels="clean")
    extra_images.check_labels(labelling, Natural(student), extra)


def test_cached_soft_labels_have_rows_for_extra_images(tmp_path) -> None:
    """Without augmentation, asking once and asking in every batch is the same training."""
    teacher = _net()

    def student(labels: str) -> list[np.ndarray]:
        stage = dataclasses.replace(
            STAGE,
            distiller=lambda *args, **kwargs: Defensive(*args, labels=labels, **kwargs),
            teachers={"teacher": "teacher.keras"},
            extra=_generated,
        )
        return _train(stage, tmp_path / labels, {"teacher": teacher})

    for ours, theirs in zip(student("cached"), student("online"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_equal_extra_images_are_in_memory_once() -> None:
    stages = [
        dataclasses.replace(STAGE, name=name, extra=_generated, extra_share=share)
        for name, share in (("a", 0.5), ("b", 0.7))
    ]
    found = extra_images.load([*stages, STAGE], tiny_data())
    assert list(found) == ["a", "b"] and found["a"].split is found["b"].split
    assert [part.share for part in found.values()] == pytest.approx([0.5, 0.7])
    with pytest.raises(ValueError, match="Stage.extra returns a str; give a factory that returns"):
        extra_images.load([dataclasses.replace(STAGE, extra=lambda: "a")], tiny_data())


def test_by_run_file(tiny_run_file, tmp_path) -> None:
    """An `.npz` file by gin; a stage is not gone on with where its content is another."""
    made, path = _generated(), tmp_path / "generated.npz"
    np.savez(path, image=made.images, label=made.labels)
    bindings = [
        "Experiment.stages = ('clean_teacher',)",
        "clean_teacher/Stage.extra = @datasets.npz",
        f"clean_teacher/datasets.npz.path = '{path}'",
        "clean_teacher/Stage.extra_share = 0.5",
    ]
    gin_files.parse([str(tiny_run_file)], bindings)
    experiment: Experiment = gin_files.experiment()
    run_dir = tmp_path / "run"
    (result,) = experiment_run.run(experiment, run_dir, gin_files.text())
    assert result["extra"] == {"images": 60, "share": pytest.approx(0.5), "labels": None}
    assert result["steps"] == 6  # 40 real images in batches of 16, two epochs
    np.savez(path, image=255 - made.images, label=made.labels)
    with pytest.raises(Changed, match="changed since it began: the extra images. Undo that"):
        experiment_run.run(experiment, run_dir, gin_files.text())


@pytest.mark.parametrize("name", registry.names("distillers"))
def test_methods_that_need_no_labels(name: str) -> None:
    """Their training with labels of -1 is, to the bit, that with any others."""
    made = registry.target("distillers", name)
    assert getattr(made, "needs_labels", True) == (name not in {"adaad", "defensive", "rslad"})
    if getattr(made, "needs_labels", True):
        return
    images = np.random.RandomState(0).rand(8, 8, 8, 3).astype(np.float32)

    def weights(label: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        distiller = made(_net(), {role: _net() for role in made.teacher_views})
        distiller.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
        distiller.fit(images, np.full(8, label), batch_size=4, shuffle=False, verbose=0)
        return distiller.student.get_weights()

    assert _same(weights(-1), weights(2))
