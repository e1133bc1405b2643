"""The reference net that `attack_time.py` attacks, and its images."""

from __future__ import annotations

import pathlib

import keras
import numpy as np

from mtard_tf.data.fashion import fashion_mini

ROOT = pathlib.Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "tests" / "reference" / "fashion_pgd_at.npz"


def fashion_net() -> keras.Model:
    """The net of the reference file, with pooling where `small_cnn` has strides."""
    layers = keras.layers
    images = keras.Input((28, 28, 1))
    x = images
    for i, width in enumerate((16, 16, 32, 32)):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        if i % 2:
            x = layers.MaxPooling2D()(x)
    x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
    model = keras.Model(images, layers.Dense(10)(x))
    with np.load(WEIGHTS) as arrays:
        model.set_weights([arrays[f"arr_{i}"] for i in range(len(arrays.files))])
    return model


def fashion_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    test = fashion_mini().test
    return test.images[:count].astype(np.float32) / 255, test.labels[:count]
