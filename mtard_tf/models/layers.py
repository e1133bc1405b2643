"""The few layer settings that all nets of the zoo share."""

from __future__ import annotations

from collections.abc import Sequence

import keras

_L = keras.layers


def image_input(
    image_shape: Sequence[int], normalization: tuple[Sequence[float], Sequence[float]] | None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input and what the first convolution sees.

    Args:
      image_shape: (height, width, channels).
      normalization: (mean, standard deviation) per channel in [0, 1] pixel units, or None.
    """
    images = keras.Input(tuple(image_shape), name="images")
    if normalization is None:
        return images, images
    mean, deviation = normalization
    variance = [d * d for d in deviation]
    return images, _L.Normalization(mean=list(mean), variance=variance, name="normalization")(
        images
    )


def conv(x, filters: int, size: int, stride: int = 1, *, name: str, bias: bool = False):
    """A convolution padded as PyTorch pads it: symmetrically, also where it strides."""
    padding = "same"
    if stride > 1:
        # Keras' "same" pads (0, 1) here; the papers' nets pad (1, 1) and shift by a pixel.
        if size > 1:
            x = _L.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    return _L.Conv2D(
        filters,
        size,
        stride,
        padding,
        use_bias=bias,
        kernel_initializer=keras.initializers.HeNormal(),
        name=name,
    )(x)


def batch_norm(x, *, name: str):
    """BatchNorm with PyTorch's settings (momentum 0.1 there is 0.9 here), as the papers' nets."""
    return _L.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)
