"""An audit that was cut off goes on at the batch it was cut off in."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.auditing import audit, evidence
from mtard_tf.auditing.audit import Audit
from mtard_tf.auditing.batch_results import ResultsFile
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.files import digest
from mtard_tf.reporting import plots
from mtard_tf.threat import ThreatModel


class Counting:
    """Moves nothing; counts the batches that it is run on, and is killed in one of them."""

    kind = "gradient"

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.calls = 0
        self.killed_in = -1

    def __repr__(self) -> str:
        return f"Counting({self.label!r})"

    def _count(self) -> np.ndarray:
        self.calls += 1
        return np.array(self.calls == self.killed_in)

    def __call__(self, model_fn, images, labels, *, threat, seeds, objective=None):
        killed = tf.numpy_function(self._count, [], tf.bool)
        killed = tf.ensure_shape(killed, [])
        # NaN stands for the kill: the evaluator raises, as a signal would, within the batch.
        return tf.where(killed, float("nan"), 0.0) + images


@pytest.fixture(autouse=True)
def _cheap(monkeypatch) -> None:
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


def _data(seed: int = 0) -> ImageData:
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    split = Split(images, np.zeros(20, np.int32))
    return ImageData("noise", ("a", "b", "c"), split, split, split)


def _model(bias: float = 3.0) -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Dense(3)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)), name="always_a")
    dense.set_weights([np.zeros((64, 3), np.float32), np.array([bias, 0, 0], np.float32)])
    return model


def _audit(first, second, **changes) -> Audit:
    suite = Suite({"first": first, "second": second})
    settings = {"data": _data(), "threat": ThreatModel("linf", 0.1), "batch_size": 5} | changes
    return Audit(suite=suite, **settings)


def _cut_off(tmp_path) -> tuple[Counting, Counting]:
    """An audit that dies in the third of four batches of its second attack."""
    first, second = Counting(), Counting()
    second.killed_in = 3
    with pytest.raises(ValueError, match="The attack second failed"):
        _audit(first, second)(_model(), "model", tmp_path)
    assert (first.calls, second.calls) == (4, 3)
    assert not (tmp_path / "report.json").exists()
    return first, second


def test_nothing_but_the_batch_in_flight_is_computed_again(tmp_path, capsys) -> None:
    _cut_off(tmp_path)
    capsys.readouterr()
    first, second = Counting(), Counting()
    report = _audit(first, second)(_model(), "model", tmp_path)
    assert (first.calls, second.calls) == (0, 2)
    assert report["attacks"]["second"]["robust_accuracy"] == pytest.approx(1)
    assert (
        "model: resumed; batches already done: clean 4, first 4, second 2.\n"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "progress.jsonl").exists()


def test_the_result_is_that_of_an_audit_in_one_go(tmp_path) -> None:
    _cut_off(tmp_path / "cut")
    resumed = _audit(Counting(), Counting())(_model(), "model", tmp_path / "cut")
    whole = _audit(Counting(), Counting())(_model(), "model", tmp_path / "whole")
    assert resumed == whole


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"threat": ThreatModel("linf", 0.2)}, "threat model"),
        ({"data": _data(1)}, "images"),
        ({"batch_size": 4}, "batch size"),
        ({"seed": 1, "batch_size": 10}, "batch size, seed"),
    ],
)
def test_a_changed_input_says_so_and_begins_anew(tmp_path, capsys, changes, what) -> None:
    _cut_off(tmp_path)
    capsys.readouterr()
    first, second = Counting(), Counting()
    _audit(first, second, **changes)(_model(), "model", tmp_path)
    batches = -(-20 // changes.get("batch_size", 5))
    assert (first.calls, second.calls) == (batches, batches)
    line = f"model: changed since the last run: {what}; its results are not used.\n"
    assert line in capsys.readouterr().err


def test_changed_weights_begin_anew(tmp_path, capsys) -> None:
    _cut_off(tmp_path)
    first, second = Counting(), Counting()
    _audit(first, second)(_model(bias=4.0), "model", tmp_path)
    assert (first.calls, second.calls) == (4, 4)
    assert "changed since the last run: model;" in capsys.readouterr().err


def test_shares_are_gathered_into_the_report_of_one_process(tmp_path, capsys) -> None:
    whole = _audit(Counting(), Counting())(_model(), "model", tmp_path / "whole")
    calls = []
    for index in (1, 0):
        first, second = Counting(), Counting()
        done = _audit(first, second, share=(index, 3))(_model(), "model", tmp_path / "shared")
        assert done["verdict"].startswith("this share is done")
        calls.append((first.calls, second.calls))
    assert calls == [(1, 1), (2, 2)]  # of four batches: the second; the first and the fourth
    assert not (tmp_path / "shared" / "report.json").exists()
    first, second = Counting(), Counting()
    gathered = _audit(first, second)(_model(), "model", tmp_path / "shared")
    assert (first.calls, second.calls) == (1, 1)  # the third, which nobody took
    assert gathered == whole
    assert not list((tmp_path / "shared").glob("progress*"))


def test_several_devices_make_the_report_of_one(tmp_path, monkeypatch) -> None:
    one = _audit(Counting(), Counting())(_model(), "model", tmp_path / "one")
    monkeypatch.setattr(audit, "local_devices", lambda strategy: ["CPU:0"] * 3)
    first, second = Counting(), Counting()
    second.killed_in = 2
    with pytest.raises(ValueError, match="The attack second failed"):
        _audit(first, second)(_model(), "model", tmp_path / "several")
    resumed = _audit(Counting(), Counting())(_model(), "model", tmp_path / "several")
    assert first.calls == 4 and second.calls in (2, 3, 4) and resumed == one


def test_a_changed_attack_alone_is_run_again(tmp_path) -> None:
    _cut_off(tmp_path)
    first, second = Counting("other"), Counting()
    _audit(first, second)(_model(), "model", tmp_path)
    assert (first.calls, second.calls) == (4, 2)


def test_a_finished_audit_of_the_same_net_in_another_file_names_that_file(tmp_path) -> None:
    before = _audit(Counting(), Counting())(_model(), "m", tmp_path, origin={"student": "a"})
    first, second = Counting(), Counting()
    after = _audit(first, second)(_model(), "m", tmp_path, origin={"student": "b"})
    assert (first.calls, second.calls) == (0, 0)
    assert before["student"] == "a" and after == {**before, "student": "b"}
    assert json.loads((tmp_path / "report.json").read_text()) == after


def test_a_finished_audit_is_not_repeated(tmp_path, capsys) -> None:
    before = _audit(Counting(), Counting())(_model(), "model", tmp_path)
    first = Counting()
    assert _audit(first, Counting())(_model(), "model", tmp_path) == before
    assert first.calls == 0
    assert "model: audited before on the same inputs" in capsys.readouterr().err


def test_a_line_that_was_cut_short_is_dropped(tmp_path) -> None:
    path = tmp_path / "progress.jsonl"
    record = ResultsFile(path, {"model": "m"}, print)
    record.put("clean", "s", 0, np.array([True, False]))
    record.put("clean", "s", 1, np.array([True, True]))
    record.close()
    text = path.read_text()
    path.write_text(text[:-9])
    said: list[str] = []
    record = ResultsFile(path, {"model": "m"}, said.append)
    np.testing.assert_array_equal(record.get("clean", "s", 0), [True, False])
    assert record.get("clean", "s", 1) is None
    assert said == ["resumed; batches already done: clean 1."]
    record.close()
    assert [json.loads(line) for line in path.read_text().splitlines()][0] == {"model": "m"}


def test_floats_survive_to_the_last_bit(tmp_path) -> None:
    values = np.array([1e-13, 1 / 3, 0.0], np.float32)
    record = ResultsFile(tmp_path / "progress.jsonl", {"model": "m"}, print)
    record.put("gradients", "s", 0, values)
    record.close()
    record = ResultsFile(tmp_path / "progress.jsonl", {"model": "m"}, lambda line: None)
    read = record.get("gradients", "s", 0)
    np.testing.assert_array_equal(read.astype(np.float32), values)
    record.close()


def test_digests_tell_arrays_apart() -> None:
    ones = np.ones((2, 3), np.float32)
    assert digest(ones) == digest(ones.copy())
    assert len({digest(ones), digest(ones.T), digest(ones.astype(np.uint8)), digest(ones, 1)}) == 4
