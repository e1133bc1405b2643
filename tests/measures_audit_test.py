"""What an audit does with measures: it goes on where it was, and reports them."""

from __future__ import annotations

import json
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import files
from mtard_tf.auditing import evidence, measurements
from mtard_tf.auditing.audit import Audit
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.measuring import sensitivity
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.reporting import plots
from mtard_tf.running import report
from mtard_tf.threat import ThreatModel

CLASSES = 4
KERNEL = tf.random.stateless_normal([9, CLASSES], seed=[4, 1])
THREAT = ThreatModel("linf", 0.1)


class Sizes:
    """The mean of each image, and its double; is killed in one of its batches."""

    columns = {"value": "mean of the image", "double": "twice the mean of the image"}

    def __init__(self, examples: int | None = None, killed_in: int = -1) -> None:
        self.examples, self.killed_in, self.calls = examples, killed_in, 0

    def __repr__(self) -> str:
        return f"Sizes({self.examples})"

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.killed_in:
            raise ValueError("killed.")

    def __call__(self, model_fn, images, labels, *, threat, seeds, temperature):
        with tf.control_dependencies([tf.numpy_function(self._count, [], [])]):
            mean = tf.reduce_mean(images, axis=[1, 2, 3])
        return {
            "value": tf.where(labels == 1, float("nan"), mean * temperature),
            "double": 2 * mean,
        }


@pytest.fixture
def cheap(monkeypatch) -> None:
    """No evidence, whose own attacks cost seconds to trace, and no figure."""

    def gather(runner, suite, correct, names, blind, through=None):
        clean, labels = correct["clean"], runner.split.labels
        said = evidence.Predictions(labels, labels, labels, names, len(names))
        return evidence.Evidence(
            *(clean, np.ones(len(clean)), clean, clean, clean, clean),
            *(1.0, clean, ~clean, {0.0: clean}, 0.0, said),
        )

    monkeypatch.setattr(evidence, "gather", gather)
    monkeypatch.setattr(plots, "epsilon_curve", lambda *args: None)


def _data() -> ImageData:
    images = np.random.RandomState(0).randint(0, 256, (10, 3, 3, 1)).astype(np.uint8)
    split = Split(images, (np.arange(10) % 2).astype(np.int32))
    return ImageData("noise", ("a", "b", "c", "d"), split, split, split)


def _model() -> keras.Model:
    inputs = keras.Input((3, 3, 1))
    dense = keras.layers.Dense(CLASSES)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)), name="linear")
    dense.set_weights([KERNEL.numpy(), np.array([3, 0, 0, 0], np.float32)])
    return model


def _audit(suite: Suite, **changes) -> Audit:
    return Audit(_data(), suite, THREAT, batch_size=4, **changes)


def _dark(model_fn, images, labels, *, threat, seeds, objective=None):
    """An attack that costs nothing to trace."""
    return tf.maximum(images - threat.epsilon, 0.0)


def _suite(*measures) -> Suite:
    return Suite({"dark": _dark}, measures={f"m{i}": m for i, m in enumerate(measures)})


def test_measures_go_on_where_they_were_cut_off(tmp_path, cheap, capsys) -> None:
    whole = _audit(_suite(Sizes(), Sizes(6)))(_model(), "model", tmp_path / "whole")
    first, second = Sizes(), Sizes(6, killed_in=2)
    with pytest.raises(EvaluationError, match=r"The measure m1 failed: .*killed\..*--skip=m1\."):
        _audit(_suite(first, second))(_model(), "model", tmp_path / "cut")
    assert (first.calls, second.calls) == (3, 2)
    capsys.readouterr()
    first, second = Sizes(), Sizes(6)
    found = _audit(_suite(first, second))(_model(), "model", tmp_path / "cut")
    assert (first.calls, second.calls) == (0, 1)
    assert "m0 3, m1 1." in capsys.readouterr().err
    assert found == whole
    for kept in ("whole", "cut"):
        with np.load(tmp_path / kept / "examples.npz") as arrays:
            assert {k: len(arrays[k]) for k in arrays.files if k[0] == "m"} == {
                "m0": 10,
                "m0.double": 10,
                "m1": 6,
                "m1.double": 6,
            }
            assert arrays["m0"].dtype == np.float32


def test_shares_measure_batches_of_their_own(tmp_path, cheap) -> None:
    whole = _audit(_suite(Sizes()))(_model(), "model", tmp_path / "whole")
    measure = Sizes()
    _audit(_suite(measure), share=(1, 2))(_model(), "model", tmp_path / "shared")
    assert measure.calls == 1
    assert _audit(_suite(measure))(_model(), "model", tmp_path / "shared") == whole
    assert measure.calls == 3


def test_the_report_has_moments_definitions_and_success_rates(tmp_path, cheap) -> None:
    suite = _suite(Sizes(6), sensitivity.SoftmaxJacobian())
    found = _audit(suite).at_temperature(2.0)(_model(), "model", tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert found["temperature"] == pytest.approx(2.0)
    means = (_data().test.images[:6] / 255.0).mean(axis=(1, 2, 3))
    entry = found["measures"]["m0"]  # NaN for label 1, so of every other image
    assert entry["definition"] == "mean of the image"
    assert (entry["examples"], entry["defined"]) == (6, 3)
    expected = 2.0 * means[::2]
    for key, value in {
        "mean": expected.mean(),
        "standard_deviation": expected.std(),
        "median": np.median(expected),
        "minimum": expected.min(),
        "maximum": expected.max(),
    }.items():
        assert entry[key] == pytest.approx(value, rel=1e-6)
    assert found["measures"]["m0.double"]["mean"] == pytest.approx(2 * means.mean(), rel=1e-6)
    assert "mean_of_values" not in entry
    with np.load(tmp_path / "examples.npz") as arrays:
        logs = arrays["m1"].astype(float)
        broken = arrays["clean"] & ~arrays["dark"]
        assert found["success_rates"] == {"dark": broken.sum() / arrays["clean"].sum()}
    assert found["measures"]["m1"]["mean_of_values"] == pytest.approx(np.mean(10**logs))
    text = (tmp_path / "report.md").read_text()
    assert "Training temperature 2." in text
    assert re.search(r"\| m0 \| 1\.\d+ \| 0\.\d+ \| 1?\.?\d*\.?\d+ \| 3 of 6 \| mean of the", text)
    assert f"| dark | {found['success_rates']['dark']:.2%} |" in text


def test_a_suite_without_measures_is_as_it_was(tmp_path, cheap) -> None:
    found = _audit(_suite())(_model(), "model", tmp_path)
    assert not {"temperature", "measures", "success_rates"} & set(found)
    assert "Measures" not in (tmp_path / "report.md").read_text()
    # The temperature binds nothing else; audits of a model at 1 stand as they did.
    assert _audit(_suite()).at_temperature(1.0)(_model(), "model", tmp_path) == found
    other = _audit(_suite()).at_temperature(2.0)(_model(), "model", tmp_path)
    assert other["fingerprint"] != found["fingerprint"]


def test_a_stage_says_at_which_temperature_it_was_trained(tmp_path, monkeypatch) -> None:
    whole = {"stage": "student", "teachers": {}, "sources": {}, "identity": {}, "temperature": 20}
    whole |= {"selected": "best", "best": {"epoch": 1, "validation_clean": 0.5}}
    files.write_json(tmp_path / "student" / "stage.json", whole)
    monkeypatch.setattr(report, "load_student", lambda run_dir, stage: "model")
    monkeypatch.setattr(report, "file_digest", lambda path: "digest")
    monkeypatch.setattr(report, "existing", lambda run_dir, stage: None)
    given = []

    class Share:
        suite, whole, strategy = _suite(), False, tf.distribute.get_strategy()

        def at_temperature(self, temperature):
            given.append(temperature)
            return self

        def __call__(self, model, name, out, surrogate, origin):
            given.append((model, name, origin["student"]))

    stages = [types.SimpleNamespace(name="student", teachers={})]
    report.evaluate_run(tmp_path, types.SimpleNamespace(stages=stages), Share())
    assert given == [20.0, ("model", "student", "digest")]


def test_measures_of_nothing_and_without_a_definition() -> None:
    class Nothing:
        """No image has one."""

    entries = measurements.summarise({"m": np.full(3, np.nan, np.float32)}, {"m": Nothing()})
    assert entries["m"]["definition"] == "No image has one."
    assert (entries["m"]["defined"], entries["m"]["mean"]) == (0, None)
    table = measurements.markdown({"temperature": 1.0, "measures": entries, "success_rates": {}})
    assert "| m |  |  |  | 0 of 3 | No image has one. |" in table


def test_a_temperature_that_means_nothing_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="The training temperature is 0; give a number above 0"):
        _audit(_suite()).at_temperature(0)(_model(), "model", tmp_path)
