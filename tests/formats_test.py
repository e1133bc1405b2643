"""LiteRT and ONNX files of an export: what they compute, and what is refused in one line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import pathlib
import re
import subprocess

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from mtard_tf import api
from mtard_tf.exporting import converting, export, formats, int8, proof
from mtard_tf.exporting.calibration_images import calibration_images
from mtard_tf.exporting.formats import FORMATS, ExportError, Wanted
from mtard_tf.exporting.worst_case import WorstCase
from mtard_tf.models.folding import FoldedInference
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

L = keras.layers
ROOT = pathlib.Path(__file__).parent.parent
NAMES = ["red", "green", "blue"]
DATA = tiny_data(60)
IMAGES = DATA.validation.images
THREAT = ThreatModel("linf", 8 / 255)


def _net() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input(DATA.image_shape)
    x = L.BatchNormalization()(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs))
    x = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, activation="relu")(L.ReLU()(x)))
    net = keras.Model(inputs, L.Dense(3)(x), name="net")
    # As after training, and with a sign that folding must keep.
    generator = np.random.default_rng(0)
    for layer in net.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([generator.normal(1, 0.5, 8) for _ in range(3)] + [np.full(8, 2.0)])
    return net


@pytest.fixture(scope="module")
def exported() -> keras.Model:
    return _net()


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory) -> pathlib.Path:
    """All formats at once."""
    path = tmp_path_factory.mktemp("formats") / "run[1]"
    return api.export(exported, path, DATA, list(FORMATS), calibration_images=20, min_agreement=0.9)


def _logits(net: keras.Model, images: np.ndarray = IMAGES) -> np.ndarray:
    return np.asarray(net(images.astype(np.float32) / 255, training=False))


def test_each_file_computes_what_the_student_does(exported, folder) -> None:
    expected, floats = _logits(exported), IMAGES.astype(np.float32) / 255
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    np.testing.assert_allclose(session.run(["logits"], {"images": floats})[0], expected, atol=1e-5)
    for name, tolerance in (("model", 1e-5), ("model_float16", 1e-2)):
        lite = Interpreter(str(folder / f"{name}.tflite")).get_signature_runner("logits")
        np.testing.assert_allclose(lite(images=floats)["logits"], expected, atol=tolerance)


def test_int8_takes_pixels_as_they_are_and_is_near(exported, folder) -> None:
    lite = Interpreter(str(folder / "model_int8.tflite"))
    (given,), (returned,) = lite.get_input_details(), lite.get_output_details()
    assert given["dtype"] == np.uint8 and returned["dtype"] == np.int8
    assert given["quantization"] == (pytest.approx(1 / 255, rel=1e-6), 0)
    step, zero = returned["quantization"]
    logits = lite.get_signature_runner("logits")(images=IMAGES)["logits"]
    expected = _logits(exported)
    found = (logits.astype(np.float32) - zero) * step
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())
    operations = {x["dtype"] for x in lite.get_tensor_details()}
    assert np.float32 not in operations and np.float16 not in operations


def test_the_largest_part_of_an_onnx_file_is_its_weights(exported, folder) -> None:
    """BatchNorm is folded: 8 x 3 x 27 + 8 and so on, and no node of it is left."""
    model = onnx.load(folder / "model.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert [x.name for x in model.graph.input] == ["images"]
    assert [x.name for x in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [(x.domain, x.version) for x in model.opset_import if not x.domain] == [("", 18)]
    assert json.loads({x.key: x.value for x in model.metadata_props}["labels"]) == NAMES


def test_the_metadata_know_every_file(exported, folder) -> None:
    known = export.known(folder)["formats"]
    assert list(known) == list(FORMATS)
    for name, entry in known.items():
        assert sum((folder / file).stat().st_size for file in entry["sha256"]) == entry["bytes"]
        for file, digest in entry["sha256"].items():
            assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
        assert entry["images"] == len(IMAGES) and entry["milliseconds"] > 0
        if FORMATS[name].exact:
            assert entry["agreement"] == pytest.approx(1)
    assert known["saved_model"]["sha256"].keys() >= {"saved_model.pb"}
    clean = "clean calibration, weights per channel"
    assert known["litert_int8"]["calibration"] == {"kind": clean, "images": 20}
    assert known["onnx"]["difference"] < 1e-5 < known["litert_int8"]["difference"]


@pytest.mark.parametrize("name", ["model", "model_int8"])
def test_images_of_another_size_are_refused_by_litert(folder, name) -> None:
    """Its runtime resizes to any request; a reshape in the graph does not, and it goes on."""
    runner = Interpreter(str(folder / f"{name}.tflite")).get_signature_runner("logits")
    images = IMAGES if name == "model_int8" else IMAGES.astype(np.float32) / 255
    before = runner(images=images[:2])["logits"]
    for wrong in (images[:2, :-1], images[:2, ..., :2], images[:2, :, :, None, :1]):
        with pytest.raises((RuntimeError, ValueError)):
            runner(images=wrong)
    np.testing.assert_array_equal(runner(images=images[:2])["logits"], before)


def test_the_folded_net_is_the_net() -> None:
    net = _net()
    folded = FoldedInference(net, attacked=False).net()
    assert not any(isinstance(layer, L.BatchNormalization) for layer in folded.layers)
    np.testing.assert_allclose(_logits(folded), _logits(net), atol=1e-5)


def test_calibration_images_are_of_the_training_split_at_equal_distances() -> None:
    net = _net()
    clean = calibration_images(DATA, 10, "clean", net, THREAT)
    places = np.linspace(0, len(DATA.train) - 1, 10).astype(int)
    np.testing.assert_array_equal(clean, DATA.train.images[places] / np.float32(255))
    mixed = calibration_images(DATA, 10, "mixed", net, THREAT)
    np.testing.assert_array_equal(mixed[:10], clean)
    assert len(mixed) == 20
    np.testing.assert_array_equal(mixed, np.clip(mixed, 0, 1))
    distance = np.abs(mixed[10:] - clean).max(axis=(1, 2, 3))
    np.testing.assert_allclose(distance, 8 / 255, atol=1e-6)
    assert len(calibration_images(DATA, 10**6, "clean", net, THREAT)) == len(DATA.train)
    spanning = converting.spanning(clean)
    np.testing.assert_array_equal([spanning[0].min(), spanning[0].max()], [0, 1])
    np.testing.assert_array_equal(spanning[1:], clean[1:])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"names": ["tflite"]}, "'tflite' is not a format; use one of saved_model, litert, "),
        ({"names": []}, "No format is named; give some of saved_model, litert"),
        ({"calibration": "attacked"}, "calibration is 'attacked'; use one of clean, mixed."),
        ({"calibration_images": 0}, "calibration_images is 0; give 1 or more."),
        (
            {"names": ["litert_int8"], "max_robust_drop": 2},
            "max_robust_drop is 2; give a share fro",
        ),
        ({"robust_examples": 0}, "robust_examples is 0; give 1 or more."),
        (
            {"max_robust_drop": 0.1},
            "max_robust_drop is of litert_int8; ask for that format as well.",
        ),
        ({"min_agreement": 1.5}, "min_agreement is 1.5; give a share from 0 to 1."),
    ],
)
def test_what_cannot_be_wanted_is_one_line(settings, said) -> None:
    with pytest.raises(ExportError, match=re.escape(said)) as error:
        Wanted(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("found", "said"),
    [(None, "tf2onnx is missing"), ("1.9.3", "tf2onnx 1.9.3 is too old")],
)
def test_a_runtime_that_is_missing_or_too_old_names_the_extra(monkeypatch, found, said) -> None:
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name != "tf2onnx":
            return version(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError
        return found

    monkeypatch.setattr(importlib.metadata, "version", other)
    Wanted(["saved_model", "litert_int8"])
    with pytest.raises(ExportError) as error:
        Wanted(["litert", "onnx"])
    assert str(error.value) == (
        f"The format onnx needs tf2onnx 1.17 or newer, and {said}: pip install 'mtard_tf[deploy]'."
    )


def test_the_oldest_runtimes_are_those_of_the_extra() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^deploy = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    listed = re.findall(r'"([\w-]+)>=([\d.]+)"', block.group(1))
    known = {name: ".".join(map(str, oldest)) for name, oldest in formats.OLDEST.items()}
    assert dict(listed) == known


def _one_line(path: pathlib.Path, net: keras.Model, **wanted) -> str:
    """The error of an export, which leaves nothing."""
    with pytest.raises(ExportError) as error:
        export.export(net, NAMES, path, IMAGES, None, Wanted(**wanted), DATA, THREAT)
    assert "\n" not in str(error.value) and list(path.iterdir()) == []
    return str(error.value)


class _NoOnnx(L.Layer):
    def call(self, inputs):
        return tf.math.igamma(inputs + 1.0, inputs)


def test_an_operation_without_an_equal_in_onnx_is_named(tmp_path) -> None:
    inputs = keras.Input(DATA.image_shape)
    net = keras.Model(inputs, L.Dense(3)(L.Flatten()(_NoOnnx()(inputs))), name="gamma")
    said = _one_line(tmp_path, net, names=["onnx"])
    assert said.startswith("The student cannot be converted to onnx") and "Igamma" in said
    said = _one_line(tmp_path, net, names=["litert"])
    assert said.startswith("The student cannot be converted to litert") and "Igamma" in said


@pytest.fixture(scope="module")
def source(exported, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("source") / "source"
    converting.source(exported, DATA.image_shape, path)
    return path


def test_ways_are_tried_until_one_keeps_the_worst_case(exported, source, tmp_path, monkeypatch):
    """The first loses 10 %, the second does not agree, the third is right; then none is."""
    drops, proofs = [0.1, 0.04], [True, False, True] * 2

    def of_file(self, file):
        return {"float": 0.5, "file": 0.5 - drops.pop(0)}

    def prove():
        if not proofs.pop(0):
            raise ExportError("it agrees too seldom.")
        return {"agreement": 1.0}

    monkeypatch.setattr(WorstCase, "of_file", of_file)
    file = tmp_path / "x.tflite"
    wanted = Wanted(["litert_int8"], calibration_images=9, max_robust_drop=0.05, robust_examples=6)
    known = int8.write(exported, source, file, wanted, DATA, THREAT, prove)
    way = "mixed calibration, weights per channel, first and last layer in float32"
    assert known["calibration"] == {"kind": way, "images": 18}
    assert known["robust"] == {"float": 0.5, "file": pytest.approx(0.46)}
    layers = Interpreter(str(file))._get_ops_details()
    assert [x["op_name"] for x in layers].count("DEQUANTIZE") == 2
    details = Interpreter(str(file))
    assert details.get_input_details()[0]["dtype"] == np.uint8
    assert details.get_output_details()[0]["dtype"] == np.int8
    drops = [0.1, 0.3]
    with pytest.raises(ExportError) as error:
        int8.write(exported, source, file, wanted, DATA, THREAT, prove)
    assert str(error.value) == (
        "No litert_int8 keeps the worst case within 5.0% on 6 validation images (clean calibration,"
        " weights per channel: 50.0% -> 40.0%; mixed calibration, weights per channel: it agrees "
        "too seldom.; mixed calibration, weights per channel, first and last layer in float32: "
        "50.0% -> 20.0%): take litert_float16, train with Stage.quantization = 'int8', or allow "
        "more by --max_robust_drop; nothing was written."
    )


def test_the_worst_case_is_counted_on_images_of_whole_levels(exported, folder) -> None:
    """At 8.9/255 a pixel moves by 8 levels at most; student and an exact file agree."""
    worst = WorstCase(exported, DATA, ThreatModel("linf", 8.9 / 255), 5)
    clean, moved = worst.images["clean"], []
    for name in ("pgd", "cw_inf"):
        assert worst.images[name].dtype == np.uint8
        moved.append(np.abs(worst.images[name].astype(int) - clean).max())
    assert moved == [8, 8]
    right = [_logits(exported, x).argmax(axis=1) == worst.labels for x in worst.images.values()]
    robust = worst.of_file(folder / "model_int8.tflite")
    assert robust["float"] == pytest.approx(np.mean(np.all(right, axis=0)))
    assert robust["images"] == 5
    assert robust["file"] == pytest.approx(robust["float"], abs=0.4)
    own = ["pgd on the file", "cw_inf on the file"]
    assert robust["attacks"] == ["pgd", "cw_inf", *own]


def _unproven(name: str, path: pathlib.Path, net: keras.Model, least: float = 0.98) -> str:
    """The error of a proof."""
    with pytest.raises(ExportError) as error:
        proof.prove(name, path, IMAGES, _logits(net), least)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_labels_that_agree_too_seldom_are_refused(exported, folder, monkeypatch) -> None:
    wrong = {"logits": -_logits(exported), "milliseconds": np.array(1.0)}
    monkeypatch.setattr(proof, "_answers", lambda *_: dict(wrong))
    assert _unproven("litert_int8", folder, exported).endswith(
        f"of {len(IMAGES)} images, and 98.0% is required: give --calibration=mixed or more "
        "--calibration_images, or a lower --min_agreement; nothing was written."
    )
    wrong["logits"] = np.full_like(_logits(exported), np.nan)
    assert "or a lower" in _unproven("litert_float16", folder, exported, least=0.0)
    wrong["logits"] = _logits(exported) + np.float32(1e-3)
    said = _unproven("onnx", folder, exported)
    assert said.startswith("The exported logits (onnx) differs from the student by 0.001")


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_a_file_that_is_cut_off_does_not_pass(exported, folder, tmp_path, name) -> None:
    whole = folder / FORMATS[name].file
    cut = tmp_path / whole.name
    cut.write_bytes(whole.read_bytes()[:-500])
    said = _unproven(name, cut, exported)
    assert said.startswith(f"The exported {name} does not work in a fresh process: ")


def test_a_runtime_that_dies_is_one_line(exported, folder, monkeypatch) -> None:
    died = subprocess.CompletedProcess([], -6, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    said = _unproven("onnx", folder / "model.onnx", exported)
    assert said.endswith("in a fresh process: exit code -6; nothing was written.")
