"""Models that expect or return something else give the right model's logits, once told."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from mtard_tf.auditing.wrong_inputs import hint
from mtard_tf.commands import import_, requests
from mtard_tf.data import Split
from mtard_tf.models import model_files
from mtard_tf.models.adapters import adapted
from mtard_tf.models.model_files import EvaluationError, check_classes, check_shapes

_IMAGES = np.random.RandomState(0).uniform(0, 1, (6, 4, 5, 3)).astype(np.float32)


def _net(outputs: int = 3, activation: str | None = None, shape=(4, 5, 3)) -> keras.Model:
    images = keras.Input(shape)
    x = keras.layers.Flatten()(images)
    return keras.Model(images, keras.layers.Dense(outputs, activation=activation)(x), name="net")


def _like(net: keras.Model, activation: str | None = None, outputs: int = 3) -> keras.Model:
    other = _net(outputs, activation)
    other.set_weights(net.get_weights())
    return other


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_probabilities_become_the_logits_before_them(end) -> None:
    net = _net()
    np.testing.assert_array_equal(
        adapted(_like(net, end), from_probabilities=True)(_IMAGES), net(_IMAGES)
    )
    apart = keras.Model(net.input, keras.layers.Activation(end)(net.output), name="apart")
    np.testing.assert_array_equal(adapted(apart, from_probabilities=True)(_IMAGES), net(_IMAGES))


def test_one_output_for_two_classes_is_two_logits() -> None:
    net = _net(1)
    logits = adapted(_like(net, "sigmoid", 1), from_probabilities=True)(_IMAGES)
    wanted = np.concatenate([np.zeros((6, 1)), net(_IMAGES)], axis=1)
    np.testing.assert_allclose(logits, wanted, atol=1e-6)
    probabilities = keras.ops.softmax(logits)[:, 1]
    np.testing.assert_allclose(probabilities, keras.ops.sigmoid(net(_IMAGES))[:, 0], atol=1e-6)


def test_scale_normalization_and_channels_first() -> None:
    net = _net()
    kernel, bias = net.get_weights()
    levels = _like(net)
    levels.set_weights([kernel / 255, bias])
    np.testing.assert_allclose(adapted(levels, input_scale=255)(_IMAGES), net(_IMAGES), atol=1e-6)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = net(((_IMAGES - mean) / deviation).astype(np.float32))
    np.testing.assert_allclose(
        adapted(net, normalization="imagenet")(_IMAGES), wanted, rtol=1e-5, atol=1e-6
    )
    first = _net(shape=(3, 4, 5))
    moved = adapted(first, channels_first=True)
    assert moved.input_shape == (None, 4, 5, 3)
    np.testing.assert_array_equal(moved(_IMAGES), first(_IMAGES.transpose(0, 3, 1, 2)))


def test_nothing_to_adapt_is_the_model_itself_and_mistakes_are_one_line() -> None:
    net = _net()
    assert adapted(net) is net
    with pytest.raises(EvaluationError, match="net ends in Dense 'dense.*' without softmax or sig"):
        adapted(net, from_probabilities=True)
    with pytest.raises(EvaluationError, match="The normalization is 'imagnet'; use one of cifar10"):
        adapted(net, normalization="imagnet")
    with pytest.raises(EvaluationError, match="is of 3 channels and the images have 1; leave it"):
        adapted(_net(shape=(4, 4, 1)), normalization="imagenet")
    with pytest.raises(EvaluationError, match="scale of 255 and the normalization 'imagenet' were"):
        adapted(net, normalization="imagenet", input_scale=255)
    images = keras.Input((4, 5, 3))
    two = keras.Model(images, [images, images], name="two")
    with pytest.raises(EvaluationError, match="two has several inputs or outputs, or none"):
        adapted(two, input_scale=255)


def test_a_model_at_chance_names_the_flag_that_it_seems_to_lack() -> None:
    labels = (np.arange(90) % 3).astype(np.int32)
    images = np.full((90, 4, 5, 3), 100, np.uint8)
    images[np.arange(90), :, :, labels] = 103
    split = Split(images, labels)
    net = _net()
    kernel = np.zeros((20, 3, 3), np.float32)
    kernel[:, range(3), range(3)] = 1 / 20
    # Class 0 unless another channel is a level brighter: never with images in [0, 1].
    net.set_weights([kernel.reshape(60, 3), np.float32([1, 0, 0])])
    said = hint(net, split)
    assert said == (
        "net gets 30 of the first 90 images right, no better than guessing; with "
        "--input_scale=255 it would be 90: give that flag if the model was trained that way."
    )
    assert hint(adapted(net, input_scale=255), split) == ""
    images[1:31, :, :, :] += (images[1:31] == 103) * np.uint8(150)
    net.set_weights([kernel.reshape(60, 3), np.float32([0.5, 0, 0])])
    assert hint(net, split) == (
        "net gets 50 of the first 90 images right; with --input_scale=255 it would be 90: give "
        "that flag if the model was trained that way."
    )


def test_a_sigmoid_at_the_end_is_refused() -> None:
    split = Split(np.zeros((3, 4, 5, 3), np.uint8), np.arange(3, dtype=np.int32))
    with pytest.raises(EvaluationError, match="net ends in a sigmoid; attacks and distillation n"):
        model_files.check(_net(activation="sigmoid"), split, ("a", "b", "c"))


def test_shapes_that_a_flag_mends_name_it() -> None:
    with pytest.raises(
        EvaluationError, match=r"and the data set has \(4, 5, 3\); give --channels_f"
    ):
        check_shapes(_net(shape=(3, 4, 5)), (4, 5, 3))
    with pytest.raises(EvaluationError, match="net has one output for two classes; give --from_pr"):
        check_classes(_net(1), 2)


def test_a_file_is_adapted_for_a_teacher(tmp_path) -> None:
    net = _net()
    _like(net, "softmax").save(tmp_path / "net.keras")
    request = requests.Import(
        source=str(tmp_path / "net.keras"), out=str(tmp_path / "t.keras"), from_probabilities=True
    )
    import_.run(request, lambda line: None)
    teacher = keras.models.load_model(tmp_path / "t.keras", compile=False)
    np.testing.assert_array_equal(teacher(_IMAGES), net(_IMAGES))
    with pytest.raises(ValueError, match="holds weights; name the net that they are for: --model"):
        import_.run(dataclasses.replace(request, source="net.pt"))
    with pytest.raises(ValueError, match="adapt a .keras --source; leave --model out, or them"):
        import_.run(dataclasses.replace(request, model="models.small_cnn"))
