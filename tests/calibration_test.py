"""Calibration: its formulas against SciPy and by hand, and an export that has it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import keras
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import tensorflow as tf

from mtard_tf import api, files, monitor
from mtard_tf.commands import export as commands_export
from mtard_tf.exporting import calibration as of_export
from mtard_tf.exporting import converting, proof, saved_model
from mtard_tf.exporting.formats import ExportError, Wanted
from mtard_tf.measuring import calibration
from mtard_tf.reporting import calibrations, run_files
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel


def _logits(seed: int, images: int = 300, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that lead to their labels more often than not."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, images)
    logits = draw.normal(0, 2, (images, classes))
    logits[np.arange(images), labels] += 2
    return logits, labels


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_that_of_an_optimizer(seed) -> None:
    logits, labels = _logits(seed)
    places = np.arange(len(labels))

    def likelihood(log_t: float) -> float:
        return -scipy.special.log_softmax(logits / np.exp(log_t), axis=1)[places, labels].mean()

    best = scipy.optimize.minimize_scalar(likelihood, (-1, 1), options={"xtol": 1e-9})
    found = calibration.fitted_temperature(logits, labels)
    assert found == pytest.approx(np.exp(best.x), rel=1e-6)
    assert likelihood(np.log(found)) <= best.fun + 1e-12
    assert calibration.fitted_temperature(7 * logits, labels) == pytest.approx(7 * found, rel=1e-9)


@pytest.mark.parametrize(("sign", "share", "end"), [(1, "100.0%", "0.001"), (-1, "0.0%", "1000")])
def test_logits_that_fix_no_temperature_are_refused(sign, share, end) -> None:
    labels = np.arange(40) % 4
    message = (
        f"40 images do not determine a temperature (it would go beyond {end}): {share} of them are "
        "right; take more images, or a net that is better than chance."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        calibration.fitted_temperature(sign * 9.0 * np.eye(4)[labels], labels)


def _two_classes(confidences: list[float]) -> np.ndarray:
    return np.array([[c, 1 - c] for c in confidences])


def test_the_calibration_error_by_hand() -> None:
    """Four images, bins (0.4, 0.6], (0.6, 0.8] and (0.8, 1] of five.

    0.6 is in the first, wrong: 1 x 0.6. 0.7 and 0.8 in the second, one right: |1 - 1.5|.
    0.9 in the third, right: 0.1. Together 1.2, of 4 images.
    """
    probabilities = _two_classes([0.6, 0.7, 0.8, 0.9])
    labels = np.array([1, 0, 1, 0])
    error = calibration.expected_calibration_error(probabilities, labels, bins=5)
    assert error == pytest.approx(1.2 / 4)
    assert calibration.expected_calibration_error(np.eye(3), np.arange(3)) == 0


@pytest.mark.parametrize(
    ("seed", "expected"), [(0, 0.19488847237385504), (1, 0.2549385328436382), (2, 0.20547022014224)]
)
def test_the_calibration_error_in_fifteen_bins_is_netcal_s(seed, expected) -> None:
    """`netcal.metrics.ECE(15).measure(p, labels)` of netcal 1.4.0, which needs PyTorch."""
    draw = np.random.default_rng(seed)
    labels, logits = draw.integers(0, 10, 1000), draw.normal(0, 2, (1000, 10))
    logits[np.arange(1000), labels] += 2
    p = calibration.softmax(logits)
    np.testing.assert_allclose(p, scipy.special.softmax(logits, axis=1), rtol=1e-12)
    assert calibration.expected_calibration_error(p, labels) == pytest.approx(expected, rel=1e-12)


def test_the_brier_score_and_the_threshold_by_hand() -> None:
    """(0.2^2 + 0.2^2 + 0.9^2 + 0.9^2) / 2 = 0.85."""
    probabilities = _two_classes([0.8, 0.9])
    assert calibration.brier_score(probabilities, np.array([0, 1])) == pytest.approx(0.85)
    of_ten = _two_classes([0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
    found = [calibration.confidence_threshold(of_ten, share) for share in (1.0, 0.9, 0.81, 0.1)]
    np.testing.assert_array_equal(found, [0.55, 0.6, 0.6, 1.0])


@pytest.fixture(scope="module")
def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(tiny_data(60).image_shape)
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)), name="net")


@pytest.fixture(scope="module")
def data(net):
    """Images whose labels are the net's own, but for every third."""
    data = tiny_data(60)
    splits = {}
    for role in ("validation", "test"):
        split = getattr(data, role)
        labels = np.argmax(net(split.images / np.float32(255)), axis=1).astype(np.int32)
        labels[::3] = (labels[::3] + 1) % 3
        splits[role] = dataclasses.replace(split, labels=labels)
    return dataclasses.replace(data, **splits)


@pytest.fixture(scope="module")
def exported(net, data, tmp_path_factory):
    """A calibrated export, and how it was calibrated; the process that proves it is left out."""
    with pytest.MonkeyPatch.context() as patch:
        known = {"bytes": 1, "agreement": 1.0, "images": 6, "difference": 0.0, "milliseconds": 1.0}
        patch.setattr(proof, "prove", lambda *_: known)
        folder = api.export(
            net, tmp_path_factory.mktemp("x"), data, calibrate=True, coverage=0.5, epsilon="8/255"
        )
    return folder, json.loads((folder / "assets.extra/metadata.json").read_text())["calibration"]


def test_served_probabilities_have_the_temperature(net, data, exported) -> None:
    folder, known = exported
    images = data.validation.images
    served = tf.saved_model.load(str(folder)).signatures["serving_default"](images=images)
    logits = net(images / np.float32(255)).numpy()
    np.testing.assert_allclose(served["logits"], logits, atol=1e-6)
    temperature = calibration.fitted_temperature(logits, data.validation.labels)
    assert known["temperature"] == pytest.approx(temperature, rel=1e-5)
    expected = calibration.softmax(logits, temperature)
    np.testing.assert_allclose(served["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(served["confidence"], expected.max(axis=1), atol=1e-5)
    # Half of them reach it; the one that is the threshold itself may be rounded away.
    accepted = int(np.sum(served["accepted"]))
    assert accepted == pytest.approx((len(images) + 1) // 2, abs=1)
    assert known["threshold"] == pytest.approx(
        np.sort(expected.max(axis=1))[len(images) // 2], 1e-5
    )


def test_what_is_known_is_measured_on_test_images(net, data, exported) -> None:
    known, labels = exported[1], data.test.labels
    logits = net(data.test.images / np.float32(255)).numpy()
    assert (known["split"], known["images"]) == ("test", len(labels))
    for when, temperature in (("before", 1.0), ("after", known["temperature"])):
        expected = calibration.figures(calibration.softmax(logits, temperature), labels)
        assert known["clean"][when] == pytest.approx(expected, abs=1e-5)
    assert known["attacked"]["after"]["accuracy"] < known["clean"]["after"]["accuracy"]
    unlabelled = dataclasses.replace(
        data, test=dataclasses.replace(data.test, labels=np.full_like(labels, -1))
    )
    other = of_export.calibrate(net, unlabelled, ThreatModel("linf", 8 / 255), 0.5)
    assert other.known["split"] == "validation" and other.temperature == known["temperature"]


def test_the_reference_is_of_the_validation_images(net, data, exported) -> None:
    reference = monitor.Reference.load(exported[0])
    for part in (reference.clean, reference.attacked):
        assert {name: x.sum() for name, x in part.items()} == dict.fromkeys(
            monitor.NAMES, len(data.validation)
        )


def test_off_is_absent(net, tmp_path) -> None:
    saved_model.write(net, ("a", "b", "c"), tiny_data(60).image_shape, tmp_path / "x")
    outputs = tf.saved_model.load(str(tmp_path / "x")).signatures["serving_default"]
    assert sorted(outputs.structured_outputs) == ["label", "label_name", "logits", "probabilities"]
    assert "temperature" not in converting.known(["a"], {}, None)
    assert converting.known(["a"], {}, 0.5)["temperature"] == "0.5"


def test_card_and_report_have_a_table(exported) -> None:
    table = calibrations.table(exported[1])
    assert table[0] == ("| images | calibration | accuracy | mean confidence | ECE | Brier score |")
    assert [line.split(" | ")[:2] for line in table[2:]] == [
        [f"| {kind}", when] for kind in ("clean", "attacked") for when in ("before", "after")
    ]


def _run(folder: pathlib.Path, calibration: dict | None, identity: str = "x") -> pathlib.Path:
    """A run whose second export knows of a calibration."""
    stage = {"stage": "net", "teachers": {}, "sources": {}, "selected": "best", "temperature": 1}
    stage |= {"identity": {"code": {"a": "x"}}, "best": {"epoch": 1, "validation_clean": 0.5}}
    files.write_json(folder / "net" / "stage.json", stage)
    for version in ("1", "2", "10"):
        known = {"stage": stage | {"identity": {"code": {"a": identity}}}}
        if version == "10" and calibration is not None:
            known["calibration"] = calibration
        files.write_json(folder / "export/net" / version / "assets.extra/metadata.json", known)
    return folder


def test_the_command_says_what_it_did(exported) -> None:
    said = commands_export._calibrated(exported[1])
    assert re.fullmatch(
        r"calibrated: temperature 0\.4229; ECE [\d.]+% -> [\d.]+%, attacked [\d.]+% -> [\d.]+%, on "
        r"\d+ test images; a confidence of 0\.685 is reached by [\d.]+% of them",
        said,
    )


def test_the_report_of_a_run_has_the_latest_export_s(exported, tmp_path) -> None:
    lines = calibrations.section(_run(tmp_path / "a", exported[1]), "net")
    assert lines[1] == "## Probabilities of net" and lines[5:] == calibrations.table(exported[1])
    assert lines[3].startswith("Version 10 of its export has the temperature 0.4229, fitted to 12 ")
    assert calibrations.section(_run(tmp_path / "b", None), "net") == []
    assert calibrations.section(_run(tmp_path / "c", exported[1], identity="old"), "net") == []
    assert calibrations.section(tmp_path / "a", "other") == []
    with pytest.raises(run_files.RunFileError, match=r"metadata\.json is damaged"):
        calibrations.section(_run(tmp_path / "d", {"temperature": "hot"}), "net")


def test_the_page_of_a_run_has_the_latest_export_s(exported, tmp_path) -> None:
    known = exported[1]
    found = calibrations.view(_run(tmp_path / "a", known), "net")
    assert (found["version"], found["temperature"]) == ("10", "0.4229")
    shown = [[row[name] for name in ("accuracy", "confidence", "ece")] for row in found["rows"]]
    values = [
        [known[kind][when][name] for name in ("accuracy", "confidence", "ece")]
        for kind in ("clean", "attacked")
        for when in ("before", "after")
    ]
    np.testing.assert_allclose(
        np.char.rstrip(shown, "%").astype(float), 100 * np.array(values), 0, 0.051
    )
    kept = [float(row["covered"].rstrip("%")) / 100 for row in found["kept"]]
    assert kept == pytest.approx([known[k]["covered"] for k in ("clean", "attacked")], abs=6e-4)
    errors = [known["attacked"][when]["ece"] for when in ("before", "after")]
    assert found["misled"] == (errors[1] > errors[0])
    assert calibrations.view(_run(tmp_path / "b", None), "net") is None
    damaged = _run(tmp_path / "c", known | {"clean": {}})
    with pytest.raises(run_files.RunFileError, match=r"10.assets\.extra.metadata\.json is damaged"):
        calibrations.view(damaged, "net")


@pytest.mark.parametrize("coverage", [0.0, 1.5])
def test_a_coverage_that_is_none_is_one_line(coverage) -> None:
    message = f"coverage is {coverage}; give a share of the images above 0, at most 1."
    with pytest.raises(ExportError, match=f"^{re.escape(message)}$"):
        Wanted(calibrate=True, coverage=coverage)


def test_a_student_that_fixes_no_temperature_is_one_line(net, data, tmp_path) -> None:
    labels = np.argmax(net(data.validation.images / np.float32(255)), axis=1).astype(np.int32)
    right = dataclasses.replace(
        data, validation=dataclasses.replace(data.validation, labels=labels)
    )
    with pytest.raises(ExportError) as error:
        api.export(net, tmp_path, right, calibrate=True)
    assert str(error.value).startswith("The student cannot be calibrated: ")
    assert "100.0% of them are right" in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
