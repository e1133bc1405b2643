"""Architectures from elsewhere: a net's file, and Keras' own applications."""

from __future__ import annotations

import inspect
import pathlib
import re
from collections.abc import Sequence

import keras

from mtard_tf.models import model_files
from mtard_tf.models.architecture import Architecture

_SMALLEST = re.compile(r"at least (\d+)x(\d+)")
# Their first layers take 0 to 255, and nothing turns that off.
_SCALED_INSIDE = re.compile(r"EfficientNetB\d")


def from_file(image_shape: Sequence[int], num_classes: int, *, path: str) -> keras.Model:
    """The architecture of a `.keras` file, with fresh weights; for its own, see `Stage.initial`.

    Args:
      image_shape: (height, width, channels) of the data, which the net must take.
      num_classes: of the data, which the net must have.
      path: of the file; `~` is the home.

    Raises:
      ValueError: no such file, another format, code in it, or a net for other data.
    """
    net = model_files.load(pathlib.Path(path).expanduser())
    height, width, channels = image_shape
    return Architecture(net)((height, width, channels), num_classes)


def keras_application(
    image_shape: Sequence[int], num_classes: int, *, name: str, weights: str | None = None
) -> keras.Model:
    """One of `keras.applications` with global average pooling and a new layer of logits.

    It takes images in [0, 1] of any size; where its architecture needs larger ones, a first layer
    resizes them (bilinear). Its own preprocessing is replaced by a scale to [-1, 1].

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      name: of the class, such as "MobileNetV3Small".
      weights: `.weights.h5` file of the net without its top; nothing is downloaded.

    Raises:
      ValueError: no application of that name, or no such file.
    """
    known = sorted(n for n, made in vars(keras.applications).items() if inspect.isfunction(made))
    if name not in known:
        raise ValueError(
            f"keras_application.name is {name!r}; use one of {', '.join(known)}."
        )
    if weights is not None and not pathlib.Path(weights).expanduser().is_file():
        raise ValueError(
            f"keras_application.weights is {weights!r}; give the path of a file, or None: nothing "
            "is downloaded."
        )
    make = getattr(keras.applications, name)
    settings: dict = {"include_top": False, "pooling": "avg"}
    settings["weights"] = None if weights is None else str(pathlib.Path(weights).expanduser())
    if "include_preprocessing" in inspect.signature(make).parameters:
        settings["include_preprocessing"] = False
    height, width, channels = image_shape
    try:
        net = make(input_shape=(height, width, channels), **settings)
    except ValueError as error:
        smallest = _SMALLEST.search(str(error))
        if smallest is None:
            raise
        height, width = max(height, int(smallest[1])), max(width, int(smallest[2]))
        net = make(input_shape=(height, width, channels), **settings)
    images = x = keras.Input(tuple(image_shape), name="images")
    if (height, width) != tuple(image_shape[:2]):
        x = keras.layers.Resizing(height, width, name="resized")(x)
    if _SCALED_INSIDE.match(name):
        x = keras.layers.Rescaling(255.0, name="levels")(x)
    else:
        x = keras.layers.Rescaling(2.0, offset=-1.0, name="scaled")(x)
    for layer in net.layers[1:]:
        layer.trainable = True
    logits = keras.layers.Dense(num_classes, name="logits")(net(x))
    return keras.Model(images, logits, name=net.name)
