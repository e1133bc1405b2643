"""Deployed models as model functions: LiteRT and ONNX files against the net that they came from."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

import mtard_tf as mt
from mtard_tf.attacks import pushed
from mtard_tf.attacks.apgd import APGDCrossEntropy
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.square import Square
from mtard_tf.auditing.suite import Suite
from mtard_tf.exporting import converting
from mtard_tf.models.model_files import ModelFileError, fingerprint, parameters
from mtard_tf.runtimes import flatbuffer, loading
from mtard_tf.runtimes.node import rounded

SHAPE, CLASSES, SEED = (12, 12, 3), 5, 3
FORMATS = {
    "litert": "model.tflite",
    "litert_float16": "model_float16.tflite",
    "litert_int8": "model_int8.tflite",
    "onnx": "model.onnx",
}


def _net() -> keras.Model:
    """A convolution, a residual sum, a depthwise convolution, pools, ReLU6: each kind of them."""
    layers = keras.layers
    x = inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU(6.0)(layers.Add()([layers.BatchNormalization()(y), x]))
    x = layers.Conv2D(8, 3, strides=2, padding="valid")(layers.ZeroPadding2D(1)(x))
    x = layers.Concatenate()([layers.MaxPool2D(2)(x), layers.AveragePooling2D(2)(x)])
    x = layers.Dense(12, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x), name="net")


def _images(count: int, seed: int = SEED) -> np.ndarray:
    """Images of whole levels, as float32 in [0, 1]."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE))
    return (levels / 255).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A net and its files, by format."""
    keras.utils.set_random_seed(SEED)
    net, folder = _net(), tmp_path_factory.mktemp("files")
    converting.source(net, SHAPE, folder / "saved_model")
    for name, file in FORMATS.items():
        converting.convert(name, folder / "saved_model", folder / file, {}, _images(50))
    return net, {name: folder / file for name, file in FORMATS.items()}


@pytest.mark.parametrize(
    ("name", "tolerance"), [("litert", 1e-5), ("litert_float16", 2e-2), ("onnx", 1e-5)]
)
def test_a_float_file_answers_as_the_net(files, name: str, tolerance: float) -> None:
    net, paths = files
    model, images = loading.load(paths[name], SHAPE), _images(75)
    assert model.output_shape == (None, CLASSES) and model.input_shape == (None, *SHAPE)
    expected = np.asarray(net(images, training=False))
    in_graph = tf.function(model, input_signature=[tf.TensorSpec([None, *SHAPE])])
    np.testing.assert_allclose(model(images), expected, atol=tolerance)
    np.testing.assert_allclose(in_graph(images[:3]), expected[:3], atol=tolerance)
    assert in_graph(images[:0]).shape == (0, CLASSES)
    assert fingerprint(model) != fingerprint(loading.load(paths["litert_int8"], SHAPE))
    assert parameters(model) == pytest.approx(net.count_params(), rel=0.1)


def test_the_copy_of_an_int8_file_is_the_interpreter_to_the_step(files) -> None:
    _, paths = files
    model, images = loading.load(paths["litert_int8"], SHAPE), _images(500, 1)
    copy = tf.function(model.straight_through())
    ours, theirs = copy(tf.constant(images)).numpy(), model.answer(images)
    steps = np.rint((ours - theirs) / model.output.scale[0])
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    assert np.mean(np.abs(steps) <= 1) >= 0.99
    assert np.mean(steps == 0) >= 0.99
    assert model.kind == "a LiteRT file, int8"


@pytest.mark.parametrize("name", ["litert", "litert_float16", "litert_int8"])
def test_gradients_of_the_copy_are_those_of_the_net(files, name: str) -> None:
    net, paths = files
    copy = loading.load(paths[name], SHAPE).straight_through()
    images = tf.constant(_images(8))

    def gradient(model_fn) -> np.ndarray:
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(model_fn(images)[:, 0])
        return tape.gradient(total, images).numpy().ravel()

    ours, expected = gradient(copy), gradient(lambda x: net(x, training=False))
    cosine = ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected)
    assert cosine > (0.9 if name == "litert_int8" else 0.9999)


def test_rounding_lets_the_gradient_through_also_where_it_saturates() -> None:
    values = tf.constant([-200.0, -0.5, 0.5, 1.5, 300.0])
    with tf.GradientTape() as tape:
        tape.watch(values)
        integers = rounded(values, 3.0, -128.0, 127.0)
    np.testing.assert_array_equal(integers, [-128, 3, 3, 5, 127])
    np.testing.assert_array_equal(tape.gradient(integers, values), np.ones(5))


def test_uint8_images_are_quantised_as_the_file_says(files) -> None:
    _, paths = files
    given = loading.load(paths["litert_int8"], SHAPE).input
    assert given.dtype == np.uint8
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(given.to_integers((levels / 255).astype(np.float32)), levels)


@pytest.mark.parametrize("name", ["litert_int8", "onnx"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_truncated_file_is_one_line(files, tmp_path, name: str, share: float) -> None:
    content = files[1][name].read_bytes()
    path = tmp_path / files[1][name].name
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFileError) as caught:
        loading.load(path, SHAPE)
    assert "is the file complete?" in str(caught.value) and "\n" not in str(caught.value)


def _of_tomorrow(name: str, content: bytes) -> bytes:
    """A file in a version that no runtime has yet."""
    if name == "onnx":
        import onnx

        model = onnx.load_from_string(content)
        model.ir_version = 99
        return model.SerializeToString()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    for code in model.operatorCodes:
        code.version = 99
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("name", "needs", "reason"),
    [
        ("litert", "ai-edge-litert", "(Didn't find op for builtin opcode 'RESHAPE' version '99'."),
        ("onnx", "onnxruntime", "Unsupported model IR version: 99"),
    ],
)
def test_a_file_of_a_later_version_names_the_runtime(files, tmp_path, name, needs, reason) -> None:
    path = tmp_path / files[1][name].name
    path.write_bytes(_of_tomorrow(name, files[1][name].read_bytes()))
    with pytest.raises(ModelFileError) as caught:
        loading.load(path, SHAPE)
    said, version = str(caught.value), importlib.metadata.version(needs)
    assert said.startswith(f"{path} needs a newer {needs} than {version} (") and reason in said
    assert said.endswith(f"; pip install --upgrade {needs}.") and "\n" not in said


@pytest.mark.parametrize(
    ("name", "module"), [("litert", "ai_edge_litert.interpreter"), ("onnx", "onnxruntime")]
)
def test_a_missing_extra_is_named(files, monkeypatch, name: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelFileError, match=r"not installed .*pip install 'mtard_tf\[deploy\]'"):
        loading.load(files[1][name], SHAPE)


def test_an_onnx_file_of_open_shape_takes_the_data_s_or_says_that_it_does_not(files, tmp_path):
    import onnx

    model = onnx.load(files[1]["onnx"])
    for value in (*model.graph.input, *model.graph.output):
        for side in value.type.tensor_type.shape.dim:
            side.Clear()
    path = tmp_path / "open.onnx"
    path.write_bytes(model.SerializeToString())
    found = loading.load(path, SHAPE)
    np.testing.assert_allclose(
        found(_images(3)), loading.load(files[1]["onnx"], SHAPE)(_images(3)), atol=1e-6
    )
    assert found.output_shape == (None, CLASSES)


def test_a_file_without_images_is_refused(files, tmp_path) -> None:
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    converter = tf.lite.TFLiteConverter.from_keras_model(net)
    path = tmp_path / "rows.tflite"
    path.write_bytes(converter.convert())
    with pytest.raises(ModelFileError, match=r"takes float32 \[.*4\] and returns float32 \[.*2\]"):
        loading.load(path, SHAPE)
    with pytest.raises(ModelFileError, match="There is no model at"):
        loading.load(tmp_path / "none.onnx", SHAPE)


def test_what_no_gradient_is_known_for_is_named(files) -> None:
    path = files[1]["litert_int8"]
    file = flatbuffer.read(path.read_bytes(), path)
    odd = dataclasses.replace(file.operations[0], name="CUSTOM")
    changed = dataclasses.replace(file, operations=[odd])
    model = loading.load(path, SHAPE)
    model._file = changed
    with pytest.raises(ModelFileError, match="no gradient is known here for CUSTOM"):
        model.straight_through()


def test_an_audit_of_an_int8_file_follows_its_copy_and_counts_on_the_file(files, tmp_path) -> None:
    net, paths = files
    model, images = loading.load(paths["litert_int8"], SHAPE), _images(24, 2)
    levels, labels = (images * 255).round().astype(np.uint8), model.answer(images).argmax(axis=1)
    data = mt.ImageData.from_arrays(levels, labels, levels, labels, label_names=list("abcde"))
    suite = Suite(
        {"square": Square(num_queries=4)},
        {"transfer_apgd_ce": APGDCrossEntropy(num_steps=4)},
        probe=PGD(num_steps=3, relative_step_size=0.5),
        probe_examples=8,
        factors=(1.0,),
    )
    path = paths["litert_int8"]
    report = mt.audit(path, data, epsilon=0.004, suite=suite, surrogate=net, out=tmp_path)
    names = ["square", "straight_through_apgd_ce", "transfer_apgd_ce"]
    assert list(report["attacks"]) == names
    copy = report["artefact"]["gradients"]["straight_through"]
    assert [report["clean"], copy["agreement"]] == pytest.approx([1, 1])
    (found,) = [f for f in report["findings"] if f["name"] == "indirect_gradients"]
    decided = report["artefact"]["decided_by"]
    assert found["severity"] == "note"
    assert f"The strongest attack is {decided}: alone it leaves" in found["evidence"]
    # Counted on the file: what the copy's attack returns, given to the interpreter.
    survived = np.load(tmp_path / "examples.npz")["straight_through_apgd_ce"]
    crafted = _crafted(model.straight_through(), suite.transfer["transfer_apgd_ce"], images, labels)
    np.testing.assert_array_equal(model.answer(crafted).argmax(axis=1) == labels, survived)


def _crafted(model_fn, attack, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images of an attack, pushed on, with the audit's seeds."""
    threat, ids = mt.ThreatModel("linf", 0.004), tf.range(len(images), dtype=tf.int64)
    run = tf.function(pushed.beyond(attack), autograph=False)
    labels = tf.constant(labels, tf.int32)
    return run(
        model_fn, tf.constant(images), labels, threat=threat, seeds=image_seeds(0, ids)
    ).numpy()
