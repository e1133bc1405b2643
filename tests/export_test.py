"""The exported model as a server sees it: what it answers, what it refuses, and that it lives."""

from __future__ import annotations

import importlib.util
import io
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from mtard_tf import files
from mtard_tf.exporting import encoded_images, export, proof, saved_model
from mtard_tf.exporting.formats import ExportError
from mtard_tf.models import model_files

L = keras.layers
SHAPE = (12, 12, 3)
NAMES = ("red", "green", "blue")
IMAGES = np.random.RandomState(0).randint(0, 256, (5, *SHAPE)).astype(np.uint8)

# Only TensorFlow is imported. Each request is answered with its outputs, or with its error.
_SERVER = """
import json, os, resource, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf

signatures = tf.saved_model.load(sys.argv[1]).signatures
requests = np.load(sys.argv[2], allow_pickle=True).item()

def answer(signature, value):
    key = "encoded" if signature == "encoded_images" else "images"
    try:
        outputs = signatures[signature](**{key: tf.constant(value)})
    except Exception as error:
        return type(error).__name__ + ": " + " ".join(str(error).split())
    return {name: [x.dtype.name, x.shape.as_list()] for name, x in outputs.items()}

answers = {}
for name, (signature, value) in requests.items():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers[name] = answer(signature, value)
    answers[name + ", MiB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
assert "mtard_tf" not in sys.modules
print(json.dumps(answers))
"""


def _net(channels: int = 3) -> keras.Model:
    inputs = keras.Input((*SHAPE[:2], channels))
    x = L.ReLU()(L.Conv2D(4, 3, strides=2, padding="same")(inputs))
    x = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", activation="relu")(x))
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)), name="net")


def _encoded(image: np.ndarray, form: str, mode: str | None = None, **settings) -> bytes:
    file, picture = io.BytesIO(), Image.fromarray(image.squeeze())
    (picture.convert(mode) if mode else picture).save(file, form, **settings)
    return file.getvalue()


def _sized(width: int, height: int) -> bytes:
    """A PNG whose header names another size than it has."""
    whole = _encoded(IMAGES[0], "PNG")
    return whole[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + whole[24:]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[keras.Model, pathlib.Path]:
    """A net and its export, in a folder that TensorFlow would read as a pattern."""
    folder = tmp_path_factory.mktemp("served") / "run[1]"
    keras.utils.set_random_seed(0)
    model = _net()
    return model, export.export(model, NAMES, folder, IMAGES)


PNG = [_encoded(image, "PNG") for image in IMAGES]
PIXELS = {
    "two of rank 3": np.zeros((2, 12, 12), np.uint8),
    "one image": np.zeros(SHAPE, np.uint8),
    "flat": np.zeros((2, 432), np.uint8),
    "a number": np.uint8(0),
    "another size": np.zeros((2, 11, 12, 3), np.uint8),
    "grey": np.zeros((2, 12, 12, 1), np.uint8),
    "empty": np.zeros((0, *SHAPE), np.uint8),
}
BYTES = {
    "damaged": [PNG[0], PNG[1], PNG[2][:-40]],
    "a bad byte": [PNG[0], PNG[1][:60] + b"\0\0\0\0" + PNG[1][64:]],
    "a cut JPEG": [_encoded(IMAGES[0], "JPEG")[:-30], PNG[0]],
    "text": [PNG[0], PNG[1], PNG[2], b"no image at all", PNG[3]],
    "no bytes": [b""],
    "GIF": [_encoded(IMAGES[0], "GIF")],
    "only a signature": [PNG[0][:8], PNG[0]],
    "a bomb": [PNG[0], _encoded(np.zeros((12_000, 12_000), np.uint8), "PNG")],
    "a wide one": [_sized(1 << 24, 1)],
    "below 0": [_sized(1 << 31, 12)],
    "a big JPEG": [_encoded(np.zeros((8, 5_000), np.uint8), "JPEG")],
    "rank 2": [[PNG[0]], [PNG[1]]],
    "none": np.zeros((0,), object),
    "the sixth": [*PNG, b"x"],
}


@pytest.fixture(scope="module")
def answers(exported, tmp_path_factory) -> dict[str, object]:
    """What one process answers to every request, one after another."""
    scratch = tmp_path_factory.mktemp("requests")
    requests = {}
    for name, images in PIXELS.items():
        requests[f"serving_default, {name}"] = ("serving_default", images)
        requests[f"logits, {name}"] = ("logits", images.astype(np.float32))
    for name, encoded in BYTES.items():
        requests[name] = ("encoded_images", np.array(encoded, object))
    requests["floats"] = ("serving_default", IMAGES / np.float32(255))
    requests["at the end"] = ("serving_default", IMAGES)
    requests["bytes at the end"] = ("encoded_images", np.array(PNG, object))
    np.save(scratch / "requests.npy", requests, allow_pickle=True)
    with files.literal(exported[1]) as folder:
        done = subprocess.run(
            [sys.executable, "-c", _SERVER, str(folder), str(scratch / "requests.npy")],
            capture_output=True,
            text=True,
            cwd=scratch,
        )
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(done.stdout)


OUTPUTS = {
    "label": ["int64", []],
    "label_name": ["string", []],
    "logits": ["float32", [3]],
    "probabilities": ["float32", [3]],
}


def _outputs(count: int, names=OUTPUTS) -> dict:
    return {name: [OUTPUTS[name][0], [count, *OUTPUTS[name][1]]] for name in names}


def test_a_process_that_was_sent_all_of_it_still_answers(answers) -> None:
    assert answers["none"] == _outputs(0)  # no bytes at all
    assert answers["at the end"] == answers["bytes at the end"] == _outputs(5)


@pytest.mark.parametrize("signature", ["serving_default", "logits"])
def test_images_of_another_shape_are_named(answers, signature) -> None:
    for name, images in PIXELS.items():
        answer = answers[f"{signature}, {name}"]
        if name == "empty":
            assert answer == _outputs(0, OUTPUTS if signature != "logits" else ["logits"])
            continue
        given = ",".join(str(side) for side in images.shape)
        assert answer.startswith("InvalidArgumentError: "), (name, answer)
        expected = f"[{given}] is not compatible with expected shape [?,12,12,3]"
        assert expected in answer, (name, answer)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "damaged",
            "Image 2 of 3 (counted from 0) cannot be decoded: it is damaged. Send PNG or JPEG.",
        ),
        ("a bad byte", "Image 1 of 2 (counted from 0) cannot be decoded"),
        ("a cut JPEG", "Image 0 of 2 (counted from 0) cannot be decoded"),
        ("text", "Image 3 of 5 (counted from 0) is neither PNG nor JPEG. Send PNG or JPEG."),
        ("no bytes", "Image 0 of 1 (counted from 0) is neither PNG nor JPEG"),
        ("GIF", "Image 0 of 1 (counted from 0) is neither PNG nor JPEG"),
        ("only a signature", "Image 0 of 2 (counted from 0) cannot be decoded"),
        ("a bomb", "Image 1 of 2 (counted from 0) has more than 4096 pixels on a side by its head"),
        ("a wide one", "Image 0 of 1 (counted from 0) has more than 4096 pixels on a side"),
        ("below 0", "Image 0 of 1 (counted from 0) has more than 4096 pixels on a side"),
        ("a big JPEG", "Image 0 of 1 (counted from 0) has more than 4096 pixels on a side"),
        ("rank 2", "Shape of tensor encoded [2,1] is not compatible with expected shape [?]"),
        ("the sixth", "Image 5 of 6 (counted from 0) is neither PNG nor JPEG"),
        ("floats", "expected to be a uint8 tensor but is a float tensor"),
    ],
)
def test_bytes_that_are_no_image_are_named(answers, name, message) -> None:
    assert answers[name].startswith("InvalidArgumentError: ") and message in answers[name]


def test_a_decompression_bomb_is_not_decoded(answers) -> None:
    """12,000 x 12,000 pixels in colour are 412 MiB, and four times that in float32."""
    assert answers["a bomb, MiB"] < 40


def test_weights_are_stored_once(exported) -> None:
    model, folder = exported
    weights = sum(np.asarray(variable).nbytes for variable in model.weights)
    stored = (folder / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert weights < stored < weights + 2000  # and the graph of objects


def test_openvino_reads_the_folder(exported) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is of no extra: 60 MB for one test")
    model, folder = exported
    known = export.known(folder)["formats"]["saved_model"]["openvino"]
    assert known["difference"] == pytest.approx(0, abs=1e-5) and known["milliseconds"] > 0


def test_what_openvino_says_is_known_and_refuses_nothing(exported, monkeypatch) -> None:
    model, folder = exported
    logits = np.asarray(model(IMAGES / np.float32(255)))
    found = {"serving_default": logits + np.float32(0.5), "milliseconds": np.array(0.25)}
    monkeypatch.setattr(proof, "_asked", lambda *_: found)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    known = proof.by_openvino(folder, IMAGES, logits)
    assert known == {"difference": pytest.approx(0.5), "milliseconds": 0.25}
    monkeypatch.setattr(proof, "_asked", lambda *_: "RuntimeError: no such operation")
    known = proof.by_openvino(folder, IMAGES, logits)
    assert known == {"failure": "RuntimeError: no such operation"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert proof.by_openvino(folder, IMAGES, logits) is None


def test_a_path_that_tensorflow_would_read_as_a_pattern(exported) -> None:
    """`run[1]` matches `run1` alone; a note says what a server would meet."""
    model, folder = exported
    assert "Copy it before it is served" in saved_model.describe(folder)
    assert "Copy it" not in saved_model.describe(pathlib.Path("runs/quickstart/export/student/1"))
    saved = model_files.load(folder.parent)
    np.testing.assert_array_equal(saved(IMAGES / np.float32(255)), model(IMAGES / np.float32(255)))
    assert saved.name == "run[1]" and model_files.parameters(saved) == model.count_params() - 8
    assert len(saved.variables) == len(model.weights)
    model.save(folder.parent / "student.keras")
    assert model_files.load(folder.parent / "student.keras").count_params() == model.count_params()


@pytest.fixture(scope="module", params=[1, 3])
def decode(request):
    """`encoded_images.decode` for grey or colour images, of bytes to an array, and the channels."""
    channels = request.param

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def decoded(encoded):
        return encoded_images.decode(encoded, (12, 12, channels))

    return lambda encoded: decoded(tf.constant(encoded)).numpy()[0].squeeze(), channels


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_a_jpeg_has_the_pixels_of_other_libraries(decode, quality) -> None:
    """To the pixel, by the accurate DCT, which PIL uses."""
    decoded, channels = decode
    smooth = np.add.outer(np.arange(12) * 9, np.arange(12) * 5) + IMAGES[0, ..., 0] // 4
    image = np.stack([smooth, 255 - smooth, smooth // 2], -1)[..., :channels].astype(np.uint8)
    encoded = _encoded(image, "JPEG", quality=quality)
    np.testing.assert_array_equal(decoded([encoded]), np.asarray(Image.open(io.BytesIO(encoded))))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("order", ["II", "MM"])
def test_a_turned_image_is_set_upright(decode, form, order) -> None:
    """As PIL does it, for each of the eight orientations and both orders of bytes."""
    decoded, channels = decode
    image = np.add.outer(np.arange(12) * 9, np.arange(12) * 5).astype(np.uint8)
    image = np.stack([image, 255 - image, image // 2], -1)[..., :channels]
    for orientation in range(1, 10):
        kind = "little" if order == "II" else "big"
        tags = {0x0100: 7, 0x0112: orientation}
        number = lambda value, size: value.to_bytes(size, kind)  # noqa: B023, E731
        block = order.encode() + number(42, 2) + number(8, 4) + number(len(tags), 2)
        for tag, value in tags.items():
            block += number(tag, 2) + number(3, 2) + number(1, 4) + number(value, 2) + b"\0\0"
        encoded = _encoded(image, form, exif=b"Exif\0\0" + block + b"\0" * 4)
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        np.testing.assert_array_equal(decoded([encoded]), np.asarray(picture), str(orientation))
    np.testing.assert_array_equal(picture, Image.open(io.BytesIO(encoded)))  # 9 is none


def test_damaged_exif_is_no_orientation(decode) -> None:
    decoded, channels = decode
    image = IMAGES[0, ..., :channels]
    for block in (b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\1"):
        encoded = _encoded(image, "PNG", exif=b"Exif\0\0" + block)
        np.testing.assert_array_equal(decoded([encoded]), image.squeeze())
    whole = _encoded(image, "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 30)
    np.testing.assert_array_equal(decoded([whole]), decoded([_encoded(image, "JPEG")]))


def test_a_png_of_another_form(decode) -> None:
    decoded, channels = decode
    grey, alpha = IMAGES[0, ..., 0], IMAGES[0, ..., 1]
    expected = grey if channels == 1 else np.stack([grey] * 3, -1)
    forms = {
        "grey": grey,
        "grey as colour": np.stack([grey] * 3, -1),
        "grey and alpha": np.stack([grey, alpha], -1),
        "colour and alpha": np.stack([grey, grey, grey, alpha], -1),
    }
    for name, image in forms.items():
        np.testing.assert_array_equal(decoded([_encoded(image, "PNG")]), expected, name)
    deep = tf.io.encode_png((grey.astype(np.uint16) << 8 | 255)[..., None]).numpy()
    np.testing.assert_array_equal(decoded([deep]), expected)
    larger = np.kron(grey, np.ones((2, 2), np.uint8))
    assert np.abs(decoded([_encoded(larger, "PNG")]).astype(int) - expected).mean() < 40
    np.testing.assert_array_equal(
        decoded([_encoded(np.full((30, 40), 7, np.uint8), "PNG")]), np.full_like(expected, 7)
    )


def test_a_jpeg_in_cmyk(decode) -> None:
    decoded, channels = decode
    encoded = _encoded(np.full(SHAPE, 90, np.uint8), "JPEG", "CMYK")
    if channels == 3:
        np.testing.assert_allclose(decoded([encoded]).astype(int), 90, atol=2)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match="Image 0 of 1 .* or a JPEG in C"):
            decoded([encoded])


def test_images_that_no_file_holds_have_no_signature_for_bytes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(proof, "prove", lambda *_: {})
    images = np.zeros((2, 12, 12, 2), np.uint8)
    folder = export.export(_net(2), NAMES, tmp_path, images)
    signatures = tf.saved_model.load(str(folder)).signatures
    assert set(signatures) == {"serve", "serving_default", "logits"}


class Scaled(L.Layer):
    """Works eagerly, and not in a graph."""

    def call(self, inputs):
        return inputs * float(np.max(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape


def test_a_model_that_is_no_graph_is_one_line(tmp_path) -> None:
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(Scaled()(inputs))), name="eager")
    with pytest.raises(ExportError, match="^eager cannot be written as a SavedModel") as e:
        export.export(model, NAMES, tmp_path / "out", IMAGES)
    assert "\n" not in str(e.value) and list((tmp_path / "out").iterdir()) == []


def test_a_model_that_runs_python_is_one_line(tmp_path) -> None:
    """`tf.numpy_function` is written, and another process cannot run it."""
    inputs = keras.Input(SHAPE)
    halved = L.Lambda(
        lambda x: tf.ensure_shape(
            tf.numpy_function(lambda y: y / np.float32(2), [x], tf.float32), (None, *SHAPE)
        ),
        output_shape=SHAPE,
    )(inputs)
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(halved)))
    with pytest.raises(ExportError, match="does not work in a fresh process: \\S*Error: .*py") as e:
        export.export(model, NAMES, tmp_path / "out", IMAGES)
    assert "\n" not in str(e.value) and list((tmp_path / "out").iterdir()) == []
