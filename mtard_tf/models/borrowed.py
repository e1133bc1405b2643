"""Architectures from elsewhere: a given net, a file, or one of Keras' applications."""

from __future__ import annotations

import inspect
import pathlib
import re
from collections.abc import Sequence

import keras

from mtard_tf.files import digest
from mtard_tf.models import model_files
from mtard_tf.models.model_files import structure

_SMALLEST = re.compile(r"at least (\d+)x(\d+)")
# Their first layers take 0 to 255, and nothing turns that off.
_SCALED_INSIDE = re.compile(r"EfficientNetB\d")


class Architecture:
    """`factory(image_shape, num_classes)` that builds a given net again, with fresh weights.

    The net itself is only read. Equal global seeds give equal weights. Without branches, those are
    what the code that made the net would have drawn; with branches, Keras builds in another order.

    Args:
      net: from images `[batch, height, width, channels]` to logits `[batch, classes]`.

    Raises:
      ValueError: the net is none that Keras can build again from its configuration.
    """

    def __init__(self, net: keras.Model) -> None:
        if not isinstance(net, keras.Model):
            raise ValueError(f"The net is {type(net).__name__}; give a keras.Model.")
        self._net = net
        try:
            keras.models.clone_model(net)
            self._print = digest(structure(net))
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(
                f"{net.name} cannot be built again from its configuration, as a subclass of "
                "keras.Model cannot; make it functional: keras.Model(inputs, outputs)."
            ) from error

    def __repr__(self) -> str:
        """What a run knows the architecture by."""
        return f"Architecture({self._print})"

    def __call__(self, image_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
        shape, outputs = tuple(self._net.input_shape[1:]), self._net.output_shape[-1]
        if shape != tuple(image_shape) or outputs != num_classes:
            raise ValueError(
                f"{self._net.name} takes images of {shape} and has {outputs} outputs; the data "
                f"have images of {tuple(image_shape)} and {num_classes} classes: build it for them."
            )
        clone = keras.models.clone_model(self._net)
        for layer in clone._flatten_layers():
            layer.trainable = True  # a frozen one would keep its random weights
        return clone


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
        raise ValueError(f"keras_application.name is {name!r}; use one of {', '.join(known)}.")
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
    logits = keras.layers.Dense(num_classes, name="logits")(net(x))
    return keras.Model(images, logits, name=net.name)
