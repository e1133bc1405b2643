"""What TensorBoard is given beside curves, read back from its files by its own readers."""

from __future__ import annotations

import pathlib

import fabricated_pages as fabricated
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import metadata

from mtard_tf.reporting import png, tensorboard_files
from mtard_tf.running.recorder import Recorder

SETTINGS = {
    "Stage.distiller": "BMTARD(temperature_rate=0.005)",
    "Stage.epochs": "9",
    "Experiment.seed": "3",
    "the threat model": "ThreatModel(epsilon=0.1)",
}
HYPER_PARAMETERS = {
    "stage": "student",
    "distiller": "BMTARD(temperature_rate=0.005)",
    "epochs": 9.0,
    "seed": 3.0,
    "the threat model": "ThreatModel(epsilon=0.1)",
}


def _read(folder: pathlib.Path) -> event_accumulator.EventAccumulator:
    accumulator = event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    return accumulator.Reload()


def _session(accumulator: event_accumulator.EventAccumulator) -> tuple[str, dict]:
    """Trial and hyper-parameters of a session, as the tab HParams reads them."""
    content = accumulator.PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    values = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()
    }
    return start.group_name, values


def _values(accumulator: event_accumulator.EventAccumulator, tag: str) -> list:
    return [tf.make_ndarray(event.tensor_proto) for event in accumulator.Tensors(tag)]


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> tuple[pathlib.Path, dict]:
    folder = tmp_path_factory.mktemp("evaluation") / "student"
    report = {**fabricated.audit(folder), "stage": "student"}
    for _ in range(2):  # the second takes the place of the first
        tensorboard_files.write_audit(folder, report, SETTINGS)
    return folder, report


def test_settings_are_numbers_where_they_are_numbers() -> None:
    assert tensorboard_files.hyper_parameters("student", SETTINGS) == HYPER_PARAMETERS


def test_training_and_audit_are_sessions_of_one_trial(tmp_path, audited) -> None:
    recorder = Recorder(tmp_path / "student", SETTINGS)
    recorder._write({"kind": "epoch", "step": 43, "loss": 0.5}, "epoch")
    recorder.close()
    training = _read(tmp_path / "student" / "tensorboard")
    trial, settings = _session(training)
    assert settings == HYPER_PARAMETERS and trial.startswith("student ")
    np.testing.assert_array_equal(_values(training, "epoch/loss"), [0.5])
    assert _session(_read(audited[0] / "tensorboard")) == (trial, settings)


def test_another_setting_is_another_trial(tmp_path) -> None:
    trials = set()
    for place, seed in enumerate("3 3 4".split()):
        writer = tf.summary.create_file_writer(str(tmp_path / str(place)))
        tensorboard_files.note_settings(writer, "student", {"Experiment.seed": seed})
        writer.close()
        trials.add(_session(_read(tmp_path / str(place)))[0])
    assert len(trials) == 2


def test_the_figures_of_an_audit(audited) -> None:
    folder, report = audited
    accumulator = _read(folder / "tensorboard")
    worst = report["worst_case"]
    wanted = {
        "clean": report["clean"],
        **{name: entry["robust_accuracy"] for name, entry in report["attacks"].items()},
        "worst_case": worst["robust_accuracy"],
        "w_robust": worst["w_robust"],
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(_values(accumulator, f"audit/{name}"), [value], rtol=1e-6)
    assert [path.name for path in folder.iterdir() if "tensorboard" in path.name] == ["tensorboard"]


def test_the_images_of_an_audit(audited) -> None:
    folder, _ = audited
    accumulator = _read(folder / "tensorboard")
    with np.load(folder / "examples.npz") as arrays:
        clean, attacked = arrays["images/clean"], arrays["images/attacked"]
    for tag, place in (("audit/fell", 0), ("audit/survived", 6)):
        (found,) = _values(accumulator, tag)
        assert found[:2].tolist() == [b"88", b"28"] and len(found) == 2 + 6  # width, height, PNGs
        image = tf.io.decode_png(found[2]).numpy()
        np.testing.assert_array_equal(image[:, :28], clean[place])
        np.testing.assert_array_equal(image[:, 30:58], attacked[place])
        change, _ = png.difference(clean[place], attacked[place])
        np.testing.assert_array_equal(image[:, 60:], change)


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 1)])
def test_a_panel_of_any_number_of_channels(channels, shown) -> None:
    image = np.full((4, 5, channels), 10, np.uint8)
    panel = png.panel(image, image + 1)
    assert panel.shape == (4, 3 * 5 + 4, shown)
    row = np.repeat([10, 255, 11, 255], [5, 2, 5, 7])
    np.testing.assert_array_equal(panel[0, :, 0], row)


def test_an_audit_without_images_has_its_figures(tmp_path, audited) -> None:
    np.savez(tmp_path / "examples.npz", clean=np.ones(3, bool))
    tensorboard_files.write_audit(tmp_path, audited[1], {})
    tags = _read(tmp_path / "tensorboard").Tags()["tensors"]
    assert "audit/clean" in tags and "audit/fell" not in tags
