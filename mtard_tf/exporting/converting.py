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

from mtard_tf import __version__
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
    net = FoldedInference(student, attacked=False).net()

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
    float_ends: bool = False,
) -> None:
    """Writes one format.

    Args:
      name: of `formats.FORMATS`, not `saved_model`.
      saved_model: from `source`.
      file: to write.
      known: what an ONNX file says of itself beside its graph.
      calibration: float32 images in [0, 1], for `litert_int8`.
      float_ends: whether its first and last layer are computed in float32.

    Raises:
      ExportError: the net has an operation that the format lacks, or int8 pixels would not be
        those of an image.
    """
    try:
        with _quiet():
            if name == ONNX:
                content = _onnx(saved_model, known)
            elif name == INT8:
                assert calibration is not None  # the caller's part
                content = _int8(saved_model, calibration, float_ends)
            else:
                content = _litert(name, saved_model)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"The student cannot be converted to {name} ({' '.join(str(error).split())[:300]}); "
            "nothing was written."
        ) from error
    file.write_bytes(content)


def _litert(name: str, saved_model: pathlib.Path) -> bytes:
    converter = _converter(saved_model)
    if name == "litert_float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _int8(saved_model: pathlib.Path, calibration: np.ndarray, float_ends: bool) -> bytes:
    images = spanning(calibration)
    converter = _converter(saved_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ({"images": image[None]} for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.int8
    if not float_ends:
        return converter.convert()
    # TensorFlow's quantization debugger goes this way, and then has float32 inputs.
    from tensorflow.lite.python import convert as steps

    converter._experimental_calibrate_only = True
    calibrated = converter.convert()
    return steps.mlir_quantize(
        calibrated,
        input_data_type=tf.uint8,
        output_data_type=tf.int8,
        denylisted_nodes=_ends(calibrated),
    )


def _ends(content: bytes) -> list[str]:
    """The names of the first and the last layer with weights."""
    interpreter = tf.lite.Interpreter(model_content=content)
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    layers = [x for x in interpreter._get_ops_details() if x["op_name"] in kinds]
    outputs = [layer["outputs"][0] for layer in (layers[0], layers[-1])]
    return [interpreter._get_tensor_details(output, 0)["name"] for output in outputs]


def _converter(saved_model: pathlib.Path) -> Any:
    return tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["logits"])


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
            "nothing was written."
        )
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, dict(known))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _is_onnx(node: Any) -> bool:
    import onnx

    return node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type)


def known(
    label_names: list[str], metadata: Mapping[str, Any], temperature: float | None
) -> dict[str, str]:
    """What an ONNX file says of itself: labels as JSON, version, what is known of the rest."""
    said = {"labels": json.dumps(label_names), "version": __version__}
    if temperature is not None:
        said["temperature"] = str(temperature)
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
