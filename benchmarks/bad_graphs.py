"""Damaged and hostile SavedModels for `bad_inputs.py`; those that are whole are of 8x8x3 images."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from bad_models import Make, by_path
from forked_commands import MARKER, BadInput


def saved(change: Callable[[pathlib.Path], object]) -> Make:
    return lambda folder: change(folder / "saved")


def cut(name: str, size: int) -> Make:
    return saved(lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]))


def graph(body: str) -> Make:
    """A SavedModel whose `logits` also does what `body` says."""

    def make(folder: pathlib.Path) -> None:
        import tensorflow as tf

        scope = {"tf": tf, "MARKER": MARKER, "__file__": __file__, "kept": []}

        class Model(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
            def logits(self, images):
                scope["images"] = images
                exec(body, scope)
                return {"logits": tf.reduce_mean(images, (1, 2)) + scope.get("more", 0.0)}

        model = Model()
        signatures = {"logits": model.logits.get_concrete_function()}
        model.kept = list(scope["kept"])
        tf.saved_model.save(model, str(folder / "graph"), signatures)

    return make


def resource(folder: pathlib.Path) -> None:
    """A SavedModel that writes a file when it is loaded."""
    import tensorflow as tf

    class Writer(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self):
            return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self):
            tf.io.writeby_path(MARKER, "")

    class Model(tf.Module):
        def __init__(self) -> None:
            self.writer = Writer()

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
        def logits(self, images):
            self.writer.resource_handle  # noqa: B018
            return {"logits": tf.reduce_mean(images, (1, 2))}

    model = Model()
    tf.saved_model.save(model, str(folder / "graph"), {"logits": model.logits})
    (folder / MARKER).unlink(missing_ok=True)


def signature(shape: tuple, dtype: str) -> Make:
    def make(folder: pathlib.Path) -> None:
        import tensorflow as tf

        model = tf.Module()
        spec = tf.TensorSpec(shape, dtype)
        model.f = tf.function(lambda images: {"logits": images}, input_signature=[spec])
        tf.saved_model.save(model, str(folder / "graph"), {"serving_default": model.f})

    return make


def _graph(name: str, make: Make, says: str = "") -> BadInput:
    return by_path(f"SavedModel: {name}", make, says, "graph")


def _folder(name: str, make: Make, says: str = "cannot be read") -> BadInput:
    return by_path(f"SavedModel: {name}", make, says, "saved")


_DATA_SET = "more = tf.cast(tf.data.TFRecordDataset('/etc/passwd').reduce(0, lambda n, _: n + 1), tf.float32)"
_TABLE = (
    "kept.append(tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(__file__, tf.string, "
    "tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER), 0))"
)

INPUTS = (
    _folder("saved_model.pb cut off", cut("saved_model.pb", 3000)),
    _folder("saved_model.pb is text", saved(lambda f: (f / "saved_model.pb").write_text("nothing"))),
    _folder("saved_model.pb empty", cut("saved_model.pb", 0), "not written by TensorFlow 2"),
    _folder("no variables", saved(lambda f: [p.unlink() for p in (f / "variables").iterdir()])),
    _folder("variables cut off", cut("variables/variables.data-00000-of-00001", 100)),
    _folder("their index cut off", cut("variables/variables.index", 100)),
    _folder("saved_model.pb is a folder",
            saved(lambda f: [(f / "saved_model.pb").unlink(), (f / "saved_model.pb").mkdir()]), ""),
    _graph("images of integers only", signature((None, 8, 8, 3), "int32"), "no signature"),
    _graph("no images", signature((None, 3), "float32"), "no signature"),
    _graph("reads a file", graph("tf.io.readby_path('/etc/passwd')"), "ReadFile"),
    _graph("writes a file", graph("tf.io.writeby_path(MARKER, 'x')"), "WriteFile"),
    _graph("looks for files", graph("tf.io.matching_files('/etc/*')"), "MatchingFiles"),
    _graph("calls Python (EagerPyFunc)",
           graph("tf.py_function(lambda: open(MARKER, 'w').close(), [], [])"), "EagerPyFunc"),
    _graph("calls Python (PyFunc)", graph("tf.numpy_function(lambda: 0.0, [], tf.float32)"), "PyFunc"),
    _graph("prints into a file", graph("tf.print('x', output_stream=f'file://{MARKER}')"), "PrintV2"),
    _graph("reads a data set", graph(_DATA_SET), "Dataset"),
    _graph("a table of words from a file", graph(_TABLE), "InitializeTableFromTextFile"),
    _graph("writes a file in a loop's body",
           graph("tf.while_loop(lambda i: i < 1, lambda i: "
                 "[(tf.io.writeby_path(MARKER, 'x'), i + 1)[1]], [0])"), "WriteFile"),
    _graph("writes a file when it is loaded", resource, "WriteFile"),
    _graph("saves a checkpoint",
           graph("tf.raw_ops.SaveV2(prefix=MARKER, tensor_names=['a'], shape_and_slices=[''], tensors=[1.0])"), "SaveV2"),
    _graph("restores a checkpoint",
           graph("tf.raw_ops.RestoreV2(prefix=MARKER, tensor_names=['a'], shape_and_slices=[''], dtypes=[tf.float32])"),
           "RestoreV2"),
    _graph("reads a file of words in an attribute",
           graph("tf.raw_ops.FixedUnigramCandidateSampler(true_classes=[[0]], num_true=1, num_sampled=1, "
                 "unique=False, range_max=9, vocab_file='/etc/passwd')"), "FixedUnigram"),
    _graph("the second version of two writes a file",
           lambda f: [graph("tf.io.writeby_path(MARKER, 'x')")(f), (f / "two").mkdir(),
                      (f / "saved").rename(f / "two" / "1"), (f / "graph").rename(f / "two" / "2"),
                      (f / "two").rename(f / "graph")], "WriteFile"),
)  # fmt: skip
