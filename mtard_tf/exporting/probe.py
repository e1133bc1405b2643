"""Runs as a script in a separate process: one exported file, as its users will run it.

    python probe.py FORMAT PATH IMAGES.npy ANSWERS.npz

Only NumPy and the format's runtime are imported. `ANSWERS.npz` gets the logits of each signature,
and `milliseconds`: the median of single images on one thread.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]
_BATCH = 64
_TIMED, _SECONDS = 200, 2.0


def main(form: str, path: str, images: np.ndarray) -> dict[str, Any]:
    """Logits of uint8 images by signature, and `milliseconds`."""
    readers = {"saved_model": _saved_model, "openvino": _openvino, "onnx": _onnx}
    models = readers.get(form, _litert)(path, form)
    answers: dict[str, Any] = {}
    for name, model in models.items():
        parts = [model(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
        answers[name] = np.concatenate(parts)
        _check(name, model, images[:2], answers[name][:2], form)
    answers["milliseconds"] = _milliseconds(next(iter(models.values())), images[:1])
    return answers


def _check(name: str, model: Model, images: np.ndarray, logits: np.ndarray, form: str) -> None:
    """Batch sizes; images of another shape are refused, and the model then still works."""
    assert model(images[:1]).shape == (1, *logits.shape[1:]), f"{name} of one image"
    if not form.startswith("litert"):  # whose runtime takes no empty batch
        found = model(images[:0]).shape
        assert found == (0, *logits.shape[1:]), f"{name} of no images is {found}"
    wrong = {"another rank": images[None]}
    if name != "encoded_images":  # resizes what it decodes
        wrong["another size"] = images[:, : images.shape[1] - 1]
        wrong["other channels"] = np.concatenate([images, images], axis=-1)
    for what, request in wrong.items():
        try:
            model(request)
        except Exception:
            continue
        raise AssertionError(f"{name} answers images of {what}")
    again = model(images)
    assert np.allclose(again, logits, atol=1e-3), f"{name} differs after a request it refused"


def _milliseconds(model: Model, image: np.ndarray) -> float:
    times: list[float] = []
    for _ in range(10):
        model(image)
    while len(times) < _TIMED and sum(times) < _SECONDS:
        before = time.perf_counter()
        model(image)
        times.append(time.perf_counter() - before)
    return float(np.median(times)) * 1e3


def _saved_model(path: str, form: str) -> dict[str, Model]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(path)
    given: dict[str, Callable[[np.ndarray], dict]] = {
        "serving_default": lambda x: {"images": tf.constant(x)},
        "logits": lambda x: {"images": tf.constant(x, tf.float32) / 255.0},
        "encoded_images": lambda x: {"encoded": _encoded(tf, x)},
    }

    def model(name: str) -> Model:
        function = loaded.signatures[name]
        return lambda x: function(**given[name](x))["logits"].numpy()

    return {name: model(name) for name in given if name in loaded.signatures}


def _encoded(tf: Any, images: np.ndarray) -> Any:
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        return tf.constant([["a request of another rank"]])
    encoded = [tf.io.encode_png(image) for image in images]
    return tf.stack(encoded) if encoded else tf.zeros([0], tf.string)


def _openvino(path: str, form: str) -> dict[str, Model]:
    import openvino

    # Without the hint it computes in bfloat16 on some CPUs.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return {"serving_default": lambda x: compiled({"images": x})["logits"]}


def _onnx(path: str, form: str) -> dict[str, Model]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()], [x.name for x in session.get_outputs()]
    assert names == (["images"], ["logits"]), f"it has {names}, and not images and logits"

    def model(images: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"images": images.astype(np.float32) / np.float32(255)})[0]

    return {"logits": model}


def _litert(path: str, form: str) -> dict[str, Model]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    assert interpreter.get_signature_list() == {
        "logits": {"inputs": ["images"], "outputs": ["logits"]}
    }
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    whole = form == "litert_int8"
    expected = (np.uint8, np.int8) if whole else (np.float32, np.float32)
    assert (given["dtype"], returned["dtype"]) == expected, f"it takes {given['dtype']}"
    step, zero = returned["quantization"]
    if whole:
        assert abs(given["quantization"][0] * 255 - 1) < 1e-5 and given["quantization"][1] == 0, (
            f"a pixel is scaled by {given['quantization']}, and not by 1/255"
        )

    def model(images: np.ndarray) -> np.ndarray:
        images = images if whole else images.astype(np.float32) / np.float32(255)
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(given["index"], images.shape, strict=True)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        logits = interpreter.get_tensor(returned["index"])
        return (logits.astype(np.float32) - zero) * np.float32(step) if whole else logits

    return {"logits": model}


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose names are not for others
    found = main(sys.argv[1], sys.argv[2], np.load(sys.argv[3]))
    assert "mtard_tf" not in sys.modules
    np.savez(sys.argv[4], **found)
