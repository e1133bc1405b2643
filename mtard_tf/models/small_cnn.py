"""A small convolutional net for 28- to 32-pixel images, trainable on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from mtard_tf.models.layers import Normalization, batch_norm, conv, image_input


def small_cnn(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    widths: Sequence[int] = (16, 16, 32, 32),
    dense: int = 128,
    batch_normalization: bool = False,
    normalization: Normalization = "raw",
) -> keras.Model:
    """3x3 convolutions, the first of every two with stride 2, a dense layer, logits.

    Strided instead of pooled: the gradient of pooling is slow on CPU.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of logits.
      widths: channels of each convolution; the first, third, ... have stride 2.
      dense: units of the hidden dense layer; 0 for none (global average pooling instead).
      batch_normalization: BatchNorm after every convolution (which then has no bias).
      normalization: see `mtard_tf.models.layers.image_input`.

    Raises:
      ValueError: no widths.
    """
    if not widths:
        raise ValueError(
            "small_cnn.widths is empty; give the channels of at least one convolution."
        )
    images, x = image_input(image_shape, normalization)
    for i, width in enumerate(widths, 1):
        stride = 2 if i % 2 else 1
        x = conv(x, width, 3, stride, name=f"conv{i}", bias=not batch_normalization)
        if batch_normalization:
            x = batch_norm(x, name=f"bn{i}")
        x = keras.layers.ReLU(name=f"relu{i}")(x)
    if dense:
        x = keras.layers.Flatten(name="flatten")(x)
        x = keras.layers.Dense(dense, activation="relu", name="dense")(x)
    else:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, keras.layers.Dense(num_classes, name="logits")(x), name="small_cnn")
