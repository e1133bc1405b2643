"""Transformers, ConvNeXt, Keras' applications and nets from files as students."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mtard_tf import models


def test_parameters_are_those_of_the_published_nets() -> None:
    # 5.22 million in timm. Block: 49 w + w, 2 w, 4 w w + 4 w, 4 w w + w, w.
    blocks = sum(n * (8 * w * w + 58 * w) for n, w in ((2, 48), (2, 96), (6, 192), (2, 384)))
    between = sum(2 * w + 4 * w * 2 * w + 2 * w for w in (48, 96, 192))
    stem, head = 3 * 16 * 48 + 48 + 2 * 48, 2 * 384 + 384 * 1000 + 1000
    net = models.convnext_femto((224, 224, 3), 1000, stem=4)
    assert net.count_params() == stem + blocks + between + head == 5_217_784
    # ViT-Tiny/16 has 5,717,416; here no class token, no place for it, and one bias of the patches.
    assert models.vit_tiny((224, 224, 3), 1000, patch=16).count_params() == 5_717_416 - 3 * 192


def test_a_patch_is_a_square_of_pixels() -> None:
    net = models.vit_tiny((4, 8, 1), 2, patch=4, width=6, depth=1)
    pixels = np.arange(32, dtype=np.float32).reshape(1, 4, 8, 1)
    patches = keras.Model(net.input, net.get_layer("patches").output)(pixels)
    np.testing.assert_array_equal(patches[0, 0], pixels[0, :, :4, 0].reshape(-1))
    np.testing.assert_array_equal(patches[0, 1], pixels[0, :, 4:, 0].reshape(-1))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: models.vit_tiny((30, 30, 3), 2),
            "patch is 4 and the images are 30x30; give a div",
        ),
        (lambda: models.vit_tiny((8, 8, 3), 2, width=190), "width is 190, no multiple of 3 heads"),
        (lambda: models.convnext_femto((8, 8, 3), 2, depths=(1,)), r"depths is \(1,\) and widths"),
        (lambda: models.keras_application((8, 8, 3), 2, name="MobileNet"), None),
        (lambda: models.keras_application((8, 8, 3), 2, name="Moby"), "use one of ConvNeXtBase"),
        (
            lambda: models.keras_application((8, 8, 3), 2, name="MobileNet", weights="imagenet"),
            "weights is 'imagenet'; give the path of a file, or None: nothing is downloaded",
        ),
        (lambda: models.from_file((8, 8, 3), 2, path="gone.keras"), "no model at gone.keras"),
    ],
)
def test_mistakes_are_one_line(make, line) -> None:
    if line is None:
        make()
        return
    with pytest.raises(ValueError, match=line) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_an_application_takes_images_of_any_size_in_the_unit_range() -> None:
    net = models.keras_application((28, 28, 1), 5, name="MobileNetV3Small")
    assert [layer.name for layer in net.layers[:3]] == ["images", "resized", "scaled"]
    white = keras.Model(net.input, net.get_layer("scaled").output)(np.ones((1, 28, 28, 1), "f"))
    np.testing.assert_array_equal(white, np.ones((1, 32, 32, 1)))
    assert net(np.zeros((2, 28, 28, 1), "f")).shape == (2, 5)


def test_a_file_gives_its_architecture_and_not_its_weights(tmp_path) -> None:
    net = models.small_cnn((8, 8, 3), 3, widths=(4,), dense=0)
    net.save(tmp_path / "net.keras")
    fresh = models.from_file((8, 8, 3), 3, path=str(tmp_path / "net.keras"))
    assert [layer.name for layer in fresh.layers] == [layer.name for layer in net.layers]
    assert not np.array_equal(fresh.get_weights()[0], net.get_weights()[0])
    with pytest.raises(
        ValueError, match=r"takes images of \(8, 8, 3\) and has 3 outputs; the data"
    ):
        models.from_file((8, 8, 1), 3, path=str(tmp_path / "net.keras"))


def _named(prefix: str) -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((4,), name=f"{prefix}in"), keras.layers.Dense(3, name=f"{prefix}dense")],
        name=f"{prefix}inner",
    )
    images = keras.Input((2, 2, 1), name=f"{prefix}images")
    flat = keras.layers.Flatten(name=f"{prefix}flat")(images)
    return keras.Model(images, inner(flat), name=f"{prefix}net")


def test_an_architecture_is_known_without_the_names_of_its_layers() -> None:
    assert repr(models.borrowed.Architecture(_named("a"))) == repr(
        models.borrowed.Architecture(_named("b"))
    )


def test_frozen_layers_train_with_their_fresh_weights() -> None:
    net = _named("frozen")
    net.trainable = False
    made = models.borrowed.Architecture(net)((2, 2, 1), 3)
    assert len(made.trainable_variables) == 2 and not net.trainable_variables
