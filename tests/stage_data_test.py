"""What a stage trains on: its augmentation by epoch."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from preempted import PreemptedAt

from mtard_tf.data.image_data import DataError, ImageData, Split
from mtard_tf.experiment import stage_checks
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.processes.preemption import Preempted, Preemption
from mtard_tf.running import identity
from mtard_tf.running.context import RunContext
from mtard_tf.running.stage_run import train
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)
STAGE = Stage(
    "student",
    Natural,
    lambda shape, classes: small_cnn(shape, classes, widths=(4,), dense=4),
    epochs=2,
    batch_size=16,
    validation_attack=None,
    checkpoint_every=1,
)


def _train(stage, folder, data=None, preemption=None):
    setting = RunContext(data or tiny_data(), THREAT, preemption=preemption or Preemption())
    train(stage, {}, folder, setting, seed=7)
    return keras.models.load_model(folder / "student.keras", compile=False).get_weights()


def _same(ours, theirs) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_augmentation_by_epoch() -> None:
    data = dataclasses.replace(tiny_data(), augmentation="crop_shift")
    assert STAGE.augmented(data, 1) is data
    one = dataclasses.replace(STAGE, augmentation="none")
    assert [one.augmented(data, epoch).augmentation for epoch in (0, 1)] == ["none", "none"]
    changing = {5: "idbh_strong", 0: "crop_flip", 3: "idbh_weak"}
    stage = dataclasses.replace(STAGE, epochs=9, augmentation=changing)
    found = [stage.augmented(data, epoch).augmentation for epoch in (0, 2, 3, 4, 5, 8)]
    assert found == ["crop_flip"] * 2 + ["idbh_weak"] * 2 + ["idbh_strong"] * 2
    assert data.augmentation == "crop_shift"


def test_a_stage_that_is_cut_off_goes_on_across_the_change(tmp_path) -> None:
    """Cut in the first epoch, of three steps, and in the second, which has another augmentation."""
    stage = dataclasses.replace(STAGE, augmentation={0: "crop_flip", 1: "idbh_strong"})
    whole = _train(stage, tmp_path / "whole")
    for cut in (1, 4):  # resumed at steps 2 and 5
        with pytest.raises(Preempted):
            _train(stage, tmp_path / f"cut{cut}", preemption=PreemptedAt(cut))
        assert _same(_train(stage, tmp_path / f"cut{cut}"), whole)
    first_only = dataclasses.replace(STAGE, augmentation="crop_flip")
    assert not _same(_train(first_only, tmp_path / "first_only"), whole)


def test_the_data_sets_own_augmentation_by_name_is_the_same_training(tmp_path) -> None:
    own = dataclasses.replace(tiny_data(), augmentation="crop_flip")
    named = dataclasses.replace(STAGE, augmentation="crop_flip")
    assert _same(_train(named, tmp_path / "named"), _train(STAGE, tmp_path / "own", own))


def test_the_augmentation_is_part_of_what_a_stage_is() -> None:
    def told(stage: Stage) -> dict:
        return identity.of_stage(stage, identity.of_data(tiny_data()), THREAT, 0)

    assert "Stage.augmentation" not in told(STAGE)["settings"]
    strong = dataclasses.replace(STAGE, augmentation={0: "none", 1: "idbh_strong"})
    assert identity.changes(told(STAGE), told(strong)) == [
        "Stage.augmentation was not set and is {0: 'none', 1: 'idbh_strong'}"
    ]


_WANTED = (
    "give one of none, crop_flip, crop_shift, idbh_weak, idbh_strong, or those by the epoch from "
    "which they hold: {0: 'crop_flip', 30: 'idbh_strong'}."
)


@pytest.mark.parametrize(
    ("augmentation", "wanted"),
    [
        ("cutout", _WANTED),
        (3, _WANTED),
        ({}, _WANTED),
        ({1: "crop_flip"}, _WANTED),
        ({0: "crop_flip", "1": "none"}, _WANTED),
        ({0: "crop_flip", 0.5: "none"}, _WANTED),
        ({0: "crop_flip", 1: "cutout"}, _WANTED),
        (
            {0: "crop_flip", 2: "none"},
            "the stage ends after 2 epochs, before it begins: start earlier.",
        ),
    ],
)
def test_refused_augmentations(augmentation, wanted: str) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(STAGE, augmentation=augmentation)
    assert str(caught.value) == f"student/Stage.augmentation is {augmentation!r}; {wanted}"


def test_colour_operations_on_other_channels_are_refused_before_training() -> None:
    split = Split(np.zeros((4, 8, 8, 2), np.uint8), np.arange(4, dtype=np.int32) % 2)
    data = ImageData("two_channels", ("a", "b"), split, split, split)
    stage = dataclasses.replace(STAGE, augmentation={0: "none", 1: "idbh_weak"})
    with pytest.raises(DataError) as caught:
        stage_checks.check_data(stage, data)
    assert str(caught.value) == (
        "student/Stage.augmentation is 'idbh_weak', whose colour operations take images of 1 or 3 "
        "channels, and the images have 2; use 'crop_shift'."
    )
