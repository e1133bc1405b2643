"""The reference nets that the benchmarks of attacks and measures look at, and their images."""

from __future__ import annotations

import pathlib

import keras
import numpy as np

from mtard_tf.data.named_sets import fashion_mini

REFERENCE = pathlib.Path(__file__).resolve().parents[1] / "tests" / "reference"
WEIGHTS = REFERENCE / "fashion_pgd_at.npz"

# Name of the file -> widths of the convolutions, units of the hidden layer, padding.
NETS = {
    "fashion_pgd_at": ((16, 16, 32, 32), 128, "same"),
    "fashion_defensive_t40": ((32, 32, 64, 64), 200, "valid"),
}


def fashion_net(name: str = "fashion_pgd_at") -> keras.Model:
    """The net of a reference file, with pooling where `small_cnn` has strides."""
    layers = keras.layers
    widths, units, padding = NETS[name]
    images = keras.Input((28, 28, 1))
    x = images
    for i, width in enumerate(widths):
        x = layers.Conv2D(width, 3, padding=padding, activation="relu")(x)
        if i % 2:
            x = layers.MaxPooling2D()(x)
    x = layers.Dense(units, activation="relu")(layers.Flatten()(x))
    model = keras.Model(images, layers.Dense(10)(x), name=name)
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        model.set_weights([arrays[f"arr_{i}"] for i in range(len(arrays.files))])
    return model


def fashion_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    test = fashion_mini().test
    return test.images[:count].astype(np.float32) / 255, test.labels[:count]
