"""Audits at the edges: Sequential models, one image, one class, one pixel, odd channels."""

from __future__ import annotations

import pathlib

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.auditing import evidence
from mtard_tf.auditing.audit import Audit
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.models import model_files
from mtard_tf.models.layers import OUTLIER_LAYER
from mtard_tf.reporting import plots
from mtard_tf.threat import ThreatModel

SUITE = Suite({"fgsm": FGSM()}, probe=PGD(num_steps=1), factors=(1.0,), probe_examples=4)
THREAT = ThreatModel("linf", 0.1)


def _data(shape: tuple[int, int, int], classes: int, count: int = 4) -> ImageData:
    images = np.random.RandomState(0).randint(0, 256, (count, *shape)).astype(np.uint8)
    split = Split(images, (np.arange(count) % classes).astype(np.int32))
    return ImageData("edge", tuple(f"class {i}" for i in range(classes)), split, split, split)


def _sequential(shape: tuple[int, int, int], classes: int, name: str = "logits"):
    dense = keras.layers.Dense(classes, name=name)
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), dense])


@pytest.mark.parametrize(
    ("shape", "classes", "examples"),
    [((4, 4, 1), 3, 1), ((1, 1, 1), 3, 4), ((1, 1, 3), 3, 1), ((4, 4, 1), 1, 4), ((3, 4, 2), 2, 4)],
)
def test_an_audit_of_little_has_a_report_and_its_pictures(
    shape, classes, examples, tmp_path: pathlib.Path
) -> None:
    data = _data(shape, classes)
    audit = Audit(data, SUITE, THREAT, examples=examples)
    model = _sequential(shape, classes)
    found = audit(model, "small", tmp_path)
    assert found["examples"] == examples
    assert (tmp_path / "report.md").read_text().startswith("# Audit of small")
    with np.load(tmp_path / "examples.npz") as arrays:
        drawn = plots.adversarial_grid(arrays, found["label_names"], tmp_path / "images.png")
    assert drawn == (found["clean"] > 0) == (tmp_path / "images.png").exists()
    severities = {finding["name"]: finding["severity"] for finding in found["findings"]}
    if classes == 1:
        assert found["verdict"].startswith("One class for all: 'class 0' is 100.0% of the pred")
        assert severities["constant_prediction"] == "void"
    elif examples == 1:
        assert severities["at_chance"] == "note"  # the image's class is all there is


def test_a_sequential_model_may_have_a_class_of_outliers(tmp_path: pathlib.Path) -> None:
    data = _data((4, 4, 1), 3)
    model_files.check(_sequential((4, 4, 1), 3), data.test, data.label_names)
    defensive = _sequential((4, 4, 1), 4, OUTLIER_LAYER)
    defensive.layers[-1].bias.assign([0.0, 0.0, 0.0, 50.0])
    model_files.check(defensive, data.test, data.label_names)
    Audit(data, SUITE, THREAT)(defensive, "outliers", tmp_path)
    with np.load(tmp_path / "examples.npz") as arrays:
        assert not plots.adversarial_grid(arrays, data.label_names, tmp_path / "outliers.png")
    with pytest.raises(ValueError, match="has 4 classes and the data set 3"):
        model_files.check(_sequential((4, 4, 1), 4), data.test, data.label_names)


def test_figures_leave_matplotlib_as_it_was(tmp_path: pathlib.Path) -> None:
    before, settings = matplotlib.get_backend(auto_select=False), dict(matplotlib.rcParams)
    points = [{"label": "one", "clean": 0.9, "robust": 0.5}]
    plots.trade_off(points, "pgd", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.get_backend(auto_select=False) == before
    assert dict(matplotlib.rcParams) == settings


def test_a_single_logit_has_no_gap() -> None:
    class Runner:
        split = _data((2, 2, 1), 1).test

        class evaluator:
            batch_size = 4

            @staticmethod
            def logits(images):
                return np.full((len(images), 1), 2.0)

    assert evidence._look(Runner, 4) == (1, 0.0, 0.0)  # type: ignore[arg-type]


def test_a_model_that_is_always_wrong_has_a_report_too(tmp_path: pathlib.Path) -> None:
    data = _data((4, 4, 3), 2)
    convolution = keras.layers.Conv2D(4, 3)
    dense = keras.layers.Dense(2, kernel_initializer="zeros", name="logits")
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), convolution, keras.layers.GlobalAveragePooling2D(), dense]
    )
    zeros = Split(data.test.images, np.zeros(4, np.int32))
    dense.bias.assign([0.0, 2.0])
    wrong = ImageData("edge", ("a", "b"), zeros, zeros, zeros)
    found = Audit(wrong, SUITE, THREAT)(model, "wrong", tmp_path)
    assert found["clean"] == 0 and (tmp_path / "report.html").exists()
    assert len(np.load(tmp_path / "examples.npz")["images/ids"]) == 0


def test_many_attacks_do_not_make_tensorflow_warn_of_retracing(tmp_path, caplog) -> None:
    logger = tf.get_logger()
    level, propagate = logger.level, logger.propagate
    logger.setLevel("WARNING")
    logger.propagate = True
    try:
        many = Suite({f"fgsm{i}": FGSM() for i in range(8)}, probe=PGD(num_steps=1), factors=())
        Audit(_data((4, 4, 1), 2), many, THREAT)(_sequential((4, 4, 1), 2), "net", tmp_path)
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
    assert "retracing" not in caplog.text
