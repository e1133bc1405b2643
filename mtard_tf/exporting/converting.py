"""A student as LiteRT and ONNX files, by TensorFlow's converter and tf2onnx.

Both read the signature `logits` of a SavedModel that is made for them: BatchNorm folded into the
convolutions, and without what TensorFlow alone needs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.exporting.formats import INT8, ONNX, ExportError
from mtard_tf.models.folding import FoldedInference

OPSET = 18
_STEP = 1 / 255  # of the pixels that an int8 file takes


def source(student: Any, shape: tuple[int, ...], folder: pathlib.Path) -> None:
    """Writes the SavedModel that is converted, with `logits` as its only signature.

    Args:
      student: from float32 images in [0, 1] to logits.
      shape: height, width and channels.
      folder: to be made.
    """
    net = FoldedInference(student).net()

    def logits_of(images: tf.Tensor) -> dict[str, tf.Tensor]:
        # LiteRT resizes its input to any request; this refuses images of another size there.
        images = tf.reshape(images, (-1, *shape))
        return {"logits": tf.cast(net(images, training=False), tf.float32)}

    archive = keras.export.ExportArchive()
    floats = tf.TensorSpec((None, *shape), tf.float32, name="images")
    archive.add_endpoint("logits", logits_of, input_signature=[floats])
    archive.write_out(str(folder), verbose=False)


def convert(
    name: str,
    saved_model: pathlib.Path,
    file: pathlib.Path,
    known: Mapping[str, str],
    calibration: np.ndarray | None = None,
) -> None:
    """Writes one format.

    Args:
      name: of `formats.FORMATS`, not `saved_model`.
      saved_model: from `source`.
      file: to write.
      known: what an ONNX file says of itself beside its graph.
      calibration: float32 images in [0, 1], for `litert_int8`.

    Raises:
      ExportError: the net has an operation that the format lacks, or int8 pixels would not be
        those of an image.
    """
    try:
        with _quiet():
            content = (
                _onnx(saved_model, known)
                if name == ONNX
                else _litert(name, saved_model, calibration)
            )
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"The student cannot be converted to {name} ({' '.join(str(error).split())[:300]}); "
            "nothing is left."
        ) from error
    file.write_bytes(content)


def _litert(name: str, saved_model: pathlib.Path, calibration: np.ndarray | None) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved_model), signature_keys=["logits"]
    )
    if name != "litert":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "litert_float16":
        converter.target_spec.supported_types = [tf.float16]
    if name == INT8:
        assert calibration is not None  # the caller's part
        images = spanning(calibration)
        converter.representative_dataset = lambda: ({"images": image[None]} for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.int8
    return converter.convert()


def spanning(images: np.ndarray) -> np.ndarray:
    """The images, of which one has a black and a white pixel, so that a step is one level of 255.

    Args:
      images: float32 in [0, 1], `[n, height, width, channels]`; they are not changed.
    """
    images = images.copy()
    images[0].reshape(-1)[:2] = 0.0, 1.0
    return images


def _onnx(saved_model: pathlib.Path, known: Mapping[str, str]) -> bytes:
    import onnx
    import tf2onnx
    from tensorflow.python.framework import convert_to_constants

    loaded = tf.saved_model.load(str(saved_model))
    frozen = convert_to_constants.convert_variables_to_constants_v2(loaded.signatures["logits"])
    given, returned = frozen.inputs[0].name, frozen.outputs[0].name
    model, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        name="student",
        input_names=[given],
        output_names=[returned],
        opset=OPSET,
        tensors_to_rename={given: "images", returned: "logits"},
    )
    # tf2onnx only logs what it could not convert.
    foreign = sorted({node.op_type for node in model.graph.node if not _is_onnx(node)})
    if foreign:
        raise ExportError(
            f"The student cannot be converted to onnx: opset {OPSET} has no {', '.join(foreign)}; "
            "nothing is left."
        )
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, dict(known))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _is_onnx(node: Any) -> bool:
    import onnx

    return node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type)


def known(label_names: list[str], metadata: Mapping[str, Any]) -> dict[str, str]:
    """What an ONNX file says of itself: labels as JSON, and the threat if it is known."""
    said = {"labels": json.dumps(label_names)}
    if "threat" in metadata:
        said |= {name: str(value) for name, value in metadata["threat"].items()}
    return said


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what converters write to the log, and their C++ parts to descriptor 2."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx", "absl")]
    levels = [logger.level for logger in loggers]
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(noise.fileno(), 2)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
