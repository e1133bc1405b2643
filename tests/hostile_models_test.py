"""Models by path that would do more than compute, or are damaged: refused in one line, none run."""

from __future__ import annotations

import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from mtard_tf.models import graph_ops, model_files
from mtard_tf.models.model_files import ModelFileError

MARK = "a file that must not appear"
SIGNATURE = tf.TensorSpec((None, 4, 4, 1), tf.float32)


class _Initialised(tf.saved_model.experimental.TrackableResource):
    """Does something when a model is loaded."""

    def _create_resource(self):
        return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

    def _initialize(self):
        tf.io.write_file(MARK, "")


def _saved(folder: pathlib.Path, effect=lambda: None, kept=()) -> pathlib.Path:
    """A SavedModel with a variable, whose signature also does what `effect` does."""
    module = tf.Module()
    module.kept, module.scale = list(kept), tf.Variable(2.0)

    @tf.function(input_signature=[SIGNATURE], autograph=False)
    def logits(images):
        effect()
        return {"logits": module.scale * tf.reduce_mean(images, (1, 2))}

    tf.saved_model.save(module, str(folder / "saved"), {"logits": logits})
    return folder / "saved"


def _loop():
    def body(i):
        tf.io.write_file(MARK, "x")
        return [i + 1]

    tf.while_loop(lambda i: i < 1, body, [tf.constant(0)])


_CHECKPOINT = {"prefix": MARK, "tensor_names": ["a"], "shape_and_slices": [""]}
EFFECTS = {
    "ReadFile": lambda: tf.io.read_file(MARK),
    "WriteFile": _loop,
    "MatchingFiles": lambda: tf.io.matching_files("*"),
    "EagerPyFunc": lambda: tf.py_function(lambda: open(MARK, "w").close(), [], []),
    "PyFunc": lambda: tf.numpy_function(lambda: 0.0, [], tf.float32),
    "PrintV2": lambda: tf.print("x", output_stream=f"file://{MARK}"),
    "TFRecordDataset": lambda: tf.data.TFRecordDataset(MARK).reduce(0, lambda n, _: n),
    "SaveV2": lambda: tf.raw_ops.SaveV2(tensors=[1.0], **_CHECKPOINT),
    "RestoreV2": lambda: tf.raw_ops.RestoreV2(dtypes=[tf.float32], **_CHECKPOINT),
    "DecodeProtoV2": lambda: tf.io.decode_proto([b""], "a", [], [], descriptor_source=MARK),
    "FixedUnigramCandidateSampler": lambda: tf.raw_ops.FixedUnigramCandidateSampler(
        true_classes=[[0]],
        num_true=1,
        num_sampled=1,
        unique=False,
        range_max=9,
        unigrams=[1.0] * 9,
    ),
}


@pytest.mark.parametrize("operation", EFFECTS)
def test_a_graph_that_reaches_outside_is_not_loaded(operation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = _saved(tmp_path, EFFECTS[operation])
    with pytest.raises(ModelFileError, match=rf"asks for .*\b{operation}\b.*nothing of it was run"):
        model_files.load(saved)
    assert not (tmp_path / MARK).exists()


def test_what_a_model_does_when_it_is_loaded_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tf.Graph().as_default():
        resource = _Initialised()
    saved = _saved(tmp_path, kept=[resource])
    assert not (tmp_path / MARK).exists()
    with pytest.raises(ModelFileError, match="asks for WriteFile"):
        model_files.load(saved)
    assert not (tmp_path / MARK).exists()


def test_variables_random_numbers_and_loops_are_a_nets_own(tmp_path):
    def effect():
        tf.while_loop(lambda i: i < 3, lambda i: [i + 1], [tf.constant(0)])
        tf.random.uniform((2,)), tf.random.normal((2,)), tf.debugging.assert_positive(1.0)
        tf.map_fn(lambda x: 2 * x, tf.ones(3))

    model = model_files.load(_saved(tmp_path, effect))
    np.testing.assert_array_equal(model(tf.ones((2, 4, 4, 1))), [[2.0], [2.0]])


def test_only_the_saver_may_save(tmp_path):
    """The functions that save and restore are in every SavedModel; nothing else may name them."""
    saved = _saved(tmp_path)
    graph_ops.check(saved)
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((saved / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0]
    name = next(
        f.signature.name
        for f in graph.graph_def.library.function
        if any(node.op == "SaveV2" for node in f.node_def)
    )
    graph.object_graph_def.nodes[-1].bare_concrete_function.concrete_function_name = name
    (saved / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="asks for MergeV2Checkpoints, SaveV2, which"):
        model_files.load(saved)


def test_a_graph_of_tensorflow_1_or_of_an_operation_that_is_not_known(tmp_path):
    saved = _saved(tmp_path)
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((saved / "saved_model.pb").read_bytes())
    model.meta_graphs[0].graph_def.node.add(name="x", op="StrangersOwn")
    (saved / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="asks for StrangersOwn, which a net does not need"):
        model_files.load(saved)
    model.meta_graphs[0].ClearField("object_graph_def")
    (saved / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="was not written by TensorFlow 2's"):
        model_files.load(saved)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> pathlib.Path:
    inputs = keras.Input((4, 4, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    path = tmp_path_factory.mktemp("net") / "net.keras"
    keras.Model(inputs, outputs).save(path)
    return path


def _members(path: pathlib.Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(path: pathlib.Path, members: dict[str, bytes], kind=zipfile.ZIP_STORED) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


LAYERS = [
    ("os", "system", {"command": "touch x"}),
    ("keras.utils", "get_file", {"origin": "file:///x"}),
    ("keras.layers", "TFSMLayer", {"filepath": "x"}),
    ("keras.layers", "Lambda", {"function": {"class_name": "__lambda__", "config": {"code": "x"}}}),
    ("stranger.layers", "Net", {}),
]


@pytest.mark.parametrize(("module", "name", "settings"), LAYERS)
def test_a_layer_that_is_none_of_keras(module, name, settings, net, tmp_path):
    members = _members(net)
    value = json.loads(members["config.json"])
    value["config"]["layers"][1] |= {"module": module, "class_name": name, "config": settings}
    path = _write(tmp_path / "net.keras", members | {"config.json": json.dumps(value).encode()})
    with pytest.raises(ModelFileError, match="cannot be read as a model") as caught:
        model_files.load(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_whole_archive(net, tmp_path):
    path = tmp_path / "net.keras"
    for content in (b"", b"nothing", net.read_bytes()[:500]):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="it is not a complete zip archive"):
            model_files.load(path)


def test_a_strange_member_counts_for_nothing(net, tmp_path):
    """Nor is it read: it may unfold to any size."""
    members = _members(net) | {"padding": bytes(1 << 20)}
    path = _write(tmp_path / "net.keras", members, zipfile.ZIP_DEFLATED)
    assert model_files.file_digest(path) == model_files.file_digest(net)
    model_files.load(path)
    for name in ("../../x", "assets/../../x", "/x"):
        _write(path, members | {name: b"x"})
        with pytest.raises(ModelFileError, match=f"its member '{name}' leaves the archive"):
            model_files.load(path)


def test_the_digest_of_a_damaged_archive(net, tmp_path):
    """It is of the bytes, so it is not that of the file that it was."""
    data = bytearray(
        _write(tmp_path / "net.keras", _members(net), zipfile.ZIP_DEFLATED).read_bytes()
    )
    place = data.index(b"model.weights.h5") + 200
    data[place : place + 8] = b"\xff" * 8
    (tmp_path / "net.keras").write_bytes(data)
    assert model_files.file_digest(tmp_path / "net.keras") != model_files.file_digest(net)
